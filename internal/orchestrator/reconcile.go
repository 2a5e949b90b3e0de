package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/internal/work"
)

// claimRetention is how long a closed claim outlives its attempt's child, so
// that an allocation Nomad starts late still finds it.
const claimRetention = 10 * time.Minute

// limitCheck is how often the time limits of open attempts are looked at.
const limitCheck = time.Second

// idleRunner is how old a worker job of unusual resources gets when nothing
// uses it, and how often that is looked at.
const idleRunner = time.Hour

// vanishedGrace is how long after its dispatch a child must have been listed.
const vanishedGrace = 10 * time.Second

// overtimeGrace is how long the worker's own clock may run over before the
// orchestrator ends the attempt itself.
const overtimeGrace = time.Minute

// reconcileLoop compares everything regularly, and whenever it is nudged.
func (o *Orchestrator) reconcileLoop(ctx context.Context) error {
	full := time.NewTicker(o.cfg.ReconcileEvery)
	defer full.Stop()
	limits := time.NewTicker(limitCheck)
	defer limits.Stop()
	idle := time.NewTicker(idleRunner)
	defer idle.Stop()
	var again <-chan time.Time
	_ = o.askNomad(ctx) // the first comparison asks again
	close(o.asked)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-limits.C:
			o.limits(ctx, time.Now())
			continue
		case <-idle.C:
			o.complain("idle worker jobs not removed", "", o.cluster.RemoveIdleRunners(ctx, time.Now().Add(-idleRunner)))
			continue
		case <-full.C:
		case <-o.look:
		case <-again:
		}
		again = nil
		if err := o.reconcile(ctx); err != nil {
			o.complain("comparison failed, trying again", "", err)
			again = time.After(retryPause)
		}
	}
}

// reconcile compares what is open with what Nomad and Consul have, and acts on
// every difference. Doing it twice changes nothing.
func (o *Orchestrator) reconcile(ctx context.Context) (err error) {
	began := time.Now()
	defer func() { o.observer.Reconciled(time.Since(began), err) }()
	if err := o.askNomad(ctx); err != nil {
		return err
	}
	children, index, err := o.cluster.Children(ctx)
	if err != nil {
		return err
	}
	o.index.Store(index)
	select {
	case <-o.listed:
	default:
		close(o.listed)
	}
	listed := map[work.AttemptID]string{}
	withChild := map[string]bool{}
	for _, child := range children {
		withChild[child.Attempt.Item()] = true
		o.compare(ctx, child, listed)
	}
	o.mu.Lock()
	o.withChild = withChild
	o.mu.Unlock()
	for _, e := range o.openItems() {
		o.missing(ctx, e, listed, began)
	}
	o.expire(ctx, began)
	results, _, err := o.store.Results(ctx, 0)
	if err != nil {
		return err
	}
	o.results(ctx, results)
	return o.forget(ctx, children)
}

// compare acts on one child.
func (o *Orchestrator) compare(ctx context.Context, child work.Child, listed map[work.AttemptID]string) {
	e := o.entry(child.Attempt.Item())
	if e == nil && child.ByHand {
		e = o.adopt(ctx, child)
	}
	if e == nil {
		o.reportUnknown(child, "it belongs to no item that is stored here")
		return
	}
	item := e.item.Load()
	attempt := item.Attempt(child.Attempt.Number())
	switch {
	case item.Summarised(child.Attempt.Number()):
		o.complain("child of a summarised attempt not removed", child.Attempt, o.removeLeftover(ctx, child))
		return
	case attempt == nil:
		o.reportUnknown(child, "its item has no such attempt")
		return
	case attempt.Child != "" && attempt.Child != child.ID:
		o.logOf(child.Attempt).Warn("a twin of an attempt's child is stopped", "child", attempt.Child, "twin", child.ID)
		o.complain("twin not stopped", child.ID, o.cluster.Stop(ctx, child.ID, true))
		return
	case attempt.Child == "" && attempt.State.Terminal():
		o.logOf(child.Attempt).Warn("a child whose attempt ended before the dispatch was recorded is stopped", "child", child.ID)
		o.complain("child of an ended attempt not stopped", child.ID, o.cluster.Stop(ctx, child.ID, true))
		return
	}
	listed[child.Attempt] = child.ID
	if attempt.State.Terminal() {
		o.spawn(ctx, func() { o.cleanup(ctx, e, child.Attempt) })
		return
	}
	o.spawn(ctx, func() { o.follow(ctx, e, child) })
}

