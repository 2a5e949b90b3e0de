package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// pids returns the ids of all processes.
func pids() (ids []int) {
	paths, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	for _, path := range paths {
		if id, err := strconv.Atoi(filepath.Base(path)); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// arguments returns the command line of a process, nothing if it is gone.
func arguments(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// parent returns the id of a process's parent, 0 if the process is gone or a zombie.
func parent(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(status[bytes.LastIndexByte(status, ')')+1:]) // the name before may hold anything
	if len(fields) < 2 || string(fields[0]) == "Z" {
		return 0
	}
	id, _ := strconv.Atoi(string(fields[1])) // written by the kernel
	return id
}

// workerOf returns the id of the worker whose agent a process is, 0 if there is none. The worker and its agent are both
// children of the attempt's first process.
func workerOf(binary string, agent int) int {
	first := parent(agent)
	if args := arguments(first); len(args) != 1 || args[0] != binary {
		return 0
	}
	for _, pid := range pids() {
		if args := arguments(pid); len(args) == 2 && args[0] == binary && parent(pid) == first {
			return pid
		}
	}
	return 0
}

// processesOf returns the ids of the processes whose command line has a text.
func processesOf(text string) (ids []int) {
	for _, pid := range pids() {
		if strings.Contains(strings.Join(arguments(pid), "\x00"), text) && pid != os.Getpid() {
			ids = append(ids, pid)
		}
	}
	return ids
}

// holders returns the ids of the processes that have a file below a directory open, as Nomad's collectors of logs have.
func holders(dir string) (ids []int) {
	for _, pid := range pids() {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is well-formed
		for _, file := range files {
			if to, err := os.Readlink(file); err == nil && strings.HasPrefix(to, dir+"/") {
				ids = append(ids, pid)
				break
			}
		}
	}
	return ids
}

func kill(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// unmountBelow detaches what an agent that was killed left mounted for its tasks.
func unmountBelow(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			err = errors.Join(err, syscall.Unmount(fields[1], syscall.MNT_DETACH))
		}
	}
	return err
}
