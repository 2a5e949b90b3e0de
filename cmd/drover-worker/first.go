package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"drover/internal/worker/launch"
)

const exitFailed = 1

// attemptArgument is what the first process starts the worker with, followed by
// its own argument: probeArgument, or none.
const (
	attemptArgument = "attempt"
	probeArgument   = "probe"
)

// execArgument is what everything that runs as the agent is started with.
const execArgument = "exec"

// launcherFile is the worker's end of the launcher's socket.
const launcherFile = 3

// first is the first process of an attempt, in a container PID 1. It runs the
// worker as its child, starts the agent's processes for it, hands signals on to
// it, and reaps what other processes left behind: a worker that did so itself
// would take the exit statuses of its own children away from where they are
// waited for.
//
// As PID 1 of a container that runs as root it makes three users of one: itself,
// with nothing of root's but what changing users takes; the worker; and the
// agent. Anywhere else all of them are the user it was started as.
func first(args, environ []string) int {
	hide()
	status, err := supervise(args, environ)
	if err != nil {
		fmt.Fprintln(os.Stderr, "drover-worker:", err)
		return exitFailed
	}
	const signalBase = 128
	if status.Signaled() {
		return signalBase + int(status.Signal())
	}
	return status.ExitStatus()
}

// supervise starts the worker and returns how it ended, with nothing left of what it started.
func supervise(args, environ []string) (syscall.WaitStatus, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find own program: %w", err)
	}
	if err := prctl(prSetChildSubreaper, 1); err != nil {
		return 0, fmt.Errorf("become the parent of orphans: %w", err)
	}
	place := placeOf(environ)
	if err := place.prepare(); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
	defer signal.Stop(signals)
	launcher := launch.New(place.agent, self, execArgument)
	worker, exit, err := launcher.Worker(self, slices.Concat(args[:1], []string{attemptArgument}, args[1:]), place.environ(environ), place.worker)
	switch {
	case errors.Is(err, syscall.EPERM) && place.worker != nil:
		return 0, fmt.Errorf("start the worker as user %d: %w; the job must give the capabilities setuid, setgid and kill (cap_add)", workerID, err)
	case err != nil:
		return 0, fmt.Errorf("start the worker: %w", err)
	}
	for {
		select {
		case s := <-signals:
			_ = syscall.Kill(worker, s.(syscall.Signal)) // it may have ended
		case status := <-exit:
			launcher.Sweep()
			return status, place.leave()
		}
	}
}

// Of linux/prctl.h.
const (
	prSetDumpable       = 4
	prSetChildSubreaper = 36
)

func prctl(option, value uintptr) error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, option, value, 0); errno != 0 {
		return errno
	}
	return nil
}

// hide keeps processes of the same user, such as an agent that is not isolated,
// from reading this one's environment and memory, where the secrets are.
func hide() {
	if err := prctl(prSetDumpable, 0); err != nil {
		fmt.Fprintln(os.Stderr, "drover-worker: hide own memory:", err)
	}
}