// removeLeftover removes what an attempt left whose own record is summarised.
func (o *Orchestrator) removeLeftover(ctx context.Context, child work.Child) error {
	if err := o.endSession(ctx, child.Attempt); err != nil {
		return err
	}
	return o.cluster.Stop(ctx, child.ID, true)
}

// follow brings an open attempt in step with its child.
func (o *Orchestrator) follow(ctx context.Context, e *entry, child work.Child) {
	o.recordChild(ctx, e, child)
	for _, a := range child.Allocations {
		o.observe(ctx, a)
	}
	if child.Stopped && len(child.Allocations) == 0 {
		o.conclude(ctx, e, child.Attempt, work.Ending{Reason: work.ReasonKilledByOperator, Detail: "the Nomad job was stopped by hand before it was placed"})
	}
}

// recordChild stores what a crash kept from being stored: the child's name, and
// what it waits for.
func (o *Orchestrator) recordChild(ctx context.Context, e *entry, child work.Child) {
	if err := e.lock(ctx); err != nil {
		return
	}
	defer e.unlock()
	item := e.item.Load()
	current := item.Current()
	if current.ID != child.Attempt || current.State != work.AttemptStarting {
		return
	}
	if current.Child == "" {
		o.complain("child not recorded", child.ID, o.apply(ctx, e, work.Dispatched{Attempt: child.Attempt, Child: child.ID}))
	}
	if child.Blocked != "" && item.Why != child.Blocked {
		o.complain("wait not recorded", child.ID, o.apply(ctx, e, work.Waiting{Attempt: child.Attempt, For: child.Blocked}))
	}
}

// missing acts on an open attempt whose child Nomad did not list: it is sent if
// it never was, and over if it was removed.
func (o *Orchestrator) missing(ctx context.Context, e *entry, listed map[work.AttemptID]string, began time.Time) {
	current := e.item.Load().Current()
	if current == nil || current.State.Terminal() || listed[current.ID] != "" {
		return
	}
	if current.Child == "" {
		o.spawn(ctx, func() { o.resend(ctx, e, current.ID) })
		return
	}
	if current.DispatchedAt.Add(vanishedGrace).After(began) {
		return
	}
	o.spawn(ctx, func() {
		if _, err := o.cluster.Child(ctx, current.Child); errors.Is(err, work.ErrNotFound) {
			o.complain("end of an attempt without a Nomad job not stored", current.ID, o.vanished(ctx, e, *current))
		}
	})
}

// resend dispatches an attempt whose dispatch was not recorded.
func (o *Orchestrator) resend(ctx context.Context, e *entry, a work.AttemptID) {
	if !e.tryLock() {
		return // it is being dispatched at this moment
	}
	defer e.unlock()
	current := e.item.Load().Current()
	if current.ID != a || current.State.Terminal() || current.Child != "" {
		return
	}
	o.complain("attempt not dispatched", a, o.send(ctx, e))
}

// reportUnknown says once that a child is left alone, and why.
func (o *Orchestrator) reportUnknown(child work.Child, why string) {
	o.mu.Lock()
	known := o.reported[child.ID]
	o.reported[child.ID] = true
	o.mu.Unlock()
	if !known {
		o.log.Warn("a child of the worker job is left alone", "child", child.ID, "status", child.Status, "why", why)
	}
}

