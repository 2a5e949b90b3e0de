package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"drover/internal/api"
	"drover/internal/testkit/devproc"
)

const (
	binary       = "bin/drover"
	image        = "drover-worker-demo:dev"
	startTimeout = 2 * time.Minute
)

const configuration = `
http {
  address = "127.0.0.1:0"
}
worker {
  image = "` + image + `"
}
breaker { min_count = 1000 } # all are killed, in one repository
`

// drover is a drover dev with workers in containers, and a client of its server.
type drover struct {
	*devproc.Process
	client *api.Client
}

// startDrover starts drover dev with files in dir, and waits until it takes items.
func startDrover(ctx context.Context, dir string, real bool) (*drover, error) {
	if err := exec.CommandContext(ctx, "docker", "image", "inspect", image).Run(); err != nil {
		return nil, fmt.Errorf("a docker engine with the image %s is needed (make image): %w", image, err)
	}
	args := []string{"--driver", "docker"}
	if !real {
		args = append(args, "--embedded")
	}
	for _, agent := range []string{"nomad", "consul"} {
		if _, err := exec.LookPath(agent); real && err != nil { // drover dev would serve that one itself
			return nil, err
		}
	}
	process, err := devproc.Start(ctx, devproc.Options{Binary: binary, Dir: dir, Configuration: configuration, Args: args})
	if err != nil {
		return nil, err
	}
	d := &drover{Process: process}
	if d.client, err = api.NewClient(api.ClientOptions{Address: process.Exports["DROVER_ADDR"]}); err == nil {
		err = d.ready(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// ready waits until drover takes items and dispatches them.
func (d *drover) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("drover dev is not ready in time"))
	defer cancel()
	tick := time.NewTicker(startPoll)
	defer tick.Stop()
	for {
		status, err := d.client.Status(ctx)
		if err == nil && len(status.NotReady)+len(status.NotDispatching) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

const startPoll = 100 * time.Millisecond

func (d *drover) stop() error {
	if d.client != nil {
		d.client.Close()
	}
	return d.Stop()
}
