package work_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"drover/internal/work"
)

func TestLateResultChangesNothing(t *testing.T) {
	item := apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: work.Ending{Reason: work.ReasonHeartbeatLost, Detail: "silent"}})
	after := apply(t, item, work.LateResult{Result: work.Result{Attempt: itemID + ".1", Reason: work.ReasonCompleted, Detail: "done"}})
	if after.State != item.State || after.Reason != item.Reason || after.Current().Reason != work.ReasonHeartbeatLost {
		t.Fatalf("%s %s", after.State, after.Reason)
	}
	if after.Current().LateResult == nil || item.Current().LateResult != nil {
		t.Fatal("the late result is not kept, or was written into the old item")
	}
}

func TestEventOfAnotherAttemptIsRefused(t *testing.T) {
	item := running(t)
	for _, event := range []work.Event{
		work.Ended{Attempt: itemID + ".2", Ending: work.Ending{Reason: work.ReasonCrashed, Detail: "x"}},
		work.Started{Attempt: itemID + ".2"}, work.Dispatched{Attempt: itemID + ".2"}, work.Waiting{Attempt: itemID + ".2"},
	} {
		after, err := work.Apply(item, event, work.DefaultRetryPolicy(), now)
		if !errors.Is(err, work.ErrStaleAttempt) || !reflect.DeepEqual(after, item) {
			t.Errorf("%T: %v", event, err)
		}
	}
}

func TestTerminalItemTakesNoEvent(t *testing.T) {
	done := apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: work.Ending{Reason: work.ReasonStuck, Detail: "x"}})
	for _, event := range []work.Event{work.Assigned{}, work.Cancelled{}, work.Expired{}} {
		if _, err := work.Apply(done, event, work.DefaultRetryPolicy(), now); !errors.Is(err, work.ErrIllegalTransition) {
			t.Errorf("%T: %v", event, err)
		}
	}
}

func TestAttemptHasOneChild(t *testing.T) {
	item := apply(t, work.NewItem(itemID, spec(), now), work.Assigned{}, work.Dispatched{Attempt: itemID + ".1", Child: "a"})
	apply(t, item, work.Dispatched{Attempt: itemID + ".1", Child: "a"})
	if _, err := work.Apply(item, work.Dispatched{Attempt: itemID + ".1", Child: "b"}, work.DefaultRetryPolicy(), now); !errors.Is(err, work.ErrConflict) {
		t.Fatal(err)
	}
}

func TestSpecFaultsAreAllNamedAtOnce(t *testing.T) {
	p := 101
	err := work.Spec{Repository: "https://u:secret@h/x", Task: " ", Queue: "No Good", Priority: &p, Base: "../x", Resources: work.Resources{MemoryMB: -1}}.Validate()
	if !errors.Is(err, work.ErrInvalid) {
		t.Fatal(err)
	}
	for _, part := range []string{"repository", "task", "queue", "priority", "base", "memory_mb"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not name %s", err, part)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("%q tells the password", err)
	}
}

func TestUniqueKeysHaveNoSpaces(t *testing.T) {
	for key, valid := range map[string]bool{
		"a/b:c#1": true, "größe": true, strings.Repeat("ü", 256): true, strings.Repeat("a", 257): false, "a b": false, "a\tb": false,
		"a\u00a0b": false, "a\x00": false, "a\u200b": false,
	} {
		err := work.Spec{Repository: "https://h/r", Task: "x", UniqueKey: key}.Validate()
		if valid != (err == nil) || err != nil && !strings.Contains(err.Error(), "unique_key") {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestUnknownFieldIsRefused(t *testing.T) {
	for _, text := range []string{`{"repo":"x"}`, `{"limits":{"tiemout":"1h"}}`, `{"task":"a"} trailing`, `{"limits":{"timeout":"-1h"}}`} {
		if _, err := work.DecodeSpec([]byte(text)); !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestIDsAreValidAndSortByTime(t *testing.T) {
	a, b := work.NewID(now), work.NewID(now.Add(1e6))
	if a >= b || !work.ValidID(a) || work.ValidID("x") || work.ValidID(strings.ToUpper(a)) {
		t.Fatalf("%s %s", a, b)
	}
	id, err := work.ParseAttemptID(a + ".12")
	if err != nil || id.Item() != a || id.Number() != 12 {
		t.Fatalf("%s %v", id, err)
	}
	for _, bad := range []string{a, a + ".0", a + ".01", a + ".x", "." + a, a + ".1.2"} {
		if _, err := work.ParseAttemptID(bad); !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestHandDispatchedChildHasOneAttemptOfItsOwn(t *testing.T) {
	const child = "drover-worker/dispatch-1763948000-0a1b2c3d"
	a, err := work.HandDispatched(child)
	again, _ := work.HandDispatched(child)
	other, _ := work.HandDispatched("drover-worker/dispatch-1763948000-0a1b2c3e")
	if err != nil || a != again || a == other || a.Number() != 1 || !work.ValidID(a.Item()) {
		t.Fatalf("%s %s %s %v", a, again, other, err)
	}
	if prefixed, err := work.HandDispatched("drover-worker/dispatch-nightly-run-1763948000-0a1b2c3d"); err != nil || prefixed == a {
		t.Fatalf("%s %v", prefixed, err)
	}
	for _, bad := range []string{"drover-worker", "drover-worker/dispatch-x", ""} {
		if _, err := work.HandDispatched(bad); !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestNoChangeCompletesAnItemWithoutAPullRequest: its agent's words are in its sentence.
func TestNoChangeCompletesAnItemWithoutAPullRequest(t *testing.T) {
	result := work.Result{Attempt: itemID + ".1", Reason: work.ReasonNoChange, Detail: "it is there already", PR: work.PullRequest{Status: work.PRNone}}
	if !result.Proven() {
		t.Fatal("the result does not prove itself")
	}
	item := apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: work.Ending{Reason: work.ReasonNoChange, Detail: result.Detail, Result: &result}})
	if item.State != work.StateCompleted || item.Reason != work.ReasonNoChange || item.PR.Status != work.PRNone || item.Current().State != work.AttemptCompleted {
		t.Errorf("item %s (%s), pull request %s, attempt %s; want completed, no_change, none, completed", item.State, item.Reason, item.PR.Status, item.Current().State)
	}
	for _, part := range []string{"it is there already", "nothing to push"} {
		if !strings.Contains(item.Why, part) {
			t.Errorf("why %q lacks %q", item.Why, part)
		}
	}
	result.Changes.Commits = 1
	if result.Proven() {
		t.Error("no_change with a commit proves itself")
	}
}