// expire fails items that waited for a first dispatch longer than they may.
func (o *Orchestrator) expire(ctx context.Context, now time.Time) {
	for _, item := range o.snapshot() {
		if item.State == work.StateQueued && len(item.Spec.DependsOn) > 0 {
			o.trackID(item.ID) // should its end have failed to be stored
		}
		since := item.CreatedAt
		if item.Spec.NotBefore.After(since) {
			since = item.Spec.NotBefore
		}
		if item.State == work.StateQueued && item.AttemptCount() == 0 && now.Sub(since) > item.Spec.Limits.QueueTimeout.Std() {
			e := o.entry(item.ID)
			o.spawn(ctx, func() {
				if err := e.lock(ctx); err != nil {
					return
				}
				defer e.unlock()
				if e.item.Load().State == work.StateQueued {
					o.complain("item not expired", item.ID, o.apply(ctx, e, work.Expired{}))
				}
			})
		}
	}
}

// forget removes the records of attempts that ended a while ago and whose child is gone.
func (o *Orchestrator) forget(ctx context.Context, children []work.Child) error {
	exists := map[work.AttemptID]bool{}
	for _, child := range children {
		exists[child.Attempt] = true
	}
	claims, err := o.store.Claims(ctx)
	if err != nil {
		return err
	}
	for _, claim := range claims {
		if claim.Ended && !exists[claim.Attempt] && time.Since(claim.EndedAt) > claimRetention {
			if err := o.ledger.Commit(ctx, work.Change{Forget: claim.Attempt}); err != nil {
				return err
			}
		}
	}
	return nil
}

// limits ends what has taken longer than it may.
func (o *Orchestrator) limits(ctx context.Context, now time.Time) {
	for _, e := range o.openItems() {
		item := e.item.Load()
		current := item.Current()
		if current == nil || current.State.Terminal() {
			continue
		}
		end, over := overdue(item, now)
		switch {
		case !over:
		case current.State == work.AttemptStarting && o.away.Load() == nil:
			o.spawn(ctx, func() { o.complain("late start not looked into", current.ID, o.startedLate(ctx, e, current, end)) })
		case current.State == work.AttemptRunning && current.Suspicion != nil: // what ended it is not the time
		case current.State == work.AttemptRunning && o.steady.since(now) >= o.cfg.Steady: // or else its result may be on its way
			o.spawn(ctx, func() { o.conclude(ctx, e, current.ID, end) })
		}
	}
}

// startedLate ends an attempt that has no container in time, unless it has one
// that was not seen for as long as Nomad was away.
func (o *Orchestrator) startedLate(ctx context.Context, e *entry, current *work.Attempt, end work.Ending) error {
	child, err := o.cluster.Child(ctx, current.Child)
	if errors.Is(err, work.ErrNotFound) {
		return nil // the comparison finds it, too
	}
	if err != nil {
		return err
	}
	for _, a := range child.Allocations {
		if a.Running() || a.Ended() {
			o.observe(ctx, a)
			return nil
		}
	}
	claim, index, err := o.store.Claim(ctx, current.ID)
	if err != nil || index != 0 && !claim.Ended {
		return err // its worker runs, and Nomad will say so
	}
	o.conclude(ctx, e, current.ID, end)
	return nil
}

// overdue says whether an open attempt is over its time, and how it ends then.
// An attempt that Nomad was never told of has no limit: that is Nomad's trouble.
func overdue(item *work.Item, now time.Time) (work.Ending, bool) {
	current, limits := item.Current(), item.Spec.Limits
	switch {
	case current.State == work.AttemptStarting && current.Child != "" && now.Sub(current.DispatchedAt) > limits.StartTimeout.Std():
		return work.Ending{Reason: work.ReasonStartFailed, Detail: fmt.Sprintf("no container within %s; %s", limits.StartTimeout, item.Why)}, true
	case current.State == work.AttemptRunning && now.Sub(current.StartedAt) > limits.Timeout.Std()+overtimeGrace:
		return work.Ending{Reason: work.ReasonTimeout, Detail: fmt.Sprintf("ran longer than %s", limits.Timeout)}, true
	}
	return work.Ending{}, false
}
