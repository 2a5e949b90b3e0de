// Package devproc runs drover dev as a process of its own, as a person would in a second shell.
package devproc

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
)

const (
	startTimeout = 2 * time.Minute
	stopTimeout  = time.Minute
)

// Options say what is run.
type Options struct {
	Binary        string   // path of drover
	Dir           string   // for its configuration and its log, drover.log
	Configuration string   // HCL
	Args          []string // after "dev"
	Env           []string // beside this process's own
}

// Process is a running drover dev.
type Process struct {
	Servers string            // what it says it runs on
	Exports map[string]string // what it says other shells should export, such as DROVER_ADDR

	command *exec.Cmd
	log     *os.File
	said    chan struct{} // gets one once it has said where it is; closed when it says no more
}

// Start starts drover dev and waits until it says where it is.
func Start(ctx context.Context, opts Options) (*Process, error) {
	file := filepath.Join(opts.Dir, "drover.hcl")
	if err := os.WriteFile(file, []byte(opts.Configuration), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(opts.Dir, "drover.log"))
	if err != nil {
		return nil, err
	}
	p := &Process{Exports: map[string]string{}, log: log, said: make(chan struct{}, 1)}
	p.command = exec.Command(opts.Binary, append([]string{"dev", "--config", file}, opts.Args...)...)
	p.command.Env, p.command.Stderr = append(os.Environ(), opts.Env...), log
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the keyboard is ours to pass on
	stdout, err := p.command.StdoutPipe()
	if err == nil {
		err = p.command.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start drover (make build): %w", err), log.Close())
	}
	go p.listen(stdout)
	if err := p.awaitExports(ctx); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// listen reads what drover dev prints: where it is, as lines for a shell.
func (p *Process) listen(stdout io.Reader) {
	defer close(p.said)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "# "); ok {
			p.Servers = text
			continue
		}
		name, value, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		p.Exports[name] = value
		if name == "DROVER_ADDR" { // the last of them
			p.said <- struct{}{}
		}
	}
}

func (p *Process) awaitExports(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("drover dev does not say in time where it is"))
	defer cancel()
	select {
	case _, ok := <-p.said:
		if !ok {
			return errors.New("drover dev ended at once")
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Stop interrupts drover dev and waits for its end. When that is no good one, the
// error has the end of its log.
func (p *Process) Stop() error {
	defer p.log.Close()
	_ = p.command.Process.Signal(os.Interrupt) // fails when it has ended already
	kill := time.AfterFunc(stopTimeout, func() { _ = p.command.Process.Kill() })
	defer kill.Stop()
	for range p.said { // to the end of its output, as Wait demands
	}
	if err := p.command.Wait(); err != nil {
		return fmt.Errorf("drover dev: %w; its log ends with:\n%s", err, p.LogEnd())
	}
	return nil
}

// LogEnd returns the end of drover dev's log.
func (p *Process) LogEnd() string {
	const most = 3000
	log, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-most):])
}
