package work_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"drover/internal/work"
)

var refsPolicy = work.DefaultRetryPolicy()

// endedItem returns an item whose attempts ended with the reasons, each an hour after the last.
func endedItem(t *testing.T, pr work.PullRequest, reasons ...work.Reason) (work.Item, time.Time) {
	t.Helper()
	now := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	item := work.NewItem(work.NewID(now), work.Spec{Repository: "https://example.com/r.git", Task: "x"}.WithDefaults(work.NewDefaults()), now)
	for _, reason := range reasons {
		now = now.Add(time.Hour)
		item = events(t, item, now, work.Assigned{}, work.Dispatched{Attempt: item.NextAttempt(), Child: "c"}, work.Started{Attempt: item.NextAttempt(), Allocation: "a", Node: "n", At: now})
		end := work.Ending{Reason: reason, Detail: "x"}
		if reason == work.ReasonCompleted {
			end.Result = &work.Result{Attempt: item.CurrentID(), Reason: reason, PR: pr}
		}
		item = events(t, item, now, work.Ended{Attempt: item.CurrentID(), Ending: end})
	}
	return item, now
}

func events(t *testing.T, item work.Item, now time.Time, all ...work.Event) work.Item {
	t.Helper()
	for _, event := range all {
		var err error
		if item, err = work.Apply(item, event, refsPolicy, now); err != nil {
			t.Fatalf("%T: %v", event, err)
		}
	}
	return item
}

func TestRefsDue(t *testing.T) {
	none, text := work.PullRequest{Status: work.PRNone}, work.PullRequest{Status: work.PRCreated, Title: "x"}
	open, failed := work.PullRequest{Status: work.PRCreated, Number: 7, URL: "u"}, work.PullRequest{Status: work.PRFailed, Error: "502"}
	const week, never = 7 * 24 * time.Hour, time.Duration(-1)
	for name, c := range map[string]struct {
		pr      work.PullRequest
		reasons []work.Reason
		after   time.Duration // the end
	}{
		"never ran":                      {none, nil, never},
		"stuck":                          {none, []work.Reason{work.ReasonStuck}, week},
		"failed":                         {none, []work.Reason{work.ReasonGitAuthFailed}, week},
		"cancelled":                      {none, []work.Reason{work.ReasonCancelled}, week},
		"waits for a retry":              {none, []work.Reason{work.ReasonCrashed}, never},
		"completed at once":              {none, []work.Reason{work.ReasonCompleted}, never},
		"completed, no pull request":     {none, []work.Reason{work.ReasonCrashed, work.ReasonCompleted}, 0},
		"completed, text alone":          {text, []work.Reason{work.ReasonCrashed, work.ReasonCompleted}, 0},
		"completed, open pull request":   {open, []work.Reason{work.ReasonCrashed, work.ReasonCompleted}, never},
		"completed, failed pull request": {failed, []work.Reason{work.ReasonCrashed, work.ReasonCompleted}, never},
	} {
		item, ended := endedItem(t, c.pr, c.reasons...)
		want := time.Time{}
		if c.after != never {
			want = ended.Add(c.after)
		}
		if got := item.RefsDue(); !got.Equal(want) {
			t.Errorf("%s: due at %s, want %s (state %s)", name, got, want, item.State)
		}
	}
}

// TestAttemptThatRemovesReferences changes nothing of its item but the note of it.
func TestAttemptThatRemovesReferences(t *testing.T) {
	item, ended := endedItem(t, work.PullRequest{}, work.ReasonStuck)
	now := ended.Add(8 * 24 * time.Hour)
	others := []string{item.ID, work.NewID(now)}
	cleaning := events(t, item, now, work.CleaningUp{Items: others}, work.Dispatched{Attempt: work.NewAttemptID(item.ID, 2), Child: "c"})
	if e := cleaning.Envelope("drover/"); !slices.Equal(e.Resume.Cleanup, others) || e.Resume.Finished != nil || e.Resume.LastReason != "" {
		t.Errorf("the worker is told %+v, want the items %v alone", e.Resume, others)
	}
	if err := cleaning.CheckStored(); err != nil {
		t.Errorf("a backup of it is refused: %v", err)
	}
	if _, err := work.Apply(cleaning, work.Retried{}, refsPolicy, now); !errors.Is(err, work.ErrConflict) {
		t.Errorf("retry meanwhile: %v, want %v", err, work.ErrConflict)
	}
	if _, err := work.Apply(cleaning, work.CleaningUp{Items: others}, refsPolicy, now); !errors.Is(err, work.ErrConflict) {
		t.Errorf("another one meanwhile: %v, want %v", err, work.ErrConflict)
	}
	for _, reason := range []work.Reason{work.ReasonCompleted, work.ReasonGitAuthFailed, work.ReasonNodeLost, work.ReasonRateLimited} {
		over := events(t, cleaning, now, work.Started{Attempt: cleaning.CurrentID(), Allocation: "a", Node: "n", At: now}, work.Ended{Attempt: cleaning.CurrentID(), Ending: work.Ending{Reason: reason, Detail: "x"}})
		if over.State != item.State || over.Why != item.Why || over.Reason != item.Reason || over.Requeues != 0 || !over.UpdatedAt.Equal(item.UpdatedAt) || len(over.History) != len(item.History) {
			t.Errorf("%s: the item is %s, %q, want it as it was", reason, over.State, over.Why)
		}
		by, removed := over.RemovedRefsOf(&item)
		if want := reason == work.ReasonCompleted; removed != want || want && by != cleaning.CurrentID() {
			t.Errorf("%s: removed %t by %q", reason, removed, by)
		}
	}
}

