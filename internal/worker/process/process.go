// Package process runs a command and all it starts: in a process group of its
// own that ends with it, under watch for signs of life.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	Env    []string // all of it; a PATH in it is where the program is looked for
	Stdin  string
	Stdout io.Writer // may be nil
	Stderr io.Writer // may be nil
	// Alive is called at every sign of life: output, and CPU time that the
	// process or any below it used. Several goroutines may call it at once.
	Alive func()
	// Busy is called in every second in which the process, or any below it, used
	// any CPU time at all. It may be nil.
	Busy func()
	// Grace is asked, once the context ends, for the time between SIGTERM and
	// SIGKILL; DefaultGrace if nil.
	Grace func() time.Duration
	// Starter starts the process; nil makes it a child of this one.
	Starter Starter
	// Sweep ends, with the command, whatever was started below it, also what
	// left its process group. A Starter does so; without one nobody can.
	Sweep bool
}

// Starter starts processes for another.
type Starter interface {
	// Start starts a command as the leader of a process group of its own. The
	// files are its standard streams, which stay the caller's.
	Start(c Start, files [3]*os.File) (Child, error)
}

// Start is what a Starter needs to know of a command.
type Start struct {
	Args  []string
	Dir   string
	Env   []string
	Sweep bool
}

// Child is a started process. Its methods may be called concurrently.
type Child interface {
	PID() int
	// Wait returns how the process ended, once it has; it is called once.
	Wait() syscall.WaitStatus
	// Signal signals the process and its group.
	Signal(sig syscall.Signal)
	// End ends what is left of the group, and all that is to be swept. It is
	// called once, after Wait.
	End()
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
	if c.Busy == nil {
		c.Busy = func() {}
	}
	var p pipes
	child, err := c.start(&p)
	if err != nil {
		p.close()
		return Exit{}, fmt.Errorf("start %s: %w", c.Args[0], err)
	}
	p.copy(c)
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { watchCPU(child.PID(), ended, c.Alive, c.Busy) })
	watch.Go(func() { stopWith(ctx, child, ended, c.Grace) })
	status := child.Wait()
	p.drain()
	close(ended)
	watch.Wait()
	child.End() // what it left running; nothing is the rule
	p.rest(c)
	return exitOf(status), nil
}

// start starts the command with the far ends of the pipes.
func (c Command) start(p *pipes) (Child, error) {
	files, err := p.open(c.Stdin != "")
	defer func() {
		for _, f := range files {
			if f != nil {
				_ = f.Close()
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	args := append([]string{c.program()}, c.Args[1:]...)
	if c.Starter != nil {
		return c.Starter.Start(Start{Args: args, Dir: c.Dir, Env: c.Env, Sweep: c.Sweep}, files)
	}
	started, err := os.StartProcess(args[0], args, &os.ProcAttr{
		Dir: c.Dir, Env: c.Env, Files: files[:], Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return nil, err
	}
	return own{started}, nil
}

// program finds the command's program in the PATH that the command will see.
func (c Command) program() string {
	name := c.Args[0]
	if strings.Contains(name, "/") {
		return name
	}
	for _, pair := range c.Env {
		path, ok := strings.CutPrefix(pair, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode()&0o111 != 0 && !info.IsDir() {
				return filepath.Join(dir, name)
			}
		}
	}
	return name
}

// own is a child of this process.
type own struct{ *os.Process }

func (o own) PID() int { return o.Pid }

func (o own) Wait() syscall.WaitStatus {
	state, err := o.Process.Wait()
	if err != nil { // nobody else waits for it
		return syscall.WaitStatus(syscall.SIGKILL)
	}
	return state.Sys().(syscall.WaitStatus)
}

func (o own) Signal(sig syscall.Signal) { _ = syscall.Kill(-o.Pid, sig) } // fails when it has just ended

func (o own) End() { o.Signal(syscall.SIGKILL) }

// stopWith stops the group when ctx ends before the command does.
func stopWith(ctx context.Context, child Child, ended <-chan struct{}, grace func() time.Duration) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	child.Signal(syscall.SIGTERM)
	timer := time.NewTimer(grace())
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		child.Signal(syscall.SIGKILL)
	}
}

func exitOf(status syscall.WaitStatus) Exit {
	if status.Signaled() {
		return Exit{Code: signalBase + int(status.Signal()), Signal: status.Signal()}
	}
	return Exit{Code: status.ExitStatus()}
}

// pipes are the near ends of a command's standard streams.
type pipes struct {
	stdin, stdout, stderr *os.File
	copying               sync.WaitGroup
}

// open makes the pipes and returns their far ends.
func (p *pipes) open(input bool) (far [3]*os.File, err error) {
	if input {
		far[0], p.stdin, err = os.Pipe()
	} else {
		far[0], err = os.Open(os.DevNull)
	}
	if err == nil {
		p.stdout, far[1], err = os.Pipe()
	}
	if err == nil {
		p.stderr, far[2], err = os.Pipe()
	}
	return far, err
}

func (p *pipes) copy(c Command) {
	p.copyOutput(c)
	if p.stdin != nil {
		p.copying.Go(func() {
			_, _ = io.WriteString(p.stdin, c.Stdin) // a command need not read it
			_ = p.stdin.Close()
		})
	}
}

func (p *pipes) copyOutput(c Command) {
	for from, to := range map[*os.File]io.Writer{p.stdout: c.Stdout, p.stderr: c.Stderr} {
		p.copying.Go(func() { _, _ = io.Copy(c.watched(to), from) }) // ends with the stream, or the delay
	}
}

// drain waits for the rest of the output, but not for long.
func (p *pipes) drain() {
	deadline := time.Now().Add(pipeDelay)
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.SetDeadline(deadline) // closed already: nothing to wait for
		}
	}
	p.copying.Wait()
}

// rest reads what is in the pipes still, now that nothing of the command is left
// to write: a machine that is short of memory may not have come to it in time.
func (p *pipes) rest(c Command) {
	deadline := time.Now().Add(pipeDelay)
	for _, f := range []*os.File{p.stdout, p.stderr} {
		_ = f.SetDeadline(deadline) // as above
	}
	p.copyOutput(c)
	p.copying.Wait()
	p.close()
}

func (p *pipes) close() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close() // twice does no harm
		}
	}
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
