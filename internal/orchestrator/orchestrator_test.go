package orchestrator_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"drover/internal/control"
	"drover/internal/devcluster/nomadd"
	"drover/internal/orchestrator"
	"drover/internal/testkit"
	"drover/internal/work"
)

func succeed(r *run) nomadd.Exit {
	r.report(work.ReasonCompleted, func(result *work.Result) {
		result.Commit, result.RemoteCommit, result.Changes.Commits = "c1", "c1", 1
		result.PR = work.PullRequest{Status: work.PRCreated, URL: "https://git.example.org/pr/1"}
	})
	return nomadd.Exit{}
}

func untilKilled(r *run) nomadd.Exit {
	<-r.signals
	return nomadd.Exit{Code: 143, Signal: int(syscall.SIGTERM)}
}

func TestItemTravelsTheWholeWay(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	s := c.start(faults{})
	id := c.submit(s, 1)[0]
	item := c.await(id, inState(work.StateCompleted))
	if item.PR.Status != work.PRCreated || item.Commit != "c1" || len(item.Attempts) != 1 || item.Attempts[0].Child == "" {
		t.Fatalf("%+v", item)
	}
	c.clean()
	if pair, _, err := c.consul.KV().Get(c.prefix+"results/"+id+".1", nil); err != nil || pair != nil {
		t.Fatalf("the result is still there: %v %v", pair, err)
	}
}

func TestManyItemsRunOnceEach(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	s := c.start(faults{})
	ids := c.submit(s, 60)
	for _, id := range ids {
		c.await(id, inState(work.StateCompleted))
	}
	for a, n := range c.tasks.runs() {
		if n != 1 || a.Number() != 1 {
			t.Errorf("attempt %s ran %d times", a, n)
		}
	}
	c.clean()
}

// TestEndingsSeenFromOutside ends tasks that report nothing, in every way the driver can show.
func TestEndingsSeenFromOutside(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		exit      nomadd.Exit
		unclaimed bool // it ended before it claimed its attempt
		reason    work.Reason
		says      string
	}{
		"exit 0 without a result": {exit: nomadd.Exit{}, reason: work.ReasonCrashed, says: "exited with code 0 and left no result"},
		"exit 1":                  {exit: nomadd.Exit{Code: 1}, reason: work.ReasonCrashed, says: "exited with code 1 and left no result"},
		"sigkill":                 {exit: nomadd.Exit{Code: 137}, reason: work.ReasonCrashed, says: "killed by signal 9"},
		"oom":                     {exit: nomadd.Exit{Code: 137, OOMKilled: true, Message: "OOM Killed"}, reason: work.ReasonOOMKilled, says: "out of memory"},
		"oom of a child, exit 0":  {exit: nomadd.Exit{Code: 0, OOMKilled: true, Message: "OOM Killed"}, reason: work.ReasonCrashed, says: "for memory before"},
		"sigkill before its claim": {
			exit: nomadd.Exit{Code: 137}, unclaimed: true, reason: work.ReasonCrashed, says: "killed by signal 9",
		},
		"exit 1 before its claim": {
			exit: nomadd.Exit{Code: 1}, unclaimed: true, reason: work.ReasonStartFailed, says: "exited with code 1 before its worker claimed the attempt: last complaint",
		},
		"Consul never reached": {
			exit: nomadd.Exit{Code: work.WorkerExitNoConsul}, unclaimed: true, reason: work.ReasonStartFailed, says: "its worker never reached Consul (exit code 76): last complaint",
		},
		"fenced": {
			exit: nomadd.Exit{Code: work.WorkerExitFenced}, reason: work.ReasonFenced, says: "could not take the attempt back (exit code 75)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, func(r *run) nomadd.Exit {
				if r.envelope.Attempt.Number() > 1 {
					return succeed(r)
				}
				if !want.unclaimed {
					r.claim()
				}
				fmt.Fprintln(r.stdout, "last words")
				fmt.Fprintln(r.stderr, "last complaint")
				return want.exit
			})
			s := c.start(faults{})
			id := c.submit(s, 1)[0]
			item := c.await(id, inState(work.StateCompleted))
			first := item.Attempts[0]
			retries := 1
			if want.reason.Infrastructure() {
				retries = 0
			}
			if first.Reason != want.reason || first.State != want.reason.AttemptState() || !strings.Contains(first.Detail, want.says) || item.Retries != retries {
				t.Fatalf("reason = %s, state = %s, detail = %q, retries = %d; want %s, %s, %q, %d",
					first.Reason, first.State, first.Detail, item.Retries, want.reason, want.reason.AttemptState(), want.says, retries)
			}
			c.clean()
			logs, err := s.Logs(t.Context(), id, 1)
			if err != nil || strings.Join(logs.Stdout, "") != "last words" || strings.Join(logs.Stderr, "") != "last complaint" {
				t.Fatalf("%+v %v", logs, err)
			}
		})
	}
}

