package work_test

import (
	"strings"
	"testing"
	"time"

	"drover/internal/work"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const itemID = "01k9zzzzzzzzzzzzzzzzzzzzzz"

func spec() work.Spec {
	return work.Spec{Repository: "https://git.example.org/a/b.git", Task: "do it"}.WithDefaults(work.NewDefaults())
}

// running returns an item whose first attempt runs.
func running(t *testing.T) work.Item {
	t.Helper()
	item := work.NewItem(itemID, spec(), now)
	return apply(t, item, work.Assigned{}, work.Dispatched{Attempt: itemID + ".1", Child: "child"},
		work.Started{Attempt: itemID + ".1", Allocation: "alloc", Node: "node", At: now})
}

func apply(t *testing.T, item work.Item, events ...work.Event) work.Item {
	t.Helper()
	for _, event := range events {
		next, err := work.Apply(item, event, work.DefaultRetryPolicy(), now)
		if err != nil {
			t.Fatalf("%T: %v", event, err)
		}
		item = next
	}
	return item
}

// TestTableOfReasons holds the design's table against what really happens.
func TestTableOfReasons(t *testing.T) {
	type want struct {
		attempt  work.AttemptState
		state    work.State
		retries  int
		requeues int
		min, max time.Duration // of the wait
	}
	retry := func(a work.AttemptState) want {
		return want{attempt: a, state: work.StateQueued, retries: 1, min: time.Minute, max: 72 * time.Second}
	}
	requeue := want{attempt: work.AttemptKilled, state: work.StateQueued, requeues: 1, min: 10 * time.Second, max: 12 * time.Second}
	notStarted := requeue
	notStarted.attempt = work.AttemptFailed
	table := map[work.Reason]want{
		work.ReasonCompleted:        {attempt: work.AttemptCompleted, state: work.StateCompleted},
		work.ReasonStuck:            {attempt: work.AttemptStuck, state: work.StateStuck},
		work.ReasonMaxIterations:    {attempt: work.AttemptFailed, state: work.StateFailed},
		work.ReasonAgentError:       retry(work.AttemptFailed),
		work.ReasonOOMKilled:        retry(work.AttemptKilled),
		work.ReasonCrashed:          retry(work.AttemptKilled),
		work.ReasonHeartbeatLost:    retry(work.AttemptKilled),
		work.ReasonTimeout:          retry(work.AttemptKilled),
		work.ReasonKilledByOperator: retry(work.AttemptKilled),
		work.ReasonNodeLost:         requeue,
		work.ReasonDrained:          requeue,
		work.ReasonPreempted:        requeue,
		work.ReasonStartFailed:      notStarted,
		work.ReasonGitAuthFailed:    {attempt: work.AttemptFailed, state: work.StateFailed},
		work.ReasonRateLimited:      {attempt: work.AttemptFailed, state: work.StateQueued, min: time.Hour, max: time.Hour},
		work.ReasonLocked:           {attempt: work.AttemptFailed, state: work.StateQueued, min: time.Hour, max: time.Hour},
		work.ReasonBudgetExceeded:   {attempt: work.AttemptFailed, state: work.StateFailed},
		work.ReasonCancelled:        {attempt: work.AttemptKilled, state: work.StateCancelled},
		work.ReasonNoChange:         {attempt: work.AttemptCompleted, state: work.StateCompleted},
		work.ReasonNoWork:           retry(work.AttemptFailed),
		work.ReasonSilent:           retry(work.AttemptKilled),
		work.ReasonPushRefused:      {attempt: work.AttemptFailed, state: work.StateFailed},
		work.ReasonFenced:           requeue,
		work.ReasonUnreachable:      requeue,
	}
	for _, reason := range work.Reasons() {
		t.Run(string(reason), func(t *testing.T) {
			w, ok := table[reason]
			if !ok {
				t.Fatal("no row for this reason")
			}
			item := apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: work.Ending{Reason: reason, Detail: "because", RetryAt: now.Add(time.Hour)}})
			attempt := item.Current()
			if attempt.State != w.attempt || attempt.Reason != reason || item.State != w.state {
				t.Errorf("attempt %s (%s), item %s", attempt.State, attempt.Reason, item.State)
			}
			if item.Retries != w.retries || item.Requeues != w.requeues {
				t.Errorf("retries = %d, requeues = %d, want %d and %d", item.Retries, item.Requeues, w.retries, w.requeues)
			}
			if infrastructure := w.requeues > 0; reason.Infrastructure() != infrastructure {
				t.Errorf("Infrastructure() = %t, want %t", reason.Infrastructure(), infrastructure)
			}
			if item.State == work.StateQueued {
				if wait := item.NotBefore.Sub(now); wait < w.min || wait > w.max {
					t.Errorf("waits %s, want %s to %s", wait, w.min, w.max)
				}
			}
			if item.Why == "" || item.Current().Detail == "" {
				t.Error("no sentence says why")
			}
		})
	}
}

