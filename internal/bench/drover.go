package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"drover/internal/api"
)

const (
	binary       = "bin/drover"
	image        = "drover-worker-demo:dev"
	startTimeout = 2 * time.Minute
	stopTimeout  = time.Minute
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

// drover is a drover dev that runs as a process of its own, with workers in containers.
type drover struct {
	client  *api.Client
	nomad   string // address
	servers string // what it says it runs on
	process *exec.Cmd
	log     *os.File
	said    chan error // nil once it has said where it is; closed when it says no more
}

// startDrover starts drover dev with files in dir, and waits until it says where it is.
func startDrover(ctx context.Context, dir string, real bool) (*drover, error) {
	if err := exec.CommandContext(ctx, "docker", "image", "inspect", image).Run(); err != nil {
		return nil, fmt.Errorf("a docker engine with the image %s is needed (make image): %w", image, err)
	}
	if real {
		for _, agent := range []string{"nomad", "consul"} {
			if _, err := exec.LookPath(agent); err != nil { // drover dev would serve that one itself
				return nil, err
			}
		}
	}
	file := filepath.Join(dir, "drover.hcl")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "drover.log"))
	if err != nil {
		return nil, err
	}
	args := []string{"dev", "--driver", "docker", "--config", file}
	if !real {
		args = append(args, "--embedded")
	}
	d := &drover{process: exec.Command(binary, args...), log: log, said: make(chan error, 1)}
	d.process.Stderr = log
	d.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the keyboard is ours to pass on
	stdout, err := d.process.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if err := d.process.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start drover (make build): %w", err), log.Close())
	}
	go d.listen(stdout)
	if err := d.ready(ctx); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// listen reads what drover dev prints: where it is, as lines for a shell.
func (d *drover) listen(stdout io.Reader) {
	defer close(d.said)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		name, value, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		switch {
		case strings.HasPrefix(name, "# "):
			d.servers = strings.TrimPrefix(lines.Text(), "# ")
		case name == "NOMAD_ADDR":
			d.nomad = value
		case name == "DROVER_ADDR":
			client, err := api.NewClient(api.ClientOptions{Address: value})
			d.client = client
			d.said <- err
		}
	}
}

// ready waits until drover takes items.
func (d *drover) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("drover dev is not ready in time"))
	defer cancel()
	select {
	case err, ok := <-d.said:
		if !ok {
			return errors.New("drover dev ended at once")
		}
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	tick := time.NewTicker(startPoll)
	defer tick.Stop()
	for {
		status, err := d.client.Status(ctx)
		if err == nil && len(status.NotReady) == 0 {
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

// stop interrupts drover dev and waits for its end.
func (d *drover) stop() error {
	defer d.log.Close()
	if d.client != nil {
		d.client.Close()
	}
	_ = d.process.Process.Signal(os.Interrupt) // fails when it has ended already
	kill := time.AfterFunc(stopTimeout, func() { _ = d.process.Process.Kill() })
	defer kill.Stop()
	for range d.said { // to the end of its output, as Wait demands
	}
	if err := d.process.Wait(); err != nil {
		return fmt.Errorf("drover dev: %w; its log ends with:\n%s", err, d.logEnd())
	}
	return nil
}

// logEnd returns the end of drover dev's log.
func (d *drover) logEnd() string {
	const most = 3000
	log, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-most):])
}
