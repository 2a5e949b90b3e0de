package process_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drover/internal/testkit"
	"drover/internal/worker/process"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const patience = 20 * time.Second

func shell(script string) process.Command {
	return process.Command{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

func TestExitIsTold(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]process.Exit{
		"exit 0":                  {},
		"exit 7":                  {Code: 7},
		"kill -KILL $$":           {Code: 137, Signal: syscall.SIGKILL},
		"sh -c 'kill -KILL $$'":   {Code: 137, Signal: 0},
		"kill -TERM $$; sleep 10": {Code: 143, Signal: syscall.SIGTERM},
	} {
		if script == "sh -c 'kill -KILL $$'" {
			script += "; exit $?" // keeps the shell from becoming its last command
		}
		got, err := process.Run(t.Context(), shell(script))
		if err != nil || got != want {
			t.Errorf("%s: %+v %v, want %+v", script, got, err, want)
		}
	}
}

func TestCommandThatCannotStartIsAnError(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"/no/such/program"}} {
		if _, err := process.Run(t.Context(), process.Command{Args: args}); err == nil {
			t.Errorf("%v started", args)
		}
	}
}

func TestWhatTheCommandLeavesRunningEndsWithIt(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := shell("sleep 600 & echo $!")
	c.Stdout = &out
	if _, err := process.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, out.String())
}

func TestEndOfTheContextEndsTheGroup(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"obedient": "sleep 600 & echo $!; wait",
		"stubborn": "trap '' TERM; (trap '' TERM; while :; do sleep 0.1; done) & echo $!; while :; do sleep 0.1; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			pid := ""
			c := shell(script)
			c.Grace = func() time.Duration { return 200 * time.Millisecond }
			c.Stdout = &process.Lines{Line: func(line string) { pid = line; cancel() }}
			exit, err := process.Run(ctx, c)
			if err != nil || exit.Signal == 0 {
				t.Errorf("%+v %v", exit, err)
			}
			eventuallyGone(t, pid)
		})
	}
}

func eventuallyGone(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() error {
		if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n)); err == nil && !strings.Contains(string(data), ") Z ") {
			return fmt.Errorf("process %d is there: %s", n, data)
		}
		return nil
	})
}

func TestOutputAndCPUAreSignsOfLifeAndSilenceIsNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		alive  bool
	}{
		"output":         {"echo x", true},
		"errors":         {"echo x >&2", true},
		"busy":           {"end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do :; done", true},
		"busy below":     {"sh -c 'end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do :; done'; true", true},
		"nothing at all": {"sleep 3", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var signs atomic.Int32
			command := shell(c.script)
			command.Alive = func() { signs.Add(1) }
			if _, err := process.Run(t.Context(), command); err != nil {
				t.Fatal(err)
			}
			if alive := signs.Load() > 0; alive != c.alive {
				t.Errorf("%d signs of life", signs.Load())
			}
		})
	}
}

func TestLinesAreBoundedAndWhole(t *testing.T) {
	t.Parallel()
	var got []string
	lines := &process.Lines{Line: func(line string) { got = append(got, line) }}
	long := strings.Repeat("x", process.MaxLineBytes+100)
	for _, piece := range []string{"a", "b\nc\r\n\n", long, long + "\n", "end"} {
		if n, err := lines.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	lines.Flush()
	want := []string{"ab", "c", "", long[:process.MaxLineBytes] + "…", "end"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%d lines: %.100q", len(got), got)
	}
}

// TestLinesThatAreObjectsAreRead: whatever their size, up to a bound of their own.
func TestLinesThatAreObjectsAreRead(t *testing.T) {
	t.Parallel()
	var got []int
	var last string
	lines := &process.Lines{Objects: true, Line: func(line string) { got, last = append(got, len(line)), line }}
	piece := strings.Repeat("x", 1<<20)
	write := func(pieces ...string) {
		for _, p := range pieces {
			if _, err := lines.Write([]byte(p)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("{", piece, piece, "}\n", piece, "\n", "{")
	for range process.MaxObjectBytes >> 20 {
		write(piece)
	}
	write("\nshort\n")
	want := []int{2<<20 + 2, process.MaxLineBytes + len("…"), process.MaxObjectBytes + len("…"), len("short")}
	if !slices.Equal(got, want) || last != "short" {
		t.Errorf("lines of %v bytes, want %v", got, want)
	}
	if shown := process.Shown("{" + piece); len(shown) != process.MaxLineBytes+len("…") || process.Shown("short") != "short" {
		t.Errorf("%d bytes are shown, want %d", len(shown), process.MaxLineBytes+len("…"))
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	t.Parallel()
	tail := &process.Tail{Max: 4}
	for _, piece := range []string{"ab", "cdef", "g"} {
		if _, err := tail.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if tail.String() != "defg" {
		t.Errorf("%q", tail)
	}
}

// starved is a reader of output that is held up at its first piece for longer
// than a command's output is waited for.
type starved struct {
	bytes.Buffer
	first string // a file that tells the command to go on
}

func (s *starved) Write(p []byte) (int, error) {
	if s.Len() == 0 {
		if err := os.WriteFile(s.first, nil, 0o600); err != nil {
			return 0, err
		}
		<-time.After(2 * time.Second)
	}
	return s.Buffer.Write(p)
}

func TestLastOutputIsReadHoweverLate(t *testing.T) {
	t.Parallel()
	out := &starved{first: filepath.Join(t.TempDir(), "go")}
	_, err := process.Run(t.Context(), process.Command{
		Args: []string{"sh", "-c", `echo first; until [ -e "$0" ]; do sleep 0.02; done; echo last`, out.first}, Env: os.Environ(), Stdout: out,
	})
	if err != nil || out.String() != "first\nlast\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
