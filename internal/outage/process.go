package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is how long a process may take to end after SIGTERM.
const stopTimeout = 30 * time.Second

// process is a program that is killed and started again. It is safe for concurrent use.
type process struct {
	name string
	args []string // the program's path first
	env  []string
	log  string // file; every start appends to it

	mu     sync.Mutex
	cmd    *exec.Cmd // nil while it does not run
	exited chan struct{}
	ours   bool // the end is ours: the process did not end by itself
}

func newProcess(dir, name string, env []string, args ...string) *process {
	return &process{name: name, args: args, env: env, log: filepath.Join(dir, name+".log")}
}

// start starts the process unless it runs.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the keyboard is for us
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited, p.ours = cmd, exited, false
	go func() {
		defer close(exited)
		_ = cmd.Wait() // the log says what went wrong
	}()
	return nil
}

// kill ends the process as kill -9 does, what it has started excepted. It may not run.
func (p *process) kill() error { return p.end(syscall.SIGKILL) }

// stop ends the process as a service manager does.
func (p *process) stop() error { return p.end(syscall.SIGTERM) }

func (p *process) end(signal syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	p.ours = true
	_ = p.cmd.Process.Signal(signal) // it may have ended
	var err error
	select {
	case <-p.exited:
	case <-time.After(stopTimeout):
		err = fmt.Errorf("%s did not end within %s of %s", p.name, stopTimeout, signal)
		_ = p.cmd.Process.Kill() // as above
		<-p.exited
	}
	p.cmd = nil
	return err
}

// fault says that the process has ended by itself.
func (p *process) fault() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.ours {
		return nil
	}
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended by itself; its log ends with:\n%s", p.name, p.logEnd())
	default:
		return nil
	}
}

func (p *process) logEnd() string {
	const most = 2000
	log, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-most):])
}

// findBinary returns the path of a program: from the PATH, or from build/bin below the module's root.
func findBinary(root, name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path := filepath.Join(root, "build", "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", errors.Join(fmt.Errorf("%s is neither on the PATH nor in build/bin (make %s)", name, name), err)
	}
	return path, nil
}

// clean is the environment without what would point a server at another cluster, and without the certificate bundle
// that Nomad's AWS client does not start with.
func clean(environ []string) (kept []string) {
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		family, _, _ := strings.Cut(name, "_")
		if name != "AWS_CA_BUNDLE" && family != "CONSUL" && family != "NOMAD" && family != "DROVER" {
			kept = append(kept, pair)
		}
	}
	return kept
}
