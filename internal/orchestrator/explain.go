package orchestrator

import (
	"context"
	"fmt"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// Explain says why an item is where it is and, while it is queued, everything it
// waits for. It returns what Item returns.
func (o *Orchestrator) Explain(ctx context.Context, id string) (control.Explanation, error) {
	e, err := o.find(ctx, id)
	if err != nil {
		return control.Explanation{}, err
	}
	item := e.item.Load()
	explained := control.Explanation{Item: item.ID, State: item.State, Why: item.Why}
	if item.State == work.StateQueued {
		f := o.facts(item, time.Now())
		o.mu.Lock()
		f.ahead = o.queue.Ahead(item.ID)
		o.mu.Unlock()
		explained.Waits = explain(f)
		explained.Why = explained.Waits[0].Sentence
	}
	o.diagnose(ctx, item, &explained)
	return explained, nil
}

// told returns an item whose sentence says what it waits for at the moment.
func (o *Orchestrator) told(item *work.Item) work.Item {
	told := *item
	if item.State == work.StateQueued {
		if first := explain(o.facts(item, time.Now()))[0]; first.Kind != control.WaitTurn {
			told.Why = first.Sentence
		}
	}
	return told
}

// facts are what there is to know about why an item waits.
type facts struct {
	item      *work.Item
	now       time.Time
	depends   []*work.Item // on these, as far as they are not over
	queue     []control.Wait
	breaker   *work.Breaker // nil unless it keeps the item waiting
	holders   []control.Wait
	away      *outage // of Nomad; nil while it answers
	ahead     int
	inFlight  int // over all queues
	maxFlight int
}

// facts collects them, but for how many come first.
func (o *Orchestrator) facts(item *work.Item, now time.Time) facts {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := facts{item: item, now: now, away: o.away.Load(), inFlight: o.queue.Running(), maxFlight: o.cfg.MaxInFlight}
	for _, id := range item.Spec.DependsOn {
		if e := o.entries[id]; e != nil && e.item.Load().State != work.StateCompleted {
			f.depends = append(f.depends, e.item.Load())
		}
	}
	f.queue = o.line(item.Spec.Queue).waits(now, o.queue.InFlight(item.Spec.Queue))
	if b := o.broken[work.RepositoryKey(item.Spec.Repository)]; b != nil && !o.mayPass(b, now) {
		stands := b.Breaker
		f.breaker = &stands
	}
	standing, _ := o.queue.Standing(item.ID, now)
	for _, h := range standing.Holders {
		w := control.Wait{Kind: control.WaitPaths, Item: h.Item, Attempt: h.Attempt, Since: h.Since, Paths: h.Paths}
		if h.Attempt == 0 {
			w.Sentence = fmt.Sprintf("%s: item %s waits for it since %s and goes first", strings.Join(h.Paths, ", "), h.Item, stamp(h.Since))
		} else {
			w.Sentence = fmt.Sprintf("%s: held by item %s attempt %d since %s", strings.Join(h.Paths, ", "), h.Item, h.Attempt, stamp(h.Since))
		}
		f.holders = append(f.holders, w)
	}
	return f
}

// explain says what an item waits for, one thing at least. What takes a person
// or the longest to end comes first.
func explain(f facts) (waits []control.Wait) {
	if f.away != nil {
		waits = append(waits, control.Wait{Kind: control.WaitNomad, Since: f.away.since, Sentence: f.away.sentence()})
	}
	for _, other := range f.depends {
		waits = append(waits, control.Wait{
			Kind: control.WaitDependency, Item: other.ID, Sentence: fmt.Sprintf("item %s, on which it depends, is %s", other.ID, other.State),
		})
	}
	if b := f.breaker; b != nil {
		waits = append(waits, control.Wait{Kind: control.WaitBreaker, Since: b.Since, Until: b.Until, Sentence: b.Sentence()})
	}
	waits = append(waits, f.queue...)
	if f.item.NotBefore.After(f.now) {
		why := "it was not to start before"
		if f.item.AttemptCount() > 0 {
			why = f.item.Why + "; it waits until"
		}
		waits = append(waits, control.Wait{Kind: control.WaitTime, Until: f.item.NotBefore, Sentence: why + " " + stamp(f.item.NotBefore)})
	}
	waits = append(waits, f.holders...)
	if f.inFlight >= f.maxFlight {
		waits = append(waits, control.Wait{Kind: control.WaitServerLimit, Sentence: fmt.Sprintf("%d of %d attempts are in flight over all queues", f.inFlight, f.maxFlight)})
	}
	if len(waits) == 0 || f.ahead > 0 {
		waits = append(waits, control.Wait{
			Kind: control.WaitTurn, Ahead: f.ahead, Sentence: fmt.Sprintf("it waits for its turn: %d items of its queue and repository come first", f.ahead),
		})
	}
	return waits
}
