package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"drover/internal/wait"
	"drover/internal/work"
)

// leaseCheck is how often a push that is under way has the hold confirmed.
const leaseCheck = 2 * time.Second

var errUnconfirmed = fmt.Errorf("the attempt's session was not confirmed by Consul for %s", work.PushTrust)

// lease is the right to push. The heartbeats alone do not give it: a session can
// end while they are still trusted, when Consul's agent dies or an operator breaks
// a lock. The context it returns ends work.PushTrust after the start of the last
// question to Consul that proved the hold; what pushes is killed with it, so that
// nothing is left of a push when the hold's locks may be another's. It waits for a
// Consul that does not answer. The caller calls end when the push is over.
//
// It returns the hold's cause when that is lost, and that of ctx when it ends first.
func (h *heart) lease(ctx context.Context) (leased context.Context, end func(), err error) {
	for {
		started := time.Now()
		if err = h.confirm(ctx, started); err == nil {
			leased, end = h.renewed(ctx, started)
			return leased, end, nil
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		if errors.Is(err, work.ErrSessionLost) {
			return nil, nil, err
		}
		h.log.Warn("no push before Consul confirms the session, trying again", "error", err)
		h.touch() // or a Consul that stays away would not be noticed
		if err := wait.For(ctx, retryPause); err != nil {
			return nil, nil, err
		}
	}
}

// leased writes to the remote under a lease. It returns what lease and write return.
func (w *worker) leased(ctx context.Context, write func(context.Context) error) error {
	leased, end, err := w.heart.lease(ctx)
	if err != nil {
		return err
	}
	defer end()
	return write(leased)
}

// confirm asks Consul for the hold; an answer counts for a lease that begins at started.
func (h *heart) confirm(ctx context.Context, started time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, started.Add(work.PushTrust))
	defer cancel()
	err := h.claim.Confirm(ctx)
	if errors.Is(err, work.ErrSessionLost) {
		return h.fall(err)
	}
	return err
}

// renewed returns a context that lives on for as long as confirmations come.
func (h *heart) renewed(ctx context.Context, started time.Time) (leased context.Context, end func()) {
	leased, cancel := context.WithCancelCause(ctx)
	expiry := time.AfterFunc(time.Until(started.Add(work.PushTrust)), func() { cancel(errUnconfirmed) })
	var renewal sync.WaitGroup
	renewal.Go(func() {
		for wait.For(leased, leaseCheck) == nil {
			started := time.Now()
			switch err := h.confirm(leased, started); {
			case err == nil:
				expiry.Reset(time.Until(started.Add(work.PushTrust)))
			case errors.Is(err, work.ErrSessionLost):
				cancel(err)
			case leased.Err() == nil:
				h.log.Warn("a push is under way, and Consul does not confirm the session", "error", err)
			}
		}
	})
	return leased, func() {
		cancel(nil)
		renewal.Wait()
		expiry.Stop()
	}
}
