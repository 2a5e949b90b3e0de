package work_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"drover/internal/work"
)

// completedWithout returns an item whose work is completed and whose pull request has this status.
func completedWithout(t *testing.T, status work.PRStatus) work.Item {
	t.Helper()
	spec := work.Spec{Repository: "https://github.com/a/b", Task: "x"}.WithDefaults(work.NewDefaults())
	item := work.NewItem(work.NewID(time.Unix(1e9, 0)), spec, time.Unix(1e9, 0))
	result := work.Result{
		Attempt: item.NextAttempt(), Reason: work.ReasonCompleted, Detail: "done", Commit: "c", RemoteCommit: "c",
		Changes: work.Changes{Commits: 1}, PR: work.PullRequest{Status: status, Title: "x", Error: "the forge is down"},
	}
	return applied(t, item, time.Unix(1e9, 0), work.Assigned{}, work.Dispatched{Attempt: result.Attempt, Child: "child"},
		work.Ended{Attempt: result.Attempt, Ending: work.Ending{Reason: work.ReasonCompleted, Detail: "done", Result: &result}})
}

func applied(t *testing.T, item work.Item, now time.Time, events ...work.Event) work.Item {
	t.Helper()
	for _, event := range events {
		var err error
		if item, err = work.Apply(item, event, work.DefaultRetryPolicy(), now); err != nil {
			t.Fatal(err)
		}
	}
	return item
}

func TestCompletedItemSaysThatItsPullRequestFailed(t *testing.T) {
	item := completedWithout(t, work.PRFailed)
	if item.State != work.StateCompleted || item.PR.Status != work.PRFailed || !strings.Contains(item.Why, "but its pull request failed: the forge is down") {
		t.Errorf("%s, %+v: %s", item.State, item.PR, item.Why)
	}
}

func TestPullRequestIsMadeAgainWithBackoff(t *testing.T) {
	item := completedWithout(t, work.PRFailed)
	now := time.Unix(1e9, 0)
	var waits []time.Duration
	for !item.PublishAt.IsZero() {
		waits = append(waits, item.PublishAt.Sub(now))
		if item.PublishDue(item.PublishAt.Add(-time.Second)) || !item.PublishDue(item.PublishAt) {
			t.Errorf("due at another time than %s", item.PublishAt)
		}
		now = item.PublishAt
		item = applied(t, item, now, work.Publishing{})
		a := item.Current()
		e := item.Envelope("drover/")
		if !a.Publish || !item.IsPublishing() || item.PublishDue(now) || !e.Resume.PublishOnly || e.Resume.Finished == nil || e.Resume.Finished.Commit != "c" {
			t.Fatalf("attempt %+v, envelope %+v", a, e.Resume)
		}
		item = applied(t, item, now, work.Dispatched{Attempt: a.ID, Child: "another"}, work.Started{Attempt: a.ID, At: now},
			work.Ended{Attempt: a.ID, Ending: work.Ending{Reason: work.ReasonCrashed, Detail: "killed"}})
		if item.State != work.StateCompleted || item.PR.Status != work.PRFailed || item.PR.Error != "crashed: killed" || item.Current().State != work.AttemptKilled {
			t.Fatalf("%s, %+v", item.State, item.PR)
		}
	}
	if len(waits) != 5 || waits[0] != 5*time.Minute || waits[4] != 12*time.Hour {
		t.Errorf("waits %v", waits)
	}
	if item.PublishDue(now.Add(1000 * time.Hour)) {
		t.Error("it goes on for ever")
	}
	if item = applied(t, item, now, work.PublishAsked{}); !item.PublishDue(now) || item.PR.Status != work.PRPending {
		t.Errorf("a person asked: %+v", item)
	}
}

func TestPullRequestThatIsMadeAgainIsTheItems(t *testing.T) {
	item := applied(t, completedWithout(t, work.PRFailed), time.Unix(1e9, 0), work.PublishAsked{}, work.Publishing{})
	a := item.CurrentID()
	made := work.Result{Attempt: a, Reason: work.ReasonCompleted, Commit: "c", RemoteCommit: "c", PR: work.PullRequest{Status: work.PRCreated, URL: "u"}}
	item = applied(t, item, time.Unix(1e9, 0), work.Ended{Attempt: a, Ending: work.Ending{Reason: work.ReasonCompleted, Detail: "made", Result: &made}})
	if item.State != work.StateCompleted || item.PR.URL != "u" || !item.PublishAt.IsZero() || strings.Contains(item.Why, "failed") || len(item.History) != 3 {
		t.Errorf("%+v", item)
	}
	for name, event := range map[string]work.Event{"asked": work.PublishAsked{}, "publishing": work.Publishing{}} {
		if _, err := work.Apply(item, event, work.DefaultRetryPolicy(), time.Now()); !errors.Is(err, work.ErrConflict) {
			t.Errorf("%s with a pull request there: %v", name, err)
		}
	}
}

func TestOnlyCompletedWorkIsPublishedAgain(t *testing.T) {
	queued := work.NewItem(work.NewID(time.Now()), work.Spec{Repository: "https://x.example/a/b", Task: "x"}.WithDefaults(work.NewDefaults()), time.Now())
	for name, item := range map[string]work.Item{"queued": queued, "with nothing to request": completedWithout(t, work.PRNone)} {
		if _, err := work.Apply(item, work.PublishAsked{}, work.DefaultRetryPolicy(), time.Now()); !errors.Is(err, work.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
