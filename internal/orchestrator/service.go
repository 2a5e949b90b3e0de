package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/internal/control"
	"drover/internal/wait"
	"drover/internal/work"
)

// loaded waits until the stored items are in memory: before, an item that
// exists would seem not to.
func (o *Orchestrator) loaded(ctx context.Context) error {
	select {
	case <-o.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the server is still loading its items: %w", work.ErrUnavailable)
	}
}

func (o *Orchestrator) snapshot() []*work.Item {
	var items []*work.Item
	o.each(control.Filter{}, func(item *work.Item) { items = append(items, item) })
	return items
}

// find returns the item with this id, or the one whose id begins with it.
// It returns work.ErrNotFound, and work.ErrInvalid when several begin so.
func (o *Orchestrator) find(ctx context.Context, id string) (*entry, error) {
	if err := o.loaded(ctx); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.entries[id]; e != nil {
		return e, nil
	}
	at, _ := o.rank(id)
	begins := func(n int) bool { return n < len(o.sorted) && strings.HasPrefix(o.sorted[n].id, id) }
	switch {
	case id == "" || !begins(at):
		return nil, fmt.Errorf("item %q: %w", id, work.ErrNotFound)
	case begins(at + 1):
		return nil, fmt.Errorf("several items begin with %q: give more of the id: %w", id, work.ErrInvalid)
	}
	return o.sorted[at].entry, nil
}

// Item returns an item by its id or the beginning of it, and how far its running
// attempt has come, as of the last sign of life of its worker.
// It returns work.ErrNotFound and work.ErrInvalid.
func (o *Orchestrator) Item(ctx context.Context, id string) (work.Item, *work.Progress, error) {
	e, err := o.find(ctx, id)
	if err != nil {
		return work.Item{}, nil, err
	}
	item := o.told(e.item.Load())
	current := item.Current()
	if current == nil || current.State.Terminal() {
		return item, nil, nil
	}
	progress, err := o.store.Progress(ctx, current.ID)
	if progress != nil {
		progress.At = o.lastSign(current, progress).at
	}
	return item, progress, err
}

// attempt returns an item's attempt by number, 0 for the latest.
func (o *Orchestrator) attempt(ctx context.Context, id string, number int) (*work.Attempt, error) {
	e, err := o.find(ctx, id)
	if err != nil {
		return nil, err
	}
	item := e.item.Load()
	if number == 0 {
		number = item.AttemptCount()
	}
	attempt := item.Attempt(number)
	switch {
	case item.Summarised(number): // its output may be kept all the same
		return &work.Attempt{ID: work.NewAttemptID(item.ID, number), Number: number, State: work.AttemptKilled}, nil
	case attempt == nil:
		return nil, fmt.Errorf("item %s has %d attempts, there is no number %d: %w", item.ID, item.AttemptCount(), number, work.ErrNotFound)
	}
	return attempt, nil
}

// Logs returns the end of an attempt's output: what was kept, or what Nomad has
// while it runs. Attempt 0 is the latest. It returns work.ErrNotFound,
// work.ErrInvalid and work.ErrUnavailable.
func (o *Orchestrator) Logs(ctx context.Context, id string, number int) (control.Logs, error) {
	attempt, err := o.attempt(ctx, id, number)
	if err != nil {
		return control.Logs{}, err
	}
	logs := control.Logs{Attempt: attempt.ID, Events: attempt.Events, End: endOf(attempt)}
	kept, live, err := o.output(ctx, attempt)
	if err != nil {
		return logs, err
	}
	logs.Live = live
	if kept == nil && attempt.State.Terminal() && attempt.Child == "" {
		logs.Missing = "none was kept"
		return logs, nil
	}
	if kept == nil {
		logs.Missing = "the attempt has not been dispatched yet"
		return logs, nil
	}
	logs.Stdout, logs.Stderr, logs.CapturedAt, logs.Missing = kept.Stdout, kept.Stderr, kept.CapturedAt, kept.Missing
	if len(kept.Events) > 0 { // of the whole attempt: its end may have been stored before its container's
		logs.Events = kept.Events
	}
	return logs, nil
}

