package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"drover/internal/work"
)

const (
	// refsCheck is how often references are looked for that are to be removed.
	refsCheck = time.Minute
	// refsPatience is how long they wait for others of their repository, so that
	// one attempt removes those of many items.
	refsPatience = time.Hour
	// refsPause is how long a repository is left alone after an attempt that failed.
	refsPause = 24 * time.Hour
	// refsHold is how long an item is kept beyond its time because its references
	// are still there. After that they stay in the repository.
	refsHold = 48 * time.Hour
)

// refsLoop removes what drover keeps in repositories of items that can have no
// further attempt. A worker does so: the server writes to no repository.
func (o *Orchestrator) refsLoop(ctx context.Context) error {
	ticker := time.NewTicker(refsCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		items := o.snapshot()
		o.noteRemovedRefs(ctx, items)
		for _, due := range o.dueRefs(items, time.Now()) {
			o.complain("references not removed, trying again", due[0], o.removeRefs(ctx, due))
		}
	}
}

// noteRemovedRefs notes in each item that an attempt has removed its references. It
// is done anew after a crash in between.
func (o *Orchestrator) noteRemovedRefs(ctx context.Context, items []*work.Item) {
	for _, host := range items {
		for _, a := range host.Attempts {
			if a.Kind() != work.KindCleanup || a.State != work.AttemptCompleted {
				continue
			}
			for _, id := range a.Cleanup {
				o.complain("removed references not noted", id, o.noteRemoved(ctx, host, id))
			}
		}
	}
}

func (o *Orchestrator) noteRemoved(ctx context.Context, host *work.Item, id string) error {
	e := o.entry(id)
	if e == nil {
		return nil
	}
	item := e.item.Load()
	by, removed := host.RemovedRefsOf(item)
	if !removed || item.RefsDue().IsZero() {
		return nil
	}
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	if e.item.Load() != item {
		return nil // it changed: the next pass looks again
	}
	return o.apply(ctx, e, work.RefsRemoved{By: by})
}

// dueRefs returns the ids of items whose references are to be removed now, those of
// one repository together. A repository in which an attempt removes some is left alone.
func (o *Orchestrator) dueRefs(items []*work.Item, now time.Time) (due [][]string) {
	ids, oldest, waits := map[string][]string{}, map[string]time.Time{}, map[string]bool{}
	for _, item := range items {
		last := item.Current()
		if last == nil {
			continue
		}
		repository := item.Spec.Repository // two URLs of one repository are told apart: a key may stand for two servers
		if last.Kind() == work.KindCleanup && (!last.State.Terminal() || last.State != work.AttemptCompleted && now.Sub(last.EndedAt) < refsPause) {
			waits[repository] = true
		}
		at := o.refsDue(item)
		if at.IsZero() || at.After(now) || len(ids[repository]) == work.MaxCleanup {
			continue
		}
		ids[repository] = append(ids[repository], item.ID)
		if first := oldest[repository]; first.IsZero() || at.Before(first) {
			oldest[repository] = at
		}
	}
	for repository, some := range ids {
		if !waits[repository] && (len(some) == work.MaxCleanup || now.Sub(oldest[repository]) >= refsPatience) {
			due = append(due, some)
		}
	}
	slices.SortFunc(due, func(a, b []string) int { return slices.Compare(a, b) })
	return due
}

// refsDue returns when an item's references are to be removed: at once where the item
// itself is about to be.
func (o *Orchestrator) refsDue(item *work.Item) time.Time {
	at := item.RefsDue()
	o.mu.Lock()
	defer o.mu.Unlock()
	if outlived, ok := o.outlivedAt[item.ID]; ok && outlived.After(item.Since()) && outlived.Before(at) {
		return outlived
	}
	return at
}

// holdForRefs reports whether an item that was kept long enough is kept on until its
// references are removed.
func (o *Orchestrator) holdForRefs(item *work.Item, now time.Time) bool {
	if item.RefsDue().IsZero() {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.outlivedAt[item.ID].After(item.Since()) { // not known, or the item was opened again since
		o.outlivedAt[item.ID] = now
	}
	return now.Sub(o.outlivedAt[item.ID]) < refsHold
}

// removeRefs dispatches an attempt, of the first of the items that may have one, that
// removes the references of all of them. The items are locked until it is stored, so
// that none is opened again meanwhile; after that refsAreRemoved keeps it closed.
func (o *Orchestrator) removeRefs(ctx context.Context, ids []string) error {
	host, listed, unlock := o.lockDue(ids, time.Now())
	if host == nil {
		unlock()
		return nil
	}
	defer host.unlock()
	if !o.hasRoom() {
		unlock()
		return nil
	}
	err := o.apply(ctx, host, work.CleaningUp{Items: listed})
	unlock()
	if err != nil {
		return err
	}
	item := host.item.Load()
	o.itemLog(item).Info("references are removed", "attempt", len(item.Attempts), "items", len(listed))
	return o.send(ctx, host)
}

// lockDue locks those of the items whose references are to be removed, and returns
// their ids. host is the one that may have an attempt, nil if none may: unlock
// leaves it locked.
func (o *Orchestrator) lockDue(ids []string, now time.Time) (host *entry, listed []string, unlock func()) {
	var others []*entry
	for _, id := range ids {
		e := o.entry(id)
		if e == nil || !e.tryLock() {
			continue // somebody changes it: another pass takes it
		}
		item := e.item.Load()
		switch at := o.refsDue(item); {
		case e.removed || at.IsZero() || at.After(now):
			e.unlock()
			continue
		case host == nil && item.MayCleanUp():
			host = e
		default:
			others = append(others, e)
		}
		listed = append(listed, id)
	}
	return host, listed, func() {
		for _, e := range others {
			e.unlock()
		}
	}
}

// hasRoom reports whether another attempt may be in flight.
func (o *Orchestrator) hasRoom() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.open) < o.cfg.MaxInFlight
}

// refsAreRemoved returns work.ErrConflict while an attempt of another item removes
// the references of one: what a new attempt would push could go with them.
func (o *Orchestrator) refsAreRemoved(item *work.Item) error {
	for _, e := range o.openItems() {
		if host := e.item.Load(); host.IsCleaning() && slices.Contains(host.Current().Cleanup, item.ID) {
			return fmt.Errorf("its references are being removed by attempt %s: try again when that has ended: %w", host.CurrentID(), work.ErrConflict)
		}
	}
	return nil
}
