package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/work"
)

const (
	// beatInterval is the longest time between two heartbeats; a quarter of the TTL where that is shorter.
	beatInterval = 3 * time.Second
	// consulTimeout bounds one call to Consul: a machine that is gone does not even refuse a connection.
	consulTimeout = 10 * time.Second
)

// heartOptions are what a heart needs.
type heartOptions struct {
	claim  Claim
	ttl    time.Duration
	grace  time.Duration // for which the agent of a fenced worker may go on
	timing Timing
	text   func() string // shown with a beat
	dog    *watchdog
	// restore stores what must be stored first once the attempt was taken back.
	restore func(context.Context) error
	told    context.Context // ends once the worker is told to end
	lose    context.CancelCauseFunc
	log     hclog.Logger
}

// heart beats for the worker, and is its fence: see fence.go. It beats on a timer,
// for as long as the worker's own loops make progress, for the check says that the
// worker lives. Its agent's signs of life are a matter of their own: a long silence
// turns the check to warning, which ends no session.
type heart struct {
	heartOptions
	fell chan struct{} // buffered: the fence has fallen

	mu      sync.Mutex
	trusted time.Time       // the session counts until then; guarded by mu, as what follows
	fence   *fence          // nil while the lease is good
	lease   context.Context // ends when the fence falls
	cut     context.CancelCauseFunc

	signed, beaten atomic.Int64 // when, in nanoseconds since 1970: the last sign of life, and heartbeat that succeeded
}

// newHeart returns a heart whose claim was begun at claimed.
func newHeart(hold context.Context, claimed time.Time, opts heartOptions) *heart {
	opts.log, opts.timing = opts.log.Named("heartbeat"), opts.timing.withDefaults()
	h := &heart{heartOptions: opts, trusted: claimed.Add(opts.ttl), fell: make(chan struct{}, 1)}
	h.lease, h.cut = context.WithCancelCause(hold)
	h.signed.Store(claimed.UnixNano())
	h.beaten.Store(claimed.UnixNano())
	return h
}

// touch is a sign of life of the agent, or of what works for it. It never blocks.
func (h *heart) touch() { h.signed.Store(time.Now().UnixNano()) }

// silence is the time since the last sign of life.
func (h *heart) silence() time.Duration { return time.Since(time.Unix(0, h.signed.Load())) }

// sinceBeat is the time since the start of the last heartbeat that succeeded.
func (h *heart) sinceBeat() time.Duration { return time.Since(time.Unix(0, h.beaten.Load())) }

// run beats until ctx ends. While the worker is fenced it tries to take the attempt back.
func (h *heart) run(ctx context.Context) {
	for ctx.Err() == nil {
		if f := h.fenced(); f != nil {
			h.takeBack(ctx, f)
			continue
		}
		pause := h.beat(ctx)
		select {
		case <-ctx.Done():
		case <-h.fell:
		case <-time.After(pause):
		}
	}
}

// beat passes one heartbeat on, and returns when to pass on the next. A heartbeat that
// finds the session gone, or is the last in a TTL of which none succeeded, lets the fence fall.
func (h *heart) beat(ctx context.Context) (pause time.Duration) {
	pause = min(beatInterval, h.ttl/4)
	if err := h.dog.stuck(); err != nil {
		h.log.Error("no heartbeat: the worker itself makes no progress", "error", err)
		h.expire()
		return pause
	}
	started := time.Now()
	err := h.try(ctx)
	switch {
	case err == nil:
		h.trust(started)
		h.beaten.Store(started.UnixNano())
	case ctx.Err() != nil:
	case errors.Is(err, work.ErrSessionLost):
		h.fall(err)
	default:
		h.log.Warn("heartbeat not taken, trying again", "left", time.Until(h.trustedUntil()).Round(time.Millisecond), "error", err)
		h.expire()
		pause = min(pause, retryPause)
	}
	return min(pause, max(time.Until(h.trustedUntil()), time.Millisecond))
}

// try sends one heartbeat.
func (h *heart) try(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, earlier(time.Now().Add(consulTimeout), h.trustedUntil()))
	defer cancel()
	text, silent := h.text(), h.silence() > h.ttl
	if silent {
		text = fmt.Sprintf("agent silent since %s · %s", time.Unix(0, h.signed.Load()).UTC().Format(time.TimeOnly), text)
	}
	return h.claim.Beat(ctx, text, silent)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (h *heart) trustedUntil() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trusted
}

// trust counts the session as confirmed by a question to Consul that began at started.
func (h *heart) trust(started time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if until := started.Add(h.ttl); until.After(h.trusted) {
		h.trusted = until
	}
}
