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
	inBubble(t, claim, func(h *heart, hold context.Context) {
		const answerTime = time.Second
		claim.confirmBy(func(context.Context) error { <-time.After(answerTime); return nil })
		leased, end, err := h.lease(hold)
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
		if !errors.Is(context.Cause(leased), errUnconfirmed) || hold.Err() != nil {
			t.Errorf("ended because %v; the hold: %v", context.Cause(leased), hold.Err())
		}
	})
}

func TestLeaseCountsFromBeforeTheQuestion(t *testing.T) {
	const answerTime = 4 * time.Second
	claim := &fakeClaim{confirm: func(context.Context) error { <-time.After(answerTime); return nil }}
	inBubble(t, claim, func(h *heart, hold context.Context) {
		began := time.Now()
		leased, end, err := h.lease(hold)
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
	inBubble(t, claim, func(h *heart, hold context.Context) {
		back := time.AfterFunc(time.Minute, func() { claim.confirmBy(nil) })
		defer back.Stop()
		_, end, err := h.lease(hold)
		if err != nil {
			t.Fatal(err)
		}
		end()
	})
}

func TestLeaseOfALostSessionFences(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(h *heart, hold context.Context) {
		leased, end, err := h.lease(hold)
		if err != nil {
			t.Fatal(err)
		}
		claim.confirmBy(func(context.Context) error { return work.ErrSessionLost })
		began := time.Now()
		<-leased.Done()
		if took := time.Since(began); took > leaseCheck {
			t.Errorf("ended after %s", took)
		}
		end()
		if !errors.Is(context.Cause(hold), work.ErrSessionLost) {
			t.Errorf("the hold: %v", context.Cause(hold))
		}
		if _, _, err := h.lease(hold); !errors.Is(err, work.ErrSessionLost) {
			t.Errorf("another lease: %v", err)
		}
	})
}

func TestLeaseAtOnceOnALostSessionIsNone(t *testing.T) {
	claim := &fakeClaim{confirm: func(context.Context) error { return work.ErrSessionLost }}
	inBubble(t, claim, func(h *heart, hold context.Context) {
		if _, _, err := h.lease(hold); !errors.Is(err, work.ErrSessionLost) || hold.Err() == nil {
			t.Errorf("%v; the hold: %v", err, hold.Err())
		}
	})
}
