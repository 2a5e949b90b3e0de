package orchestrator

import (
	"context"
	"errors"
	"time"

	"drover/internal/work"
)

// errBreakerOpened says that the repository's breaker opened after an item of it was picked.
var errBreakerOpened = errors.New("the repository's breaker opened meanwhile")

// escort is what changes in the same transaction as an item: the breaker of its
// repository and the record of its queue. They are locked until it is over.
type escort struct {
	changes []work.Change
	taken   []func() // what follows in memory once it is stored; the caller holds mu
	latches []latch
}

func (x *escort) takeOver() {
	for _, f := range x.taken {
		f()
	}
}

func (x *escort) unlock() {
	for _, l := range x.latches {
		l.unlock()
	}
}

func (x *escort) lock(ctx context.Context, l latch) error {
	if err := l.lock(ctx); err != nil {
		return err
	}
	x.latches = append(x.latches, l)
	return nil
}

// alongside returns what changes along with a transition. It returns
// errBreakerOpened for an attempt that must not begin, and the context's cause.
func (o *Orchestrator) alongside(ctx context.Context, before, after *work.Item) (*escort, error) {
	x := &escort{}
	var err error
	switch last := after.Current(); {
	case last == nil:
	case last.Aside(): // no agent runs, and these attempts have a pace of their own
	case len(after.Attempts) > len(before.Attempts):
		err = o.alongsideStart(ctx, x, after, last)
	case last.State.Terminal() && !before.Current().State.Terminal():
		if err = o.alongsideEnd(ctx, x, after, last); err == nil {
			err = o.slowDown(ctx, x, after, last)
		}
	}
	if err != nil {
		x.unlock()
		return nil, err
	}
	return x, nil
}

// alongsideStart has a breaker that is not closed remember whom it lets through.
func (o *Orchestrator) alongsideStart(ctx context.Context, x *escort, item *work.Item, a *work.Attempt) error {
	b := o.knownBreaker(item.Spec.Repository)
	if b == nil {
		return nil
	}
	if err := x.lock(ctx, b.latch); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case b.Closed():
		return nil
	case !b.MayTry(a.CreatedAt) && !o.trialLost(b):
		return errBreakerOpened
	}
	next := b.Try(a.ID, a.CreatedAt)
	x.changes = append(x.changes, breakerChange(next))
	x.taken = append(x.taken, func() { o.setBreaker(b, next) })
	return nil
}

// alongsideEnd has the breaker count an attempt's end, and the queue what it spent.
func (o *Orchestrator) alongsideEnd(ctx context.Context, x *escort, item *work.Item, a *work.Attempt) error {
	b := o.breaker(work.RepositoryKey(item.Spec.Repository))
	if err := x.lock(ctx, b.latch); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	was := b.Breaker
	next := was.Ended(a.ID, a.Reason, o.cfg.Breaker, a.EndedAt)
	if !was.Quiet() || !next.Quiet() {
		x.changes = append(x.changes, breakerChange(next))
	}
	x.taken = append(x.taken, func() {
		o.setBreaker(b, next)
		o.line(item.Spec.Queue).spend(o.unsampled(a))
		if was.State != next.State && !next.Closed() {
			o.log.Warn("the breaker of a repository is not closed", "repository", next.Repository, "state", next.State, "why", next.Why, "until", next.Until)
		}
	})
	return nil
}

// slowDown has the queue of an attempt that hit a limit wait.
func (o *Orchestrator) slowDown(ctx context.Context, x *escort, item *work.Item, a *work.Attempt) error {
	o.mu.Lock()
	l := o.line(item.Spec.Queue)
	steady := l.record.Slow.Strikes == 0
	o.mu.Unlock()
	if a.Reason != work.ReasonRateLimited && steady {
		return nil
	}
	if err := x.lock(ctx, l.latch); err != nil {
		return err
	}
	longest := o.policy(item.Spec).RateLimitWait.Std()
	o.mu.Lock()
	defer o.mu.Unlock()
	next := l.record
	if a.Reason == work.ReasonRateLimited {
		next.Slow = next.Slow.Limited(a.ID, work.Ending{RetryAt: retryAt(a), Detail: a.Detail}, longest, a.EndedAt)
	} else {
		next.Slow = next.Slow.Progressed(a.CreatedAt)
	}
	if next.Slow == l.record.Slow {
		return nil
	}
	x.changes = append(x.changes, work.Change{PutQueue: &next})
	x.taken = append(x.taken, func() {
		l.keep(next)
		if a.Reason == work.ReasonRateLimited {
			o.log.With(item.LogFields(a)...).Warn("a queue waits for a limit to reset", "until", next.Slow.Until, "detail", a.Detail)
		}
	})
	return nil
}

// retryAt is when the limit that ended an attempt resets, as far as it said so.
func retryAt(a *work.Attempt) time.Time {
	if a.Result == nil {
		return time.Time{}
	}
	return a.Result.RetryAt
}
