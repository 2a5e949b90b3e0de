package consul_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
)

// endSession ends an attempt's session, as Consul does when its check goes critical or its node leaves.
func endSession(t *testing.T, client *consul.Client, a *consul.Attempt) {
	t.Helper()
	if err := client.BreakLock(t.Context(), work.Lock{Session: a.Claim().Session}); err != nil {
		t.Fatal(err)
	}
}

func mustRegain(t *testing.T, a *consul.Attempt) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		err := a.Regain(t.Context())
		if err != nil && !errors.Is(err, work.ErrUnavailable) { // Consul's own lock delay, a millisecond, may not be over
			t.Fatal(err)
		}
		return err
	})
	if err := a.Beat(t.Context(), "back", false); err != nil {
		t.Errorf("beat after the attempt was taken back: %v", err)
	}
	if err := a.Confirm(t.Context()); err != nil {
		t.Errorf("confirm after the attempt was taken back: %v", err)
	}
}

func mustLose(t *testing.T, a *consul.Attempt, says string) {
	t.Helper()
	if err := a.Regain(t.Context()); !errors.Is(err, work.ErrAttemptLost) || !strings.Contains(err.Error(), says) {
		t.Errorf("regain: %v, want %q", err, says)
	}
}

func TestLivingSessionIsKept(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		a := claim(t, client, e, firstAllocation)
		before, index, err := client.Claim(t.Context(), e.Attempt)
		if err != nil {
			t.Fatal(err)
		}
		mustRegain(t, a)
		after, now, err := client.Claim(t.Context(), e.Attempt)
		if err != nil || after.Session != before.Session || now != index {
			t.Errorf("claim %+v at %d, want %+v at %d: %v", after, now, before, index, err)
		}
	})
}

func TestAttemptIsTakenBackWithItsPaths(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		a, other := holder(t, client), holder(t, client)
		mustLock(t, a, "src", "docs")
		for range 3 {
			lost := a.Claim().Session
			endSession(t, client, a)
			mustBeRefused(t, other, "src/a") // for the lock delay
			mustRegain(t, a)
			stored, _, err := client.Claim(t.Context(), a.Claim().Attempt)
			if err != nil || stored.Session == lost || stored.Session != a.Claim().Session || stored.Ended {
				t.Fatalf("claim %+v, %v; the lost session is %s", stored, err, lost)
			}
			mustHold(t, a, "docs, src")
			if locked := mustBeRefused(t, other, "src/a"); locked.Holder.Lost || locked.Holder.Session != stored.Session {
				t.Errorf("held by %+v", locked.Holder)
			}
			mustLock(t, a, "src/b") // it has that already
		}
		if err := a.UnlockAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustLock(t, other, "src/a")
	})
}

// TestAttemptIsTakenBackFromAnAgentThatForgotIt: `systemctl restart consul` of a client agent leaves the cluster, which ends
// session, service and check at once.
func TestAttemptIsTakenBackFromAnAgentThatForgotIt(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		a := claim(t, client, e, firstAllocation)
		mustLock(t, a, "src")
		if err := client.ForgetWorker(t.Context(), e.Attempt, firstAllocation); err != nil {
			t.Fatal(err)
		}
		if err := a.Beat(t.Context(), "x", false); !errors.Is(err, work.ErrSessionLost) {
			t.Fatalf("beat: %v", err)
		}
		mustRegain(t, a)
		mustHold(t, a, "src")
		if beat, ok := heartbeat(t, client, e.Attempt); !ok || beat.Critical {
			t.Errorf("heartbeat %+v, %v", beat, ok)
		}
	})
}

// TestAttemptWhoseCheckWentCriticalIsTakenBack: the worker was away for its TTL.
func TestAttemptWhoseCheckWentCriticalIsTakenBack(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(2*time.Second)
		a := claim(t, client, e, firstAllocation)
		testkit.Eventually(t, patience, func() error {
			if beat, ok := heartbeat(t, client, e.Attempt); !ok || !beat.Critical {
				return fmt.Errorf("heartbeat %+v, %v", beat, ok)
			}
			return nil
		})
		mustRegain(t, a)
	})
}

