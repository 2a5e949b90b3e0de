// Package process runs a command and all it starts: in a process group of its
// own that ends with it, under watch for signs of life.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// DefaultGrace is the time between SIGTERM and SIGKILL where a Command says nothing.
const DefaultGrace = 5 * time.Second

// pipeDelay is how long output is read on after the command has ended, when
// something that it left running keeps the pipe open.
const pipeDelay = time.Second

// Command is what to run.
type Command struct {
	Args   []string
	Dir    string
	Env    []string // all of it
	Stdin  string
	Stdout io.Writer // may be nil
	Stderr io.Writer // may be nil
	// Alive is called at every sign of life: output, and CPU time that the
	// process or any below it used. Several goroutines may call it at once.
	Alive func()
	// Grace is asked, once the context ends, for the time between SIGTERM and
	// SIGKILL; DefaultGrace if nil.
	Grace func() time.Duration
}

// Exit is how a command ended.
type Exit struct {
	Code   int            // exit status, 128 + signal where it was killed
	Signal syscall.Signal // that killed it, 0 if none did
}

// Killed reports whether SIGKILL ended the command, or a process below a shell that passed that on.
func (e Exit) Killed() bool { return e.Code == signalBase+int(syscall.SIGKILL) }

func (e Exit) String() string {
	if e.Signal != 0 {
		return fmt.Sprintf("signal %d (%s)", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

const signalBase = 128

// Run runs a command until it ends, or ctx does: then its group gets SIGTERM,
// and SIGKILL after the grace. When Run returns, nothing of the group is left.
// The error is not nil only when the command could not be started.
func Run(ctx context.Context, c Command) (Exit, error) {
	if len(c.Args) == 0 {
		return Exit{}, errors.New("no command")
	}
	if err := context.Cause(ctx); err != nil {
		return Exit{}, fmt.Errorf("start %s: %w", c.Args[0], err)
	}
	if c.Grace == nil {
		c.Grace = func() time.Duration { return DefaultGrace }
	}
	if c.Alive == nil {
		c.Alive = func() {}
	}
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	cmd.Stdin = strings.NewReader(c.Stdin)
	cmd.Stdout, cmd.Stderr = c.watched(c.Stdout), c.watched(c.Stderr)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = pipeDelay
	if err := cmd.Start(); err != nil {
		return Exit{}, fmt.Errorf("start %s: %w", c.Args[0], err)
	}
	pid, ended := cmd.Process.Pid, make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { watchCPU(pid, ended, c.Alive) })
	watch.Go(func() { stopWith(ctx, pid, ended, c.Grace) })
	_ = cmd.Wait() // how it ended is in ProcessState
	close(ended)
	watch.Wait()
	_ = syscall.Kill(-pid, syscall.SIGKILL) // what it left running; none is the rule
	return exitOf(cmd), nil
}

// stopWith stops the group when ctx ends before the command does.
func stopWith(ctx context.Context, pid int, ended <-chan struct{}, grace func() time.Duration) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	_ = syscall.Kill(-pid, syscall.SIGTERM) // fails when it has just ended
	timer := time.NewTimer(grace())
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		_ = syscall.Kill(-pid, syscall.SIGKILL) // as above
	}
}

func exitOf(cmd *exec.Cmd) Exit {
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return Exit{Code: signalBase + int(status.Signal()), Signal: status.Signal()}
	}
	return Exit{Code: status.ExitStatus()}
}

func (c Command) watched(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return watchedWriter{w, c.Alive}
}

type watchedWriter struct {
	io.Writer
	alive func()
}

func (w watchedWriter) Write(p []byte) (int, error) {
	w.alive()
	return w.Writer.Write(p)
}
