package work_test

import (
	"errors"
	"testing"
	"time"

	"drover/internal/work"
)

func TestSuspicionIsStoredAndTakenBack(t *testing.T) {
	item := apply(t, running(t), work.Suspected{Attempt: itemID + ".1", Session: "s1"})
	if got, want := item.Current().Suspicion, (work.Suspicion{Session: "s1", Since: now}); got == nil || *got != want {
		t.Fatalf("suspicion = %v, want %v", got, want)
	}
	if item.State != work.StateInProgress {
		t.Errorf("state = %s, want in_progress", item.State)
	}
	if back := apply(t, item, work.Heard{Attempt: itemID + ".1"}); back.Current().Suspicion != nil || back.State != work.StateInProgress {
		t.Errorf("after it was heard: suspicion = %v, state = %s, want nil, in_progress", back.Current().Suspicion, back.State)
	}
	ended := apply(t, item, work.Ended{Attempt: itemID + ".1", Ending: work.Ending{Reason: work.ReasonUnreachable, Detail: "gone"}})
	if ended.Current().Suspicion != nil {
		t.Errorf("suspicion of an ended attempt = %v, want nil", ended.Current().Suspicion)
	}
	for _, event := range []work.Event{work.Suspected{Attempt: itemID + ".1", Session: "s1"}, work.Heard{Attempt: itemID + ".1"}} {
		if _, err := work.Apply(ended, event, work.DefaultRetryPolicy(), now); !errors.Is(err, work.ErrStaleAttempt) {
			t.Errorf("%T of an ended attempt: error = %v, want %v", event, err, work.ErrStaleAttempt)
		}
	}
}

func TestLostAfterIsNotBelowTheTTL(t *testing.T) {
	item := running(t)
	for ttl, want := range map[time.Duration]time.Duration{10 * time.Second: time.Minute, 2 * time.Minute: 2 * time.Minute} {
		item.Spec.Limits.HeartbeatTTL = work.Duration(ttl)
		if got := item.LostAfter(time.Minute); got != want {
			t.Errorf("TTL %s: lost after %s, want %s", ttl, got, want)
		}
	}
}

// TestPublishAttemptIsMadeAgainAfterInfrastructure, and that is no failure of the pull request.
func TestPublishAttemptIsMadeAgainAfterInfrastructure(t *testing.T) {
	done := &work.Result{
		Attempt: itemID + ".1", Reason: work.ReasonCompleted, Commit: "c", RemoteCommit: "c", PR: work.PullRequest{Status: work.PRFailed, Error: "503"},
	}
	item := apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: work.Ending{Reason: work.ReasonCompleted, Detail: "done", Result: done}})
	tries := item.PublishTries
	for range 12 {
		item = apply(t, item, work.PublishAsked{}, work.Publishing{})
		item = apply(t, item, work.Ended{Attempt: item.CurrentID(), Ending: work.Ending{Reason: work.ReasonFenced, Detail: "fenced"}})
		if item.State != work.StateCompleted || item.PR.Status != work.PRPending || item.PublishTries != tries || !item.PublishAt.After(now) {
			t.Fatalf("state = %s, pull request %s, tries %d, again at %s; want completed, pending, %d, later", item.State, item.PR.Status, item.PublishTries, item.PublishAt, tries)
		}
	}
	never := apply(t, item, work.PublishAsked{}, work.Publishing{})
	never = apply(t, never, work.Ended{Attempt: never.CurrentID(), Ending: work.Ending{
		Reason: work.ReasonStartFailed, Detail: "the branch is gone", Result: &work.Result{Reason: work.ReasonStartFailed, NoRetry: true},
	}})
	if never.PR.Status != work.PRFailed || never.PublishTries != 1 {
		t.Errorf("what can't get better: pull request %s, tries %d, want failed, 1", never.PR.Status, never.PublishTries)
	}
	if wait := item.PublishAt.Sub(now); wait < 10*time.Minute || wait > 12*time.Minute {
		t.Errorf("wait = %s, want 10m to 12m", wait)
	}
}
