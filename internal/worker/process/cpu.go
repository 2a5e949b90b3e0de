package process

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	cpuInterval = time.Second
	// cpuTicks is how much CPU time in an interval is a sign of life: 5 % of a
	// core. An idle event loop or a spinner of a hung agent takes about 1 %, any
	// build or test run far more. A tick is 10 ms, on every Linux.
	cpuTicks = 5
)

// watchCPU calls busy after each interval in which the tree below pid used CPU
// time, and alive where it was much, until ended is closed.
func watchCPU(pid int, ended <-chan struct{}, alive, busy func()) {
	tick := time.NewTicker(cpuInterval)
	defer tick.Stop()
	before := treeTicks("/proc", pid)
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		now := treeTicks("/proc", pid)
		if now != before { // less where a process has ended that nobody waited for
			busy()
		}
		if now >= before+cpuTicks {
			alive()
		}
		before = now
	}
}

// stat is what /proc/<pid>/stat tells about a process.
type stat struct {
	parent, group int
	dead          bool   // and not waited for yet
	ticks         uint64 // of CPU time, with that of children waited for
}

// treeTicks is the CPU time of pid, of everything below it, and of its process group.
func treeTicks(proc string, pid int) uint64 {
	stats := table(proc)
	var total uint64
	for id, s := range stats {
		if s.group == pid || below(stats, id, pid) {
			total += s.ticks
		}
	}
	return total
}

// Below returns the living processes that descend from ancestor, but neither
// those in spared nor what descends from these.
func Below(ancestor int, spared map[int]bool) []int {
	stats := table("/proc")
	var found []int
	for id, s := range stats {
		if s.dead || id == ancestor || !below(stats, id, ancestor) {
			continue
		}
		spare := false
		for root := range spared {
			spare = spare || below(stats, id, root)
		}
		if !spare {
			found = append(found, id)
		}
	}
	return found
}

// table reads what proc tells about every process.
func table(proc string) map[int]stat {
	stats := map[int]stat{}
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it has ended meanwhile
		}
		id, _ := strconv.Atoi(filepath.Base(dir))
		if s, ok := parseStat(string(data)); ok {
			stats[id] = s
		}
	}
	return stats
}

func below(stats map[int]stat, id, ancestor int) bool {
	for range stats {
		if id == ancestor {
			return true
		}
		s, ok := stats[id]
		if !ok {
			return false
		}
		id = s.parent
	}
	return false
}

// parseStat reads a line of /proc/<pid>/stat; see proc(5) for its fields.
func parseStat(line string) (stat, bool) {
	_, rest, ok := cutLast(line, ") ") // a name may hold anything, also ")"
	fields := strings.Fields(rest)
	const state, ppid, pgrp, utime, cstime = 0, 1, 2, 11, 14
	if !ok || len(fields) <= cstime {
		return stat{}, false
	}
	s := stat{dead: fields[state] == "Z" || fields[state] == "X"}
	s.parent, _ = strconv.Atoi(fields[ppid])
	s.group, _ = strconv.Atoi(fields[pgrp])
	for _, field := range fields[utime : cstime+1] {
		n, _ := strconv.ParseUint(field, 10, 64)
		s.ticks += n
	}
	return s, true
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
