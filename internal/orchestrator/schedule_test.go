package orchestrator_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drover/internal/control"
	"drover/internal/orchestrator"
	"drover/internal/work"
)

// inModel runs a test on a model in virtual time.
func inModel(t *testing.T, config func(*orchestrator.Config), test func(t *testing.T, m *model)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &model{world: newWorld(), config: config}
		m.lead()
		defer func() {
			m.cancel(work.ErrFenced)
			<-m.done
		}()
		synctest.Wait()
		test(t, m)
		if err := m.check(); err != nil {
			t.Fatal(err)
		}
	})
}

// send submits items and returns their ids.
func (m *model) send(t *testing.T, specs ...work.Spec) []string {
	t.Helper()
	ids := make([]string, len(specs))
	submissions := make([]control.Submission, len(specs))
	for i, spec := range specs {
		spec.Repository, spec.Task = orElse(spec.Repository, modelRepositories[0]), "x"
		submissions[i] = control.Submission{ID: work.NewID(time.Now().Add(time.Duration(i) * time.Millisecond)), Spec: spec}
		ids[i] = submissions[i].ID
	}
	if _, err := m.o.Submit(t.Context(), submissions); err != nil {
		t.Fatal(err)
	}
	m.ids = append(m.ids, ids...)
	synctest.Wait()
	return ids
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// finish has every attempt that is dispatched run, and end for a reason.
func (m *model) finish(reason work.Reason, change ...func(*work.Result)) (ended []string) {
	synctest.Wait()
	m.mu.Lock()
	for _, p := range m.alive(work.ClientPending) {
		m.run(p.child, p.i)
	}
	m.mu.Unlock()
	synctest.Wait()
	m.mu.Lock()
	for _, p := range m.alive(work.ClientRunning) {
		a := p.child.Allocations[p.i]
		m.report(a, reason)
		r := m.results[a.Attempt]
		for _, f := range change {
			f(&r)
		}
		m.results[a.Attempt] = r
		m.exit(p.child, p.i, 0, false)
		ended = append(ended, a.Attempt.Item())
	}
	m.mu.Unlock()
	synctest.Wait()
	return ended
}

func (m *model) state(id string) work.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.item(id).State
}

func (m *model) expect(t *testing.T, id string, want work.State) {
	t.Helper()
	if got := m.state(id); got != want {
		t.Fatalf("item %s is %s, want %s", id, got, want)
	}
}

// queued returns one of the items that is queued.
func (m *model) queued(t *testing.T, ids []string) string {
	t.Helper()
	for _, id := range ids {
		if m.state(id) == work.StateQueued {
			return id
		}
	}
	t.Fatal("none is queued")
	return ""
}

// waits returns the kinds of what an item waits for, and the first sentence.
func (m *model) waits(t *testing.T, id string) ([]control.WaitKind, string) {
	t.Helper()
	e, err := m.o.Explain(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []control.WaitKind
	for _, w := range e.Waits {
		kinds = append(kinds, w.Kind)
	}
	return kinds, e.Why
}

func (m *model) expectWait(t *testing.T, id string, kind control.WaitKind, sentence string) {
	t.Helper()
	kinds, why := m.waits(t, id)
	if !slices.Contains(kinds, kind) || !strings.Contains(why, sentence) {
		t.Fatalf("waits for %v: %q; want %s: %q", kinds, why, kind, sentence)
	}
	item, _, err := m.o.Item(t.Context(), id)
	if err != nil || kind != control.WaitTurn && item.Why != why {
		t.Fatalf("the item says %q, the explanation %q: %v", item.Why, why, err)
	}
}

func TestBreakerOpensAndLetsOneThroughWhoeverLeads(t *testing.T) {
	inModel(t, func(c *orchestrator.Config) {
		c.Retry.Actions[work.ReasonAgentError] = work.ActFail
		c.MaxInFlight = 2
	}, func(t *testing.T, m *model) {
		m.send(t, make([]work.Spec, 6)...)
		for range 3 {
			m.finish(work.ReasonAgentError)
		}
		waiting := m.send(t, work.Spec{}, work.Spec{}, work.Spec{Repository: modelRepositories[1]})
		m.expect(t, waiting[0], work.StateQueued)
		m.expect(t, waiting[2], work.StateAssigned)
		m.expectWait(t, waiting[0], control.WaitBreaker, "the breaker of git.example.org/a/b is open until 2000-01-01T00:05:00Z: 5 of the last 5 attempts failed")
		m.kill()
		synctest.Wait()
		m.expect(t, waiting[0], work.StateQueued)
		time.Sleep(work.DefaultBreakerPolicy().Pause.Std())
		synctest.Wait()
		m.expect(t, waiting[0], work.StateAssigned)
		m.expect(t, waiting[1], work.StateQueued)
		m.expectWait(t, waiting[1], control.WaitBreaker, "lets one attempt through at a time")
		m.finish(work.ReasonCompleted)
		m.expect(t, waiting[0], work.StateCompleted)
		m.expect(t, waiting[1], work.StateAssigned)
		if breakers, err := m.o.Breakers(t.Context()); err != nil || len(breakers)+len(m.breakers) != 0 {
			t.Fatalf("%+v %+v %v", breakers, m.breakers, err)
		}
	})
}

func TestFailedTrialHasTheBreakerWaitLonger(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		m.send(t, make([]work.Spec, 3)...)
		m.finish(work.ReasonGitAuthFailed)
		for i, pause := range []time.Duration{5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 40 * time.Minute, time.Hour, time.Hour} {
			id := m.send(t, work.Spec{})
			time.Sleep(pause - time.Second)
			synctest.Wait()
			m.expect(t, id[0], work.StateQueued)
			time.Sleep(time.Second)
			synctest.Wait()
			m.finish(work.ReasonGitAuthFailed)
			if m.state(id[0]) != work.StateFailed {
				t.Fatalf("after pause %d none was let through", i)
			}
		}
	})
}

