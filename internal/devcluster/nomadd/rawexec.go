package nomadd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// defaultPIDs is drover's own default of the processes a worker may have.
	defaultPIDs = 256

	// outputGrace is how long a task's output may stay open after its end.
	outputGrace = time.Second

	// exitSignalBase is added to the signal in the exit code of a killed
	// process, as Nomad's executor does.
	exitSignalBase = 128
)

// RawExec runs tasks as plain processes of this machine, each a process
// group. Where control groups can be written (as root), it enforces the
// task's memory and a limit of processes, and reports OOM kills, all of which
// Nomad's own raw_exec does not; elsewhere nothing is limited.
type RawExec struct {
	// PIDs is the most processes a task may have; 0 means 256.
	PIDs int
}

// Layout tells that tasks see the host's directories.
func (*RawExec) Layout(host Layout) Layout { return host }

// Close has nothing to free.
func (*RawExec) Close() error { return nil }

// Start starts the config's command with its args.
func (d *RawExec) Start(ctx context.Context, task *Task) (Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cmd, err := command(task)
	if err != nil {
		return nil, &Unrecoverable{err}
	}
	p := &rawProcess{cmd: cmd, group: newCgroup(task.AllocID, task.Resources.Memory.MemoryMB<<20, cmp.Or(d.PIDs, defaultPIDs))}
	if err := p.start(task); err != nil {
		p.group.remove()
		return nil, &Unrecoverable{fmt.Errorf("failed to launch command with executor: %w", err)}
	}
	return p, nil
}

func command(task *Task) (*exec.Cmd, error) {
	name, _ := task.Config["command"].(string)
	if name == "" {
		return nil, errors.New("command must be set")
	}
	var args []string
	list, _ := task.Config["args"].([]any)
	for _, arg := range list {
		args = append(args, fmt.Sprint(arg))
	}
	if local := filepath.Join(filepath.Dir(task.Host.Local), name); !filepath.IsAbs(name) && executable(local) {
		name = local
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = filepath.Dir(task.Host.Local)
	cmd.Env = append(hostEnviron(), environ(task.Env)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if task.User != "" {
		credential, err := credentialOf(task.User)
		if err != nil {
			return nil, err
		}
		cmd.SysProcAttr.Credential = credential
	}
	return cmd, nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func credentialOf(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("failed to identify user %v: %w", name, err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// hostEnviron is this process's environment without what would give a task
// the credentials of its host.
func hostEnviron() []string {
	var out []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.Contains(name, "TOKEN") && !strings.HasPrefix(name, "AWS_") && !strings.HasPrefix(name, "VAULT_") &&
			name != "GOOGLE_APPLICATION_CREDENTIALS" && name != "NOMAD_LICENSE" {
			out = append(out, pair)
		}
	}
	return out
}

// rawProcess is a process group, in a control group where there are such.
type rawProcess struct {
	cmd    *exec.Cmd
	group  *cgroup
	output sync.WaitGroup
	pipes  []*os.File
}

func (p *rawProcess) start(task *Task) error {
	var children []*os.File
	defer func() {
		for _, f := range children {
			_ = f.Close()
		}
	}()
	for _, to := range []struct {
		file *io.Writer
		log  io.Writer
	}{{&p.cmd.Stdout, task.Stdout}, {&p.cmd.Stderr, task.Stderr}} {
		reader, writer, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("make a pipe for the output: %w", err)
		}
		*to.file = writer
		children = append(children, writer)
		p.pipes = append(p.pipes, reader)
	}
	if err := p.group.start(p.cmd); err != nil {
		for _, f := range p.pipes {
			_ = f.Close()
		}
		return err
	}
	for i, log := range []io.Writer{task.Stdout, task.Stderr} {
		p.output.Go(func() { _, _ = io.Copy(log, p.pipes[i]) })
	}
	return nil
}

// Wait implements Process: after the command itself, the rest of its group ends too.
func (p *rawProcess) Wait() Exit {
	_ = p.cmd.Wait()
	p.killAll()
	drained := make(chan struct{})
	go func() { p.output.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(outputGrace):
	}
	for _, f := range p.pipes {
		_ = f.Close()
	}
	<-drained
	exit := Exit{Code: p.cmd.ProcessState.ExitCode()}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		exit.Signal = int(status.Signal())
		exit.Code = exitSignalBase + exit.Signal
	}
	if p.group.oomKills() > 0 {
		exit.OOMKilled, exit.Message = true, "OOM Killed"
	}
	p.group.remove()
	return exit
}

// Signal implements Process.
func (p *rawProcess) Signal(sig syscall.Signal) error {
	if sig == syscall.SIGKILL {
		p.killAll()
		return nil
	}
	return p.cmd.Process.Signal(sig)
}

func (p *rawProcess) killAll() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.group.kill()
}

// Usage implements Process.
func (p *rawProcess) Usage(context.Context) (Usage, error) {
	usage := groupUsage(p.cmd.Process.Pid)
	if current, peak, ok := p.group.memory(); ok {
		usage.MemoryBytes, usage.MaxBytes = current, peak
	}
	return usage, nil
}

// groupUsage adds up the resident memory and the CPU time of a process group
// from the fields of /proc/<pid>/stat, counted from the end of the name.
func groupUsage(pgid int) Usage {
	const pgrp, utime, stime, cutime, cstime, rss = 2, 11, 12, 13, 14, 21
	const tick = 10 * time.Millisecond
	var usage Usage
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		data, _ := os.ReadFile(file)
		fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
		number := func(i int) uint64 { n, _ := strconv.ParseUint(string(fields[i]), 10, 64); return n }
		if len(fields) <= rss || number(pgrp) != uint64(pgid) {
			continue
		}
		usage.MemoryBytes += number(rss) * uint64(os.Getpagesize())
		usage.CPUTime += time.Duration(number(utime)+number(stime)+number(cutime)+number(cstime)) * tick
	}
	usage.MaxBytes = usage.MemoryBytes
	return usage
}
