package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/consul"
	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/testkit"
	"drover/internal/wait"
	"drover/internal/work"
)

// patience bounds the wait for what drover does within a minute or two.
const patience = 4 * time.Minute

// Shortened timing: a worker without a session is lost after caseLostAfter, instead of a minute.
const (
	caseTTL       = 10 * time.Second
	caseLostAfter = 15 * time.Second
	caseSteady    = 3 * time.Second
)

// caseOptions are those of a world with shortened timing.
func caseOptions(t *testing.T, items int) options {
	t.Helper()
	o := testOptions(t)
	o.replicas, o.inFlight, o.more = 1, items, randomBlocks
	o.defaults = fmt.Sprintf("heartbeat_ttl = %q", caseTTL)
	o.leader = fmt.Sprintf("lost_after = %q\n  steady = %q\n  leader_ttl = \"3s\"", caseLostAfter, caseSteady)
	return o
}

// running submits items and waits until each has a commit on its branch. Every item has paths of its own.
func (w *world) running(t *testing.T, count, commits int) []planned {
	t.Helper()
	if err := w.git.CreateRepo(awayRepository, map[string]string{"README.md": "An application.\n"}); err != nil {
		t.Fatal(err)
	}
	items := w.submitSome(t, count, commits)
	if err := w.awaitCommits(t.Context(), items, 1); err != nil {
		t.Fatal(err)
	}
	return items
}

// submitSome submits items.
func (w *world) submitSome(t *testing.T, count, commits int) (items []planned) {
	t.Helper()
	var submissions []control.Submission
	for range count {
		p := planned{id: work.NewID(time.Now()), repository: awayRepository, commits: commits, delay: time.Second, own: completes}
		p.journal = filepath.Join(w.dir, p.id+".journal")
		s := p.submission(w.git)
		s.Spec.Paths = []string{"for/" + p.id}
		items, submissions = append(items, p), append(submissions, s)
	}
	if err := w.submit(t.Context(), submissions); err != nil {
		t.Fatal(err)
	}
	return items
}

