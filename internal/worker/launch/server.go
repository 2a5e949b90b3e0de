package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"drover/internal/worker/process"
)

const (
	// sweepPatience bounds a sweep: what outruns it for so long ends with the container.
	sweepPatience = 5 * time.Second
	sweepPause    = 2 * time.Millisecond
)

// Launcher starts the worker, and for it whatever an agent is to run.
type Launcher struct {
	credential *syscall.Credential // of what it launches; nil is its own
	shim       []string            // command line of Exec
	forks      chan func()

	mu      sync.Mutex // held over a fork until its child is known
	exits   map[int]chan syscall.WaitStatus
	spared  map[int]bool // by sweeps: the worker, and what is under way
	reaping sync.Once
}

// New returns a launcher of processes with a credential, its own if that is nil.
// It starts them by a program that calls Exec with the arguments after the shim's.
func New(credential *syscall.Credential, shim ...string) *Launcher {
	l := &Launcher{credential: credential, shim: shim, forks: make(chan func()), exits: map[int]chan syscall.WaitStatus{}, spared: map[int]bool{}}
	go l.forkAll()
	return l
}

// Worker starts the worker, whose file 3 is its end of the launcher's socket,
// and serves it. It returns the worker's process id and what tells how it ended.
func (l *Launcher) Worker(program string, args, env []string, credential *syscall.Credential) (int, <-chan syscall.WaitStatus, error) {
	ours, theirs, err := pair(syscall.SOCK_SEQPACKET)
	if err != nil {
		return 0, nil, err
	}
	pid, exit, err := l.fork(program, args, &syscall.ProcAttr{
		Env: env, Files: []uintptr{0, 1, 2, theirs.Fd()},
		Sys: &syscall.SysProcAttr{Credential: credential, Pdeathsig: syscall.SIGKILL},
	})
	if err := errors.Join(err, theirs.Close()); err != nil {
		return 0, nil, errors.Join(err, ours.Close())
	}
	socket, err := connection(ours)
	if err != nil {
		return 0, nil, err
	}
	go l.serve(socket)
	return pid, exit, nil
}

// prSetNoNewPrivs is of linux/prctl.h.
const prSetNoNewPrivs = 38

// forkAll forks everything from one thread, which never ends: the children are
// killed when it does, which is with the launcher. Where it changes users, no
// program's file can change them back.
func (l *Launcher) forkAll() {
	runtime.LockOSThread()
	if l.credential != nil {
		_, _, _ = syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0) // Linux has it since 3.5
	}
	for fork := range l.forks {
		fork()
	}
}

// fork starts a process, and reaps it.
func (l *Launcher) fork(program string, args []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var pid int
	var err error
	done := make(chan struct{})
	l.forks <- func() {
		defer close(done)
		pid, err = syscall.ForkExec(program, args, attr)
	}
	<-done
	if err != nil {
		return 0, nil, fmt.Errorf("fork/exec %s: %w", program, err)
	}
	exit := make(chan syscall.WaitStatus, 1)
	l.exits[pid], l.spared[pid] = exit, true
	l.reaping.Do(func() { go l.reap() })
	return pid, exit, nil
}

// reap waits for every child, also for those that others have left behind.
func (l *Launcher) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return // there is none any more: the worker has ended, and the launcher is about to
		}
		l.mu.Lock()
		exit := l.exits[pid]
		delete(l.exits, pid)
		l.mu.Unlock()
		if exit != nil {
			exit <- status
		}
	}
}

// serve takes requests until the worker has ended.
func (l *Launcher) serve(socket *net.UnixConn) {
	defer socket.Close()
	for {
		oob := make([]byte, syscall.CmsgSpace(streams*4))
		n, used, _, _, err := socket.ReadMsgUnix(make([]byte, 1), oob)
		if err != nil || n == 0 {
			return
		}
		files, err := received(oob[:used])
		if err != nil {
			fmt.Fprintln(os.Stderr, "drover-worker: a request to start a process:", err)
			continue
		}
		go l.session(files)
	}
}