// endAgain ends attempts for one reason until the item is terminal.
func endAgain(t *testing.T, item work.Item, reason work.Reason) (work.Item, []time.Duration) {
	t.Helper()
	var waits []time.Duration
	for n := 2; ; n++ {
		item = apply(t, item, work.Ended{Attempt: item.CurrentID(), Ending: work.Ending{Reason: reason, Detail: "because"}})
		if item.State.Terminal() {
			return item, waits
		}
		waits = append(waits, item.NotBefore.Sub(now))
		item = apply(t, item, work.Assigned{})
	}
}

func TestRetriesWaitOneFiveThirtyMinutesThenFail(t *testing.T) {
	item, waits := endAgain(t, running(t), work.ReasonCrashed)
	if item.State != work.StateFailed || len(item.Attempts) != 4 || len(waits) != 3 {
		t.Fatalf("%s after %d attempts and %d waits", item.State, len(item.Attempts), len(waits))
	}
	for i, base := range []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute} {
		if waits[i] < base || waits[i] > base*12/10 {
			t.Errorf("wait %d is %s", i+1, waits[i])
		}
	}
}

func TestNoWorkIsRetriedOnce(t *testing.T) {
	item, waits := endAgain(t, running(t), work.ReasonNoWork)
	if item.State != work.StateFailed || len(item.Attempts) != 2 || len(waits) != 1 {
		t.Errorf("state = %s, attempts = %d, waits = %d, want failed, 2, 1", item.State, len(item.Attempts), len(waits))
	}
}

// infrastructure are the reasons in which the item has no part.
var infrastructure = []work.Reason{
	work.ReasonNodeLost, work.ReasonDrained, work.ReasonPreempted, work.ReasonStartFailed, work.ReasonFenced, work.ReasonUnreachable,
}

// requeued ends attempts for one reason after the other, beside so many witnesses
// of the row, until the item is terminal, at most so often.
func requeued(t *testing.T, item work.Item, most int, witnessed func(row int) int) (work.Item, []time.Duration) {
	t.Helper()
	var waits []time.Duration
	for row := 1; row <= most; row++ {
		end := work.Ending{Reason: infrastructure[row%len(infrastructure)], Detail: "because", Witnessed: witnessed(row)}
		item = apply(t, item, work.Ended{Attempt: item.CurrentID(), Ending: end})
		if item.State.Terminal() {
			break
		}
		waits = append(waits, item.NotBefore.Sub(now))
		item = apply(t, item, work.Assigned{})
	}
	return item, waits
}

func TestRequeuesDoubleTheirBackoffAndNeverFailTheItem(t *testing.T) {
	item, waits := requeued(t, running(t), 40, func(int) int { return 0 })
	if item.State != work.StateAssigned || item.AttemptCount() != 41 || item.Retries != 0 || item.Requeues != 40 {
		t.Fatalf("state = %s, attempts = %d, retries = %d, requeues = %d, want assigned, 41, 0, 40", item.State, item.AttemptCount(), item.Retries, item.Requeues)
	}
	base := 10 * time.Second
	for i, wait := range waits {
		if wait < base || wait > base*12/10 {
			t.Errorf("wait %d = %s, want %s to %s", i+1, wait, base, base*12/10)
		}
		base = min(2*base, 10*time.Minute)
	}
}

