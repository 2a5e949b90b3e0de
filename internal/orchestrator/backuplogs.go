package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/internal/control"
	"drover/internal/work"
)

// logsFlight bounds the calls of Consul for kept output at a time.
const logsFlight = 16

// ExportLogs sends the kept output of every attempt of the items that a filter
// selects, the oldest item first. It returns work.ErrUnavailable.
func (o *Orchestrator) ExportLogs(ctx context.Context, f control.Filter, send func(work.KeptLogs) error) error {
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
	slices.SortFunc(items, func(a, b *work.Item) int { return strings.Compare(a.ID, b.ID) })
	var attempts []work.AttemptID
	for _, item := range items {
		for _, a := range item.Attempts {
			attempts = append(attempts, a.ID)
		}
	}
	for some := range slices.Chunk(attempts, logsFlight) {
		kept := make([]*work.KeptLogs, len(some))
		group, ctx := errgroup.WithContext(ctx)
		for i, a := range some {
			group.Go(func() (err error) {
				kept[i], err = o.store.Logs(ctx, a)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		for _, logs := range kept {
			if logs == nil {
				continue
			}
			if err := send(*logs); err != nil {
				return err
			}
		}
	}
	return nil
}

// ImportLogs stores kept output of a backup beside its items, which are stored
// already. What an attempt has kept stays. All is checked before the first is stored.
// It returns work.ErrInvalid, work.ErrNotFound for an attempt of no stored item, and
// what Ledger.Commit returns.
func (o *Orchestrator) ImportLogs(ctx context.Context, kept []work.KeptLogs) (control.Import, error) {
	if err := o.loaded(ctx); err != nil {
		return control.Import{}, err
	}
	for _, logs := range kept {
		if err := logs.Check(); err != nil {
			return control.Import{}, err
		}
		if e := o.entry(logs.Attempt.Item()); e == nil || !hasAttempt(e.item.Load(), logs.Attempt) {
			return control.Import{}, fmt.Errorf("kept output of attempt %s: no stored item has it: %w", logs.Attempt, work.ErrNotFound)
		}
	}
	var stored, identical atomic.Int64
	var group errgroup.Group
	group.SetLimit(logsFlight)
	for _, logs := range kept {
		group.Go(func() error {
			fresh, err := o.importLogs(ctx, &logs)
			switch {
			case err != nil:
			case fresh:
				stored.Add(1)
			default:
				identical.Add(1)
			}
			return err
		})
	}
	err := group.Wait()
	return control.Import{Stored: int(stored.Load()), Identical: int(identical.Load())}, err
}

// importLogs stores what one attempt kept, and reports whether it did. It holds the
// item, so that an item which is removed meanwhile leaves nothing.
func (o *Orchestrator) importLogs(ctx context.Context, logs *work.KeptLogs) (bool, error) {
	e := o.entry(logs.Attempt.Item())
	if e == nil {
		return false, nil
	}
	if err := e.lock(ctx); err != nil {
		return false, err
	}
	defer e.unlock()
	if e.removed {
		return false, nil
	}
	if before, err := o.store.Logs(ctx, logs.Attempt); err != nil || before != nil {
		return false, err
	}
	return true, o.ledger.Commit(ctx, work.Change{PutLogs: logs})
}

func hasAttempt(item *work.Item, id work.AttemptID) bool {
	return slices.ContainsFunc(item.Attempts, func(a work.Attempt) bool { return a.ID == id })
}
