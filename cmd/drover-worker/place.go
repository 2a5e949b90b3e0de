package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// The users of a container, those of the image's /etc/passwd.
const (
	workerID = 1000
	agentID  = 1001
)

// nobodyID owns an allocation's directories where Nomad's client runs as root.
const nobodyID = 65534

// place is where an attempt runs, and as whom.
type place struct {
	worker, agent *syscall.Credential // nil: as this process
	local         string              // Nomad's directories of the task
	closed        []string            // which the agent has no business in
}

// placeOf finds the place. Only PID 1 that is root may make users of its own:
// elsewhere there are other people's processes and files about.
func placeOf(environ []string) place {
	env := variables(environ)
	if os.Getpid() != 1 || os.Getuid() != 0 {
		return place{}
	}
	p := place{
		worker: &syscall.Credential{Uid: workerID, Gid: workerID}, agent: &syscall.Credential{Uid: agentID, Gid: agentID},
		local: env["NOMAD_TASK_DIR"],
	}
	for _, dir := range []string{env["NOMAD_SECRETS_DIR"], env["NOMAD_ALLOC_DIR"]} {
		if dir != "" {
			p.closed = append(p.closed, dir)
		}
	}
	return p
}

func (p place) isolated() bool { return p.agent != nil }

func (p place) workerDir() string { return filepath.Join(p.local, workDirectory) }
func (p place) agentDir() string  { return filepath.Join(p.local, "agent") }

// environ adds to the worker's environment where the agent's files go.
func (p place) environ(environ []string) []string {
	if !p.isolated() {
		return environ
	}
	return append(environ, agentDirVariable+"="+p.agentDir())
}

// prepare gives worker and agent a directory each, and closes the rest. Nomad
// makes a task's directories open to everyone, and those of an open directory can
// be renamed by everyone.
//
// Root without its capabilities can't change what belongs to others, so it acts
// as the one whose they are.
func (p place) prepare() error {
	if !p.isolated() {
		return nil
	}
	const searchable, readable, private = 0o711, 0o755, 0o700
	if err := as(workerID, func() error { return makeDir(p.workerDir(), searchable) }); err != nil {
		return fmt.Errorf("make the worker's directory: %w", err)
	}
	if err := as(agentID, func() error { return makeDir(p.agentDir(), readable) }); err != nil {
		return fmt.Errorf("make the agent's directory: %w", err)
	}
	if err := protect(p.local, readable); err != nil {
		return err
	}
	for _, dir := range p.closed {
		if err := protect(dir, private); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes a directory with exactly this mode.
func makeDir(path string, mode fs.FileMode) error {
	return errors.Join(os.Mkdir(path, mode), os.Chmod(path, mode))
}

// protect sets a directory's mode in its owner's name.
func protect(dir string, mode fs.FileMode) error {
	owner, err := ownerOf(dir)
	if err == nil {
		err = as(owner, func() error { return os.Chmod(dir, mode) })
	}
	if err != nil {
		return fmt.Errorf("close %s to the agent: %w", dir, err)
	}
	return nil
}

func ownerOf(path string) (int, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return int(info.Sys().(*syscall.Stat_t).Uid), nil
}

// leave removes what worker and agent wrote where the owner of the task's
// directories, being neither root nor them, could not.
func (p place) leave() error {
	if !p.isolated() {
		return nil
	}
	owner, err := ownerOf(p.local)
	if err != nil || owner == 0 || owner == nobodyID {
		return err
	}
	return errors.Join(
		as(agentID, func() error { return removeContent(p.agentDir()) }),
		as(workerID, func() error { return removeContent(p.workerDir()) }),
	)
}

// removeContent empties a directory.
func removeContent(dir string) error {
	entries, err := os.ReadDir(dir)
	errs := []error{err}
	for _, entry := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	return errors.Join(errs...)
}

// as does something with files as another user: the kernel takes a thread's own
// identity for them.
func as(id int, do func() error) error {
	runtime.LockOSThread()
	if err := setFileIdentity(id); err != nil {
		return errors.Join(err, setFileIdentity(0)) // the thread stays locked, and ends with its goroutine
	}
	err := do()
	if back := setFileIdentity(0); back != nil {
		return errors.Join(err, back) // as above
	}
	runtime.UnlockOSThread()
	return err
}

func setFileIdentity(id int) error {
	const asks = ^uintptr(0) // an id that is none: the answer is the present one
	for call, what := range map[uintptr]string{syscall.SYS_SETFSGID: "group", syscall.SYS_SETFSUID: "user"} {
		_, _, _ = syscall.RawSyscall(call, uintptr(id), 0, 0) // its answer is the one before, whether it worked or not
		if now, _, _ := syscall.RawSyscall(call, asks, 0, 0); int32(now) != int32(id) {
			return fmt.Errorf("use files as %s %d: %w; the job must give the capabilities setuid, setgid and kill (cap_add)", what, id, syscall.EPERM)
		}
	}
	return nil
}

// variables reads an environment.
func variables(environ []string) map[string]string {
	env := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	return env
}
