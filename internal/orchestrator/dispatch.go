package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"drover/internal/queue"
	"drover/internal/work"
)

// idleCheck is how long the dispatcher sleeps when nothing is due.
const idleCheck = time.Minute

// dispatchLoop keeps as many attempts in flight as may be.
func (o *Orchestrator) dispatchLoop(ctx context.Context) error {
	select {
	case <-o.asked: // without Nomad, items wait where they are
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		for _, e := range o.takeDoomed() {
			o.spawn(ctx, func() { o.complain("item not ended", e.item.Load().ID, o.doom(ctx, e)) })
		}
		for e := o.next(); e != nil; e = o.next() {
			o.spawn(ctx, func() { o.complain("item not dispatched", e.item.Load().ID, o.dispatch(ctx, e)) })
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		timer := time.NewTimer(o.untilDue())
		select {
		case <-o.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// next takes the next item that may run and counts it as in flight, nil if
// there is none or no room.
func (o *Orchestrator) next() *entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.queue.Running() >= o.cfg.MaxInFlight || o.away.Load() != nil {
		return nil
	}
	now := time.Now()
	o.closeBroken(now)
	picked, ok := o.queue.Next(now, func(name string) queue.Gate { return o.gate(name, now) })
	if !ok {
		return nil
	}
	o.open[picked.ID] = picked.Queue
	o.lines[picked.Queue].dispatched(now)
	o.letThrough(picked)
	return o.entries[picked.ID]
}

// untilDue is how long nothing new can run. Without room that is until an
// attempt ends, which wakes the dispatcher.
func (o *Orchestrator) untilDue() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	pause := idleCheck
	if o.queue.Running() >= o.cfg.MaxInFlight || o.away.Load() != nil {
		return pause
	}
	now := time.Now()
	until := func(t time.Time) {
		if t.After(now) {
			pause = min(pause, max(t.Sub(now), time.Millisecond))
		}
	}
	if due, ok := o.queue.Due(); ok {
		pause = min(pause, max(due.Sub(now), time.Millisecond))
	}
	for name, l := range o.lines {
		for _, w := range l.waits(now, o.queue.InFlight(name)) {
			until(w.Until)
		}
	}
	for _, b := range o.broken {
		until(b.Until)
	}
	return pause
}

// dispatch stores that the item's next attempt is assigned, then starts it. A
// crash in between leaves an assigned item without a child; reconcile sends it
// again, and the token makes that the same child.
func (o *Orchestrator) dispatch(ctx context.Context, e *entry) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	if e.item.Load().State != work.StateQueued {
		o.track(e)
		return nil // cancelled meanwhile
	}
	if err := o.apply(ctx, e, work.Assigned{}); err != nil {
		o.track(e)
		if errors.Is(err, errBreakerOpened) {
			return nil // it waits again
		}
		return err
	}
	return o.send(ctx, e)
}

// send starts the item's current attempt. The caller has e locked, so that one
// attempt is never sent twice at a time.
func (o *Orchestrator) send(ctx context.Context, e *entry) error {
	item := e.item.Load()
	envelope, err := o.envelope(ctx, item)
	if err != nil {
		return err
	}
	child, err := o.cluster.Dispatch(ctx, envelope)
	switch {
	case err == nil:
		return o.apply(ctx, e, work.Dispatched{Attempt: envelope.Attempt, Child: child})
	case errors.Is(err, work.ErrInvalid), errors.Is(err, work.ErrPayloadTooLarge):
		return o.end(ctx, e, envelope.Attempt, work.Ending{Reason: work.ReasonStartFailed, Detail: err.Error()})
	case ctx.Err() != nil:
		return err
	}
	// Nomad's trouble is not the item's: it stays assigned and is sent again.
	nudge(o.look)
	why := fmt.Sprintf("attempt %d waits for Nomad: %v", envelope.Attempt.Number(), err)
	if item.Why == why {
		return err
	}
	return errors.Join(err, o.apply(ctx, e, work.Waiting{Attempt: envelope.Attempt, For: why}))
}

// envelope returns what to dispatch: the whole, or a reference to the whole in
// KV when it does not fit a payload.
func (o *Orchestrator) envelope(ctx context.Context, item *work.Item) (work.Envelope, error) {
	envelope := o.traced(item.Envelope(o.cfg.KVPrefix))
	envelope.Resume.LastLog = o.lastLog(ctx, item)
	data, err := json.Marshal(envelope)
	if err != nil {
		return work.Envelope{}, fmt.Errorf("envelope of attempt %s: %w", envelope.Attempt, err)
	}
	if len(data) <= work.MaxPayloadBytes {
		return envelope, nil
	}
	if err := o.ledger.Commit(ctx, work.Change{PutEnvelope: &envelope}); err != nil {
		return work.Envelope{}, fmt.Errorf("store envelope of attempt %s: %w", envelope.Attempt, err)
	}
	return envelope.Referenced(), nil
}
