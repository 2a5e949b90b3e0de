package orchestrator

import (
	"context"
	"time"

	"drover/internal/wait"
	"drover/internal/work"
)

// budgetEvery is how often it is looked up what attempts under way have used, for
// the queues that have a budget of the hour.
const budgetEvery = 10 * time.Second

// budgetLoop counts what attempts use while they use it: one of two hours would
// otherwise be free until it ends.
func (o *Orchestrator) budgetLoop(ctx context.Context) error {
	for {
		if o.budgeted() {
			progresses, err := o.store.Progresses(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				o.complain("use of running attempts not read, trying again", "", err)
			}
			o.sample(progresses, time.Now().UTC())
		}
		if err := wait.For(ctx, budgetEvery); err != nil {
			return err
		}
	}
}

// budgeted reports whether a queue has a budget.
func (o *Orchestrator) budgeted() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.lines {
		if value(l.settings.TokensPerHour) > 0 || value(l.settings.CostUSDPerHour) > 0 {
			return true
		}
	}
	return false
}

// sample counts what attempts under way have used since the last time.
func (o *Orchestrator) sample(progresses []work.Progress, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range progresses {
		e := o.entries[p.Attempt.Item()]
		if e == nil {
			continue
		}
		item := e.item.Load()
		a := item.Current()
		if a == nil || a.ID != p.Attempt || a.State.Terminal() || a.Aside() {
			continue
		}
		before, known := o.sampled[a.ID]
		total := spent{
			at: earlier(p.At, now), sample: true,
			tokens:  max(before.tokens, p.Tokens.In+p.Tokens.Out-item.Tokens.In-item.Tokens.Out),
			costUSD: max(before.costUSD, p.CostUSD-item.CostUSD),
		}
		o.sampled[a.ID] = total
		since := spent{at: now, sample: true, tokens: total.tokens - before.tokens, costUSD: total.costUSD - before.costUSD}
		if ran := now.Sub(a.StartedAt); !known && !a.StartedAt.IsZero() && ran > budgetWindow {
			share := budgetWindow.Seconds() / ran.Seconds() // of what it used before this leader looked, what was within the window
			since.tokens, since.costUSD = int64(float64(since.tokens)*share), since.costUSD*share
		}
		o.line(item.Spec.Queue).spend(since)
	}
}

// unsampled returns what an ended attempt used and was not counted while it ran.
// The caller holds mu.
func (o *Orchestrator) unsampled(a *work.Attempt) spent {
	counted := o.sampled[a.ID]
	delete(o.sampled, a.ID)
	return spent{at: a.EndedAt, tokens: a.Tokens.In + a.Tokens.Out - counted.tokens, costUSD: a.CostUSD - counted.costUSD}
}