func TestRetryIsToldTheEndOfTheLastAttemptsOutput(t *testing.T) {
	t.Parallel()
	told := make(chan string, 1)
	c := newCluster(t, func(r *run) nomadd.Exit {
		if r.envelope.Attempt.Number() > 1 {
			told <- r.envelope.Resume.LastLog
			return succeed(r)
		}
		r.claim()
		fmt.Fprintln(r.stdout, strings.Repeat("early\n", 100)+strings.Repeat("x", 1000)+"\nlast words")
		fmt.Fprintln(r.stderr, "last complaint")
		return nomadd.Exit{Code: 1}
	})
	s := c.start(faults{})
	id := c.submit(s, 1, func(spec *work.Spec) {
		spec.Retry = &work.RetryOverride{Backoff: []work.Duration{work.Duration(2 * time.Second)}} // time to keep the output
	})[0]
	c.await(id, inState(work.StateCompleted))
	got := <-told
	if !strings.HasSuffix(got, strings.Repeat("x", 160)+"…\nlast words\nlast complaint") || strings.Count(got, "\n") != 20 {
		t.Fatalf("the retry is told %q", got)
	}
}

func TestQueueNamesTheAgentOfItsItems(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	s := c.start(faults{})
	for want, change := range map[string]func(*work.Spec){
		"codex []":            func(spec *work.Spec) { spec.Queue = "codex" },
		"claude-code []":      func(spec *work.Spec) { spec.Queue, spec.Agent = "codex", work.AgentClaudeCode },
		"codex [mine]":        func(spec *work.Spec) { spec.Queue, spec.Command = "codex", []string{"mine"} },
		"plain [agent]":       func(*work.Spec) {},
		"plain [own command]": func(spec *work.Spec) { spec.Command = []string{"own command"} },
	} {
		item := c.await(c.submit(s, 1, change)[0], inState(work.StateCompleted))
		if got := fmt.Sprintf("%s %v", item.Spec.Agent, item.Spec.Command); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestMissingImageIsRequeuedUntilOthersGoOn: alone, an item whose image can't be
// pulled waits for a registry that may come back. Where other attempts go on
// meanwhile, a person must look.
func TestMissingImageIsRequeuedUntilOthersGoOn(t *testing.T) {
	t.Parallel()
	c := newCluster(t, untilKilled)
	s := c.start(faults{})
	id := c.submit(s, 1, func(spec *work.Spec) { spec.Image = "no-such-image:1" })[0]
	item := c.await(id, func(item work.Item) error {
		if item.Requeues < 12 {
			return fmt.Errorf("requeues = %d, want 12 at least (%s, %s)", item.Requeues, item.State, item.Why)
		}
		return nil
	})
	if item.State.Terminal() || item.Retries != 0 {
		t.Fatalf("state = %s, retries = %d, want it under way with 0 retries: %s", item.State, item.Retries, item.Why)
	}
	other := c.submit(s, 1)[0]
	item = c.await(id, inState(work.StateStuck))
	if item.Reason != work.ReasonStartFailed || item.Retries != 0 || !strings.Contains(item.Why, "Failed to pull") || !strings.Contains(item.Why, "while others on the same nodes went on") {
		t.Errorf("reason = %s, retries = %d, why = %q", item.Reason, item.Retries, item.Why)
	}
	if _, err := s.Order(t.Context(), other, control.Order{Verb: control.Cancel}); err != nil {
		t.Fatal(err)
	}
	c.clean()
}

func TestReportedReasonsAreTaken(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		r.report(work.Reason(r.envelope.Spec.Task))
		return nomadd.Exit{}
	})
	s := c.start(faults{})
	for reason, state := range map[work.Reason]work.State{
		work.ReasonStuck: work.StateStuck, work.ReasonMaxIterations: work.StateFailed, work.ReasonGitAuthFailed: work.StateFailed,
		work.ReasonAgentError: work.StateFailed, work.ReasonBudgetExceeded: work.StateFailed,
	} {
		id := c.submit(s, 1, func(spec *work.Spec) { spec.Task = string(reason) })[0]
		if item := c.await(id, inState(state)); item.Reason != reason {
			t.Errorf("%s: item %s", reason, item.Reason)
		}
	}
	c.clean()
}