// item returns an item as it is stored.
func (w *world) item(t *testing.T, id string) work.Item {
	t.Helper()
	stored, err := w.items(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stored[id]
}

// agentOf returns the running agent of an item.
func agentOf(t *testing.T, p planned) started {
	t.Helper()
	j, err := readJournal(p.journal)
	if err != nil {
		t.Fatal(err)
	}
	agent, ok := j.running()
	if !ok {
		t.Fatalf("no agent of item %s runs", p.id)
	}
	return agent
}

// ended waits for the items' ends, and checks that each completed with every commit, one agent an attempt, these reasons
// of its attempts, no retry spent and nothing left.
func (w *world) ended(t *testing.T, items []planned, want ...work.Reason) {
	t.Helper()
	if err := w.awaitEnds(t.Context()); err != nil {
		t.Error(err)
	}
	for _, p := range items {
		e, err := w.evidence(p, w.item(t, p.id))
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range e.judge(nil) {
			t.Errorf("item %s: %s", p.id, fault)
		}
		var got []work.Reason
		for _, a := range e.item.Attempts {
			got = append(got, a.Reason)
		}
		if !slices.Equal(got, want) {
			t.Errorf("item %s: attempts ended as %v (%s), want %v", p.id, got, e.item.Attempts[0].Detail, want)
		}
	}
	for _, fault := range w.verifyLeft(t.Context()) {
		t.Error(fault)
	}
}

// TestConsulAgentOfANodeIsRestarted is case I6: `systemctl restart consul` of a client agent, which leaves on SIGTERM
// and so ends the sessions of its node at once.
func TestConsulAgentOfANodeIsRestarted(t *testing.T) {
	t.Parallel()
	o := caseOptions(t, 4)
	o.ownAgent = true
	w := startWorld(t, o)
	items := w.running(t, 4, 25)
	if err := w.node.stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.leftSessions(t.Context()); err != nil {
		t.Fatalf("the agent has left, and did not end the sessions of its node: %v", err)
	}
	if err := w.startNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.ended(t, items, work.ReasonCompleted)
}

// TestNomadIsAway is case I7: what runs ends as it would have, what is submitted is taken, says that it waits for Nomad, and
// runs when Nomad is back.
func TestNomadIsAway(t *testing.T) {
	t.Parallel()
	w := startWorld(t, caseOptions(t, 8))
	items := w.running(t, 4, 10)
	if err := w.nomad.kill(); err != nil {
		t.Fatal(err)
	}
	late := w.submitSome(t, 2, 3)
	testkit.Eventually(t, patience, func() error { // the agents end while Nomad is away
		for _, p := range items {
			if item := w.item(t, p.id); item.State != work.StateCompleted {
				return fmt.Errorf("item %s is %s (%s), want completed without Nomad", p.id, item.State, item.Why)
			}
		}
		return nil
	})
	testkit.Eventually(t, patience, func() error {
		for _, p := range late {
			if item := w.item(t, p.id); item.State.Terminal() || !strings.Contains(item.Why, "Nomad") {
				return fmt.Errorf("item %s is %s (%s), want it to say that it waits for Nomad", p.id, item.State, item.Why)
			}
		}
		return nil
	})
	if err := w.nomad.start(); err != nil {
		t.Fatal(err)
	}
	w.ended(t, append(items, late...), work.ReasonCompleted)
}

// TestWorkerIsStoppedForLessThanItsWindow is case I8, first half: a worker that stands still for longer than its TTL, and
// for less than TTL and window together, takes its attempt back.
func TestWorkerIsStoppedForLessThanItsWindow(t *testing.T) {
	t.Parallel()
	o := caseOptions(t, 1)
	o.leader = strings.Replace(o.leader, caseLostAfter.String(), "2m", 1)
	w := startWorld(t, o)
	items := w.running(t, 1, 30)
	worker := w.suspend(t, items[0])
	testkit.Eventually(t, patience, func() error {
		session, _, err := w.consulAPI.Session().Info(worker.claim.Session, nil)
		if err == nil && session != nil {
			err = fmt.Errorf("session %s is still there", session.ID)
		}
		return err
	})
	resume(t, worker.pid)
	w.ended(t, items, work.ReasonCompleted)
}

// TestWorkerIsStoppedForLongerThanItsWindow is case I8, second half: the attempt ends as unreachable, because Nomad says that
// its allocation runs, and the worker pushes nothing when it goes on.
func TestWorkerIsStoppedForLongerThanItsWindow(t *testing.T) {
	t.Parallel()
	w := startWorld(t, caseOptions(t, 1))
	items := w.running(t, 1, 30)
	worker := w.suspend(t, items[0])
	w.awaitReason(t, items[0], 1, work.ReasonUnreachable)
	resume(t, worker.pid)
	w.ended(t, items, work.ReasonUnreachable, work.ReasonCompleted)
}

// TestLocksAreReleasedUnderALivingWorker is case I9: the worker can't take its attempt back, and pushes nothing more.
func TestLocksAreReleasedUnderALivingWorker(t *testing.T) {
	t.Parallel()
	w := startWorld(t, caseOptions(t, 1))
	items := w.running(t, 1, 20)
	agent := agentOf(t, items[0])
	err := w.call(t.Context(), func(ctx context.Context, c *api.Client) error {
		_, err := c.ReleaseLocks(ctx, control.LockRelease{ID: items[0].id, By: "an operator"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() error {
		if parent(agent.pid) != 0 {
			return fmt.Errorf("agent %d of attempt 1 still runs", agent.pid)
		}
		return nil
	})
	if err := w.awaitEnds(t.Context()); err != nil {
		t.Error(err)
	}
	item := w.item(t, items[0].id)
	if len(item.Attempts) != 2 || item.Attempts[0].Reason != work.ReasonKilledByOperator || item.State != work.StateCompleted {
		t.Errorf("item is %s (%s) with attempts %+v, want the first killed by the operator, the second completed", item.State, item.Why, item.Attempts)
	}
	for _, fault := range w.verifyLeft(t.Context()) {
		t.Error(fault)
	}
}

// TestLeadersAreKilledWhileAWorkerIsDead is case I10: no leader lives for long, and the attempt of a worker that does not
// answer ends all the same, neither too early nor never.
func TestLeadersAreKilledWhileAWorkerIsDead(t *testing.T) {
	t.Parallel()
	o := caseOptions(t, 2)
	o.replicas = 2
	w := startWorld(t, o)
	items := w.running(t, 2, 30)
	began := time.Now()
	worker := w.suspend(t, items[0])
	ctx, stop := context.WithCancelCause(t.Context())
	killed := make(chan error, 1)
	go func() { killed <- w.killLeaders(ctx, 2*caseSteady) }()
	w.awaitReason(t, items[0], 1, work.ReasonUnreachable)
	if took := time.Since(began); took < caseTTL+caseLostAfter {
		t.Errorf("the attempt was lost after %s, want %s at least", took, caseTTL+caseLostAfter)
	}
	stop(nil)
	if err := <-killed; err != nil {
		t.Error(err)
	}
	resume(t, worker.pid)
	w.ended(t, items[:1], work.ReasonUnreachable, work.ReasonCompleted)
	w.ended(t, items[1:], work.ReasonCompleted)
}

// killLeaders kills a server each time another has led for so long, until ctx ends; then all run.
func (w *world) killLeaders(ctx context.Context, each time.Duration) error {
	for n := 0; ; n++ {
		if wait.For(ctx, each) != nil {
			return nil
		}
		leader := w.servers[n%len(w.servers)]
		if err := leader.kill(); err != nil {
			return err
		}
		_ = wait.For(ctx, time.Second) // it is started in any case
		if err := leader.start(); err != nil {
			return err
		}
	}
}

// suspended is a worker that stands still.
type suspended struct {
	pid   int
	claim work.Claim
}

// suspend stops the worker of an item's attempt by SIGSTOP, until the test ends or resume is called.
func (w *world) suspend(t *testing.T, p planned) suspended {
	t.Helper()
	agent := agentOf(t, p)
	pid := workerOf(w.worker, agent.pid)
	if pid == 0 {
		t.Fatalf("agent %d has no worker", agent.pid)
	}
	client, err := consul.Open(consul.Options{Address: w.consulAddr, Transport: w.transport})
	if err != nil {
		t.Fatal(err)
	}
	claim, _, err := client.Claim(t.Context(), work.NewAttemptID(p.id, agent.attempt))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return suspended{pid: pid, claim: claim}
}

func resume(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

// awaitReason waits until an attempt of an item has ended, and checks how.
func (w *world) awaitReason(t *testing.T, p planned, attempt int, want work.Reason) {
	t.Helper()
	var ended work.Attempt
	testkit.Eventually(t, patience, func() error {
		stored, err := w.items(t.Context())
		if err != nil {
			return err
		}
		item := stored[p.id]
		if a := item.Attempt(attempt); a == nil || a.Reason == "" {
			return fmt.Errorf("item %s is %s (%s), attempt %d has not ended", p.id, item.State, item.Why, attempt)
		}
		ended = *item.Attempt(attempt)
		return nil
	})
	if ended.Reason != want {
		t.Errorf("attempt %s ended as %s: %s, want %s", ended.ID, ended.Reason, ended.Detail, want)
	}
}
