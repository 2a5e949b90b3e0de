package worker

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/work"
)

const testTTL = 2 * time.Minute

// fakeClaim counts heartbeats, and takes them as beat says.
type fakeClaim struct {
	Claim
	mu    sync.Mutex
	beats []time.Time
	// What the calls do; nil is success.
	beat    func(ctx context.Context) error
	confirm func(ctx context.Context) error
	lock    func(ctx context.Context, patience time.Duration, waiting func(error)) error
}

func (c *fakeClaim) Confirm(ctx context.Context) error {
	c.mu.Lock()
	confirm := c.confirm
	c.mu.Unlock()
	if confirm == nil {
		return nil
	}
	return confirm(ctx)
}

// confirmBy changes what Confirm does from now on.
func (c *fakeClaim) confirmBy(confirm func(ctx context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.confirm = confirm
}

func (c *fakeClaim) Lock(ctx context.Context, _ work.PathSet, patience time.Duration, waiting func(error)) (work.Lock, error) {
	return work.Lock{}, c.lock(ctx, patience, waiting)
}

func (c *fakeClaim) Beat(ctx context.Context, _ string) error {
	c.mu.Lock()
	c.beats = append(c.beats, time.Now())
	c.mu.Unlock()
	if c.beat == nil {
		return nil
	}
	return c.beat(ctx)
}

// inBubble runs a heart in a bubble of its own time.
func inBubble(t *testing.T, claim *fakeClaim, test func(h *heart, hold context.Context)) {
	synctest.Test(t, func(t *testing.T) {
		hold, lose := context.WithCancelCause(t.Context())
		h := newHeart(claim, testTTL, time.Now(), func() string { return "text" }, lose, hclog.NewNullLogger())
		var tasks sync.WaitGroup
		tasks.Go(func() { h.run(hold) })
		test(h, hold)
		lose(nil)
		tasks.Wait()
	})
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestNoTimerEverBeats(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(h *heart, hold context.Context) {
		pass(10 * testTTL)
		if len(claim.beats) > 0 {
			t.Errorf("%d heartbeats without a sign of life", len(claim.beats))
		}
		if hold.Err() != nil {
			t.Errorf("silence alone ended the hold: %v", context.Cause(hold))
		}
	})
}

func TestHeartbeatsAreAtMostOneASecond(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(h *heart, _ context.Context) {
		for range 1000 {
			h.touch()
			pass(10 * time.Millisecond)
		}
		if n := len(claim.beats); n < 9 || n > 11 {
			t.Errorf("%d heartbeats in 10 s", n)
		}
		for i := 1; i < len(claim.beats); i++ {
			if gap := claim.beats[i].Sub(claim.beats[i-1]); gap < beatInterval {
				t.Errorf("heartbeats %s apart", gap)
			}
		}
	})
}

func TestFenceFallsBeforeTheTTLOfTheLastHeartbeatTaken(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(h *heart, hold context.Context) {
		const answerTime = 10 * time.Second
		claim.beat = func(context.Context) error { <-time.After(answerTime); return nil }
		h.touch()
		pass(answerTime)
		last := claim.beats[0]
		claim.beat = func(context.Context) error { return work.ErrUnavailable }
		h.touch()
		<-hold.Done()
		fell := time.Since(last)
		if fell > testTTL-h.margin() || fell < testTTL-h.margin()-beatInterval {
			t.Errorf("the fence fell %s after the start of the last heartbeat that was taken", fell)
		}
		if !errors.Is(context.Cause(hold), work.ErrSessionLost) {
			t.Errorf("the hold ended because %v", context.Cause(hold))
		}
	})
}

func TestAnswerThatNeverComesDoesNotHoldTheFence(t *testing.T) {
	claim := &fakeClaim{beat: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	inBubble(t, claim, func(h *heart, hold context.Context) {
		began := time.Now()
		h.touch()
		<-hold.Done()
		if fell := time.Since(began); fell > testTTL-h.margin() {
			t.Errorf("the fence fell after %s", fell)
		}
	})
}

func TestLostSessionEndsTheHoldAtOnce(t *testing.T) {
	claim := &fakeClaim{beat: func(context.Context) error { return work.ErrSessionLost }}
	inBubble(t, claim, func(h *heart, hold context.Context) {
		h.touch()
		pass(time.Millisecond)
		if !errors.Is(context.Cause(hold), work.ErrSessionLost) {
			t.Errorf("the hold ended because %v", context.Cause(hold))
		}
	})
}

func TestNothingIsPushedAfterASilenceWithoutAskingConsul(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(h *heart, hold context.Context) {
		if err := h.hold(hold); err != nil || len(claim.beats) > 0 {
			t.Errorf("at first: %v, %d heartbeats", err, len(claim.beats))
		}
		pass(testTTL)
		if err := h.hold(hold); err != nil || len(claim.beats) != 1 {
			t.Errorf("after a silence: %v, %d heartbeats", err, len(claim.beats))
		}
		pass(testTTL)
		claim.beat = func(context.Context) error { return work.ErrSessionLost }
		if err := h.hold(hold); !errors.Is(err, work.ErrSessionLost) || hold.Err() == nil {
			t.Errorf("with the session gone: %v", err)
		}
	})
}

// TestHeartbeatUnderWayHoldsNobodyUp has Consul away when the worker is told to stop: its last push must not wait for the fence.
func TestHeartbeatUnderWayHoldsNobodyUp(t *testing.T) {
	claim := &fakeClaim{beat: func(ctx context.Context) error { <-ctx.Done(); return work.ErrUnavailable }}
	inBubble(t, claim, func(h *heart, hold context.Context) {
		h.touch()
		pass(beatInterval)
		began := time.Now()
		if err := h.hold(hold); err != nil || !time.Now().Equal(began) {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}