// TestTaskEventsOfAReportedEndAreKept ends an attempt by its report, which comes
// before Nomad knows of any end.
func TestTaskEventsOfAReportedEndAreKept(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		r.report(work.ReasonStuck)
		return nomadd.Exit{}
	})
	s := c.start(faults{})
	id := c.submit(s, 1)[0]
	c.await(id, inState(work.StateStuck))
	c.clean()
	logs, err := s.Logs(t.Context(), id, 1)
	if err != nil || len(logs.Events) == 0 || !strings.Contains(logs.Events[len(logs.Events)-1], work.TaskTerminated) {
		t.Fatalf("%v %v", logs.Events, err)
	}
}

// TestLogsThatAreKeptDuringTheLook ends an attempt, and has its child removed,
// between the look at what is kept and the look at Nomad.
func TestLogsThatAreKeptDuringTheLook(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	c := newCluster(t, func(r *run) nomadd.Exit {
		fmt.Fprintln(r.stdout, "last words")
		<-end
		r.report(work.ReasonStuck)
		return nomadd.Exit{}
	})
	var hooked *hookedChild
	s := c.start(faults{cluster: func(world orchestrator.Cluster) orchestrator.Cluster {
		hooked = &hookedChild{Cluster: world}
		return hooked
	}})
	id := c.submit(s, 1)[0]
	c.await(id, inState(work.StateInProgress))
	hooked.once.Store(new(func() {
		close(end)
		c.await(id, inState(work.StateStuck))
		c.clean()
	}))
	logs, err := s.Logs(t.Context(), id, 1)
	if err != nil || strings.Join(logs.Stdout, "") != "last words" || logs.Missing != "" || logs.Live {
		t.Fatalf("stdout = %q, missing = %q, live = %v, error = %v; want the last words, nothing missing, not live", logs.Stdout, logs.Missing, logs.Live, err)
	}
}

// hookedChild is a Nomad that does something before its next answer about a child.
type hookedChild struct {
	orchestrator.Cluster
	once atomic.Pointer[func()]
}

func (h *hookedChild) Child(ctx context.Context, id string) (work.Child, error) {
	if f := h.once.Swap(nil); f != nil {
		(*f)()
	}
	return h.Cluster.Child(ctx, id)
}

// TestChildIsRemovedOnceNomadHasSettledIt shows the child's task as terminated
// while its allocation still counts as running, as Nomad does for a moment.
func TestChildIsRemovedOnceNomadHasSettledIt(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		r.report(work.ReasonStuck)
		return nomadd.Exit{}
	})
	var nomad *lagging
	s := c.start(faults{cluster: func(world orchestrator.Cluster) orchestrator.Cluster {
		nomad = &lagging{Cluster: world}
		return nomad
	}})
	c.await(c.submit(s, 1)[0], inState(work.StateStuck))
	c.clean()
	if nomad.looks.Load() < 2 || nomad.early.Load() {
		t.Fatalf("looked at %d times, removed before it was settled: %v", nomad.looks.Load(), nomad.early.Load())
	}
}