// endOf returns how an attempt ended, nil while it goes on, and where that is
// summarised.
func endOf(a *work.Attempt) *control.End {
	if !a.State.Terminal() || a.Reason == "" {
		return nil
	}
	end := &control.End{State: a.State, Reason: a.Reason, Detail: a.Detail, ExitCode: a.ExitCode, Signal: a.Signal, MemoryMB: a.MemoryMB}
	if a.Result != nil {
		end.PeakMemoryMB = a.Result.PeakMemoryMB
	}
	return end
}

// output returns the end of an attempt's output, nil where there is none: what is
// kept, or else what Nomad has, live while the attempt has not ended. What Nomad
// does not have any more may have been kept since the first look.
func (o *Orchestrator) output(ctx context.Context, attempt *work.Attempt) (logs *work.KeptLogs, live bool, err error) {
	logs, err = o.store.Logs(ctx, attempt.ID)
	if err != nil || logs != nil || attempt.Child == "" {
		return logs, false, err
	}
	logs, err = o.liveLogs(ctx, attempt)
	if err != nil {
		return nil, false, err
	}
	if logs.Missing != "" {
		kept, err := o.store.Logs(ctx, attempt.ID)
		if err != nil || kept != nil {
			return kept, false, err
		}
	}
	return logs, !attempt.State.Terminal(), nil
}

func (o *Orchestrator) liveLogs(ctx context.Context, attempt *work.Attempt) (*work.KeptLogs, error) {
	logs := &work.KeptLogs{Attempt: attempt.ID, CapturedAt: time.Now().UTC()}
	child, err := o.cluster.Child(ctx, attempt.Child)
	if errors.Is(err, work.ErrNotFound) {
		logs.Missing = "its Nomad job is gone"
		return logs, nil
	}
	if err != nil {
		return nil, err
	}
	if len(child.Allocations) == 0 {
		logs.Missing = "it waits to be placed on a node"
		return logs, nil
	}
	return logs, o.capture(ctx, child.Allocations[0], logs)
}

// Bounds of following an attempt's output: how often its end is looked for, and
// how long its last lines may take to arrive.
const (
	followCheck = 500 * time.Millisecond
	followTail  = 2 * time.Second
)

var errAttemptOver = errors.New("the attempt has ended")

// Follow copies a running attempt's output as it comes, until the attempt ends.
// It returns work.ErrNotFound when none runs, and what Logs returns.
func (o *Orchestrator) Follow(ctx context.Context, id string, stdout, stderr io.Writer) error {
	e, err := o.find(ctx, id)
	if err != nil {
		return err
	}
	attempt, err := o.attempt(ctx, id, 0)
	if err != nil {
		return err
	}
	if attempt.State != work.AttemptRunning {
		return fmt.Errorf("attempt %s is %s, there is nothing to follow: %w", attempt.ID, attempt.State, work.ErrNotFound)
	}
	ctx, over := context.WithCancelCause(ctx)
	defer over(nil)
	var group errgroup.Group
	group.Go(func() error { return o.endFollow(ctx, e, attempt.ID, over) })
	for stream, to := range map[string]io.Writer{"stdout": stdout, "stderr": stderr} {
		group.Go(func() error { return o.cluster.Follow(ctx, attempt.Allocation, stream, keptBytes, to) })
	}
	if err := group.Wait(); !errors.Is(context.Cause(ctx), errAttemptOver) {
		return err
	}
	return nil
}

// endFollow ends what follows an attempt's output a moment after its end:
// Nomad's own stream goes on after the task has died.
func (o *Orchestrator) endFollow(ctx context.Context, e *entry, a work.AttemptID, over context.CancelCauseFunc) error {
	for now := e.item.Load().Attempt(a.Number()); now != nil && !now.State.Terminal(); now = e.item.Load().Attempt(a.Number()) {
		if err := wait.For(ctx, followCheck); err != nil {
			return err
		}
	}
	if err := wait.For(ctx, followTail); err != nil {
		return err
	}
	over(errAttemptOver)
	return nil
}

// Counts returns the number of items in each state, and of attempts in flight.
func (o *Orchestrator) Counts() (map[work.State]int, int) {
	counts := map[work.State]int{}
	for _, item := range o.snapshot() {
		counts[item.State]++
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return counts, len(o.open)
}
