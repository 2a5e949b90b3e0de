package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
	"drover/internal/worker"
	"drover/internal/worker/locksocket"
)

// lockPatience is longer than a lost holder's paths are kept.
const lockPatience = work.LockDelay + patience

// beside returns the bench of another item of the same repository, with a line of its own to the same Consul.
func (b *bench) beside(script string) *bench {
	b.t.Helper()
	transport := cleanhttp.DefaultPooledTransport()
	b.t.Cleanup(transport.CloseIdleConnections)
	other := *b
	other.dir, other.out, other.line = b.t.TempDir(), &buffer{}, &testkit.Line{Base: transport}
	var err error
	if other.client, err = consul.Open(consul.Options{Address: b.consul, Prefix: b.envelope.KVPrefix, Transport: other.line, Timing: b.consulTiming}); err != nil {
		b.t.Fatal(err)
	}
	item := work.NewID(time.Now())
	other.envelope.Item, other.envelope.Attempt, other.envelope.Branch = item, work.NewAttemptID(item, 1), work.Branch(item)
	other.envelope.Spec.Command = []string{"sh", "-c", "set -eu\n" + functions + script}
	return &other
}

func (b *bench) locks() []work.Lock {
	b.t.Helper()
	locks, _, err := b.client.Locks(context.Background(), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return locks
}

func TestDeclaredPathsAreHadBeforeAnyWork(t *testing.T) {
	t.Parallel()
	first := newBench(t, `commit one; gate on`)
	first.envelope.Spec.Paths = []string{"src/"}
	second := first.beside(`commit two`)
	second.envelope.Spec.Paths = []string{"docs", "src/a.go"}
	waitFirst := first.start(t.Context())
	first.eventuallyPushed(1)
	if locks := first.locks(); len(locks) != 1 || locks[0].Attempt != first.envelope.Attempt || locks[0].PathSet().String() != "src" {
		t.Errorf("locks %+v", locks)
	}
	waitSecond := second.start(t.Context())
	testkit.Eventually(t, patience, func() error {
		p, err := second.client.Progress(t.Context(), second.envelope.Attempt)
		if err != nil || p == nil || p.Phase != work.PhaseLocking || !strings.Contains(p.LastTool, "waits: path src/a.go is held by item "+first.envelope.Item) {
			return fmt.Errorf("progress %+v, %w", p, err)
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(second.dir, "work")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("work was begun while the paths were another's: %v", err)
	}
	first.open("on")
	for b, wait := range map[*bench]func() error{first: waitFirst, second: waitSecond} {
		if err := wait(); err != nil {
			t.Fatal(err)
		}
		if r := b.reported(); r.Reason != work.ReasonCompleted {
			t.Errorf("result %+v", r)
		}
	}
	if locks := first.locks(); len(locks) > 0 {
		t.Errorf("left %+v", locks)
	}
}

// TestLocksGoInEveryEndingOfTheWorker looks at once: nothing has to pass for a worker that ended by itself.
func TestLocksGoInEveryEndingOfTheWorker(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"completed": `commit one`, "stuck": `commit one; exit 1`, "failed": `commit one; exit 3`, "crashed": `commit one; kill -9 $$`,
		"nothing done": `exit 0`, "stopped": `commit one; gate never`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, script)
			b.envelope.Spec.Paths = []string{"."}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			wait := b.start(ctx)
			if name == "stopped" {
				b.eventuallyPushed(1)
				stop()
			}
			if err := wait(); err != nil && name != "stopped" {
				t.Fatal(err)
			}
			if locks := b.locks(); len(locks) > 0 {
				t.Errorf("left %+v", locks)
			}
		})
	}
}

