package orchestrator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/internal/control"
	"drover/internal/wait"
	"drover/internal/work"
)

// submitChunk is how many items are stored at a time; what waits together
// shares transactions.
const submitChunk = 256

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

// Submit stores items. All are checked before any is stored. An item whose id
// is stored already is returned as it is, so that a request can be repeated, and
// so is the one that has a submission's unique key. What who submits should know
// is in an item's warnings.
// It returns work.ErrInvalid, work.ErrConflict when an id is taken by another
// item or the queue takes none, and what Ledger.Commit returns.
func (o *Orchestrator) Submit(ctx context.Context, submissions []control.Submission) ([]work.Item, error) {
	if err := o.loaded(ctx); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(submissions, namesOthers) { // these are checked against what is stored
		if err := o.submitting.lock(ctx); err != nil {
			return nil, err
		}
		defer o.submitting.unlock()
	}
	b := newBatch(len(submissions))
	for i, s := range submissions {
		b.rename(&s)
		item, isNew, err := o.admit(s)
		if err != nil {
			return nil, fmt.Errorf("item %d of %d: %w", i+1, len(submissions), err)
		}
		o.put(b, i, item, isNew)
	}
	waves, err := o.waves(b)
	if err != nil {
		return nil, err
	}
	if err := o.reachable(ctx); err != nil {
		return nil, err
	}
	for _, wave := range waves {
		var group errgroup.Group
		group.SetLimit(submitChunk)
		for _, i := range wave {
			group.Go(func() error { return o.storeNew(ctx, &b.items[i]) })
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
	}
	for i := range b.items {
		if first, repeats := b.repeat[i]; repeats {
			b.items[i] = b.items[first]
			b.items[i].Warnings = []string{fmt.Sprintf("unique key %s belongs to item %s of the same submission", b.items[i].Spec.UniqueKey, b.items[i].ID)}
		} else if !b.items[i].State.Terminal() {
			b.items[i].Warnings = append(b.items[i].Warnings, o.warnings(&b.items[i])...)
		}
	}
	return b.items, nil
}

// namesOthers reports whether a submission is about other items, too.
func namesOthers(s control.Submission) bool {
	return s.Spec.UniqueKey != "" || len(s.Spec.DependsOn) > 0
}

// warnings says what will keep an item waiting that nobody may expect.
func (o *Orchestrator) warnings(item *work.Item) (found []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.line(item.Spec.Queue).waits(time.Now(), 0) {
		if w.Kind == control.WaitPaused || w.Kind == control.WaitRateLimited || w.Kind == control.WaitBudget {
			found = append(found, w.Sentence)
		}
	}
	if b := o.broken[work.RepositoryKey(item.Spec.Repository)]; b != nil {
		found = append(found, b.Sentence())
	}
	return found
}

// checkTimeout bounds the question whether Nomad answers.
const checkTimeout = 3 * time.Second

// reachable refuses new items while Nomad does not answer: who submits is to
// know at once, and to find nothing stored.
func (o *Orchestrator) reachable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if err := o.cluster.Check(ctx); err != nil {
		return fmt.Errorf("nothing was stored: %w", err)
	}
	return nil
}

