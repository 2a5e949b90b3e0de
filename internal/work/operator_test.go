package work_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"drover/internal/work"
)

// ended returns an item whose only attempt ended for a reason.
func ended(t *testing.T, reason work.Reason, change ...func(*work.Ending)) work.Item {
	t.Helper()
	end := work.Ending{Reason: reason, Detail: "x"}
	for _, f := range change {
		f(&end)
	}
	return apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: end})
}

func TestRetryOpensEveryEndButCompleted(t *testing.T) {
	for state, item := range map[work.State]work.Item{
		work.StateFailed: ended(t, work.ReasonBudgetExceeded), work.StateStuck: ended(t, work.ReasonStuck), work.StateCancelled: apply(t, running(t), work.Cancelled{}),
	} {
		item.Retries, item.Requeues, item.Iteration, item.Tokens = 3, 2, 20, work.Tokens{In: 5}
		item.NotBefore = now.Add(time.Hour)
		again := apply(t, item, work.Retried{By: work.By{Who: "me", Key: "k"}})
		if item.State != state || again.State != work.StateQueued || again.Retries+again.Requeues+again.Iteration != 0 || !again.NotBefore.IsZero() {
			t.Errorf("%s: %+v", state, again)
		}
		if again.Tokens.In != 5 || again.PR.Status != work.PRPending || len(again.Attempts) != 1 || again.Why != "retried by me" || !again.Ordered("k") || again.Ordered("") {
			t.Errorf("%s: %+v", state, again)
		}
	}
	completed := ended(t, work.ReasonCompleted, func(e *work.Ending) { e.Result = &work.Result{Reason: work.ReasonCompleted} })
	for state, item := range map[work.State]work.Item{work.StateCompleted: completed, work.StateInProgress: running(t), work.StateQueued: work.NewItem(itemID, spec(), now)} {
		if _, err := work.Apply(item, work.Retried{}, work.DefaultRetryPolicy(), now); item.State != state || !errors.Is(err, work.ErrIllegalTransition) {
			t.Errorf("%s: %v", item.State, err)
		}
	}
}

func TestRetryOfAUsedUpBudgetSaysWhatToRaise(t *testing.T) {
	item := ended(t, work.ReasonBudgetExceeded)
	item.Spec.Budget, item.Tokens, item.CostUSD = work.Budget{Tokens: 100, CostUSD: 2}, work.Tokens{In: 90, Out: 10}, 1
	if _, err := work.Apply(item, work.Retried{}, work.DefaultRetryPolicy(), now); !errors.Is(err, work.ErrConflict) || !strings.Contains(err.Error(), "budget.tokens") {
		t.Error(err)
	}
	raised := item.Spec
	raised.Budget.Tokens = 1000
	apply(t, item, work.Edited{Spec: raised}, work.Retried{})
	raised.Budget.CostUSD = 1
	item = apply(t, item, work.Edited{Spec: raised})
	if _, err := work.Apply(item, work.Retried{}, work.DefaultRetryPolicy(), now); !errors.Is(err, work.ErrConflict) || !strings.Contains(err.Error(), "budget.cost_usd") {
		t.Error(err)
	}
}

func TestRequeueSpendsNothing(t *testing.T) {
	item := ended(t, work.ReasonKilledByOperator, func(e *work.Ending) { e.Requeue, e.Key = true, "k" })
	if item.State != work.StateQueued || item.Retries+item.Requeues != 0 || item.NotBefore.After(now) || item.Current().State != work.AttemptKilled || !item.Ordered("k") {
		t.Errorf("%+v", item)
	}
	waits := ended(t, work.ReasonCrashed)
	if !waits.NotBefore.After(now) {
		t.Fatalf("%+v", waits)
	}
	if due := apply(t, waits, work.Requeued{}); !due.NotBefore.IsZero() || due.Retries != 1 || due.State != work.StateQueued {
		t.Errorf("%+v", due)
	}
	if _, err := work.Apply(running(t), work.Requeued{}, work.DefaultRetryPolicy(), now); !errors.Is(err, work.ErrConflict) {
		t.Error(err)
	}
	completed := ended(t, work.ReasonCompleted, func(e *work.Ending) { e.Requeue, e.Result = true, &work.Result{Reason: work.ReasonCompleted} })
	if completed.State != work.StateCompleted {
		t.Errorf("completed work was requeued: %s", completed.State)
	}
}

func TestPriorityChangesWhileTheItemIsOpen(t *testing.T) {
	for _, item := range []work.Item{work.NewItem(itemID, spec(), now), running(t)} {
		after := apply(t, item, work.Prioritized{Priority: 7})
		if *after.Spec.Priority != 7 || after.State != item.State || *item.Spec.Priority == 7 || len(after.History) != len(item.History)+1 {
			t.Errorf("%+v", after)
		}
	}
	if _, err := work.Apply(running(t), work.Prioritized{Priority: 101}, work.DefaultRetryPolicy(), now); !errors.Is(err, work.ErrInvalid) {
		t.Error(err)
	}
	if _, err := work.Apply(ended(t, work.ReasonStuck), work.Prioritized{}, work.DefaultRetryPolicy(), now); !errors.Is(err, work.ErrConflict) {
		t.Error(err)
	}
}

