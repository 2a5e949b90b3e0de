package orchestrator

import (
	"context"
	"fmt"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// adopt makes an item of a child that someone dispatched by hand, its payload
// being an item's specification. It returns nil for a child that can't be
// adopted; that is reported and the child left alone. The worker in the child
// waits for the envelope that is stored here.
func (o *Orchestrator) adopt(ctx context.Context, child work.Child) *entry {
	if child.Status == "dead" || child.Stopped {
		return nil
	}
	e, err := o.adoptChild(ctx, child)
	if err != nil {
		o.reportUnknown(child, "it was dispatched by hand and can't be adopted: "+err.Error())
		return nil
	}
	o.logOf(child.Attempt).Info("a child dispatched by hand is adopted", "child", child.ID)
	return e
}

func (o *Orchestrator) adoptChild(ctx context.Context, child work.Child) (*entry, error) {
	payload, err := o.cluster.Payload(ctx, child.ID)
	if err != nil {
		return nil, err
	}
	spec, err := work.DecodeSpec(payload)
	if err != nil {
		return nil, err
	}
	draft, err := o.draft(&control.Submission{ID: child.Attempt.Item(), Spec: spec})
	if err == nil {
		err = o.enter(draft)
	}
	if err != nil {
		return nil, err
	}
	item := *draft
	now := time.Now().UTC()
	for _, event := range []work.Event{work.Assigned{}, work.Dispatched{Attempt: child.Attempt, Child: child.ID, Adopted: true}} {
		if item, err = work.Apply(item, event, o.policy(item.Spec), now); err != nil {
			return nil, err
		}
	}
	envelope := o.traced(item.Envelope(o.cfg.KVPrefix))
	if err := o.ledger.Commit(ctx, work.Change{PutItem: &item}, work.Change{PutEnvelope: &envelope}); err != nil {
		return nil, fmt.Errorf("store item %s: %w", item.ID, err)
	}
	e := o.add(&item)
	o.track(e)
	o.announce(&item)
	o.observer.Applied(nil, &item)
	return e, nil
}