func TestRequeuesBesideAttemptsThatGoOnEndStuck(t *testing.T) {
	item, _ := requeued(t, running(t), 40, func(row int) int { return row })
	if item.State != work.StateStuck || len(item.Attempts) != 10 || item.Retries != 0 {
		t.Errorf("state = %s, attempts = %d, retries = %d, want stuck, 10, 0", item.State, len(item.Attempts), item.Retries)
	}
	if want := "10 attempts in a row ended like this while others on the same nodes went on: a person must look"; !strings.HasSuffix(item.Why, want) {
		t.Errorf("why = %q, want it to end with %q", item.Why, want)
	}
	item, _ = requeued(t, running(t), 40, func(row int) int { return row / 2 })
	if item.State != work.StateStuck || len(item.Attempts) != 20 {
		t.Errorf("every other one witnessed: state = %s, attempts = %d, want stuck, 20", item.State, len(item.Attempts))
	}
}

func TestAnEndOfItsOwnBeginsTheRowAnew(t *testing.T) {
	item, _ := requeued(t, running(t), 9, func(row int) int { return row })
	item = apply(t, item, work.Ended{Attempt: item.CurrentID(), Ending: work.Ending{Reason: work.ReasonCrashed, Detail: "died"}}, work.Assigned{})
	if item.Requeues != 0 || item.Retries != 1 {
		t.Fatalf("requeues = %d, retries = %d, want 0, 1", item.Requeues, item.Retries)
	}
	item, waits := requeued(t, item, 9, func(row int) int { return row })
	if item.State.Terminal() || waits[0] > 12*time.Second {
		t.Errorf("state = %s, first wait = %s, want assigned, 10s to 12s", item.State, waits[0])
	}
}

func TestRequeueWithItsBudgetGoneEndsStuck(t *testing.T) {
	for name, c := range map[string]struct {
		budget work.Budget
		end    work.Ending
		want   string
	}{
		"tokens":   {work.Budget{Tokens: 1000}, work.Ending{Tokens: work.Tokens{In: 900, Out: 100}}, "its budget of 1000 tokens is used up: a person must look"},
		"cost":     {work.Budget{CostUSD: 2}, work.Ending{CostUSD: 2.5}, "its budget of 2 USD is used up: a person must look"},
		"time":     {work.Budget{Time: work.Duration(time.Hour)}, work.Ending{}, "its budget of 1h0m0s is used up: a person must look"},
		"not gone": {work.Budget{Tokens: 1000, CostUSD: 2, Time: work.Duration(2 * time.Hour)}, work.Ending{Tokens: work.Tokens{In: 999}, CostUSD: 1.99}, ""},
	} {
		item := running(t)
		item.Spec.Budget = c.budget
		c.end.Reason, c.end.Detail = work.ReasonNodeLost, "node lost"
		item, err := work.Apply(item, work.Ended{Attempt: item.CurrentID(), Ending: c.end}, work.DefaultRetryPolicy(), now.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		want := work.StateStuck
		if c.want == "" {
			want = work.StateQueued
		}
		if item.State != want || !strings.HasSuffix(item.Why, c.want) {
			t.Errorf("%s: state = %s, why = %q, want %s, %q", name, item.State, item.Why, want, c.want)
		}
	}
}

func TestInfrastructureGivesTheLastIterationBack(t *testing.T) {
	end := work.Ending{Reason: work.ReasonNodeLost, Detail: "node lost", Iteration: work.DefaultMaxIterations}
	item := apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: end})
	if item.State != work.StateQueued || item.Iteration != work.DefaultMaxIterations-1 {
		t.Errorf("state = %s, iteration = %d, want queued, %d", item.State, item.Iteration, work.DefaultMaxIterations-1)
	}
}