// lagging is a Nomad that says the final status of an allocation only when it is
// asked for a second time.
type lagging struct {
	orchestrator.Cluster
	looks atomic.Int64 // at a child that has ended
	early atomic.Bool  // removed before the second look
}

func (l *lagging) Child(ctx context.Context, id string) (work.Child, error) {
	child, err := l.Cluster.Child(ctx, id)
	for i, a := range child.Allocations {
		if a.Ended() && l.looks.Add(1) == 1 {
			child.Allocations[i].ClientStatus = work.ClientRunning
		}
	}
	return child, err
}

func (l *lagging) Stop(ctx context.Context, child string, purge bool) error {
	if l.looks.Load() < 2 {
		l.early.Store(true)
	}
	return l.Cluster.Stop(ctx, child, purge)
}

func TestUnprovenCompletionIsNotBelieved(t *testing.T) {
	t.Parallel()
	for _, reason := range []work.Reason{work.ReasonCompleted, work.ReasonNoChange} {
		t.Run(string(reason), func(t *testing.T) { unprovenIsNotBelieved(t, reason) })
	}
}

func unprovenIsNotBelieved(t *testing.T, reason work.Reason) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		if r.envelope.Attempt.Number() > 1 {
			return succeed(r)
		}
		r.report(reason, func(result *work.Result) {
			result.Commit, result.RemoteCommit, result.Changes.Commits = "new", "old", 1
		})
		return nomadd.Exit{}
	})
	s := c.start(faults{})
	item := c.await(c.submit(s, 1)[0], inState(work.StateCompleted))
	if len(item.Attempts) != 2 || item.Attempts[0].Reason != work.ReasonCrashed || !strings.Contains(item.Attempts[0].Detail, `"old"`) {
		t.Fatalf("%+v", item.Attempts)
	}
}

func TestLateResultIsKeptAndChangesNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		r.claim()
		return nomadd.Exit{Code: 1}
	})
	s := c.start(faults{})
	none := 0
	id := c.submit(s, 1, func(spec *work.Spec) { spec.Retry = &work.RetryOverride{MaxRetries: &none} })[0]
	before := c.await(id, inState(work.StateFailed))
	c.put("results/"+id+".1", work.Result{Attempt: work.NewAttemptID(id, 1), Reason: work.ReasonCompleted, Detail: "too late"})
	after := c.await(id, func(item work.Item) error {
		if item.Attempts[0].LateResult == nil {
			return errors.New("not kept yet")
		}
		return nil
	})
	if after.State != before.State || after.Reason != before.Reason || after.Attempts[0].Reason != work.ReasonCrashed {
		t.Fatalf("%s %s", after.State, after.Reason)
	}
}

func TestChildStoppedOrPurgedByHandIsNoticed(t *testing.T) {
	t.Parallel()
	for name, purge := range map[string]bool{"stopped": false, "purged": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, func(r *run) nomadd.Exit {
				if r.envelope.Attempt.Number() == 1 {
					return untilKilled(r)
				}
				return succeed(r)
			})
			s := c.start(faults{})
			id := c.submit(s, 1)[0]
			running := c.await(id, inState(work.StateInProgress))
			if _, _, err := c.nomad().Jobs().Deregister(running.Current().Child, purge, nil); err != nil {
				t.Fatal(err)
			}
			item := c.await(id, inState(work.StateCompleted))
			if item.Attempts[0].Reason != work.ReasonKilledByOperator {
				t.Fatalf("%s: %s", item.Attempts[0].Reason, item.Attempts[0].Detail)
			}
		})
	}
}

// nomad returns a client of the embedded Nomad, as a person's CLI would use it.
func (c *cluster) nomad() *nomadapi.Client {
	c.t.Helper()
	client, err := nomadapi.NewClient(&nomadapi.Config{Address: c.nomadURL})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(client.Close)
	return client
}

