package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/internal/work"
)

// regainPause is the time between two tries to take the attempt back.
const regainPause = time.Second

var (
	// ErrFenced says that the worker lost its session, and could not take its
	// attempt back: another may work on it.
	ErrFenced = errors.New("fenced: the agent is stopped and nothing more is pushed")
	// errLeaseEnded says that something was cut off because the session was not
	// sure any more. It may be done again once it is.
	errLeaseEnded = errors.New("the session is not sure")
)

// fence is down while the worker's session is gone, or was not confirmed for a TTL.
// Then nothing is pushed, locked, published or reported; all of that waits. The
// agent goes on, and the worker tries to take the attempt back, until the grace is
// over, it is told to stop, or Consul says that the attempt can never be had again.
type fence struct {
	since  time.Time
	cause  error
	lifted chan struct{} // closed when the fence is lifted
}

// fenced returns the fence while it is down.
func (h *heart) fenced() *fence {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fence
}

// fall lets the fence down.
func (h *heart) fall(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fence != nil {
		return
	}
	h.fence = &fence{since: time.Now(), cause: cause, lifted: make(chan struct{})}
	h.cut(fmt.Errorf("%w: %w", errLeaseEnded, cause))
	h.log.Warn("fenced: nothing is pushed, locked or reported until the attempt is taken back", "grace", h.grace, "error", cause)
	select {
	case h.fell <- struct{}{}:
	default:
	}
}

// expire lets the fence down if the session was not confirmed for a TTL.
func (h *heart) expire() {
	if !time.Now().Before(h.trustedUntil()) {
		h.fall(fmt.Errorf("no heartbeat for %s: %w", h.ttl, work.ErrSessionLost))
	}
}

// lift ends the fence.
func (h *heart) lift(hold context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log.Info("the attempt is had again", "after", time.Since(h.fence.since).Round(time.Millisecond))
	close(h.fence.lifted)
	h.fence = nil
	h.lease, h.cut = context.WithCancelCause(hold)
}

// takeBack tries to take the attempt back until it has it, or never can.
func (h *heart) takeBack(hold context.Context, f *fence) {
	over := f.since.Add(h.grace)
	said := ""
	for {
		err := h.regain(hold, over)
		switch {
		case err == nil:
			h.lift(hold)
			return
		case hold.Err() != nil:
			return
		case errors.Is(err, work.ErrAttemptLost):
			h.giveUp(err)
			return
		case h.told.Err() != nil:
			h.giveUp(fmt.Errorf("%w: %w", ErrStopped, f.cause))
			return
		case !time.Now().Before(over):
			h.giveUp(fmt.Errorf("not taken back within %s: %w: %w", h.grace, err, f.cause))
			return
		}
		if text := err.Error(); text != said {
			h.log.Warn("the attempt is not taken back yet, trying again", "left", time.Until(over).Round(time.Second), "error", err)
			said = text
		}
		select {
		case <-hold.Done():
		case <-h.told.Done():
		case <-time.After(min(regainPause, time.Until(over))):
		}
	}
}

// regain tries to take the attempt back once, and stores what must be stored first.
func (h *heart) regain(hold context.Context, over time.Time) error {
	if err := h.dog.stuck(); err != nil {
		return err
	}
	if h.told.Err() != nil {
		return ErrStopped
	}
	ctx, cancel := context.WithDeadline(hold, earlier(time.Now().Add(consulTimeout), over))
	defer cancel()
	defer context.AfterFunc(h.told, cancel)()
	started := time.Now()
	if err := h.claim.Regain(ctx); err != nil {
		return err
	}
	if err := h.restore(ctx); err != nil {
		return fmt.Errorf("store the progress: %w", err)
	}
	h.trust(started)
	return nil
}

// giveUp ends the hold: the attempt is not the worker's any more.
func (h *heart) giveUp(cause error) { h.lose(fmt.Errorf("%w: %w", ErrFenced, cause)) }

// hold returns nil while the lease is good. While the worker is fenced it waits.
func (h *heart) hold(ctx context.Context) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h.expire() // a process that was stopped may be the first to notice
		f := h.fenced()
		if f == nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-f.lifted:
		}
	}
}

// unfenced returns a context that ends when the fence falls. The caller calls end.
func (h *heart) unfenced(ctx context.Context) (good context.Context, end func()) {
	h.mu.Lock()
	lease := h.lease
	h.mu.Unlock()
	good, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(lease, func() { cancel(context.Cause(lease)) })
	return good, func() {
		stop()
		cancel(nil)
	}
}

// held calls something that only a worker with a good lease may do. It waits while
// the worker is fenced, and calls again where the fence falls meanwhile.
func (h *heart) held(ctx context.Context, call func(context.Context) error) error {
	for {
		if err := h.hold(ctx); err != nil {
			return err
		}
		good, end := h.unfenced(ctx)
		err := call(good)
		cut := good.Err() != nil
		end()
		if errors.Is(err, work.ErrSessionLost) {
			h.fall(err)
			cut = true
		}
		if err == nil || !cut || ctx.Err() != nil {
			return err
		}
	}
}
