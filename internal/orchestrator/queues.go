package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// Queues returns every queue, by name.
func (o *Orchestrator) Queues(ctx context.Context) ([]control.Queue, error) {
	if err := o.loaded(ctx); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	queues := []control.Queue{}
	for name, l := range o.lines {
		if l.known() || o.queue.InFlight(name) > 0 {
			queues = append(queues, o.view(l, now))
		}
	}
	slices.SortFunc(queues, func(a, b control.Queue) int { return strings.Compare(a.Name, b.Name) })
	at := map[string]*control.Queue{}
	for i := range queues {
		at[queues[i].Name] = &queues[i]
	}
	for _, e := range o.entries {
		item := e.item.Load()
		q := at[item.Spec.Queue]
		if item.State != work.StateQueued || q == nil {
			continue
		}
		q.Queued++
		if q.Oldest.IsZero() || item.CreatedAt.Before(q.Oldest) {
			q.Oldest = item.CreatedAt
		}
	}
	return queues, nil
}

// view is how a queue stands, but for its items. The caller holds mu.
func (o *Orchestrator) view(l *line, now time.Time) control.Queue {
	used, inFlight := l.used(now), o.queue.InFlight(l.name)
	return control.Queue{
		Name: l.name, State: l.record.State, By: l.record.By, Since: l.record.Since, Declared: l.declared != nil,
		Settings: l.settings, Stored: l.record.Settings, InFlight: inFlight, Slow: l.record.Slow,
		Tokens: used.tokens, CostUSD: used.costUSD, Waits: l.waits(now, inFlight),
	}
}

// Queue returns one queue, or work.ErrNotFound.
func (o *Orchestrator) Queue(ctx context.Context, name string) (control.Queue, error) {
	queues, err := o.Queues(ctx)
	if err != nil {
		return control.Queue{}, err
	}
	for _, q := range queues {
		if q.Name == name {
			return q, nil
		}
	}
	return control.Queue{}, o.noQueue(name)
}

func (o *Orchestrator) noQueue(name string) error {
	return fmt.Errorf("queue %q: known are %s: %w", name, strings.Join(o.queueNames(), ", "), work.ErrNotFound)
}

// SetQueue changes what is stored of a queue, and makes the queue where there is
// none. It returns work.ErrInvalid, and what Ledger.Commit returns.
func (o *Orchestrator) SetQueue(ctx context.Context, name string, change control.QueueChange) (control.Queue, error) {
	if !work.ValidQueueName(name) {
		return control.Queue{}, fmt.Errorf("queue %q: use lower-case letters, digits, dot, dash and underscore, at most 64: %w", name, work.ErrInvalid)
	}
	return o.changeQueue(ctx, name, true, func(record *work.QueueRecord) error {
		settings, err := record.Settings.Unset(change.Unset...)
		if err != nil {
			return err
		}
		record.Settings = settings.With(change.Set)
		if err := change.Set.Validate(); err != nil {
			return fmt.Errorf("queue %s: %w", name, err)
		}
		if err := record.Settings.Validate(); err != nil {
			return fmt.Errorf("queue %s: %w", name, err)
		}
		return record.CheckStoredSize()
	})
}

// MoveQueue pauses, drains or resumes a queue. One that is resumed waits for no
// limit any more, either. It returns work.ErrNotFound, work.ErrInvalid, and what
// Ledger.Commit returns.
func (o *Orchestrator) MoveQueue(ctx context.Context, name string, to control.QueueTransition) (control.Queue, error) {
	if !slices.Contains(work.QueueStates(), to.State) {
		return control.Queue{}, fmt.Errorf("state %q of a queue: use one of %v: %w", to.State, work.QueueStates(), work.ErrInvalid)
	}
	return o.changeQueue(ctx, name, false, func(record *work.QueueRecord) error {
		if record.State != to.State {
			record.State, record.By, record.Since = to.State, to.By, time.Now().UTC()
		}
		if to.State == work.QueueActive {
			record.Slow = work.Slowdown{}
		}
		return nil
	})
}

// changeQueue stores a change of a queue's record.
func (o *Orchestrator) changeQueue(ctx context.Context, name string, create bool, change func(*work.QueueRecord) error) (control.Queue, error) {
	if err := o.loaded(ctx); err != nil {
		return control.Queue{}, err
	}
	l, err := o.lockLine(ctx, name, create)
	if err != nil {
		return control.Queue{}, err
	}
	defer l.unlock()
	record := l.record
	if err := change(&record); err != nil {
		return control.Queue{}, err
	}
	if err := o.ledger.Commit(ctx, work.Change{PutQueue: &record}); err != nil {
		return control.Queue{}, fmt.Errorf("store queue %s: %w", name, err)
	}
	o.mu.Lock()
	l.keep(record)
	o.mu.Unlock()
	nudge(o.wake)
	o.log.Info("queue changed", "queue", name, "state", record.State, "by", record.By)
	return o.Queue(ctx, name)
}

// lockLine locks a queue that is known, or is to be made.
func (o *Orchestrator) lockLine(ctx context.Context, name string, create bool) (*line, error) {
	o.mu.Lock()
	l := o.lines[name]
	known := l != nil && l.known()
	if !known && create {
		l = o.line(name)
	}
	o.mu.Unlock()
	if !known && !create {
		return nil, o.noQueue(name)
	}
	return l, l.lock(ctx)
}

// DeleteQueue removes a queue that has no item left that is not over. It returns
// work.ErrNotFound, work.ErrConflict when it has some or the configuration
// declares it, and what Ledger.Commit returns. An item that comes in the same
// moment runs under the server's own settings.
func (o *Orchestrator) DeleteQueue(ctx context.Context, name string) error {
	if err := o.loaded(ctx); err != nil {
		return err
	}
	l, err := o.lockLine(ctx, name, false)
	if err != nil {
		return err
	}
	defer l.unlock()
	if l.declared != nil {
		return fmt.Errorf("queue %s is declared by the server's configuration: remove it there, or pause it: %w", name, work.ErrConflict)
	}
	left := 0
	for _, item := range o.snapshot() {
		if item.Spec.Queue == name && !item.State.Terminal() {
			left++
		}
	}
	if left > 0 {
		return fmt.Errorf("queue %s has %d items that are not over: drain it, or cancel them, and delete it then: %w", name, left, work.ErrConflict)
	}
	if err := o.ledger.Commit(ctx, work.Change{DeleteQueue: name}); err != nil {
		return fmt.Errorf("delete queue %s: %w", name, err)
	}
	o.mu.Lock()
	l.adopt(work.QueueRecord{Name: name})
	l.stored = false
	o.mu.Unlock()
	o.log.Info("queue deleted", "queue", name)
	return nil
}