// admit checks one submission and returns the item it becomes, or the stored
// one it repeats.
func (o *Orchestrator) admit(s control.Submission) (work.Item, bool, error) {
	if !work.ValidID(s.ID) {
		return work.Item{}, false, fmt.Errorf("id %q is not a work item's id: %w", s.ID, work.ErrInvalid)
	}
	if err := s.Spec.Validate(); err != nil {
		return work.Item{}, false, err
	}
	name := cmp.Or(s.Spec.Queue, work.DefaultQueue)
	o.mu.Lock()
	line := o.lines[name]
	known := line != nil && line.known()
	o.mu.Unlock()
	if !known {
		return work.Item{}, false, fmt.Errorf("unknown queue %q: known are %s: %w", name, strings.Join(o.queueNames(), ", "), work.ErrInvalid)
	}
	spec := s.Spec.WithDefaults(o.cfg.Defaults.WithQueue(o.settings(name)))
	if len(spec.Command) == 0 && spec.Agent == work.AgentPlain {
		return work.Item{}, false, fmt.Errorf("no command: say which agent to run, or have the server's configuration name one: %w", work.ErrInvalid)
	}
	if e := o.entry(s.ID); e != nil {
		stored := e.item.Load()
		if !sameSpec(stored.Spec, spec) {
			return work.Item{}, false, fmt.Errorf("id %s is taken by another item: %w", s.ID, work.ErrConflict)
		}
		return *stored, false, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if line.record.State == work.QueueDraining {
		return work.Item{}, false, fmt.Errorf("queue %s is draining since %s and takes no items: %w", name, stamp(line.record.Since), work.ErrConflict)
	}
	item := work.NewItem(s.ID, spec, time.Now().UTC())
	item.StartWith(o.memory[spec.Repository])
	return item, true, nil
}

// sameSpec compares specifications as they are stored.
func sameSpec(a, b work.Spec) bool {
	left, errLeft := json.Marshal(a)
	right, errRight := json.Marshal(b)
	return errLeft == nil && errRight == nil && bytes.Equal(left, right)
}

func (o *Orchestrator) queueNames() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	names := make([]string, 0, len(o.lines))
	for name, l := range o.lines {
		if l.known() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (o *Orchestrator) storeNew(ctx context.Context, item *work.Item) error {
	if err := o.ledger.Commit(ctx, work.Change{PutItem: item}); err != nil {
		return fmt.Errorf("store item %s: %w", item.ID, err)
	}
	stored := *item
	o.track(o.add(&stored))
	o.observer.Applied(nil, &stored)
	return nil
}

// Items returns the items that match, the newest first.
func (o *Orchestrator) Items(ctx context.Context, f control.Filter) ([]work.Item, error) {
	if err := o.loaded(ctx); err != nil {
		return nil, err
	}
	var found []*work.Item
	for _, item := range o.snapshot() {
		if (f.State == "" || item.State == f.State) && (f.Queue == "" || item.Spec.Queue == f.Queue) && strings.Contains(item.Spec.Repository, f.Repository) {
			found = append(found, item)
		}
	}
	slices.SortFunc(found, func(a, b *work.Item) int { return strings.Compare(b.ID, a.ID) })
	if f.Limit > 0 && len(found) > f.Limit {
		found = found[:f.Limit]
	}
	items := make([]work.Item, len(found))
	for i, item := range found {
		items[i] = o.told(item)
	}
	return items, nil
}

func (o *Orchestrator) snapshot() []*work.Item {
	o.mu.Lock()
	defer o.mu.Unlock()
	items := make([]*work.Item, 0, len(o.entries))
	for _, e := range o.entries {
		items = append(items, e.item.Load())
	}
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
	var found *entry
	for full, e := range o.entries {
		if id == "" || !strings.HasPrefix(full, id) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("several items begin with %q: give more of the id: %w", id, work.ErrInvalid)
		}
		found = e
	}
	if found == nil {
		return nil, fmt.Errorf("item %q: %w", id, work.ErrNotFound)
	}
	return found, nil
}

// Item returns an item by its id or the beginning of it, and how far its
// running attempt has come. It returns work.ErrNotFound and work.ErrInvalid.
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
		number = len(item.Attempts)
	}
	attempt := item.Attempt(number)
	if attempt == nil {
		return nil, fmt.Errorf("item %s has %d attempts, there is no number %d: %w", item.ID, len(item.Attempts), number, work.ErrNotFound)
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
	kept, err := o.store.Logs(ctx, attempt.ID)
	if err != nil {
		return logs, err
	}
	if kept == nil && attempt.Child != "" {
		if kept, err = o.liveLogs(ctx, attempt); err != nil {
			return logs, err
		}
		logs.Live = !attempt.State.Terminal()
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

// endOf returns how an attempt ended, nil while it goes on.
func endOf(a *work.Attempt) *control.End {
	if !a.State.Terminal() {
		return nil
	}
	end := &control.End{State: a.State, Reason: a.Reason, Detail: a.Detail, ExitCode: a.ExitCode, Signal: a.Signal, MemoryMB: a.MemoryMB}
	if a.Result != nil {
		end.PeakMemoryMB = a.Result.PeakMemoryMB
	}
	return end
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
	for !e.item.Load().Attempt(a.Number()).State.Terminal() {
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

// Cancel ends an item for good, and its attempt if one is under way.
// It returns work.ErrNotFound, and work.ErrConflict when the item has ended.
func (o *Orchestrator) Cancel(ctx context.Context, id, by string) (work.Item, error) {
	e, err := o.find(ctx, id)
	if err != nil {
		return work.Item{}, err
	}
	attempt, err := o.cancel(ctx, e, by)
	if err == nil && attempt != "" {
		o.spawn(o.term, func() { o.cleanup(o.term, e, attempt) })
	}
	return *e.item.Load(), err
}

// cancel stores the cancellation and returns the attempt it ended, if any.
func (o *Orchestrator) cancel(ctx context.Context, e *entry, by string) (work.AttemptID, error) {
	if err := e.lock(ctx); err != nil {
		return "", err
	}
	defer e.unlock()
	item := e.item.Load()
	if item.State.Terminal() {
		return "", fmt.Errorf("item %s is %s already: %w", item.ID, item.State, work.ErrConflict)
	}
	if current := item.Current(); current != nil && !current.State.Terminal() {
		return current.ID, o.end(ctx, e, current.ID, work.Ending{Reason: work.ReasonCancelled, Detail: by})
	}
	return "", o.apply(ctx, e, work.Cancelled{By: by})
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
