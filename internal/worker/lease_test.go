package worker

import (
	"context"
	"errors"
	"testing"
	"time"

	"drover/internal/work"
)

func TestLeaseEndsAfterItsTrustUnlessItIsConfirmed(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(b *bubble) {
		const answerTime = time.Second
		claim.confirmBy(func(context.Context) error { <-time.After(answerTime); return nil })
		leased, end, err := b.pushLease(b.hold)
		if err != nil {
			t.Fatal(err)
		}
		defer end()
		pass(10 * work.PushTrust)
		if leased.Err() != nil {
			t.Fatalf("ended though it was confirmed: %v", context.Cause(leased))
		}
		claim.confirmBy(func(ctx context.Context) error { <-ctx.Done(); return work.ErrUnavailable })
		last := time.Now() // no later than this a question that was answered began
		<-leased.Done()
		if took := time.Since(last); took > work.PushTrust {
			t.Errorf("ended %s after the last confirmation was asked for", took)
		}
		if !errors.Is(context.Cause(leased), errLeaseEnded) || b.hold.Err() != nil || b.fenced() != nil {
			t.Errorf("ended because %v; the hold: %v", context.Cause(leased), b.hold.Err())
		}
	})
}

func TestLeaseCountsFromBeforeTheQuestion(t *testing.T) {
	const answerTime = 4 * time.Second
	claim := &fakeClaim{confirm: func(context.Context) error { <-time.After(answerTime); return nil }}
	inBubble(t, claim, func(b *bubble) {
		began := time.Now()
		leased, end, err := b.pushLease(b.hold)
		if err != nil {
			t.Fatal(err)
		}
		defer end()
		claim.confirmBy(func(context.Context) error { return work.ErrUnavailable })
		<-leased.Done()
		if took := time.Since(began); took > work.PushTrust {
			t.Errorf("ended %s after the question", took)
		}
	})
}

func TestLeaseWaitsForAConsulThatDoesNotAnswer(t *testing.T) {
	claim := &fakeClaim{confirm: func(context.Context) error { return work.ErrUnavailable }}
	inBubble(t, claim, func(b *bubble) {
		back := time.AfterFunc(time.Minute, func() { claim.confirmBy(nil) })
		defer back.Stop()
		_, end, err := b.pushLease(b.hold)
		if err != nil {
			t.Fatal(err)
		}
		end()
	})
}

func TestLeaseOfALostSessionLetsTheFenceFall(t *testing.T) {
	claim := &fakeClaim{regain: func(context.Context) error { return work.ErrAttemptLost }}
	inBubble(t, claim, func(b *bubble) {
		leased, end, err := b.pushLease(b.hold)
		if err != nil {
			t.Fatal(err)
		}
		claim.confirmBy(func(context.Context) error { return work.ErrSessionLost })
		began := time.Now()
		<-leased.Done()
		if took := time.Since(began); took > defaultLeaseCheck {
			t.Errorf("ended after %s", took)
		}
		end()
		if _, _, err := b.pushLease(b.hold); !errors.Is(err, ErrFenced) {
			t.Errorf("another lease: %v", err)
		}
	})
}

// TestLeaseWaitsForTheAttemptToBeTakenBack: the first question finds the session gone.
func TestLeaseWaitsForTheAttemptToBeTakenBack(t *testing.T) {
	claim := &fakeClaim{confirm: func(context.Context) error { return work.ErrSessionLost }}
	inBubble(t, claim, func(b *bubble) {
		claim.set(func() {
			claim.regain = func(context.Context) error {
				claim.confirmBy(nil)
				return nil
			}
		})
		_, end, err := b.pushLease(b.hold)
		if err != nil || claim.tries() != 1 {
			t.Fatalf("%v after %d tries to take the attempt back", err, claim.tries())
		}
		end()
	})
}
