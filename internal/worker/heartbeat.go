package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/wait"
	"drover/internal/work"
)

const (
	// beatInterval is the shortest time between two heartbeats.
	beatInterval = time.Second
	// maxMargin bounds what is kept of the TTL for stopping the agent in time.
	maxMargin = 5 * time.Second
)

// heart passes the agent's signs of life on as heartbeats, and is the fence: the
// hold counts until the start of the last heartbeat that succeeded + TTL - margin,
// whatever Consul may think.
//
// Only a sign of life makes it beat. With a hung agent it is silent, the check
// goes critical, and the orchestrator ends the attempt; the fence falls only when
// there is something to say and nobody takes it.
type heart struct {
	claim Claim
	ttl   time.Duration
	text  func() string // shown with a beat
	lose  context.CancelCauseFunc
	log   hclog.Logger
	signs chan struct{} // buffered: one unheard sign is enough

	beating sync.Mutex // one heartbeat at a time

	mu      sync.Mutex
	trusted time.Time // guarded by mu

	signed, beaten atomic.Int64 // when, in nanoseconds since 1970: the last sign of life, and heartbeat that succeeded
}

// newHeart returns a heart whose claim was begun at claimed.
func newHeart(claim Claim, ttl time.Duration, claimed time.Time, text func() string, lose context.CancelCauseFunc, log hclog.Logger) *heart {
	h := &heart{claim: claim, ttl: ttl, text: text, lose: lose, log: log.Named("heartbeat"), signs: make(chan struct{}, 1)}
	h.trusted = h.trustFrom(claimed)
	h.signed.Store(claimed.UnixNano())
	h.beaten.Store(claimed.UnixNano())
	return h
}

func (h *heart) trustFrom(started time.Time) time.Time { return started.Add(h.ttl - h.margin()) }

// margin is the time in which the agent must be gone once the fence falls.
func (h *heart) margin() time.Duration { return min(h.ttl/5, maxMargin) }

// touch is a sign of life. It never blocks.
func (h *heart) touch() {
	h.signed.Store(time.Now().UnixNano())
	select {
	case h.signs <- struct{}{}:
	default:
	}
}

// silence is the time since the last sign of life.
func (h *heart) silence() time.Duration { return time.Since(time.Unix(0, h.signed.Load())) }

// sinceBeat is the time since the start of the last heartbeat that succeeded.
func (h *heart) sinceBeat() time.Duration { return time.Since(time.Unix(0, h.beaten.Load())) }

// run beats until ctx ends.
func (h *heart) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.signs:
		}
		if h.beat(ctx) != nil || wait.For(ctx, beatInterval) != nil {
			return
		}
	}
}

// hold returns nil while the attempt is the worker's. After a silence longer
// than that is sure, it beats before it answers.
func (h *heart) hold(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if time.Now().Before(h.trustedUntil()) {
		return nil
	}
	return h.beat(ctx)
}

func (h *heart) trustedUntil() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trusted
}

func (h *heart) trust(until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trusted = until
}

// beat passes one heartbeat on, trying for as long as the last one is trusted.
// When none succeeds the hold is lost.
func (h *heart) beat(ctx context.Context) error {
	h.beating.Lock()
	defer h.beating.Unlock()
	for {
		started := time.Now()
		err := h.try(ctx)
		left := time.Until(h.trustedUntil())
		switch {
		case err == nil:
			h.trust(h.trustFrom(started))
			h.beaten.Store(started.UnixNano())
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, work.ErrSessionLost):
			return h.fall(err)
		case left <= 0:
			return h.fall(fmt.Errorf("no heartbeat for %s: %w: %w", h.ttl, err, work.ErrSessionLost))
		}
		h.log.Warn("heartbeat not taken, trying again", "left", left.Round(time.Millisecond), "error", err)
		if err := wait.For(ctx, min(beatInterval, left)); err != nil {
			return err
		}
	}
}

// try sends one heartbeat, in the time that is left.
func (h *heart) try(ctx context.Context) error {
	deadline := h.trustedUntil()
	if soonest := time.Now().Add(h.margin()); deadline.Before(soonest) {
		deadline = soonest // the agent was silent for so long; the session's renewal tells whether that was too long
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return h.claim.Beat(ctx, h.text())
}

func (h *heart) fall(err error) error {
	err = fmt.Errorf("fenced: the agent is stopped and nothing more is pushed: %w", err)
	h.lose(err)
	return err
}
