package orchestrator_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"drover/consul"
	"drover/internal/control"
	"drover/internal/devcluster/nomadd"
	"drover/internal/testkit"
	"drover/internal/work"
)

// hold claims the task's attempt and locks a path, as a worker does.
func (r *run) hold(path string) (*consul.Attempt, error) {
	transport := cleanhttp.DefaultPooledTransport()
	r.t.Cleanup(transport.CloseIdleConnections)
	client, err := consul.Open(consul.Options{Address: r.consulURL, Prefix: r.prefix, Transport: transport})
	if err != nil {
		return nil, err
	}
	a, err := client.ClaimAttempt(r.t.Context(), r.envelope, r.alloc)
	if err != nil {
		return nil, err
	}
	paths, err := work.NewPathSet(path)
	if err == nil {
		_, err = a.Lock(r.t.Context(), paths, 0, nil)
	}
	return a, err
}

func TestReleasedLocksEndTheirHolder(t *testing.T) {
	t.Parallel()
	holders := make(chan *consul.Attempt, 1)
	c := newCluster(t, func(r *run) nomadd.Exit {
		if r.envelope.Attempt.Number() > 1 {
			return succeed(r)
		}
		a, err := r.hold("src")
		if err != nil {
			t.Error(err)
		}
		holders <- a
		return untilKilled(r)
	})
	s := c.start(faults{})
	id := c.submit(s, 1)[0]
	holder := <-holders
	locks, err := s.Locks(t.Context(), "https://git.example.org/a/b")
	if err != nil || len(locks) != 1 || locks[0].Item != id || locks[0].PathSet().String() != "src" || locks[0].Lost {
		t.Fatalf("%+v %v", locks, err)
	}
	if others, err := s.Locks(t.Context(), "git.example.org/other"); err != nil || others == nil || len(others) > 0 {
		t.Errorf("of another repository: %+v %v", others, err)
	}
	for _, none := range []string{"", "zzz"} {
		if _, err := s.ReleaseLocks(t.Context(), control.LockRelease{ID: none}); !errors.Is(err, work.ErrNotFound) {
			t.Errorf("release of %q: %v", none, err)
		}
	}
	released, err := s.ReleaseLocks(t.Context(), control.LockRelease{ID: id[:20], By: "a test"})
	if err != nil || len(released.Locks) != 1 || !strings.Contains(released.Means, "attempt 1 of item "+id+" is ended, the item is queued") || !strings.Contains(released.Means, "free within 30s") {
		t.Fatalf("%+v %v", released, err)
	}
	if err := holder.Confirm(t.Context()); !errors.Is(err, work.ErrSessionLost) {
		t.Errorf("the holder's session: %v", err)
	}
	item := c.await(id, inState(work.StateCompleted))
	if first := item.Attempts[0]; first.Reason != work.ReasonKilledByOperator || first.Detail != "its locks (src) were released by a test" {
		t.Errorf("%+v", first)
	}
	if locks, err := s.Locks(t.Context(), ""); err != nil || len(locks) != 1 || !locks[0].Lost {
		t.Errorf("within the lock delay: %+v %v", locks, err)
	}
	if again, err := s.ReleaseLocks(t.Context(), control.LockRelease{ID: id}); err != nil || !strings.Contains(again.Means, "has lost them already") {
		t.Errorf("%+v %v", again, err)
	}
	c.clean()
}

// TestStoppedWorkerKeepsItsSessionUntilItHasLeft has a worker that is told to stop look whether it may still push.
func TestStoppedWorkerKeepsItsSessionUntilItHasLeft(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	c := newCluster(t, func(r *run) nomadd.Exit {
		a, err := r.hold("src")
		if err != nil {
			t.Error(err)
			return nomadd.Exit{Code: 1}
		}
		close(held)
		exit := untilKilled(r)
		for what, do := range map[string]func(context.Context) error{"confirm": a.Confirm, "unlock": a.UnlockAll} {
			if err := do(context.Background()); err != nil {
				t.Errorf("%s by a worker that stops: %v", what, err)
			}
		}
		return exit
	})
	s := c.start(faults{})
	id := c.submit(s, 1)[0]
	<-held
	if _, err := s.Order(t.Context(), id, control.Order{Verb: control.Cancel, By: "a test"}); err != nil {
		t.Fatal(err)
	}
	c.clean()
	if locks, err := s.Locks(t.Context(), ""); err != nil || len(locks) > 0 {
		t.Errorf("locks %+v, %v", locks, err)
	}
	testkit.Eventually(t, patience, func() error {
		sessions, _, err := c.consul.Session().List(nil)
		if err != nil || len(sessions) > 1 { // the server's own
			return fmt.Errorf("%d sessions, %w", len(sessions), err)
		}
		return nil
	})
}

// TestLocksOfADeadWorkerAreFreedByTheLeader kills a worker that can tell nobody. Its locks are not given to another at once:
// its last push may still be under way.
func TestLocksOfADeadWorkerAreFreedByTheLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		if r.envelope.Attempt.Number() > 1 {
			return succeed(r)
		}
		if _, err := r.hold("src"); err != nil {
			t.Error(err)
		}
		return nomadd.Exit{Code: 137, Signal: int(syscall.SIGKILL)}
	})
	s := c.start(faults{})
	id := c.submit(s, 1)[0]
	began := time.Now()
	c.await(id, inState(work.StateCompleted))
	lost := func(want int) error {
		locks, err := s.Locks(t.Context(), "")
		if err != nil || len(locks) != want || want > 0 && !locks[0].Lost {
			return fmt.Errorf("%s after the begin: locks %+v, %w", time.Since(began), locks, err)
		}
		return nil
	}
	if err := lost(1); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, work.LockDelay+patience, func() error { return lost(0) })
}