// TestRetryAfterReferencesAreRemoved goes on from the attempt that worked, and may keep references again.
func TestRetryAfterReferencesAreRemoved(t *testing.T) {
	item, ended := endedItem(t, work.PullRequest{}, work.ReasonStuck)
	now := ended.Add(8 * 24 * time.Hour)
	item = events(t, item, now, work.CleaningUp{Items: []string{item.ID}}, work.Dispatched{Attempt: work.NewAttemptID(item.ID, 2), Child: "c"},
		work.Ended{Attempt: work.NewAttemptID(item.ID, 2), Ending: work.Ending{Reason: work.ReasonCompleted, Detail: "x"}}, work.RefsRemoved{})
	if !item.RefsDue().IsZero() || item.RefsRemovedAt.IsZero() {
		t.Errorf("due at %s, removed at %s", item.RefsDue(), item.RefsRemovedAt)
	}
	item = events(t, item, now, work.Retried{}, work.Assigned{})
	if e := item.Envelope("drover/"); e.Resume.LastReason != work.ReasonStuck || len(e.Resume.Cleanup) > 0 {
		t.Errorf("the worker is told %+v, want the end of the attempt that worked", e.Resume)
	}
	if !item.RefsRemovedAt.IsZero() {
		t.Errorf("references are known to be removed at %s, want never", item.RefsRemovedAt)
	}
	if _, err := work.Apply(item, work.RefsRemoved{}, refsPolicy, now); !errors.Is(err, work.ErrConflict) {
		t.Errorf("a late note: %v, want %v", err, work.ErrConflict)
	}
}

func TestCleanupIsBounded(t *testing.T) {
	item, ended := endedItem(t, work.PullRequest{}, work.ReasonStuck)
	if _, err := work.Apply(item, work.CleaningUp{Items: slices.Repeat([]string{item.ID}, work.MaxCleanup+1)}, refsPolicy, ended); !errors.Is(err, work.ErrInvalid) {
		t.Errorf("too many items: %v, want %v", err, work.ErrInvalid)
	}
	var ids []string
	for n := range work.MaxCleanup {
		ids = append(ids, work.KeyedID(fmt.Sprint(n), ended))
	}
	full := events(t, item, ended, work.CleaningUp{Items: ids})
	payload, err := json.Marshal(full.Envelope("drover/"))
	if err != nil || len(payload) > work.MaxPayloadBytes/2 {
		t.Errorf("the envelope of %d items has %d bytes, %v", len(ids), len(payload), err)
	}
	for n := range 3 {
		item = events(t, item, ended, work.CleaningUp{Items: ids}, work.Ended{Attempt: work.NewAttemptID(item.ID, n+2), Ending: work.Ending{Reason: work.ReasonCrashed, Detail: "x"}})
	}
	if item.MayCleanUp() {
		t.Error("an item may have a fourth attempt, want three at most")
	}
}

// TestStoredKindsOfAttempts: what earlier releases stored of a publishing attempt keeps its meaning.
func TestStoredKindsOfAttempts(t *testing.T) {
	for stored, want := range map[string]work.AttemptKind{
		`{"id":"x.1","number":1}`: work.KindWork, `{"id":"x.1","number":1,"publish":true}`: work.KindPublish, `{"id":"x.1","number":1,"cleanup":["y"]}`: work.KindCleanup,
	} {
		var a work.Attempt
		if err := json.Unmarshal([]byte(stored), &a); err != nil || a.Kind() != want || a.Aside() != (want != work.KindWork) {
			t.Errorf("%s is %s, %v, want %s", stored, a.Kind(), err, want)
		}
	}
}