// TestLocksGoWithoutTheWorker has a worker's end that tells nobody: its heartbeat stops, and the next one that asks has its paths.
func TestLocksGoWithoutTheWorker(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; gate never`)
	b.envelope.Spec.Paths, b.envelope.Spec.Limits.HeartbeatTTL = []string{"src"}, work.Duration(10*time.Second)
	ctx, stop := context.WithCancel(t.Context())
	wait := b.start(ctx)
	b.eventuallyPushed(1)
	b.line.Cut()
	next := b.beside(`commit two`)
	next.envelope.Spec.Paths = []string{"src/a"}
	if r := next.result(); r.Reason != work.ReasonCompleted {
		t.Errorf("result %+v", r)
	}
	stop()
	if err := wait(); err == nil {
		t.Error("a worker without Consul ended well")
	}
}

// TestNoPushOfALostHolderAfterTheNextHasTheLock cuts a worker off from Consul while its agent commits on and on, and ends its
// session, as a dead Consul agent or an operator does: long before its own heartbeat's TTL tells it. The
// next holder works while the first one's agent still commits.
func TestNoPushOfALostHolderAfterTheNextHasTheLock(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, string) *bench{"embedded": newBench, "real": realBench} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := open(t, `n=0; while :; do n=$((n+1)); commit "$n"; echo "$n"; sleep 0.1; done`)
			first.envelope.Spec.Paths = []string{"src"}
			second := first.beside(`gate on; commit mine`)
			second.envelope.Spec.Paths = []string{"src/a"}
			ctx, stop := context.WithCancel(t.Context())
			waitFirst := first.start(ctx)
			first.eventuallyPushed(3)
			first.line.Cut()
			if err := second.client.BreakLock(t.Context(), first.locksOf(second.client)); err != nil {
				t.Fatal(err)
			}
			waitSecond := second.start(t.Context())
			held := func() error {
				locks, _, err := second.client.Locks(t.Context(), 0)
				if err != nil || len(locks) != 1 || locks[0].Attempt != second.envelope.Attempt {
					return fmt.Errorf("locks %+v, %w", locks, err)
				}
				return nil
			}
			testkit.Eventually(t, lockPatience, held)
			before := len(first.log())
			second.eventuallySaid("waiting") // its agent runs
			said := strings.Count(first.out.String(), "\n")
			testkit.Eventually(t, patience, func() error {
				if strings.Count(first.out.String(), "\n") < said+30 {
					return errors.New("the first agent has not gone on yet")
				}
				return nil
			})
			if err := held(); err != nil {
				t.Error(err)
			}
			if after := len(first.log()); after != before {
				t.Errorf("%d commits of the lost holder reached the remote in the next one's time", after-before)
			}
			second.open("on")
			if err := waitSecond(); err != nil {
				t.Error(err)
			}
			if after := len(first.log()); after != before {
				t.Errorf("%d commits of the lost holder reached the remote", after-before)
			}
			second.wantLog("mine")
			stop()
			if err := waitFirst(); err == nil {
				t.Error("a worker whose session is gone ended well")
			}
			if after := len(first.log()); after != before {
				t.Errorf("%d commits of the lost holder reached the remote as it was stopped", after-before)
			}
		})
	}
}

// locksOf returns the bench's lock as another client sees it.
func (b *bench) locksOf(client *consul.Client) work.Lock {
	b.t.Helper()
	locks, _, err := client.Locks(context.Background(), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, lock := range locks {
		if lock.Attempt == b.envelope.Attempt {
			return lock
		}
	}
	b.t.Fatalf("attempt %s holds nothing", b.envelope.Attempt)
	return work.Lock{}
}

// TestBrokenLockStopsItsHolder has the worker's Consul reachable: it notices at its next heartbeat. Who breaks a lock closes the claim first, or the worker would take its paths back.
func TestBrokenLockStopsItsHolder(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; while :; do echo working; sleep 0.1; done`)
	b.envelope.Spec.Paths = []string{"src"}
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	b.closeClaim()
	if err := b.client.BreakLock(t.Context(), b.locksOf(b.client)); err != nil {
		t.Fatal(err)
	}
	if err := wait(); !errors.Is(err, worker.ErrFenced) {
		t.Errorf("the worker ended with %v", err)
	}
	b.wantNoResult()
	if locks := b.locks(); len(locks) != 1 || !locks[0].Lost {
		t.Errorf("a fenced worker's paths are kept for the lock delay: %+v", locks)
	}
}

// TestUnlockPushesFirst asks on the agent's socket, with the git server away and back.
func TestUnlockPushesFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t, `printf %s "$DROVER_LOCK_SOCKET" >"$HOME/socket"; commit one; echo committed; gate on`)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	path, err := os.ReadFile(filepath.Join(b.dir, "work", "home", "socket"))
	if err != nil {
		t.Fatal(err)
	}
	client := locksocket.NewClient(string(path))
	if locks, err := client.Lock(t.Context(), []string{"src"}, 0); err != nil || len(locks.Own()) != 1 {
		t.Fatalf("%+v %v", locks, err)
	}
	b.git.FailPushes(1000)
	commit := exec.Command("git", "-C", filepath.Join(b.dir, "work", "tree"), "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--allow-empty", "--quiet", "-m", "two")
	if out, err := commit.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := client.UnlockAll(t.Context()); err == nil || !strings.Contains(err.Error(), "not unlocked") {
		t.Errorf("without the git server: %v", err)
	}
	reset := func(to string) {
		t.Helper()
		if out, err := exec.Command("git", "-C", filepath.Join(b.dir, "work", "tree"), "reset", "--quiet", "--hard", to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	reset("HEAD~1") // there is nothing to push now, but the server may still take what was sent
	if _, err := client.UnlockAll(t.Context()); err == nil || !strings.Contains(err.Error(), "may still take a push") {
		t.Errorf("with a push whose end is not known: %v", err)
	}
	reset("ORIG_HEAD")
	if locks := b.locks(); len(locks) != 1 {
		t.Errorf("locks %+v", locks)
	}
	b.git.FailPushes(0)
	testkit.Eventually(t, patience, func() error {
		_, err := client.UnlockAll(t.Context())
		return err
	})
	b.wantLog("one", "two")
	if locks := b.locks(); len(locks) > 0 {
		t.Errorf("locks %+v", locks)
	}
	b.open("on")
	if err := wait(); err != nil {
		t.Error(err)
	}
}

// TestLocksOutliveAPushOfUnknownEnd has the git server vanish: whether it takes what it was sent, nobody can tell.
func TestLocksOutliveAPushOfUnknownEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; gate on; commit two`)
	b.envelope.Spec.Paths = []string{"src"}
	b.remotePatience = time.Second
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	b.git.FailPushes(1000)
	b.open("on")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if r := b.reported(); r.Reason != work.ReasonCrashed {
		t.Errorf("result %+v", r)
	}
	if locks := b.locks(); len(locks) != 1 || !locks[0].Lost {
		t.Errorf("locks %+v", locks)
	}
}
