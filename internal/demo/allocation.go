package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
		return killAll(processes(allocation))
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
	if pids := processes(allocation); len(pids) > 0 {
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

// processes returns the ids of the allocation's processes, which Nomad's environment tells.
func processes(allocation string) []int {
	mark := []byte("NOMAD_ALLOC_ID=" + allocation)
	paths, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is well-formed
	var pids []int
	for _, path := range paths {
		environ, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(environ, mark) {
			continue // ended meanwhile, or somebody else's
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
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
