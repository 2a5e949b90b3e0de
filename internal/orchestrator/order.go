package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"drover/internal/control"
	"drover/internal/wait"
	"drover/internal/work"
)

// Order carries out what a person orders about an item, and returns the item.
// It returns work.ErrNotFound, work.ErrInvalid, control.ErrChanged when the item
// is not the one that was meant, work.ErrConflict and work.ErrIllegalTransition
// when its state does not allow it, and what Ledger.Commit returns.
func (o *Orchestrator) Order(ctx context.Context, id string, order control.Order) (work.Item, error) {
	e, err := o.find(ctx, id)
	if err != nil {
		return work.Item{}, err
	}
	if order.Verb == control.Remove {
		return o.removeItem(ctx, e, order)
	}
	item, attempt, err := o.ordered(ctx, e, order)
	if err == nil && attempt != "" {
		o.spawn(o.term, func() { o.cleanup(o.term, e, attempt) })
	}
	if err != nil {
		err = fmt.Errorf("%s item %s: %w", order.Verb, item.ID, err)
	}
	return item, err
}

// ordered carries an order out, and returns the item as that left it: its next
// attempt may begin at once.
func (o *Orchestrator) ordered(ctx context.Context, e *entry, order control.Order) (work.Item, work.AttemptID, error) {
	if err := e.lock(ctx); err != nil {
		return *e.item.Load(), "", err
	}
	defer e.unlock()
	attempt, err := o.carryOut(ctx, e, order)
	return *e.item.Load(), attempt, err
}

// carryOut changes the item and returns the attempt that this ended, if any. The
// caller has e locked.
func (o *Orchestrator) carryOut(ctx context.Context, e *entry, order control.Order) (work.AttemptID, error) {
	item := e.item.Load()
	if item.Ordered(order.Key) {
		return "", nil
	}
	if err := meant(item, order); err != nil {
		return "", err
	}
	by := work.By{Who: order.By, Key: order.Key}
	current := item.Current()
	underWay := current != nil && !current.State.Terminal()
	switch order.Verb {
	case control.Cancel:
		if item.State.Terminal() {
			return "", fmt.Errorf("it is %s already: %w", item.State, work.ErrConflict)
		}
		if underWay {
			return current.ID, o.end(ctx, e, current.ID, work.Ending{Reason: work.ReasonCancelled, Detail: order.By, Key: order.Key})
		}
		return "", o.apply(ctx, e, work.Cancelled{By: by})
	case control.Kill:
		if !underWay {
			return "", fmt.Errorf("it is %s and no attempt is under way: %w", item.State, work.ErrConflict)
		}
		end := work.Ending{Reason: work.ReasonKilledByOperator, Detail: "killed by " + by.String(), NoRetry: order.NoRetry, Key: order.Key}
		return current.ID, o.end(ctx, e, current.ID, end)
	case control.Requeue:
		if underWay && !item.IsAside() {
			end := work.Ending{Reason: work.ReasonKilledByOperator, Detail: "requeued by " + by.String(), Requeue: true, Key: order.Key}
			return current.ID, o.end(ctx, e, current.ID, end)
		}
		return "", o.apply(ctx, e, work.Requeued{By: by})
	case control.Retry:
		if err := o.refsAreRemoved(item); err != nil {
			return "", err
		}
		return "", o.apply(ctx, e, work.Retried{By: by})
	case control.Prioritize:
		if order.Priority == nil {
			return "", fmt.Errorf("no priority is given: %w", work.ErrInvalid)
		}
		return "", o.apply(ctx, e, work.Prioritized{By: by, Priority: *order.Priority})
	case control.Edit:
		return "", o.edit(ctx, e, order, by)
	}
	return "", fmt.Errorf("no order %q: %w", order.Verb, work.ErrInvalid)
}