// TestTrippedBreakerHoldsItemsUntilItIsReset, also under another leader.
func TestTrippedBreakerHoldsItemsUntilItIsReset(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		if _, err := m.o.TripBreaker(t.Context(), control.Trip{Repository: modelRepositories[0], Why: "no network", By: "me"}); err != nil {
			t.Fatal(err)
		}
		items, err := m.o.Submit(t.Context(), []control.Submission{{ID: work.NewID(time.Now()), Spec: work.Spec{Repository: "git@git.example.org:a/b", Task: "x"}}})
		if err != nil || len(items[0].Warnings) != 1 || !strings.Contains(items[0].Warnings[0], "open until it is reset: no network") {
			t.Fatalf("%+v %v", items, err)
		}
		m.kill()
		time.Sleep(48 * time.Hour)
		synctest.Wait()
		m.expect(t, items[0].ID, work.StateQueued)
		if _, err := m.o.ResetBreaker(t.Context(), "git.example.org/a/b"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		m.expect(t, items[0].ID, work.StateAssigned)
		if _, err := m.o.ResetBreaker(t.Context(), "git.example.org/a/b"); !errors.Is(err, work.ErrNotFound) {
			t.Fatal(err)
		}
	})
}

// TestOldTrialDoesNotHoldUpTheNext: it runs on, but the breaker was reset since.
func TestOldTrialDoesNotHoldUpTheNext(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		for range 2 {
			if _, err := m.o.TripBreaker(t.Context(), control.Trip{Repository: modelRepositories[0], For: work.Duration(time.Minute)}); err != nil {
				t.Fatal(err)
			}
			id := m.send(t, work.Spec{})[0]
			time.Sleep(time.Minute)
			synctest.Wait()
			m.expect(t, id, work.StateAssigned)
			if _, err := m.o.ResetBreaker(t.Context(), modelRepositories[0]); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestRateLimitSlowsTheWholeQueueDown(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		reset := time.Now().Add(3 * time.Hour)
		limited := m.send(t, work.Spec{Queue: "patient"})[0]
		m.finish(work.ReasonRateLimited, func(r *work.Result) { r.RetryAt, r.Detail = reset, "usage limit reached" })
		next := m.send(t, work.Spec{Queue: "patient"}, work.Spec{})
		m.expect(t, next[0], work.StateQueued)
		m.expect(t, next[1], work.StateAssigned)
		m.expectWait(t, next[0], control.WaitRateLimited, "queue patient waits until 2000-01-01T03:00:00Z: attempt 1 of item "+limited+" hit a limit: usage limit reached")
		m.kill()
		synctest.Wait()
		m.expectWait(t, next[0], control.WaitRateLimited, "usage limit reached")
		if breakers, err := m.o.Breakers(t.Context()); err != nil || len(breakers) != 0 {
			t.Fatalf("%+v %v", breakers, err)
		}
		q, err := m.o.Queue(t.Context(), "patient")
		if err != nil || len(q.Waits) != 1 || !q.Slow.Until.Equal(reset) {
			t.Fatalf("%+v %v", q, err)
		}
		time.Sleep(time.Until(reset))
		synctest.Wait()
		m.expect(t, next[0], work.StateAssigned)
		m.expect(t, limited, work.StateAssigned)
	})
}