// TestWhatAnotherTouchedIsNotTakenBack has each change that an operator, the leader or another worker makes while the worker is away.
func TestWhatAnotherTouchedIsNotTakenBack(t *testing.T) {
	for name, c := range map[string]struct {
		locks bool
		touch func(t *testing.T, client *consul.Client, a, other *consul.Attempt)
		says  string
	}{
		"ended":           {touch: func(t *testing.T, client *consul.Client, a, _ *consul.Attempt) { closeClaim(t, client, a, true) }, says: "it has ended"},
		"marked":          {touch: func(t *testing.T, client *consul.Client, a, _ *consul.Attempt) { closeClaim(t, client, a, false) }, says: "changed by another"},
		"ended with lock": {locks: true, touch: func(t *testing.T, client *consul.Client, a, _ *consul.Attempt) { closeClaim(t, client, a, true) }, says: "it has ended"},
		"forgotten": {touch: func(t *testing.T, client *consul.Client, a, _ *consul.Attempt) {
			if err := lead(t, client, "forget").Commit(t.Context(), work.Change{Forget: a.Claim().Attempt}); err != nil {
				t.Fatal(err)
			}
		}, says: "its claim is gone"},
		"of another allocation": {touch: func(t *testing.T, client *consul.Client, a, _ *consul.Attempt) {
			overwriteClaim(t, client, work.Claim{Attempt: a.Claim().Attempt, Allocation: secondAllocation, Session: "other"})
		}, says: "allocation " + secondAllocation},
		"of another process": {touch: func(t *testing.T, client *consul.Client, a, _ *consul.Attempt) {
			overwriteClaim(t, client, work.Claim{Attempt: a.Claim().Attempt, Allocation: firstAllocation, Session: "other"})
		}, says: "has claimed it"},
		"paths taken by another": {locks: true, touch: func(t *testing.T, _ *consul.Client, _, other *consul.Attempt) {
			if _, err := other.Lock(t.Context(), pathSet(t, "src/a"), lockPatience, nil); err != nil {
				t.Fatal(err)
			}
		}, says: "another may have them"},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, open opener) {
				client := open()
				client.SetLockDelay(100 * time.Millisecond)
				a, other := holder(t, client), holder(t, client)
				if c.locks {
					mustLock(t, a, "src")
				}
				endSession(t, client, a)
				c.touch(t, client, a, other)
				mustLose(t, a, c.says)
				if err := a.Beat(t.Context(), "x", false); !errors.Is(err, work.ErrSessionLost) {
					t.Errorf("beat: %v", err)
				}
			})
		})
	}
}

// closeClaim writes the claim anew as the leader does, ended or marked.
func closeClaim(t *testing.T, client *consul.Client, a *consul.Attempt, ended bool) {
	t.Helper()
	stored, index, err := client.Claim(t.Context(), a.Claim().Attempt)
	if err != nil {
		t.Fatal(err)
	}
	stored.Ended, stored.EndedAt = ended, time.Now().UTC()
	change := work.Change{CloseClaim: &work.CloseClaim{Claim: stored, Index: index}}
	if err := lead(t, client, "close").Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}

func overwriteClaim(t *testing.T, client *consul.Client, claim work.Claim) {
	t.Helper()
	value := fmt.Sprintf(`{"attempt":%q,"allocation":%q,"session":%q}`, claim.Attempt, claim.Allocation, claim.Session)
	if err := client.Overwrite(t.Context(), client.Keys.Claim(claim.Attempt), value); err != nil {
		t.Fatal(err)
	}
}

// TestPathsThatWereGivenUpAreNotMissed: what the worker gave up, with or without an answer, is no reason to lose the attempt.
func TestPathsThatWereGivenUpAreNotMissed(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		wire := &lossy{base: cleanhttp.DefaultPooledTransport()}
		t.Cleanup(wire.base.CloseIdleConnections)
		client := open(wire)
		a := holder(t, client)
		mustLock(t, a, "src")
		wire.left.Store(1)
		if err := a.UnlockAll(t.Context()); !errors.Is(err, work.ErrUnknownOutcome) {
			t.Fatalf("unlock whose answer is lost: %v", err)
		}
		endSession(t, client, a)
		mustRegain(t, a)
		mustLock(t, a, "src")
		if err := a.Unlock(t.Context(), pathSet(t, "src")); err != nil {
			t.Fatal(err)
		}
		endSession(t, client, a)
		mustRegain(t, a)
	})
}

// TestLostAnswerDoesNotLoseTheAttempt loses the answer to the transaction that takes it back, and then the session it was taken back with.
func TestLostAnswerDoesNotLoseTheAttempt(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		wire := &lossy{base: cleanhttp.DefaultPooledTransport()}
		t.Cleanup(wire.base.CloseIdleConnections)
		client, plain := open(wire), open()
		a := holder(t, client)
		mustLock(t, a, "src")
		for _, sessionToo := range []bool{false, true} {
			endSession(t, client, a)
			wire.left.Store(1)
			<-time.After(10 * time.Millisecond) // Consul's own lock delay
			if err := a.Regain(t.Context()); !errors.Is(err, work.ErrUnknownOutcome) {
				t.Fatalf("regain whose answer is lost: %v", err)
			}
			if sessionToo {
				taken, _, err := plain.Claim(t.Context(), a.Claim().Attempt)
				if err != nil {
					t.Fatal(err)
				}
				if err := plain.BreakLock(t.Context(), work.Lock{Session: taken.Session}); err != nil {
					t.Fatal(err)
				}
			}
			mustRegain(t, a)
			mustHold(t, a, "src")
		}
	})
}