// TestOverridesOfOlderItemsAreRead: start failures had an action, a backoff and a
// limit of their own.
func TestOverridesOfOlderItemsAreRead(t *testing.T) {
	old := `{"repository":"https://git.example.org/a/b.git","task":"x","retry":{"actions":{"start_failed":"restart","crashed":"fail"},"start_backoff":["1s"],"max_start_failures":2,"max_requeues":3}}`
	s, err := work.DecodeSpec([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	p := work.DefaultRetryPolicy().With(s.Retry)
	if p.Actions[work.ReasonStartFailed] != work.ActRequeue || p.Actions[work.ReasonCrashed] != work.ActFail || p.MaxRequeues != 3 {
		t.Errorf("policy = %+v, want start_failed requeue, crashed fail, 3 requeues", p)
	}
	var item work.Item
	if err := work.DecodeStrict([]byte(`{"id":"`+itemID+`","state":"queued","requeues":4,"start_failures":3}`), &item); err != nil || item.Requeues != 4 {
		t.Errorf("requeues = %d, error = %v, want 4, nil", item.Requeues, err)
	}
}

func TestEndThatWouldRepeatItselfIsNotRetried(t *testing.T) {
	end := work.Ending{
		Reason: work.ReasonStartFailed, Detail: "it has submodules", Result: &work.Result{Reason: work.ReasonStartFailed, NoRetry: true},
	}
	if d := work.DefaultRetryPolicy().Next(running(t), end, now); d.State != work.StateFailed || d.Why != "another attempt would end the same" {
		t.Errorf("%+v", d)
	}
}

func TestItemAtItsIterationLimitIsNotRetried(t *testing.T) {
	item := apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: work.Ending{Reason: work.ReasonCrashed, Detail: "died", Iteration: work.DefaultMaxIterations}})
	if item.State != work.StateFailed {
		t.Fatalf("%s", item.State)
	}
}

func TestFinishedWorkIsPublishedEvenAtTheIterationLimit(t *testing.T) {
	finished := &work.Result{Attempt: itemID + ".1", Reason: work.ReasonCompleted, Commit: "c", RemoteCommit: "c"}
	item := apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: work.Ending{Reason: work.ReasonCrashed, Detail: "died", Iteration: work.DefaultMaxIterations, Finished: finished}})
	if item.State != work.StateQueued || item.Finished == nil {
		t.Fatalf("%s, finished %v", item.State, item.Finished)
	}
	item = apply(t, item, work.Assigned{})
	if got := item.Envelope("p/").Resume.Finished; got == nil || got.Commit != "c" {
		t.Fatalf("the next attempt is told %v", got)
	}
}

func TestMemoryGrowsAfterOOMUpToTheCeiling(t *testing.T) {
	s := spec()
	s.Resources.MemoryMB, s.Resources.MemoryMaxMB = 1000, 2000
	item := apply(t, work.NewItem(itemID, s, now), work.Assigned{})
	for _, want := range []int{1500, 2000, 2000} {
		item = apply(t, item, work.Ended{Attempt: item.CurrentID(), Ending: work.Ending{Reason: work.ReasonOOMKilled, Detail: "oom"}})
		if item.MemoryMB != want {
			t.Fatalf("memory %d, want %d", item.MemoryMB, want)
		}
		item = apply(t, item, work.Assigned{})
	}
	if got := item.Envelope("").Spec.Resources.MemoryMB; got != 2000 {
		t.Fatalf("the attempt is given %d", got)
	}
}

func TestOverrideChangesOneRow(t *testing.T) {
	zero := 0
	o := &work.RetryOverride{Actions: map[work.Reason]work.Action{work.ReasonStuck: work.ActRetry}, MaxRequeues: &zero}
	p := work.DefaultRetryPolicy().With(o)
	if p.Actions[work.ReasonStuck] != work.ActRetry || p.Actions[work.ReasonCrashed] != work.ActRetry || p.MaxRequeues != 0 || p.MaxRetries != 3 {
		t.Fatalf("%+v", p)
	}
	if work.DefaultActions()[work.ReasonStuck] != work.ActStuck {
		t.Fatal("the default table was changed")
	}
}

// TestRateLimitWaits holds the wait to the reset that was stated: also one that
// has passed when the attempt's end is stored, and none at all.
func TestRateLimitWaits(t *testing.T) {
	policy := work.DefaultRetryPolicy()
	for name, c := range map[string]struct {
		reset    time.Time
		min, max time.Duration
	}{
		"to come": {now.Add(time.Hour), time.Hour, time.Hour},
		"passed":  {now.Add(-time.Second), time.Minute, 72 * time.Second},
		"unknown": {time.Time{}, 15 * time.Minute, 18 * time.Minute},
	} {
		d := policy.Next(running(t), work.Ending{Reason: work.ReasonRateLimited, Detail: "wait", RetryAt: c.reset}, now)
		if wait := d.NotBefore.Sub(now); wait < c.min || wait > c.max || d.State != work.StateQueued || d.Counter != "" {
			t.Errorf("%s: %+v after %s", name, d, wait)
		}
	}
}