// TestUnstatedLimitsWaitLongerAndLonger until an attempt gets on, or an operator resumes the queue.
func TestUnstatedLimitsWaitLongerAndLonger(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		slow := func() time.Duration {
			q, err := m.o.Queue(t.Context(), "patient")
			if err != nil {
				t.Fatal(err)
			}
			return max(0, time.Until(q.Slow.Until))
		}
		for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 15 * time.Minute, 15 * time.Minute} {
			id := m.send(t, work.Spec{Queue: "patient"})[0]
			m.finish(work.ReasonRateLimited)
			if got := slow(); got != want {
				t.Fatalf("the queue waits %s, want %s", got, want)
			}
			m.cancelID(t, id)
			time.Sleep(want)
			synctest.Wait()
		}
		time.Sleep(time.Second)
		m.send(t, work.Spec{Queue: "patient"})
		m.finish(work.ReasonCompleted)
		m.send(t, work.Spec{Queue: "patient"})
		m.finish(work.ReasonRateLimited)
		if got := slow(); got != time.Minute {
			t.Fatalf("the queue waits %s after an attempt got on", got)
		}
		if _, err := m.o.MoveQueue(t.Context(), "patient", control.QueueTransition{State: work.QueueActive}); err != nil || slow() != 0 {
			t.Fatalf("resumed, the queue waits %s: %v", slow(), err)
		}
	})
}

func (m *model) cancelID(t *testing.T, id string) {
	t.Helper()
	if _, err := m.o.Order(t.Context(), id, control.Order{Verb: control.Cancel, By: "the test"}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestQueueKeepsItsRate(t *testing.T) {
	perMinute, burst := 2.0, 3
	inModel(t, func(c *orchestrator.Config) {
		c.MaxInFlight = 100
		c.Queues["rated"] = orchestrator.Queue{Rate: &perMinute, Burst: &burst}
	}, func(t *testing.T, m *model) {
		ids := m.send(t, slices.Repeat([]work.Spec{{Queue: "rated"}}, 8)...)
		dispatched := func() (n int) {
			for _, id := range ids {
				if m.state(id) != work.StateQueued {
					n++
				}
			}
			return n
		}
		for i, want := range []int{3, 5, 7} {
			if i == 1 {
				m.kill() // a new leader goes on where the last one was
			}
			synctest.Wait()
			if got := dispatched(); i == 0 && got != want {
				t.Fatalf("%d are dispatched at once, want %d", got, want)
			}
			if i == 0 {
				m.expectWait(t, m.queued(t, ids), control.WaitRate, "queue rated dispatches 2 a minute, the next at ")
			}
			time.Sleep(time.Minute + 10*time.Millisecond)
			synctest.Wait()
			if got := dispatched(); got != want+2 && got != len(ids) {
				t.Fatalf("%d are dispatched after %d minutes, want %d", got, i+1, want+2)
			}
		}
	})
}

func TestQueueKeepsItsBudget(t *testing.T) {
	tokens, cost := int64(1000), 2.0
	inModel(t, func(c *orchestrator.Config) {
		c.MaxInFlight = 1
		c.Queues["tokens"] = orchestrator.Queue{TokensPerHour: &tokens}
		c.Queues["cost"] = orchestrator.Queue{CostUSDPerHour: &cost}
	}, func(t *testing.T, m *model) {
		for _, name := range []string{"tokens", "cost"} {
			ids := m.send(t, work.Spec{Queue: name}, work.Spec{Queue: name}, work.Spec{Queue: name})
			m.finish(work.ReasonCompleted, func(r *work.Result) { r.Tokens, r.CostUSD = work.Tokens{In: 300, Out: 200}, 1 })
			time.Sleep(5 * time.Minute)
			m.finish(work.ReasonCompleted, func(r *work.Result) { r.Tokens, r.CostUSD = work.Tokens{In: 300, Out: 200}, 1 })
			last := m.queued(t, ids)
			m.expectWait(t, last, control.WaitBudget, "queue "+name+" used 1000 tokens and 2.00 USD in the last hour, its budget is")
			m.kill()
			time.Sleep(54 * time.Minute)
			synctest.Wait()
			m.expect(t, last, work.StateQueued)
			time.Sleep(time.Minute)
			synctest.Wait()
			m.expect(t, last, work.StateAssigned)
			m.finish(work.ReasonCompleted)
		}
	})
}

func TestDependantRunsOnceAllHaveCompleted(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		first := m.send(t, work.Spec{}, work.Spec{NotBefore: time.Now().Add(time.Hour)})
		last := m.send(t, work.Spec{DependsOn: first})[0]
		m.expectWait(t, last, control.WaitDependency, "item "+first[0]+", on which it depends, is assigned")
		m.finish(work.ReasonCompleted)
		m.kill()
		synctest.Wait()
		m.expect(t, last, work.StateQueued)
		time.Sleep(time.Hour)
		m.finish(work.ReasonCompleted)
		m.expect(t, last, work.StateAssigned)
	})
}