func TestChildDispatchedByHandIsAdopted(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		if r.envelope.Item != "" {
			return succeed(r) // dispatched by drover
		}
		testkit.Eventually(t, patience, func() error {
			pair, _, err := r.consul.KV().Get(r.prefix+"envelopes/"+string(r.envelope.Attempt), nil)
			if err != nil || pair == nil {
				return fmt.Errorf("no envelope for %s yet: %v", r.envelope.Attempt, err)
			}
			return nil
		})
		return succeed(r)
	})
	s := c.start(faults{})
	c.await(c.submit(s, 1)[0], inState(work.StateCompleted)) // registers the worker job
	payload := []byte(`{"repository":"https://git.example.org/a/b.git","task":"by hand"}`)
	resp, _, err := c.nomad().Jobs().Dispatch("drover-worker", nil, payload, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := work.HandDispatched(resp.DispatchedJobID)
	if err != nil {
		t.Fatal(err)
	}
	item := c.await(a.Item(), inState(work.StateCompleted))
	if len(item.Attempts) != 1 || !item.Attempts[0].Adopted || item.Attempts[0].Child != resp.DispatchedJobID || item.Spec.Task != "by hand" {
		t.Fatalf("%+v", item)
	}
	c.clean()
}

func TestChildThatCannotBeAdoptedIsLeftAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		if r.envelope.Item == "" {
			return untilKilled(r)
		}
		return succeed(r)
	})
	s := c.start(faults{})
	c.await(c.submit(s, 1)[0], inState(work.StateCompleted))
	resp, _, err := c.nomad().Jobs().Dispatch("drover-worker", nil, []byte(`{"what":"ever"}`), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.await(c.submit(s, 1)[0], inState(work.StateCompleted)) // the server has looked around since
	s.stop()
	c.start(faults{})
	job, _, err := c.nomad().Jobs().Info(resp.DispatchedJobID, nil)
	if err != nil || *job.Status != "running" {
		t.Fatalf("%v %v", job, err)
	}
	if _, _, err := c.nomad().Jobs().Deregister(resp.DispatchedJobID, true, nil); err != nil {
		t.Fatal(err)
	}
}

func TestCancelEndsTheContainer(t *testing.T) {
	t.Parallel()
	c := newCluster(t, untilKilled)
	s := c.start(faults{})
	id := c.submit(s, 1)[0]
	c.await(id, inState(work.StateInProgress))
	item, err := s.Order(t.Context(), id, control.Order{Verb: control.Cancel, By: "a test"})
	if err != nil || item.State != work.StateCancelled || item.Current().Reason != work.ReasonCancelled {
		t.Fatalf("%s %v", item.State, err)
	}
	c.clean()
	if _, err := s.Order(t.Context(), id, control.Order{Verb: control.Cancel, By: "a test"}); !errors.Is(err, work.ErrConflict) {
		t.Fatal(err)
	}
}

func TestLargeEnvelopeGoesByReference(t *testing.T) {
	t.Parallel()
	whole := make(chan string, 1)
	c := newCluster(t, func(r *run) nomadd.Exit {
		pair, _, err := r.consul.KV().Get(r.prefix+"envelopes/"+string(r.envelope.Attempt), nil)
		if err != nil || pair == nil || !r.envelope.Reference {
			whole <- fmt.Sprintf("%v %v", pair, err)
		} else {
			whole <- string(pair.Value)
		}
		return succeed(r)
	})
	s := c.start(faults{})
	task := strings.Repeat("long task ", 4000)
	c.await(c.submit(s, 1, func(spec *work.Spec) { spec.Task = task })[0], inState(work.StateCompleted))
	if got := <-whole; !strings.Contains(got, task) {
		t.Fatalf("in KV: %.200s", got)
	}
}

