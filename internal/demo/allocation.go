package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"drover/internal/config"
)

// labelAllocation is the label that Nomad gives its containers.
const labelAllocation = "com.hashicorp.nomad.alloc_id"

// commandTimeout bounds a call of the Docker CLI.
const commandTimeout = 20 * time.Second

// kill ends the allocation's container, or all its processes, by SIGKILL.
func (d *drover) kill(ctx context.Context, allocation string) error {
	if d.driver == config.DriverRawExec {
		return killAll(d.processes(allocation))
	}
	ids, err := containers(ctx, allocation)
	if err != nil {
		return err
	}
	if len(ids) != 1 {
		return fmt.Errorf("allocation %s has %d containers, not 1", allocation, len(ids))
	}
	_, err = docker(ctx, "kill", ids[0])
	return err
}

// gone returns an error if something of the allocation is left.
func (d *drover) gone(allocation string) error {
	var errs []error
	if pids := d.processes(allocation); len(pids) > 0 {
		errs = append(errs, fmt.Errorf("allocation %s left processes %v", allocation, pids))
	}
	if d.driver == config.DriverDocker {
		ids, err := containers(context.Background(), allocation)
		if len(ids) > 0 {
			err = fmt.Errorf("allocation %s left containers %v", allocation, ids)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// containers returns the ids of the allocation's containers, stopped ones too.
func containers(ctx context.Context, allocation string) ([]string, error) {
	out, err := docker(ctx, "ps", "--all", "--quiet", "--filter", "label="+labelAllocation+"="+allocation)
	return strings.Fields(out), err
}

func docker(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// processes returns the ids of the allocation's processes. Its id is in their environment, but a worker hides its own
// from all but root: there it is known as the parent of its agent.
func (d *drover) processes(allocation string) []int {
	paths, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	var pids []int
	for _, path := range paths {
		environ, err := os.ReadFile(filepath.Join(path, "environ"))
		if err != nil || !bytes.Contains(environ, []byte(allocation)) {
			continue // ended meanwhile, or somebody else's
		}
		if pid, err := strconv.Atoi(filepath.Base(path)); err == nil {
			pids = append(pids, pid)
		}
		if parent := parent(path); d.isWorker(parent) {
			pids = append(pids, parent)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// workers returns the ids of the processes that run this demo's link to the worker.
func (d *drover) workers() []int {
	paths, _ := filepath.Glob("/proc/[0-9]*") // as in processes
	var pids []int
	for _, path := range paths {
		if pid, err := strconv.Atoi(filepath.Base(path)); err == nil && d.isWorker(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (d *drover) isWorker(pid int) bool {
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.HasPrefix(command, []byte(d.worker+"\x00"))
}

// parent returns the id of a process's parent, 0 if there is none any more.
func parent(path string) int {
	status, err := os.ReadFile(filepath.Join(path, "stat"))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(status[bytes.LastIndexByte(status, ')')+1:]) // the name before may hold anything
	if len(fields) < 2 {
		return 0
	}
	id, _ := strconv.Atoi(string(fields[1])) // written by the kernel
	return id
}

func killAll(pids []int) error {
	var errs []error
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("kill process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}
