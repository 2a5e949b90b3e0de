package main_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
)

// TestWorkerThatWasStoppedForAWhile stops the worker's process, as a paused container or a starved machine does, while its agent commits.
func TestWorkerThatWasStoppedForAWhile(t *testing.T) {
	t.Parallel()
	const ttl = 3 * time.Second
	for name, row := range map[string]struct {
		stopped func(t *testing.T, c *container) // waits while the worker is stopped
		exit    int
		log     string // subjects on the branch
	}{
		"for less than its TTL": {
			stopped: func(*testing.T, *container) { <-time.After(ttl / 3) },
			log:     "one two",
		},
		"for longer than its TTL": {
			stopped: func(t *testing.T, c *container) { c.eventuallyLost(t) },
			log:     "one two",
		},
		"until its attempt was ended": {
			stopped: func(t *testing.T, c *container) {
				c.eventuallyLost(t)
				c.closeClaim(t)
			},
			exit: work.WorkerExitFenced, log: "one",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newContainer(t, `
commit() { echo "$1" >>work.txt; git add -A; git commit -qm "$1"; }
commit one; until [ -e "$HOME/go" ]; do sleep 0.05; done; commit two; touch "$HOME/made"; until [ -e "$HOME/end" ]; do sleep 0.05; done`)
			c.envelope.Spec.Paths, c.envelope.Spec.Limits.HeartbeatTTL = []string{"src"}, work.Duration(ttl)
			cmd := c.command()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			c.eventuallyLogged(t, "one")
			pid := childOf(t, cmd.Process.Pid)
			signal(t, pid, syscall.SIGSTOP)
			c.open(t, "go")
			testkit.Eventually(t, patience, func() error {
				_, err := os.Stat(filepath.Join(c.home(), "made"))
				return err
			})
			row.stopped(t, c)
			signal(t, pid, syscall.SIGCONT)
			if row.exit == 0 {
				c.eventuallyLogged(t, row.log)
				c.open(t, "end")
			}
			err := cmd.Wait()
			var exit *exec.ExitError
			if errors.As(err, &exit) != (row.exit != 0) || cmd.ProcessState.ExitCode() != row.exit {
				t.Errorf("the worker ended with %v, want exit status %d\n%s", err, row.exit, &c.out)
			}
			if got := c.subjects(); got != row.log {
				t.Errorf("the branch has %q, want %q\n%s", got, row.log, &c.out)
			}
			if row.exit == 0 {
				if r := c.result(); r.Reason != work.ReasonCompleted || !r.Proven() {
					t.Errorf("result %+v", r)
				}
			}
		})
	}
}

func (c *container) home() string { return filepath.Join(c.dir, "work", "home") }

func (c *container) open(t *testing.T, gate string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.home(), gate), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// subjects are those of the branch's commits, without the first.
func (c *container) subjects() string {
	log := c.git.Log(repo, c.envelope.Branch)
	if len(log) == 0 {
		return ""
	}
	return strings.Join(log[1:], " ")
}

func (c *container) eventuallyLogged(t *testing.T, want string) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		if got := c.subjects(); got != want {
			return fmt.Errorf("the branch has %q, want %q\n%s", got, want, &c.out)
		}
		return nil
	})
}

// eventuallyLost waits until Consul has ended the worker's session.
func (c *container) eventuallyLost(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		locks, _, err := c.client.Locks(t.Context(), 0)
		if err != nil || len(locks) != 1 || !locks[0].Lost {
			return fmt.Errorf("locks %+v, %w", locks, err)
		}
		return nil
	})
}

// closeClaim ends the attempt as the leader does.
func (c *container) closeClaim(t *testing.T) {
	t.Helper()
	claim, index, err := c.client.Claim(t.Context(), c.envelope.Attempt)
	if err != nil {
		t.Fatal(err)
	}
	claim.Ended = true
	term, err := c.client.Lead(t.Context(), consul.Candidate{Leader: consul.Leader{ID: "x", Address: "http://127.0.0.1:1"}, TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer term.Resign()
	if err := term.Commit(t.Context(), work.Change{CloseClaim: &work.CloseClaim{Claim: claim, Index: index}}); err != nil {
		t.Fatal(err)
	}
}

// childOf waits for the only child of a process.
func childOf(t *testing.T, pid int) (child int) {
	t.Helper()
	path := fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)
	testkit.Eventually(t, patience, func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		if err != nil {
			return err
		}
		var found []string
		for _, path = range tasks {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, id := range strings.Fields(string(text)) {
				if cmdline, err := os.ReadFile("/proc/" + id + "/cmdline"); err == nil && strings.Contains(string(cmdline), "drover-worker\x00attempt") {
					found = append(found, id)
				}
			}
		}
		if len(found) != 1 {
			return fmt.Errorf("workers %v, want one", found)
		}
		child, err = strconv.Atoi(found[0])
		return err
	})
	return child
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}
