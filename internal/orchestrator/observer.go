package orchestrator

import (
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// Observer is told what an orchestrator does. Its methods return at once, may be
// called concurrently, and change nothing of what they are given.
type Observer interface {
	// Loaded is called once a term, with every stored item.
	Loaded(items []*work.Item)
	// Applied is called after a transition was stored; before is nil for a new item.
	Applied(before, after *work.Item)
	// Reconciled tells how long a full comparison took, and how it failed, nil if it did not.
	Reconciled(took time.Duration, err error)
	// EventSeen tells how long after a change Nomad's event stream brought it.
	EventSeen(lag time.Duration)
	// LogsKept tells how many bytes of an attempt's output were kept.
	LogsKept(bytes int)
}

// Unobserved is the Observer that takes note of nothing.
type Unobserved struct{}

// Loaded and the other methods do nothing.
func (Unobserved) Loaded([]*work.Item)             {}
func (Unobserved) Applied(*work.Item, *work.Item)  {}
func (Unobserved) Reconciled(time.Duration, error) {}
func (Unobserved) EventSeen(time.Duration)         {}
func (Unobserved) LogsKept(int)                    {}

// eventSeen tells the observer how old a change is that the event stream brought.
func (o *Orchestrator) eventSeen(a work.Allocation) {
	if !a.Modified.IsZero() {
		o.observer.EventSeen(max(0, time.Since(a.Modified)))
	}
}

// Census counts the items as they stand now.
func (o *Orchestrator) Census(now time.Time) control.Census {
	type group struct {
		queue string
		state work.State
	}
	counted := map[group]control.Group{}
	census := control.Census{MaxInFlight: o.cfg.MaxInFlight}
	for _, item := range o.snapshot() {
		key := group{item.Spec.Queue, item.State}
		g := counted[key]
		g.Queue, g.State = item.Spec.Queue, item.State
		g.Items++
		if !item.State.Terminal() {
			g.Oldest = max(g.Oldest, now.Sub(item.Since()))
		}
		counted[key] = g
		if item.State == work.StateInProgress {
			if sign := o.lastSign(item.Current(), nil); !sign.at.IsZero() {
				census.HeartbeatAge = max(census.HeartbeatAge, now.Sub(sign.at))
			}
		}
	}
	for _, g := range counted {
		census.Groups = append(census.Groups, g)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	census.InFlight = len(o.open)
	census.Breakers = map[work.BreakerState]int{}
	for _, b := range o.breakers {
		census.Breakers[b.State]++
	}
	return census
}

// traced tells a worker which trace it belongs to, where anything is traced.
func (o *Orchestrator) traced(e work.Envelope) work.Envelope {
	if o.cfg.Traced {
		e.Traceparent = work.Traceparent(e.Attempt)
	}
	return e
}
