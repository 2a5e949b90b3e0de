package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// Retention says how long items are kept that are over.
type Retention struct {
	KeepFor time.Duration // since their last change; 0 is for ever
	Keep    int           // at most so many, the latest; 0 is all
	Archive Archive       // takes items before they are removed; nil if they are not kept anywhere
}

// Archive takes what is removed from Consul.
type Archive interface {
	// Keep stores items, all or none. It may be given an item again that it has
	// taken before, when its removal was not to be.
	Keep(ctx context.Context, items []work.Archived) error
}

const (
	// retentionCheck is how often items are looked for that were kept long enough.
	retentionCheck = time.Minute
	// retentionBatch is how many are archived and removed at a time.
	retentionBatch = 64
	// retentionMin is how long an item is kept in any case: its attempts' claims
	// and what its queue used are still of interest.
	retentionMin = budgetWindow
)

// retentionLoop removes items that were kept long enough, and breakers that
// count nothing any more.
func (o *Orchestrator) retentionLoop(ctx context.Context) error {
	ticker := time.NewTicker(retentionCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		o.complain("finished items not removed", "", o.retain(ctx, time.Now()))
		o.complain("breakers not tidied", "", o.tidyBreakers(ctx, time.Now()))
	}
}

// retain archives and removes, in batches, what was kept long enough.
func (o *Orchestrator) retain(ctx context.Context, now time.Time) error {
	for batch := range slices.Chunk(o.outlived(now), retentionBatch) {
		if err := o.archive(ctx, batch); err != nil {
			return err
		}
		for _, item := range batch {
			if err := o.discard(ctx, item); err != nil {
				return err
			}
		}
		o.log.Info("finished items removed", "items", len(batch))
	}
	return nil
}

// outlived returns the items that are to be removed, the oldest first.
func (o *Orchestrator) outlived(now time.Time) (over []*work.Item) {
	items := o.snapshot()
	o.mu.Lock()
	needed := maps.Clone(o.withChild)
	o.mu.Unlock()
	if needed == nil {
		return nil // it is not known yet what Nomad still has
	}
	for _, item := range items {
		switch {
		case item.IsAside() || !item.PublishAt.IsZero():
			continue // an attempt is under way, or its pull request is still to come
		case item.State.Terminal():
			over = append(over, item)
			continue
		}
		for _, id := range item.Spec.DependsOn {
			needed[id] = true
		}
	}
	slices.SortFunc(over, func(a, b *work.Item) int { return a.UpdatedAt.Compare(b.UpdatedAt) })
	excess := 0
	if keep := o.cfg.Retention.Keep; keep > 0 {
		excess = max(0, len(over)-keep)
	}
	end := len(over)
	for i, item := range over {
		age := now.Sub(item.UpdatedAt)
		old := o.cfg.Retention.KeepFor > 0 && age >= o.cfg.Retention.KeepFor
		if !old && i >= excess || age < retentionMin {
			end = i
			break
		}
	}
	return slices.DeleteFunc(over[:end], func(item *work.Item) bool { return needed[item.ID] || o.holdForRefs(item, now) })
}

// archive hands items over with their kept logs, if there is an archive.
func (o *Orchestrator) archive(ctx context.Context, items []*work.Item) error {
	if o.cfg.Retention.Archive == nil {
		return nil
	}
	archived := make([]work.Archived, len(items))
	for i, item := range items {
		archived[i].Item = *item
		for _, a := range item.Attempts {
			logs, err := o.store.Logs(ctx, a.ID)
			if err != nil {
				return err
			}
			if logs != nil {
				archived[i].Logs = append(archived[i].Logs, *logs)
			}
		}
	}
	if err := o.cfg.Retention.Archive.Keep(ctx, archived); err != nil {
		return fmt.Errorf("archive %d items, which are kept until that works: %w", len(items), err)
	}
	return nil
}

// forgotten bounds the attempts whose records go in one transaction.
const forgotten = 16

// discard removes an item and all that is stored of it. The item itself goes
// last, so that a crash in between has it removed by the next leader.
func (o *Orchestrator) discard(ctx context.Context, item *work.Item) error {
	e := o.entry(item.ID)
	if e == nil {
		return nil
	}
	if err := o.submitting.lock(ctx); err != nil { // whoever names the item finds it, or not
		return err
	}
	defer o.submitting.unlock()
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	if e.item.Load() != item {
		return nil // it changed meanwhile
	}
	var changes []work.Change
	for _, a := range item.Attempts {
		changes = append(changes, work.Change{Forget: a.ID}, work.Change{ConsumeResult: a.ID})
	}
	for part := range slices.Chunk(changes, forgotten) {
		if err := o.ledger.Commit(ctx, part...); err != nil {
			return err
		}
	}
	if err := o.ledger.Commit(ctx, work.Change{DeleteItem: item.ID}); err != nil {
		return fmt.Errorf("remove item %s: %w", item.ID, err)
	}
	e.removed = true
	o.remove(item)
	o.feed.publish(control.Event{Type: control.EventRemoved, At: time.Now().UTC(), Item: item.ID, Queue: item.Spec.Queue, State: item.State})
	return nil
}

// tidyBreakers removes the records of closed breakers whose outcomes are all out of the window.
func (o *Orchestrator) tidyBreakers(ctx context.Context, now time.Time) error {
	o.mu.Lock()
	var idle []string
	for repository, b := range o.breakers {
		if b.Idle(o.cfg.Breaker, now) && !b.Quiet() {
			idle = append(idle, repository)
		}
	}
	o.mu.Unlock()
	for _, repository := range idle {
		_, err := o.changeBreaker(ctx, repository, func(b work.Breaker, now time.Time) (work.Breaker, error) {
			if !b.Idle(o.cfg.Breaker, now) {
				return b, work.ErrConflict // it counted something meanwhile
			}
			return b.Reset(now), nil
		})
		if err != nil && !errors.Is(err, work.ErrConflict) {
			return err
		}
	}
	return nil
}