func TestDependantEndsWithWhatItDependsOn(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		first := m.send(t, work.Spec{})[0]
		second := m.send(t, work.Spec{DependsOn: []string{first}})[0]
		third := m.send(t, work.Spec{DependsOn: []string{second}})[0]
		m.finish(work.ReasonStuck)
		m.expect(t, first, work.StateStuck)
		for id, other := range map[string]string{second: first + ", which it depends on, is stuck", third: second + ", which it depends on, is failed"} {
			m.expect(t, id, work.StateFailed)
			if item := m.item(id); item.Why != "item "+other || item.PR.Status != work.PRNone {
				t.Fatalf("%+v", item)
			}
		}
		gone := m.send(t, work.Spec{NotBefore: time.Now().Add(time.Hour)})[0]
		dependant := m.send(t, work.Spec{DependsOn: []string{gone}})[0]
		m.consulDown = true
		m.cancelOne(slices.Index(m.ids, gone))
		m.kill() // the next leader finds what this one did not store
		m.consulDown = false
		m.mu.Lock()
		m.bump()
		m.mu.Unlock()
		time.Sleep(time.Minute)
		m.cancelID(t, gone)
		m.expect(t, dependant, work.StateCancelled)
	})
}

func TestDependenciesThatCannotBeAreRefused(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		failed := m.send(t, work.Spec{})[0]
		m.finish(work.ReasonStuck)
		a, b, c := work.NewID(time.Now()), work.NewID(time.Now()), work.NewID(time.Now())
		submission := func(id string, on ...string) control.Submission {
			return control.Submission{ID: id, Spec: work.Spec{Repository: modelRepositories[0], Task: "x", DependsOn: on}}
		}
		for want, submissions := range map[string][]control.Submission{
			"depends on itself":         {submission(a, b), submission(b, c), submission(c, a)},
			"which does not exist":      {submission(a, b)},
			failed + ", which is stuck": {submission(a, failed)},
		} {
			before := len(m.items)
			if _, err := m.o.Submit(t.Context(), submissions); !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), want) || len(m.items) != before {
				t.Errorf("%v, want %q", err, want)
			}
		}
		// In one submission they may come in any order.
		if _, err := m.o.Submit(t.Context(), []control.Submission{submission(a, b), submission(b, c), submission(c)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		m.expect(t, c, work.StateAssigned)
		m.expect(t, a, work.StateQueued)
	})
}

// TestImportedDependantsWaitAsBefore, whichever way the ids of a backup sort.
func TestImportedDependantsWaitAsBefore(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	s := c.start(faults{})
	now := time.Now().UTC()
	var backup []work.Item
	for i := range 60 {
		spec := work.Spec{Repository: modelRepositories[0], Task: strings.Repeat("x", 20000), NotBefore: now.Add(time.Hour)}
		backup = append(backup, work.NewItem(work.NewID(now.Add(time.Duration(i)*time.Millisecond)), spec.WithDefaults(defaults()), now))
		if i > 0 {
			backup[i-1].Spec.DependsOn = []string{backup[i].ID}
		}
	}
	if _, err := s.Import(t.Context(), backup, false); err != nil {
		t.Fatal(err)
	}
	last := c.submit(s, 1)[0] // what would end at once has ended when this has
	c.await(last, inState(work.StateCompleted))
	for _, item := range backup {
		c.await(item.ID, func(stored work.Item) error {
			if stored.State != work.StateQueued {
				t.Fatalf("item %s is %s: %s", stored.ID, stored.State, stored.Why)
			}
			return nil
		})
	}
}

