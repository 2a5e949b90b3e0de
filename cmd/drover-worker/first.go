package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const exitFailed = 1

// first is the first process of a container. It runs the worker as its child,
// hands signals on to it, and reaps what other processes left behind: a worker
// that did so itself would take the exit statuses of its own children away from
// where they are waited for.
func first(args []string) int {
	hide()
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "drover-worker: find own program:", err)
		return exitFailed
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}}
	worker, err := syscall.ForkExec(self, args, attr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "drover-worker: start the worker:", err)
		return exitFailed
	}
	go func() {
		for s := range signals {
			_ = syscall.Kill(worker, s.(syscall.Signal)) // it may have ended
		}
	}()
	defer func() { signal.Stop(signals); close(signals) }()
	return reap(worker)
}

// reap waits for every child until it was the worker, and returns its exit status.
func reap(worker int) int {
	const signalBase = 128
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			fmt.Fprintln(os.Stderr, "drover-worker: wait for the worker:", err)
			return exitFailed
		case pid == worker && status.Signaled():
			return signalBase + int(status.Signal())
		case pid == worker:
			return status.ExitStatus()
		}
	}
}

// hide keeps processes of the same user, such as the agent, from reading this
// one's environment and memory, where the secrets are.
func hide() {
	const prSetDumpable, notDumpable = 4, 0 // linux/prctl.h
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, notDumpable, 0); errno != 0 {
		fmt.Fprintln(os.Stderr, "drover-worker: hide own memory:", errno)
	}
}
