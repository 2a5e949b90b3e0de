package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"drover/internal/wait"
	"drover/internal/work"
)

// Timing is the times that a push hangs from, for a test that can't wait as long.
// A zero field stands for its default.
type Timing struct {
	PushTrust  time.Duration // work.PushTrust
	LeaseCheck time.Duration // how often a push that is under way has the session confirmed, 2 s
}

const defaultLeaseCheck = 2 * time.Second

func (t Timing) withDefaults() Timing {
	return Timing{PushTrust: cmp.Or(t.PushTrust, work.PushTrust), LeaseCheck: cmp.Or(t.LeaseCheck, defaultLeaseCheck)}
}

// pushLease is the right to push. The heartbeats alone do not give it: a session can
// end while they are still trusted, when Consul's agent dies or an operator breaks
// a lock. The context it returns ends PushTrust after the start of the last
// question to Consul that proved the session; what pushes is killed with it, so that
// nothing is left of a push when the paths may be another's. It ends at once when
// the fence falls. It waits while the worker is fenced, and for a Consul that does
// not answer. The caller calls end when the push is over.
//
// It returns the cause of ctx, or of the hold above it, when that ends first.
func (h *heart) pushLease(ctx context.Context) (leased context.Context, end func(), err error) {
	for {
		if err := h.hold(ctx); err != nil {
			return nil, nil, err
		}
		started := time.Now()
		if err = h.confirm(ctx, started); err == nil {
			leased, end = h.renewed(ctx, started)
			return leased, end, nil
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		if h.fenced() != nil {
			continue
		}
		h.log.Warn("no push before Consul confirms the session, trying again", "error", err)
		if err := wait.For(ctx, retryPause); err != nil {
			return nil, nil, err
		}
	}
}

// leased writes to the remote under a lease. It returns what pushLease and write return.
func (w *worker) leased(ctx context.Context, write func(context.Context) error) error {
	leased, end, err := w.heart.pushLease(ctx)
	if err != nil {
		return err
	}
	defer end()
	return write(leased)
}

// confirm asks Consul for the session; an answer counts for a lease that begins at
// started. Without a session the fence falls.
func (h *heart) confirm(ctx context.Context, started time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, started.Add(h.timing.PushTrust))
	defer cancel()
	err := h.claim.Confirm(ctx)
	switch {
	case err == nil:
		h.trust(started)
	case errors.Is(err, work.ErrSessionLost):
		h.fall(err)
	}
	return err
}

// renewed returns a context that lives on for as long as confirmations come.
func (h *heart) renewed(ctx context.Context, started time.Time) (leased context.Context, end func()) {
	good, endGood := h.unfenced(ctx)
	leased, cancel := context.WithCancelCause(good)
	unconfirmed := fmt.Errorf("%w: Consul did not confirm it for %s", errLeaseEnded, h.timing.PushTrust)
	expiry := time.AfterFunc(time.Until(started.Add(h.timing.PushTrust)), func() { cancel(unconfirmed) })
	var renewal sync.WaitGroup
	renewal.Go(func() {
		for wait.For(leased, h.timing.LeaseCheck) == nil {
			started := time.Now()
			switch err := h.confirm(leased, started); {
			case err == nil:
				expiry.Reset(time.Until(started.Add(h.timing.PushTrust)))
			case leased.Err() == nil:
				h.log.Warn("a push is under way, and Consul does not confirm the session", "error", err)
			}
		}
	})
	return leased, func() {
		cancel(nil)
		renewal.Wait()
		expiry.Stop()
		endGood()
	}
}