// TestItemIsStoredByOneRequest: a request that was sent again while the first
// one was still under way put the item back to where it began.
func TestItemIsStoredByOneRequest(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		submission := control.Submission{ID: work.NewID(time.Now()), Spec: work.Spec{Repository: modelRepositories[0], Task: "x"}}
		answers := make(chan error, 2)
		submit := func() {
			_, err := m.o.Submit(t.Context(), []control.Submission{submission})
			answers <- err
		}
		m.mu.Lock()
		m.consulDown = true
		m.mu.Unlock()
		go submit()
		synctest.Wait()
		go submit()
		synctest.Wait()
		select {
		case err := <-answers:
			if !errors.Is(err, work.ErrUnavailable) {
				t.Fatal(err)
			}
		default:
			t.Fatal("both are storing the item")
		}
		m.mu.Lock()
		m.consulDown = false
		m.bump()
		m.mu.Unlock()
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if submit(); <-answers != nil || len(m.items) != 1 {
			t.Fatalf("%d items", len(m.items))
		}
	})
}

// TestItemsOfOneRequestAreToldApart: of two that had one id only the last was kept.
func TestItemsOfOneRequestAreToldApart(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		id, spec := work.NewID(time.Now()), work.Spec{Repository: modelRepositories[0], Task: "x", NotBefore: time.Now().Add(time.Hour)}
		other := spec
		other.Task = "y"
		for name, s := range map[string]control.Submission{"id": {ID: id}, "key": {Key: "k"}} {
			one, two, three := s, s, s
			one.Spec, two.Spec, three.Spec = spec, spec, other
			if _, err := m.o.Submit(t.Context(), []control.Submission{one, three}); !errors.Is(err, work.ErrConflict) || len(m.items) > 1 {
				t.Errorf("%s: %v, %d items", name, err, len(m.items))
			}
			stored := len(m.items)
			items, err := m.o.Submit(t.Context(), []control.Submission{one, two})
			if err != nil || items[0].ID != items[1].ID || len(m.items) != stored+1 {
				t.Errorf("%s: %v, %d items: %+v", name, err, len(m.items), items)
			}
		}
		item := m.item(sortedKeys(m.items)[0])
		item.ID = work.NewID(time.Now())
		if _, err := m.o.Import(t.Context(), []work.Item{item, item}, false); !errors.Is(err, work.ErrInvalid) || len(m.items) != 2 {
			t.Error(err)
		}
	})
}

// TestImportKeepsUniqueKeysUnique: an import stored items of one key beside each other.
func TestImportKeepsUniqueKeysUnique(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		spec := work.Spec{Repository: modelRepositories[0], Task: "x", UniqueKey: "k", NotBefore: time.Now().Add(time.Hour)}
		first := m.send(t, spec)[0]
		now := time.Now()
		other, another := work.NewItem(work.NewID(now), m.item(first).Spec, now), work.NewItem(work.NewID(now), m.item(first).Spec, now)
		if _, err := m.o.Import(t.Context(), []work.Item{other}, false); !errors.Is(err, work.ErrConflict) || !strings.Contains(err.Error(), first) {
			t.Errorf("beside one that is stored: %v", err)
		}
		other.Spec.UniqueKey, another.Spec.UniqueKey = "l", "l"
		if _, err := m.o.Import(t.Context(), []work.Item{other, another}, false); !errors.Is(err, work.ErrConflict) || !strings.Contains(err.Error(), other.ID) {
			t.Errorf("beside one of the same backup: %v", err)
		}
		if done, err := m.o.Import(t.Context(), []work.Item{m.item(first), other}, false); err != nil || done.Identical != 1 || done.Stored != 1 {
			t.Errorf("one that is stored, and one with a key of its own: %v, %+v", err, done)
		}
	})
}

