package orchestrator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// Export sends every item that a filter selects, as it is stored, the oldest
// first: all as they were when the call began.
func (o *Orchestrator) Export(ctx context.Context, f control.Filter, send func(work.Item) error) error {
	if err := o.loaded(ctx); err != nil {
		return err
	}
	var items []*work.Item
	now := time.Now()
	o.each(f, func(item *work.Item) {
		if selects(f, item, now) {
			items = append(items, item)
		}
	})
	slices.SortFunc(items, func(a, b *work.Item) int { return strings.Compare(a.ID, b.ID) }) // a filter may name them in another
	for _, item := range items {
		if err := send(*item); err != nil {
			return err
		}
	}
	return nil
}

// Import stores items as a backup holds them. All are checked first; one that is
// stored already, and not the same, or whose unique key is another's, has all
// refused. dry only checks.
// It returns work.ErrInvalid, work.ErrConflict, and what Ledger.Commit returns.
func (o *Orchestrator) Import(ctx context.Context, items []work.Item, dry bool) (control.Import, error) {
	if err := o.loaded(ctx); err != nil {
		return control.Import{}, err
	}
	unlock, err := o.settled(ctx, slices.ContainsFunc(items, func(item work.Item) bool { return item.Spec.UniqueKey != "" }))
	if err != nil {
		return control.Import{}, err
	}
	defer unlock()
	var done control.Import
	var fresh []*work.Item
	arriving, keys := map[string]bool{}, map[string]string{}
	defer func() { o.arrived(maps.Keys(arriving)) }()
	for _, item := range items {
		if arriving[item.ID] {
			return control.Import{}, fmt.Errorf("item %s is there twice: %w", item.ID, work.ErrInvalid)
		}
		isNew, err := o.importable(&item)
		switch {
		case err != nil:
			return control.Import{}, err
		case isNew:
			fresh, arriving[item.ID] = append(fresh, &item), true
			if err := o.keyIsFree(&item, keys); err != nil {
				return control.Import{}, err
			}
		default:
			done.Identical++
		}
	}
	if dry {
		done.Stored = len(fresh)
		return done, nil
	}
	for _, wave := range inOrder(fresh) {
		if err = o.storeAll(ctx, wave); err != nil {
			break
		}
	}
	for _, item := range fresh {
		if o.entry(item.ID) != nil {
			done.Stored++
		}
	}
	return done, err
}

// importable checks one item of a backup, and says whether it is new: then its id
// is reserved (arrive).
func (o *Orchestrator) importable(item *work.Item) (bool, error) {
	if err := item.CheckStored(); err != nil {
		return false, err
	}
	if !slices.Contains(o.queueNames(), item.Spec.Queue) {
		return false, fmt.Errorf("item %s: %w", item.ID, o.unknownQueue(item.Spec.Queue))
	}
	*item = item.Bound()
	known, err := o.arrive(item.ID)
	if err != nil || known == nil {
		return err == nil, err
	}
	stored, err := json.Marshal(known)
	if err != nil {
		return false, fmt.Errorf("encode item %s: %w", item.ID, err)
	}
	if backup, err := json.Marshal(item); err != nil || !bytes.Equal(stored, backup) {
		return false, fmt.Errorf("item %s is stored already, and not as in the backup: %w", item.ID, work.ErrConflict)
	}
	return false, nil
}

// keyIsFree returns work.ErrConflict when a new item's unique key belongs to one
// that is stored, or is in keys, the ids of the items of a backup by their key. It
// enters the item there.
func (o *Orchestrator) keyIsFree(item *work.Item, keys map[string]string) error {
	if item.Spec.UniqueKey == "" {
		return nil
	}
	key := keyOf(item.Spec)
	first := keys[key]
	if holder := o.holderOf(item.Spec); holder != nil {
		first = holder.ID
	}
	if first != "" {
		return fmt.Errorf("item %s: its unique key %s belongs to item %s: %w", item.ID, item.Spec.UniqueKey, first, work.ErrConflict)
	}
	keys[key] = item.ID
	return nil
}