// received returns the files that came with a request.
func received(oob []byte) ([]*os.File, error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), "stream")
	}
	if len(files) != streams {
		closeAll(files)
		return nil, fmt.Errorf("%d files came with it, not %d", len(files), streams)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// session is the life of one process.
func (l *Launcher) session(files []*os.File) {
	defer closeAll(files)
	conn, err := connection(files[streams-1])
	if err != nil {
		return
	}
	defer conn.Close()
	orders, answers := json.NewDecoder(conn), json.NewEncoder(conn)
	var first order
	if orders.Decode(&first) != nil || first.Start == nil {
		return
	}
	pid, exit, err := l.launch(*first.Start, files)
	closeAll(files[:streams-1])
	if err != nil {
		_ = answers.Encode(answer{Error: err.Error()}) // a worker that is gone needs none
		return
	}
	_ = answers.Encode(answer{PID: pid})
	said := make(chan order)
	go listen(orders, said)
	for {
		select {
		case status := <-exit:
			exit = nil
			_ = answers.Encode(answer{Status: &status})
		case o, more := <-said:
			if !more || o.End { // no more: the worker is gone
				l.end(pid, first.Start.Sweep)
				_ = answers.Encode(answer{Ended: true})
				return
			}
			_ = syscall.Kill(-pid, o.Signal) // fails when it has just ended
		}
	}
}

// listen passes a worker's orders on until the last.
func listen(orders *json.Decoder, said chan<- order) {
	defer close(said)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				fmt.Fprintln(os.Stderr, "drover-worker: an order about a process:", err)
			}
			return
		}
		said <- o
		if o.End {
			return
		}
	}
}

// launch starts a process in a session of its own, and returns once it runs its program.
func (l *Launcher) launch(start process.Start, files []*os.File) (int, <-chan syscall.WaitStatus, error) {
	if len(start.Args) == 0 {
		return 0, nil, errors.New("no command")
	}
	attr := &syscall.ProcAttr{
		Dir: start.Dir, Env: start.Env,
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: l.credential, Pdeathsig: syscall.SIGKILL},
	}
	for _, f := range files[:streams-1] {
		attr.Files = append(attr.Files, f.Fd())
	}
	report, shims, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer report.Close()
	attr.Files = append(attr.Files, shims.Fd()) // as reportFile
	pid, exit, err := l.fork(l.shim[0], slices.Concat(l.shim, start.Args), attr)
	if err := errors.Join(err, shims.Close()); err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", start.Args[0], err)
	}
	said, err := io.ReadAll(report) // ends when the program takes the shim's place
	if errno, bad := strconv.Atoi(string(said)); err == nil && bad == nil {
		<-exit
		l.end(pid, false)
		return 0, nil, fmt.Errorf("fork/exec %s: %w", start.Args[0], syscall.Errno(errno))
	}
	return pid, exit, nil
}

// end kills a process's group, and all that is to be swept with it.
func (l *Launcher) end(pid int, sweep bool) {
	_ = syscall.Kill(-pid, syscall.SIGKILL) // nothing left is the rule
	l.mu.Lock()
	delete(l.spared, pid)
	l.mu.Unlock()
	if sweep {
		l.Sweep()
	}
}

// Sweep kills everything below the launcher that nobody has asked for: what
// daemons, and whoever left their process group, have made of themselves. It
// looks again until there is nothing.
func (l *Launcher) Sweep() {
	for deadline := time.Now().Add(sweepPatience); time.Now().Before(deadline); time.Sleep(sweepPause) {
		l.mu.Lock() // no fork is half known
		found := process.Below(os.Getpid(), maps.Clone(l.spared))
		l.mu.Unlock()
		if len(found) == 0 {
			return
		}
		for _, pid := range found {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}