func TestUniqueKeyReturnsTheFirstItem(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		spec := work.Spec{Repository: modelRepositories[0], Task: "x", UniqueKey: "k"}
		submit := func(specs ...work.Spec) []work.Item {
			var submissions []control.Submission
			for _, s := range specs {
				submissions = append(submissions, control.Submission{ID: work.NewID(time.Now()), Spec: s})
			}
			items, err := m.o.Submit(t.Context(), submissions)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return items
		}
		other := spec
		other.Queue = "patient"
		items := submit(spec, spec, other)
		first := items[0].ID
		if items[1].ID != first || len(items[1].Warnings) == 0 || items[2].ID == first || len(m.items) != 2 {
			t.Fatalf("%+v", items)
		}
		m.kill()
		synctest.Wait()
		if again := submit(spec); again[0].ID != first || len(m.items) != 2 {
			t.Fatalf("%+v", again)
		}
		m.finish(work.ReasonStuck)
		if again := submit(spec)[0]; again.ID != first || again.State != work.StateStuck {
			t.Fatalf("%+v", again)
		}
		for range 8 { // at once
			go func() {
				_, _ = m.o.Submit(context.Background(), []control.Submission{{ID: work.NewID(time.Now()), Spec: work.Spec{Repository: modelRepositories[0], Task: "x", UniqueKey: "other"}}})
			}()
		}
		synctest.Wait()
		if len(m.items) != 3 {
			t.Fatalf("%d items", len(m.items))
		}
	})
}

// shelfArchive keeps what it is given, unless it fails.
type shelfArchive struct {
	fails atomic.Bool
	items []work.Archived
}

func (a *shelfArchive) Keep(_ context.Context, items []work.Archived) error {
	if a.fails.Load() {
		return errors.New("the disk is full")
	}
	a.items = append(a.items, items...)
	return nil
}

