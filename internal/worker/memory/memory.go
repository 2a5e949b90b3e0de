// Package memory reads what the kernel counts about the memory of the control
// group that a process lives in, for cgroup v1 and v2.
package memory

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Group is the control group that accounts for the worker's memory.
type Group struct {
	dir string
	v2  bool
}

// Usage is what a group's counters say.
type Usage struct {
	OOMKills int // processes that the kernel killed for memory since the group was made
	PeakMB   int // highest use in MiB, 0 where the kernel does not tell
}

// Open finds the calling process's own group.
func Open() (*Group, error) { return open("/") }

// open finds the group in the file system below root.
func open(root string) (*Group, error) {
	own, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil, err
	}
	paths := ownPaths(string(own))
	for _, v2 := range []bool{false, true} { // where v1 has the memory controller, v2 has it not
		path, ok := paths[v2]
		if !ok {
			continue
		}
		for line := range strings.Lines(string(mounts)) {
			mount, ok := parseMount(line, v2)
			if !ok {
				continue
			}
			for _, dir := range mount.candidates(path) {
				g := &Group{dir: filepath.Join(root, dir), v2: v2}
				if _, err := g.Usage(); err == nil {
					return g, nil
				}
			}
		}
	}
	return nil, errors.New("no control group with memory counters")
}

// ownPaths reads /proc/self/cgroup: the path in v1's memory hierarchy, and in v2's.
func ownPaths(text string) map[bool]string {
	paths := map[bool]string{}
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(parts) != 3:
		case parts[0] == "0" && parts[1] == "":
			paths[true] = parts[2]
		case slices.Contains(strings.Split(parts[1], ","), "memory"):
			paths[false] = parts[2]
		}
	}
	return paths
}

type mount struct{ root, point string }

// parseMount reads a line of /proc/self/mountinfo; see proc(5).
func parseMount(line string, v2 bool) (mount, bool) {
	before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	const root, point = 3, 4
	if !ok || len(left) <= point || len(right) < 3 {
		return mount{}, false
	}
	m := mount{root: left[root], point: left[point]}
	if v2 {
		return m, right[0] == "cgroup2"
	}
	return m, right[0] == "cgroup" && slices.Contains(strings.Split(right[2], ","), "memory")
}

// candidates are the directories that can be the group's, likeliest first. In a
// container the mount shows the container's own group as its root.
func (m mount) candidates(path string) []string {
	rel := path
	if m.root != "/" {
		rel = strings.TrimPrefix(path, m.root)
	}
	return []string{filepath.Join(m.point, rel), m.point}
}

// Usage reads the counters. A nil Group has used nothing.
func (g *Group) Usage() (Usage, error) {
	if g == nil {
		return Usage{}, nil
	}
	events, peak := "memory.oom_control", "memory.max_usage_in_bytes"
	if g.v2 {
		events, peak = "memory.events", "memory.peak"
	}
	kills, err := g.counter(events, "oom_kill")
	if err != nil {
		return Usage{}, err
	}
	u := Usage{OOMKills: int(kills)}
	if data, err := os.ReadFile(filepath.Join(g.dir, peak)); err == nil { // v2 has it since Linux 5.19
		bytes, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		u.PeakMB = int(bytes >> 20)
	}
	return u, nil
}

func (g *Group) counter(file, name string) (int64, error) {
	f, err := os.Open(filepath.Join(g.dir, file))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for scan := bufio.NewScanner(f); scan.Scan(); {
		if key, value, _ := strings.Cut(scan.Text(), " "); key == name {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}