// dyingLedger loses everything from the nth commit of a kind on, as a server that was killed there.
type dyingLedger struct {
	orchestrator.Ledger
	dies func(work.Change) bool
	dead *atomic.Bool
}

func (l dyingLedger) Commit(ctx context.Context, changes ...work.Change) error {
	if l.dead.Load() || l.dies(changes[0]) {
		l.dead.Store(true)
		return work.ErrFenced
	}
	return l.Ledger.Commit(ctx, changes...)
}

// TestCrashBetweenAssignAndRecordRunsTheAttemptOnce kills the leader after the
// dispatch and before its record; the next leader finds the same child.
func TestCrashBetweenAssignAndRecordRunsTheAttemptOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	var dead atomic.Bool
	first := c.start(faults{ledger: func(l orchestrator.Ledger) orchestrator.Ledger {
		return dyingLedger{Ledger: l, dead: &dead, dies: func(change work.Change) bool {
			item := change.PutItem
			return item != nil && item.Current() != nil && item.Current().Child != ""
		}}
	}})
	id := c.submit(first, 1)[0]
	testkit.Eventually(t, patience, func() error {
		if !dead.Load() {
			return errors.New("the record was not tried yet")
		}
		return nil
	})
	c.crash(first)
	c.start(faults{})
	item := c.await(id, inState(work.StateCompleted))
	if len(item.Attempts) != 1 || c.tasks.runs()[item.CurrentID()] != 1 {
		t.Fatalf("%d attempts, runs %v", len(item.Attempts), c.tasks.runs())
	}
}

// deafCluster has a Nomad whose event stream says nothing.
type deafCluster struct{ orchestrator.Cluster }

func (deafCluster) Watch(ctx context.Context, _ uint64, _ func(work.Allocation)) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestMissedEventsAreFoundByComparing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		if r.envelope.Attempt.Number() == 1 {
			return nomadd.Exit{Code: 139}
		}
		return succeed(r)
	})
	s := c.start(faults{cluster: func(n orchestrator.Cluster) orchestrator.Cluster { return deafCluster{n} }})
	item := c.await(c.submit(s, 1)[0], inState(work.StateCompleted))
	if len(item.Attempts) != 2 || item.Attempts[0].Reason != work.ReasonCrashed {
		t.Fatalf("%+v", item.Attempts)
	}
	c.clean()
}

func TestRefusedSubmissionStoresNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	s := c.start(faults{})
	good := control.Submission{ID: work.NewID(time.Now()), Spec: work.Spec{Repository: "https://git.example.org/a/b.git", Task: "x"}}
	for name, bad := range map[string]control.Submission{
		"unknown queue":      {ID: work.NewID(time.Now()), Spec: work.Spec{Repository: good.Spec.Repository, Task: "x", Queue: "nowhere"}},
		"missing repository": {ID: work.NewID(time.Now()), Spec: work.Spec{Task: "x"}},
		"bad id":             {ID: "x", Spec: good.Spec},
		"task too long":      {ID: work.NewID(time.Now()), Spec: work.Spec{Repository: good.Spec.Repository, Task: strings.Repeat("x", work.MaxTaskBytes+1)}},
	} {
		if _, err := s.Submit(t.Context(), []control.Submission{good, bad}); !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if keys, _, err := c.consul.KV().Keys(c.prefix+"items/", "", nil); err != nil || len(keys) != 0 {
		t.Fatalf("%v %v", keys, err)
	}
}

func TestRepeatedSubmissionIsTheSameItem(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	s := c.start(faults{})
	submission := control.Submission{ID: work.NewID(time.Now()), Spec: work.Spec{Repository: "https://git.example.org/a/b.git", Task: "x", Labels: map[string]string{}}}
	for range 2 {
		if _, err := s.Submit(t.Context(), []control.Submission{submission}); err != nil {
			t.Fatal(err)
		}
	}
	c.await(submission.ID, inState(work.StateCompleted))
	s.stop()
	s = c.start(faults{})
	if _, err := s.Submit(t.Context(), []control.Submission{submission}); err != nil {
		t.Fatalf("after a change of leader: %v", err)
	}
	submission.Spec.Task = "y"
	if _, err := s.Submit(t.Context(), []control.Submission{submission}); !errors.Is(err, work.ErrConflict) {
		t.Fatal(err)
	}
	if n := c.tasks.runs()[work.NewAttemptID(submission.ID, 1)]; n != 1 {
		t.Fatalf("ran %d times", n)
	}
}