func TestFinishedItemsAreArchivedAndRemoved(t *testing.T) {
	archive := &shelfArchive{}
	archive.fails.Store(true)
	inModel(t, func(c *orchestrator.Config) {
		c.Retention = orchestrator.Retention{KeepFor: 24 * time.Hour, Archive: archive}
		c.MaxInFlight = 200
	}, func(t *testing.T, m *model) {
		ids := m.send(t, make([]work.Spec, 150)...)
		needed := m.send(t, work.Spec{})[0]
		m.finish(work.ReasonCompleted)
		waits := m.send(t, work.Spec{DependsOn: []string{needed}, NotBefore: time.Now().Add(40 * time.Hour)})[0]
		time.Sleep(23 * time.Hour)
		synctest.Wait()
		if len(m.removed) > 0 {
			t.Fatalf("%d items are removed before their time", len(m.removed))
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if len(m.removed) > 0 {
			t.Fatalf("%d items are removed that could not be archived", len(m.removed))
		}
		archive.fails.Store(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if len(m.removed) != len(ids) || len(archive.items) != len(ids) || len(m.items) != 2 || len(m.claims)+len(m.progress)+len(m.results) != 0 {
			t.Fatalf("%d removed, %d archived, %d left, claims %v", len(m.removed), len(archive.items), len(m.items), m.claims)
		}
		if _, _, err := m.o.Item(t.Context(), ids[0]); !errors.Is(err, work.ErrNotFound) {
			t.Fatalf("a removed item is shown: %v", err)
		}
		time.Sleep(15 * time.Hour)
		m.finish(work.ReasonCompleted)
		m.expect(t, waits, work.StateCompleted)
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		if len(m.items) != 0 {
			t.Fatalf("%d items left", len(m.items))
		}
	})
}

// TestItemIsKeptWhileItsPullRequestIsMadeAgain although it has completed long ago.
func TestItemIsKeptWhileItsPullRequestIsMadeAgain(t *testing.T) {
	inModel(t, func(c *orchestrator.Config) { c.Retention = orchestrator.Retention{KeepFor: time.Hour} }, func(t *testing.T, m *model) {
		id := m.send(t, work.Spec{})[0]
		m.finish(work.ReasonCompleted, func(r *work.Result) { r.PR = work.PullRequest{Status: work.PRFailed, Error: "502"} })
		for _, wait := range []time.Duration{5 * time.Minute, 15 * time.Minute, time.Hour, 4 * time.Hour, 12 * time.Hour} {
			time.Sleep(wait + time.Minute)
			synctest.Wait()
			m.expect(t, id, work.StateCompleted)
			m.finish(work.ReasonCompleted, func(r *work.Result) { r.PR = work.PullRequest{Status: work.PRFailed, Error: "502"} })
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if m.removed[id] != work.StateCompleted {
			t.Fatal("the item is still there after the last try")
		}
	})
}

func TestSoManyFinishedItemsAreKept(t *testing.T) {
	inModel(t, func(c *orchestrator.Config) {
		c.Retention = orchestrator.Retention{Keep: 10}
		c.MaxInFlight = 100
	}, func(t *testing.T, m *model) {
		old := m.send(t, make([]work.Spec, 30)...)
		m.finish(work.ReasonCompleted)
		time.Sleep(time.Minute)
		latest := m.send(t, make([]work.Spec, 10)...)
		m.finish(work.ReasonCompleted)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		for _, id := range latest {
			m.expect(t, id, work.StateCompleted)
		}
		if len(m.items) != 10 || m.removed[old[0]] != work.StateCompleted {
			t.Fatalf("%d items are left", len(m.items))
		}
	})
}

func TestExplanationNamesTheHolderOfPaths(t *testing.T) {
	inModel(t, func(c *orchestrator.Config) { c.MaxInFlight = 2 }, func(t *testing.T, m *model) {
		holder := m.send(t, work.Spec{Paths: []string{"src"}})[0]
		waits := m.send(t, work.Spec{Paths: []string{"docs", "src/main.go"}})[0]
		m.expectWait(t, waits, control.WaitPaths, "src/main.go: held by item "+holder+" attempt 1 since 2000-01-01T00:00:00Z")
		m.send(t, work.Spec{})
		last := m.send(t, work.Spec{Priority: new(int)})[0]
		m.expectWait(t, last, control.WaitServerLimit, "2 of 2 attempts are in flight over all queues")
		later := m.send(t, work.Spec{NotBefore: time.Now().Add(time.Hour)})[0]
		m.expectWait(t, later, control.WaitTime, "it was not to start before 2000-01-01T01:00:00Z")
		if _, err := m.o.MoveQueue(t.Context(), work.DefaultQueue, control.QueueTransition{State: work.QueuePaused, By: "me"}); err != nil {
			t.Fatal(err)
		}
		m.expectWait(t, last, control.WaitPaused, "queue default is paused since 2000-01-01T00:00:00Z by me")
	})
}

// TestLockedPathsOfAnAttemptAreWaitedFor: it locked them while it ran.
func TestLockedPathsOfAnAttemptAreWaitedFor(t *testing.T) {
	inModel(t, nil, func(t *testing.T, m *model) {
		holder := m.send(t, work.Spec{})[0]
		m.apply(step{what: "place"})
		m.mu.Lock()
		m.lock(work.NewAttemptID(holder, 1), []string{"src"})
		m.mu.Unlock()
		synctest.Wait()
		waits := m.send(t, work.Spec{Paths: []string{"src/main.go"}})[0]
		m.expectWait(t, waits, control.WaitPaths, fmt.Sprintf("src/main.go: held by item %s attempt 1", holder))
		m.finish(work.ReasonCompleted)
		m.expect(t, waits, work.StateAssigned)
	})
}

// TestEndDuringCleanupHasItDoneAgain has a worker exit while the leader, which has
// asked Nomad about its child, still has the answer from before to come.
func TestEndDuringCleanupHasItDoneAgain(t *testing.T) {
	inModel(t, func(c *orchestrator.Config) { c.ReconcileEvery = time.Hour }, func(t *testing.T, m *model) {
		id := m.send(t, work.Spec{})[0]
		m.mu.Lock()
		p := m.alive(work.ClientPending)[0]
		m.run(p.child, p.i)
		m.mu.Unlock()
		synctest.Wait()

		m.mu.Lock()
		m.hold = make(chan struct{})
		m.report(p.child.Allocations[p.i], work.ReasonStuck)
		m.mu.Unlock()
		synctest.Wait()
		m.expect(t, id, work.StateStuck)

		m.mu.Lock()
		m.exit(p.child, p.i, 0, false)
		m.mu.Unlock()
		synctest.Wait()

		m.mu.Lock()
		close(m.hold)
		m.hold = nil
		m.mu.Unlock()
		time.Sleep(time.Minute) // its output is read until it stays the same
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.children) > 0 {
			t.Fatalf("left: %v", sortedKeys(m.children))
		}
	})
}