func TestEditChangesWhatNoAttemptActsOn(t *testing.T) {
	queued := work.NewItem(itemID, spec(), now)
	changed := spec()
	changed.Repository, changed.Resources.MemoryMB, changed.NotBefore, changed.PR.Provider = "https://example.com/other.git", 77, now.Add(time.Hour), work.ProviderNone
	after := apply(t, queued, work.Edited{Spec: changed})
	if after.MemoryMB != 77 || !after.NotBefore.Equal(changed.NotBefore) || after.PR.Status != work.PRNone || after.Spec.Repository != changed.Repository {
		t.Errorf("%+v", after)
	}
	for name, item := range map[string]work.Item{"running": running(t), "another repository once the branch was begun": ended(t, work.ReasonStuck)} {
		if _, err := work.Apply(item, work.Edited{Spec: changed}, work.DefaultRetryPolicy(), now); !errors.Is(err, work.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOrdersWithoutEndAreSummarised(t *testing.T) {
	item := work.NewItem(itemID, spec(), now)
	const orders = 2000
	for n := range orders {
		item = apply(t, item, work.Prioritized{By: work.By{Who: "me", Key: strconv.Itoa(n)}, Priority: n % 100})
	}
	if got := item.TransitionCount(); got != orders+1 {
		t.Errorf("transitions = %d, want %d", got, orders+1)
	}
	if len(item.History) > 200 || !item.Ordered(strconv.Itoa(orders-1)) {
		t.Errorf("%d transitions kept, the latest order known: %t; want at most 200, true", len(item.History), item.Ordered(strconv.Itoa(orders-1)))
	}
	apply(t, item, work.Assigned{})
}

func TestMergeChangesWhatItNames(t *testing.T) {
	base := spec()
	base.Labels = map[string]string{"a": "1", "b": "2"}
	got, err := base.Merged([]byte(`{"labels":{"a":null,"c":"3"},"limits":{"timeout":"3h"},"priority":null,"command":["x"]}`))
	if err != nil || !reflect.DeepEqual(got.Labels, map[string]string{"b": "2", "c": "3"}) || got.Limits.Timeout.Std() != 3*time.Hour || got.Priority != nil || got.Task != base.Task || got.Limits.MaxIterations != base.Limits.MaxIterations {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"", "null", "[]", "3", `{"labels":3}`, `{"what":1}`, `{"limits":{"timeout":null,"what":1}}`} {
		if _, err := base.Merged([]byte(bad)); !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOnlyItemsThatDroverStoresAreTakenBack(t *testing.T) {
	good := []work.Item{work.NewItem(itemID, spec(), now), running(t), ended(t, work.ReasonStuck), ended(t, work.ReasonCrashed), apply(t, running(t), work.Cancelled{})}
	for _, item := range good {
		if err := item.CheckStored(); err != nil {
			t.Error(err)
		}
	}
	for name, change := range map[string]func(*work.Item){
		"id": func(i *work.Item) { i.ID = "x" }, "branch": func(i *work.Item) { i.Branch = "main" }, "state": func(i *work.Item) { i.State = "done" },
		"spec": func(i *work.Item) { i.Spec.Task = "" }, "priority": func(i *work.Item) { i.Spec.Priority = nil }, "queue": func(i *work.Item) { i.Spec.Queue = "" },
		"history": func(i *work.Item) { i.History = nil }, "queued with a running attempt": func(i *work.Item) { i.State = work.StateQueued },
		"no attempt": func(i *work.Item) { i.Attempts = nil }, "attempt of another": func(i *work.Item) { i.Attempts[0].ID = "x.1" },
		"number": func(i *work.Item) { i.Attempts[0].Number = 2 }, "attempt's state": func(i *work.Item) { i.Attempts[0].State = "gone" },
		"ended attempt": func(i *work.Item) { i.Attempts[0].State = work.AttemptFailed },
	} {
		item := copied(t, running(t))
		change(&item)
		if err := item.CheckStored(); !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func copied(t *testing.T, item work.Item) (out work.Item) {
	t.Helper()
	data, err := json.Marshal(item)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestKeyNamesOneID(t *testing.T) {
	a, b := work.KeyedID("k", now), work.KeyedID("k", now.Add(time.Hour))
	if a == b || !work.SameKey(a, b) || !work.ValidID(a) || work.SameKey(a, work.KeyedID("l", now)) || work.SameKey("", "") {
		t.Errorf("%s %s", a, b)
	}
}
