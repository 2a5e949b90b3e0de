package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"drover/internal/config"
	"drover/internal/control"
	"drover/internal/testkit/devproc"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

const (
	image        = "drover-worker-demo:dev"
	agent        = "drover-demo-agent"
	startTimeout = time.Minute
)

// drover is a drover dev, and the CLI that calls it.
type drover struct {
	*devproc.Process
	bin    string // directory of the binaries
	worker string // link to the worker that only this demo uses
	driver string
}

// startDrover starts drover dev and waits until it takes items.
func startDrover(ctx context.Context, dir string, credentials gittest.Options, real bool) (*drover, error) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	d := &drover{bin: bin, worker: filepath.Join(dir, "drover-worker"), driver: driver(ctx)}
	if err := os.Symlink(d.path("drover-worker"), d.worker); err != nil {
		return nil, err
	}
	opts := devproc.Options{
		Binary: d.path("drover"), Dir: dir, Configuration: d.configuration(),
		Env: []string{"DROVER_GIT_USERNAME=" + credentials.Username, "DROVER_GIT_TOKEN=" + credentials.Password},
	}
	if !real {
		opts.Args = []string{"--embedded"}
	}
	if d.Process, err = devproc.Start(ctx, opts); err != nil {
		return nil, err
	}
	if err := d.ready(ctx); err != nil {
		return nil, errors.Join(err, fmt.Errorf("drover's log ends with:\n%s", d.LogEnd()), d.Stop())
	}
	return d, nil
}

// driver returns the driver for workers: docker where an engine has the image.
func driver(ctx context.Context) string {
	if exec.CommandContext(ctx, "docker", "image", "inspect", image).Run() == nil {
		return config.DriverDocker
	}
	return config.DriverRawExec
}

func (d *drover) path(binary string) string { return filepath.Join(d.bin, binary) }

func (d *drover) configuration() string {
	return fmt.Sprintf(`
http {
  address = "127.0.0.1:0"
}
worker {
  driver = %q
  image  = %q
  binary = %q
}
defaults {
  memory_mb = 256
  cpu_mhz   = 250
}
retry {
  backoff = ["2s"]
}
`, d.driver, image, d.worker)
}

// ready waits until drover answers.
func (d *drover) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		_, err := d.list(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for drover dev: %w", err)
		}
	}
}

// submit runs drover submit with further args and returns the one item it stores.
func (d *drover) submit(ctx context.Context, args []string) (work.Item, error) {
	command := agent // in the image's PATH
	if d.driver == config.DriverRawExec {
		command = d.path(agent)
	}
	var items []work.Item
	if err := d.call(ctx, &items, append(args, "-o", "json", "--", command)...); err != nil {
		return work.Item{}, err
	}
	if len(items) != 1 {
		return work.Item{}, fmt.Errorf("drover submit printed %d items, not 1", len(items))
	}
	return items[0], nil
}

// list returns drover's items by id.
func (d *drover) list(ctx context.Context) (map[string]work.Item, error) {
	var page control.Page
	if err := d.call(ctx, &page, "list", "-o", "json"); err != nil {
		return nil, err
	}
	byID := map[string]work.Item{}
	for _, item := range page.Items {
		byID[item.ID] = item
	}
	return byID, nil
}

// call runs the CLI and reads what it prints.
func (d *drover) call(ctx context.Context, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, d.path("drover"), args...)
	cmd.Env = append(os.Environ(), "DROVER_ADDR="+d.Exports["DROVER_ADDR"])
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("drover %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("read what drover %s printed: %w", args[0], err)
	}
	return nil
}