// TestLockOfALivingAttemptIsNotRemovedByTheLeader: its worker may come back for as long as nobody asks for the paths.
func TestLockOfALivingAttemptIsNotRemovedByTheLeader(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		client.SetLockDelay(time.Millisecond)
		a := holder(t, client)
		mustLock(t, a, "src")
		endSession(t, client, a)
		free := func() (left int) {
			t.Helper()
			if err := client.FreeLost(t.Context()); err != nil { // sees it first
				t.Fatal(err)
			}
			<-time.After(10 * time.Millisecond)
			if err := client.FreeLost(t.Context()); err != nil {
				t.Fatal(err)
			}
			locks, _, err := client.Locks(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			return len(locks)
		}
		if left := free(); left != 1 {
			t.Errorf("%d locks left, want 1", left)
		}
		mustRegain(t, a)
		mustHold(t, a, "src")
		endSession(t, client, a)
		closeClaim(t, client, a, true)
		if left := free(); left != 0 {
			t.Errorf("%d locks of an ended attempt left, want none", left)
		}
	})
}

// TestReleaseOfALostAttemptHarmsNobody has the paths' next holder at work.
func TestReleaseOfALostAttemptHarmsNobody(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		client.SetLockDelay(time.Millisecond)
		a, other := holder(t, client), holder(t, client)
		mustLock(t, a, "src")
		endSession(t, client, a)
		if _, err := other.Lock(t.Context(), pathSet(t, "src"), lockPatience, nil); err != nil {
			t.Fatal(err)
		}
		mustLose(t, a, "another may have them")
		if err := a.Release(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		mustHold(t, other, "src")
		if err := other.Confirm(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// once returns a connection that does something before the first transaction that goes over it after arm was called.
func once(t *testing.T, do func()) (wire *preceded, arm func()) {
	t.Helper()
	armed := false
	wire = &preceded{base: cleanhttp.DefaultPooledTransport(), path: "/txn", first: func() error {
		if armed {
			armed = false
			do()
		}
		return nil
	}}
	t.Cleanup(wire.base.CloseIdleConnections)
	return wire, func() { armed = true }
}

// TestNothingComesBetweenTheLookAndTheTransaction has another come after the worker has seen that nothing was lost.
func TestNothingComesBetweenTheLookAndTheTransaction(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(t *testing.T, plain *consul.Client, a, other *consul.Attempt)
		says      string
	}{
		"the paths are taken": {func(t *testing.T, _ *consul.Client, _, other *consul.Attempt) {
			if _, err := other.Lock(t.Context(), pathSet(t, "src/a"), lockPatience, nil); err != nil {
				t.Error(err)
			}
		}, "another may have them"},
		"the claim is closed": {func(t *testing.T, plain *consul.Client, a, _ *consul.Attempt) { closeClaim(t, plain, a, true) }, "it has ended"},
		"the claim is marked": {func(t *testing.T, plain *consul.Client, a, _ *consul.Attempt) { closeClaim(t, plain, a, false) }, "changed by another"},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, open opener) {
				plain := open()
				plain.SetLockDelay(time.Millisecond)
				var a, other *consul.Attempt
				wire, arm := once(t, func() { c.meanwhile(t, plain, a, other) })
				a, other = holder(t, open(wire)), holder(t, plain)
				mustLock(t, a, "src")
				endSession(t, plain, a)
				<-time.After(10 * time.Millisecond) // Consul's own lock delay
				arm()
				if err := a.Regain(t.Context()); !errors.Is(err, work.ErrUnavailable) {
					t.Fatalf("regain: %v", err)
				}
				mustLose(t, a, c.says)
				if err := a.Beat(t.Context(), "x", false); !errors.Is(err, work.ErrSessionLost) {
					t.Errorf("beat: %v", err)
				}
			})
		})
	}
}

// TestPathsThatAreTakenBackAreNotGiven has a worker come back for its paths just as another is about to remove its lost lock.
func TestPathsThatAreTakenBackAreNotGiven(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		plain := open()
		a := holder(t, plain)
		wire, arm := once(t, func() { mustRegain(t, a) })
		rival := open(wire)
		rival.SetLockDelay(10 * time.Millisecond)
		other := holder(t, rival)
		mustLock(t, a, "src")
		endSession(t, plain, a)
		mustBeRefused(t, other, "src/a") // has seen that it is lost
		<-time.After(20 * time.Millisecond)
		arm()
		if locked := mustBeRefused(t, other, "src/a"); locked.Holder.Lost || locked.Holder.Session != a.Claim().Session {
			t.Errorf("held by %+v", locked.Holder)
		}
		mustHold(t, a, "src")
	})
}
