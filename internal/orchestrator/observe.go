package orchestrator

import (
	"context"
	"time"

	"drover/internal/wait"
	"drover/internal/work"
)

// retryPause is how long a watch that failed rests.
const retryPause = time.Second

// eventLoop follows Nomad's event stream. Whenever it breaks, everything is
// compared anew, because the stream can skip events without a word.
func (o *Orchestrator) eventLoop(ctx context.Context) error {
	select {
	case <-o.listed: // from where to watch is known
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		err := o.cluster.Watch(ctx, o.index.Load(), func(a work.Allocation) {
			o.eventSeen(a)
			o.spawn(ctx, func() { o.observe(ctx, a) })
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		o.log.Debug("event stream broke, comparing everything", "error", err)
		nudge(o.look)
		if err := wait.For(ctx, retryPause); err != nil {
			return err
		}
	}
}

// observe takes note of an allocation.
func (o *Orchestrator) observe(ctx context.Context, a work.Allocation) {
	e := o.entry(a.Attempt.Item())
	if e == nil {
		o.lookAtUnknown(a.Child)
		return
	}
	current := e.item.Load().Current()
	switch {
	case current == nil || current.ID != a.Attempt:
		return
	case current.State.Terminal():
		o.cleanup(ctx, e, a.Attempt)
	case current.Allocation != "" && current.Allocation != a.ID:
		// A second allocation of the attempt does nothing (rule 10); what counts is the first one's end.
	case a.Ended():
		o.conclude(ctx, e, a.Attempt, a.Ending())
	case a.Running() && current.State == work.AttemptStarting:
		o.start(ctx, e, a)
	}
}

// lookAtUnknown has a child that no item knows looked at soon, to be adopted or reported.
func (o *Orchestrator) lookAtUnknown(child string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.reported[child] {
		nudge(o.look)
	}
}

func (o *Orchestrator) start(ctx context.Context, e *entry, a work.Allocation) {
	if err := e.lock(ctx); err != nil {
		return
	}
	defer e.unlock()
	if current := e.item.Load().Current(); current.ID != a.Attempt || current.State != work.AttemptStarting {
		return
	}
	at := a.Task.Started
	if at.IsZero() {
		at = time.Now()
	}
	started := work.Started{Attempt: a.Attempt, Allocation: a.ID, Node: a.Node, At: at.UTC()}
	o.complain("start not stored", a.Attempt, o.apply(ctx, e, started))
}

// resultLoop applies what workers report.
func (o *Orchestrator) resultLoop(ctx context.Context) error {
	var index uint64
	for {
		results, next, err := o.store.Results(ctx, index)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			o.steady.failed()
			o.complain("results not read", "", err)
			if err := wait.For(ctx, retryPause); err != nil {
				return err
			}
			continue
		}
		index = next
		o.results(ctx, results)
	}
}

// results applies every result: of a current attempt as its end, of another for the record.
func (o *Orchestrator) results(ctx context.Context, results []work.Result) {
	for _, r := range results {
		o.spawn(ctx, func() {
			e := o.entry(r.Attempt.Item())
			switch {
			case e == nil:
				o.complain("result of an unknown item not removed", r.Attempt, o.ledger.Commit(ctx, work.Change{ConsumeResult: r.Attempt}))
			case e.item.Load().CurrentID() == r.Attempt && !e.item.Load().Current().State.Terminal():
				o.conclude(ctx, e, r.Attempt, endingOf(r))
			default:
				o.late(ctx, e, r)
			}
		})
	}
}

func (o *Orchestrator) late(ctx context.Context, e *entry, r work.Result) {
	if err := e.lock(ctx); err != nil {
		return
	}
	defer e.unlock()
	if a := e.item.Load().Attempt(r.Attempt.Number()); a != nil && a.Result != nil && a.Result.Allocation == r.Allocation {
		return // applied while this waited
	}
	err := o.apply(ctx, e, work.LateResult{Result: r}, work.Change{ConsumeResult: r.Attempt})
	if err == nil {
		o.logOf(r.Attempt).Info("late result kept for the record", "reason", r.Reason)
	}
	o.complain("late result not kept", r.Attempt, err)
}