// TestFollowEndsWithTheAttempt follows the output of a task that Nomad's own stream would follow for ever.
func TestFollowEndsWithTheAttempt(t *testing.T) {
	t.Parallel()
	proceed := make(chan struct{})
	c := newCluster(t, func(r *run) nomadd.Exit {
		fmt.Fprintln(r.stdout, "first")
		<-proceed
		fmt.Fprintln(r.stdout, "last")
		return succeed(r)
	})
	s := c.start(faults{})
	id := c.submit(s, 1)[0]
	testkit.Eventually(t, patience, func() error { // what is stored is a moment ahead of what the leader knows
		item, _, err := s.Item(t.Context(), id)
		if err == nil && item.State != work.StateInProgress {
			err = fmt.Errorf("%s", item.State)
		}
		return err
	})
	out, errs := &firstWords{said: make(chan struct{})}, &strings.Builder{}
	done := make(chan error, 1)
	go func() { done <- s.Follow(t.Context(), id, out, errs) }()
	select {
	case <-out.said:
	case err := <-done:
		t.Fatal(err)
	}
	close(proceed)
	if err := <-done; err != nil || out.String() != "first\nlast\n" {
		t.Fatalf("%q %v", out.String(), err)
	}
	if err := s.Follow(t.Context(), id, out, errs); !errors.Is(err, work.ErrNotFound) {
		t.Fatalf("following an attempt that has ended: %v", err)
	}
}

// firstWords tells when something was written to it.
type firstWords struct {
	strings.Builder
	once sync.Once
	said chan struct{}
}

func (f *firstWords) Write(p []byte) (int, error) {
	defer f.once.Do(func() { close(f.said) })
	return f.Builder.Write(p)
}

// unheard is a Nomad whose answers to dispatches get lost, and that lists no child
// until it is heard again.
type unheard struct {
	orchestrator.Cluster
	again      atomic.Bool
	dispatched chan struct{}
}

func (u *unheard) Dispatch(ctx context.Context, e work.Envelope) (string, error) {
	child, err := u.Cluster.Dispatch(ctx, e)
	if err != nil || u.again.Load() {
		return child, err
	}
	select {
	case u.dispatched <- struct{}{}:
	default:
	}
	return "", fmt.Errorf("no answer: %w", work.ErrUnknownOutcome)
}

func (u *unheard) Children(ctx context.Context) ([]work.Child, uint64, error) {
	children, index, err := u.Cluster.Children(ctx)
	if !u.again.Load() {
		children = nil
	}
	return children, index, err
}

func (u *unheard) Watch(ctx context.Context, index uint64, seen func(work.Allocation)) error {
	return u.Cluster.Watch(ctx, index, func(a work.Allocation) {
		if u.again.Load() {
			seen(a)
		}
	})
}

// TestChildOfACancelledDispatchIsRemoved cancels an item whose dispatch was never answered, and yet took place.
func TestChildOfACancelledDispatchIsRemoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, untilKilled)
	nomad := &unheard{dispatched: make(chan struct{}, 1)}
	s := c.start(faults{cluster: func(n orchestrator.Cluster) orchestrator.Cluster {
		nomad.Cluster = n
		return nomad
	}})
	id := c.submit(s, 1)[0]
	<-nomad.dispatched
	if _, err := s.Order(t.Context(), id, control.Order{Verb: control.Cancel, By: "a test"}); err != nil {
		t.Fatal(err)
	}
	nomad.again.Store(true)
	c.clean()
}

