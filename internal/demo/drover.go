package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"drover/internal/config"
	"drover/internal/control"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

const (
	image        = "drover-worker-demo:dev"
	agent        = "drover-demo-agent"
	startTimeout = time.Minute
	stopTimeout  = 30 * time.Second
)

// drover is a drover dev that runs as a process of its own, and the CLI that calls it.
type drover struct {
	bin     string // directory of the binaries
	worker  string // link to the worker that only this demo uses
	driver  string
	address string
	process *exec.Cmd
	exited  chan struct{}
	log     *os.File
}

// startDrover starts drover dev and waits until it takes items.
func startDrover(ctx context.Context, dir string, credentials gittest.Options, real bool) (*drover, error) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	d := &drover{
		bin: bin, worker: filepath.Join(dir, "drover-worker"), driver: driver(ctx),
		address: "http://" + address, exited: make(chan struct{}),
	}
	if err := os.Symlink(d.path("drover-worker"), d.worker); err != nil {
		return nil, err
	}
	configuration := filepath.Join(dir, "drover.hcl")
	if err := os.WriteFile(configuration, []byte(d.configuration(address)), 0o600); err != nil {
		return nil, err
	}
	if d.log, err = os.Create(filepath.Join(dir, "drover.log")); err != nil {
		return nil, err
	}
	args := []string{"dev", "--config", configuration}
	if !real {
		args = append(args, "--embedded")
	}
	d.process = exec.Command(d.path("drover"), args...)
	d.process.Stdout, d.process.Stderr = d.log, d.log
	d.process.Env = append(os.Environ(), "DROVER_GIT_USERNAME="+credentials.Username, "DROVER_GIT_TOKEN="+credentials.Password)
	d.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the keyboard is the demo's to pass on
	if err := d.process.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start drover: %w", err), d.log.Close())
	}
	go func() {
		defer close(d.exited)
		_ = d.process.Wait() // what went wrong is in the log
	}()
	if err := d.ready(ctx); err != nil {
		return nil, errors.Join(err, d.stop(), fmt.Errorf("drover's log ends with:\n%s", d.logEnd()))
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

func (d *drover) configuration(address string) string {
	return fmt.Sprintf(`
http {
  address = %q
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
`, address, d.driver, image, d.worker)
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
		case <-d.exited:
			return errors.New("drover dev ended at once")
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
	cmd.Env = append(os.Environ(), "DROVER_ADDR="+d.address)
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

// stop interrupts drover dev and waits for its end.
func (d *drover) stop() error {
	defer d.log.Close()
	_ = d.process.Process.Signal(os.Interrupt) // fails when it has ended already
	select {
	case <-d.exited:
	case <-time.After(stopTimeout):
		_ = d.process.Process.Kill() // as above
		<-d.exited
		return fmt.Errorf("drover dev did not stop within %v of an interrupt", stopTimeout)
	}
	if code := d.process.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("drover dev ended with exit status %d; its log ends with:\n%s", code, d.logEnd())
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

// freeAddress returns a loopback address that nobody listened on a moment ago.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}
