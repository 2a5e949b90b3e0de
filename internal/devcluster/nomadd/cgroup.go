package nomadd

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	cgroupRoot   = "/sys/fs/cgroup"
	cgroupParent = "drover-nomad"

	// cgroupRemoval bounds the wait for killed processes to leave their group.
	cgroupRemoval = 2 * time.Second
)

// cgroup limits a task's memory and processes by the kernel's control groups,
// of version 2 or 1. A nil cgroup, where they can't be used, limits nothing.
type cgroup struct {
	v2 bool
	// memoryDir and pidsDir are the same directory in version 2.
	memoryDir, pidsDir string
}

// newCgroup makes a group, or returns nil where that isn't possible.
func newCgroup(name string, memoryBytes int64, pids int) *cgroup {
	g := &cgroup{v2: exists(filepath.Join(cgroupRoot, "cgroup.controllers"))}
	g.memoryDir, g.pidsDir = filepath.Join(cgroupRoot, "memory", cgroupParent, name), filepath.Join(cgroupRoot, "pids", cgroupParent, name)
	if g.v2 {
		parent := filepath.Join(cgroupRoot, cgroupParent)
		g.memoryDir, g.pidsDir = filepath.Join(parent, name), filepath.Join(parent, name)
		if os.MkdirAll(parent, 0o755) != nil || enableControllers(cgroupRoot, parent) != nil {
			return nil
		}
	}
	if !exists(filepath.Dir(filepath.Dir(g.memoryDir))) || os.MkdirAll(g.memoryDir, 0o755) != nil {
		return nil
	}
	if os.MkdirAll(g.pidsDir, 0o755) != nil || g.limit(memoryBytes, pids) != nil {
		g.remove()
		return nil
	}
	return g
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func enableControllers(dirs ...string) error {
	for _, dir := range dirs {
		if err := writeFile(dir, "cgroup.subtree_control", "+memory +pids"); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(dir, name, value string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644)
}

func (g *cgroup) limit(memoryBytes int64, pids int) error {
	memory := strconv.FormatInt(memoryBytes, 10)
	if err := writeFile(g.pidsDir, "pids.max", strconv.Itoa(pids)); err != nil {
		return err
	}
	if g.v2 {
		// A machine without swap accounting has no such file.
		_ = writeFile(g.memoryDir, "memory.swap.max", "0")
		return writeFile(g.memoryDir, "memory.max", memory)
	}
	if err := writeFile(g.memoryDir, "memory.limit_in_bytes", memory); err != nil {
		return err
	}
	_ = writeFile(g.memoryDir, "memory.memsw.limit_in_bytes", memory)
	return nil
}

// start starts a command inside the group.
func (g *cgroup) start(cmd *exec.Cmd) error {
	switch {
	case g == nil:
		return cmd.Start()
	case g.v2:
		return g.startByFD(cmd)
	default:
		return g.startByThread(cmd)
	}
}

// startByFD has the kernel make the process in the group: version 2 alone can.
func (g *cgroup) startByFD(cmd *exec.Cmd) error {
	dir, err := os.Open(g.pidsDir)
	if err != nil {
		return fmt.Errorf("open the control group: %w", err)
	}
	defer dir.Close()
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return cmd.Start()
}

// startByThread moves a thread into the group for as long as it starts the
// command, as a child begins its life in the groups of the thread that made it.
func (g *cgroup) startByThread(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	go func() {
		// A thread that can't be moved back ends with this goroutine.
		runtime.LockOSThread()
		home := threadCgroups()
		if err := moveThread(g.memoryDir, g.pidsDir); err != nil {
			result <- fmt.Errorf("enter the control group: %w", err)
			return
		}
		err := cmd.Start()
		if moveThread(filepath.Join(cgroupRoot, "memory", home["memory"]), filepath.Join(cgroupRoot, "pids", home["pids"])) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// moveThread moves the calling thread into groups of version 1.
func moveThread(dirs ...string) error {
	for _, dir := range dirs {
		if err := writeFile(dir, "tasks", strconv.Itoa(syscall.Gettid())); err != nil {
			return err
		}
	}
	return nil
}

// threadCgroups maps each controller to the calling thread's group.
func threadCgroups() map[string]string {
	out := map[string]string{}
	data, _ := os.ReadFile("/proc/thread-self/cgroup")
	for line := range strings.Lines(string(data)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			for _, controller := range strings.Split(parts[1], ",") {
				out[controller] = parts[2]
			}
		}
	}
	return out
}

// oomKills counts the processes of the group that the kernel killed for memory.
func (g *cgroup) oomKills() int {
	if g == nil {
		return 0
	}
	name := "memory.oom_control"
	if g.v2 {
		name = "memory.events"
	}
	data, _ := os.ReadFile(filepath.Join(g.memoryDir, name))
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(rest))
			return n
		}
	}
	return 0
}

// memory reads the bytes in use now and at most.
func (g *cgroup) memory() (current, peak uint64, ok bool) {
	if g == nil {
		return 0, 0, false
	}
	if g.v2 {
		return g.number("memory.current"), g.number("memory.peak"), true
	}
	return g.number("memory.usage_in_bytes"), g.number("memory.max_usage_in_bytes"), true
}

func (g *cgroup) number(name string) uint64 {
	data, _ := os.ReadFile(filepath.Join(g.memoryDir, name))
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 64)
	return n
}

// kill sends SIGKILL to every process of the group.
func (g *cgroup) kill() {
	if g == nil {
		return
	}
	data, _ := os.ReadFile(filepath.Join(g.pidsDir, "cgroup.procs"))
	for _, field := range bytes.Fields(data) {
		if pid, err := strconv.Atoi(string(field)); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// remove removes the group once its processes are gone.
func (g *cgroup) remove() {
	if g == nil {
		return
	}
	for _, dir := range []string{g.memoryDir, g.pidsDir} {
		for deadline := time.Now().Add(cgroupRemoval); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if err := syscall.Rmdir(dir); err == nil || err == syscall.ENOENT {
				break
			}
			g.kill()
		}
	}
}