// meant returns control.ErrChanged unless the item is in the state that the
// order was made for.
func meant(item *work.Item, order control.Order) error {
	if order.Match == "" || order.Match == "*" || order.Match == control.ETag(*item) {
		return nil
	}
	return fmt.Errorf("read it again, then decide anew: %w", control.ErrChanged)
}

// edit changes an item's specification. The caller has e locked.
func (o *Orchestrator) edit(ctx context.Context, e *entry, order control.Order, by work.By) error {
	spec, err := e.item.Load().Spec.Merged(order.Patch)
	if err != nil {
		return err
	}
	if err := o.complete(&spec); err != nil {
		return err
	}
	return o.apply(ctx, e, work.Edited{By: by, Spec: spec})
}

// Bounds of waiting for the end of what an item left in Nomad before it is
// removed.
const (
	removeTimeout = 45 * time.Second
	removeCheck   = 250 * time.Millisecond
)

// removeItem forgets an item that has ended, once nothing of it is left in Nomad: a
// child without an item would be nobody's.
func (o *Orchestrator) removeItem(ctx context.Context, e *entry, order control.Order) (work.Item, error) {
	item := *e.item.Load()
	if !item.State.Terminal() && !order.Force {
		return item, fmt.Errorf("item %s is %s: cancel it first, or use force: %w", item.ID, item.State, work.ErrConflict)
	}
	if !item.State.Terminal() {
		cancel := order
		cancel.Verb = control.Cancel
		if _, err := o.Order(ctx, item.ID, cancel); err != nil && !errors.Is(err, work.ErrConflict) {
			return item, err
		}
		order.Match = "" // it was changed by this very order
	}
	if err := o.leftNothing(ctx, e); err != nil {
		return item, fmt.Errorf("remove item %s: %w", item.ID, err)
	}
	current := e.item.Load()
	item = *current
	switch err := meant(current, order); {
	case err != nil:
		return item, fmt.Errorf("remove item %s: %w", item.ID, err)
	case !item.State.Terminal():
		return item, fmt.Errorf("item %s is %s again: %w", item.ID, item.State, work.ErrConflict)
	case item.IsCleaning():
		return item, fmt.Errorf("an attempt of item %s removes references: wait for it, or kill it: %w", item.ID, work.ErrConflict)
	case item.IsPublishing():
		return item, fmt.Errorf("the pull request of item %s is being made: wait for it, or kill the attempt: %w", item.ID, work.ErrConflict)
	}
	if other := o.dependantOf(item.ID); other != "" {
		return item, fmt.Errorf("item %s depends on item %s: %w", other, item.ID, work.ErrConflict)
	}
	if err := o.discard(ctx, current); err != nil {
		return item, err
	}
	if o.entry(item.ID) == e {
		return item, fmt.Errorf("item %s changed while it was removed: %w", item.ID, work.ErrConflict)
	}
	o.itemLog(current).Info("item removed", "by", order.By)
	return item, nil
}

// dependantOf returns an open item that depends on one, empty if none does.
func (o *Orchestrator) dependantOf(id string) (dependant string) {
	o.mu.Lock()
	related := o.related
	o.mu.Unlock()
	if !related {
		return ""
	}
	o.each(control.Filter{}, func(item *work.Item) {
		if !item.State.Terminal() && slices.Contains(item.Spec.DependsOn, id) {
			dependant = item.ID
		}
	})
	return dependant
}

// leftNothing waits until no child of the item's attempts is left.
// It returns work.ErrConflict when one outlives the wait.
func (o *Orchestrator) leftNothing(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	for _, a := range e.item.Load().Attempts {
		for a.Child != "" {
			o.cleanup(ctx, e, a.ID)
			_, err := o.cluster.Child(ctx, a.Child)
			if errors.Is(err, work.ErrNotFound) {
				break
			}
			if ctx.Err() == nil && err != nil {
				return err
			}
			if wait.For(ctx, removeCheck) != nil {
				return fmt.Errorf("the Nomad job of attempt %d is still there: %w", a.Number, work.ErrConflict)
			}
		}
	}
	return nil
}