// TestItemsAreTakenListedAndCommandedWithoutNomad: what waits says for what, and
// runs once Nomad answers.
func TestItemsAreTakenListedAndCommandedWithoutNomad(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	line := &testkit.Line{Base: c.transport}
	line.Cut()
	s := c.start(faults{cluster: func(orchestrator.Cluster) orchestrator.Cluster { return c.nomadOver(line) }})
	first := c.submit(s, 2)
	for _, id := range first {
		c.wantExplained(s, id, "Nomad can't be reached", "It waits for Nomad, which does not answer since ")
	}
	submission := control.Submission{ID: work.NewID(time.Now()), Spec: work.Spec{Repository: "https://git.example.org/a/b.git", Task: "x"}}
	items, err := s.Submit(t.Context(), []control.Submission{submission})
	if err != nil || len(items[0].Warnings) != 1 || !strings.Contains(items[0].Warnings[0], "it waits for Nomad") {
		t.Fatalf("submitted: %+v, error %v; want a warning that it waits for Nomad", items, err)
	}
	page, err := s.Items(t.Context(), control.Query{})
	if err != nil || len(page.Items) != 3 {
		t.Fatalf("listed: %d items, error %v; want 3", len(page.Items), err)
	}
	for _, item := range page.Items {
		if item.State != work.StateQueued || len(item.Attempts) != 0 || !strings.Contains(item.Why, "it waits for Nomad") {
			t.Errorf("state = %s, attempts = %d, why = %q; want queued, 0, that it waits for Nomad", item.State, len(item.Attempts), item.Why)
		}
	}
	for verb, id := range map[control.Verb]string{control.Cancel: first[0], control.Prioritize: first[1]} {
		priority := 9
		if _, err := s.Order(t.Context(), id, control.Order{Verb: verb, Priority: &priority}); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
	c.await(first[0], inState(work.StateCancelled))
	line.Mend()
	for _, id := range []string{first[1], submission.ID} {
		if item := c.await(id, inState(work.StateCompleted)); len(item.Attempts) != 1 {
			t.Errorf("attempts = %d, want 1", len(item.Attempts))
		}
	}
}

func TestQueueChangesARowOfTheTable(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		if r.envelope.Attempt.Number() == 1 {
			r.report(work.ReasonStuck)
			return nomadd.Exit{}
		}
		return succeed(r)
	})
	s := c.start(faults{})
	ordinary := c.submit(s, 1)[0]
	retried := c.submit(s, 1, func(spec *work.Spec) { spec.Queue = "patient" })[0]
	c.await(ordinary, inState(work.StateStuck))
	c.await(retried, inState(work.StateCompleted))
}

// TestMemoryIsLearnedForTheRepository: after one item was killed for memory, the
// repository's next ones start with what it came to need, also under another leader.
func TestMemoryIsLearnedForTheRepository(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		if r.envelope.Spec.Resources.MemoryMB < 150 {
			return nomadd.Exit{Code: 137, OOMKilled: true, Message: "OOM Killed"}
		}
		return succeed(r)
	})
	grows := func(spec *work.Spec) { spec.Resources = work.Resources{MemoryMB: 100, MemoryMaxMB: 400} }
	s := c.start(faults{})
	first := c.await(c.submit(s, 1, grows)[0], inState(work.StateCompleted))
	if len(first.Attempts) != 2 || first.Attempts[1].MemoryMB != 150 {
		t.Fatalf("%+v", first.Attempts)
	}
	s.stop()
	s = c.start(faults{})
	second := c.await(c.submit(s, 1, grows)[0], inState(work.StateCompleted))
	if len(second.Attempts) != 1 || second.Attempts[0].MemoryMB != 150 {
		t.Fatalf("%+v", second.Attempts)
	}
	rigid := c.await(c.submit(s, 1, func(spec *work.Spec) { spec.Resources.MemoryMB = 160 })[0], inState(work.StateCompleted))
	if rigid.Attempts[0].MemoryMB != 160 {
		t.Fatalf("an item that allows no growth got %d", rigid.Attempts[0].MemoryMB)
	}
}
