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
	"drover/internal/work"
)

// Bounds of new items that are stored by one commit, two of which fill a
// transaction, and how many commits are under way at a time.
const (
	chunkItems  = 31
	chunkBytes  = 128 << 10
	chunkFlight = 16
	// itemBytes is about what an item takes besides the texts of its specification.
	itemBytes = 2 << 10
)

// Submit stores items. All are checked before any is stored. An item whose id,
// or key, is stored already is returned as it is, so that a request can be
// repeated. It returns work.ErrInvalid, work.ErrConflict when an id is taken by
// another item, and what Ledger.Commit returns.
func (o *Orchestrator) Submit(ctx context.Context, submissions []control.Submission) ([]work.Item, error) {
	if slices.ContainsFunc(submissions, func(s control.Submission) bool { return s.Key != "" }) {
		// Two at once could both find a key new.
		select {
		case o.keying <- struct{}{}:
			defer func() { <-o.keying }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	items, fresh, err := o.admitAll(ctx, each(submissions))
	if err != nil {
		return nil, err
	}
	return values(items), o.storeAll(ctx, fresh)
}

func values(items []*work.Item) []work.Item {
	out := make([]work.Item, len(items))
	for i, item := range items {
		out[i] = *item
	}
	return out
}

// Check returns the items that Submit would store, and stores none.
func (o *Orchestrator) Check(ctx context.Context, submissions []control.Submission) ([]work.Item, error) {
	items, _, err := o.admitAll(ctx, each(submissions))
	return values(items), err
}

// each returns the submissions one after the other, then io.EOF.
func each(submissions []control.Submission) func() (control.Submission, error) {
	next := 0
	return func() (control.Submission, error) {
		if next == len(submissions) {
			return control.Submission{}, io.EOF
		}
		next++
		return submissions[next-1], nil
	}
}

// SubmitStream is Submit for any number of items, each with an id of its own:
// next returns them one after the other, and io.EOF at their end.
func (o *Orchestrator) SubmitStream(ctx context.Context, next func() (control.Submission, error)) (control.Submitted, error) {
	items, fresh, err := o.admitAll(ctx, next)
	if err != nil {
		return control.Submitted{}, err
	}
	done := control.Submitted{Stored: len(fresh), Repeated: len(items) - len(fresh)}
	return done, o.storeAll(ctx, fresh)
}

// admitAll checks submissions to their end, and returns all their items, and
// those of them that are to be stored.
func (o *Orchestrator) admitAll(ctx context.Context, next func() (control.Submission, error)) (items, fresh []*work.Item, err error) {
	if err := o.loaded(ctx); err != nil {
		return nil, nil, err
	}
	if err := o.reachable(ctx); err != nil {
		return nil, nil, err
	}
	for {
		s, err := next()
		if errors.Is(err, io.EOF) {
			return items, fresh, nil
		}
		if err != nil {
			return nil, nil, err
		}
		item, isNew, err := o.admit(s)
		if err != nil {
			return nil, nil, fmt.Errorf("item %d: %w", len(items)+1, err)
		}
		items = append(items, &item)
		if isNew {
			fresh = append(fresh, &item)
		}
	}
}

// storeAll stores new items, some by one commit.
func (o *Orchestrator) storeAll(ctx context.Context, items []*work.Item) error {
	var group errgroup.Group
	group.SetLimit(chunkFlight)
	for len(items) > 0 {
		n, bytes := 0, 0
		for ; n < len(items) && n < chunkItems; n++ {
			spec := items[n].Spec
			bytes += itemBytes + len(spec.Task) + len(spec.Prompt) + len(spec.PR.Body)
			if n > 0 && bytes > chunkBytes {
				break
			}
		}
		some := items[:n]
		items = items[n:]
		group.Go(func() error { return o.storeNew(ctx, some) })
	}
	return group.Wait()
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
	now := time.Now().UTC()
	if s.ID == "" && s.Key != "" {
		s.ID = o.keyed(s.Key, now)
	}
	if !work.ValidID(s.ID) {
		return work.Item{}, false, fmt.Errorf("id %q is not a work item's id: %w", s.ID, work.ErrInvalid)
	}
	spec, err := o.complete(s.Spec)
	if err != nil {
		return work.Item{}, false, err
	}
	if e := o.entry(s.ID); e != nil {
		stored := e.item.Load()
		if !sameSpec(stored.Spec, spec) {
			return work.Item{}, false, fmt.Errorf("id %s is taken by another item: %w", s.ID, work.ErrConflict)
		}
		return *stored, false, nil
	}
	item := work.NewItem(s.ID, spec, now)
	o.mu.Lock()
	defer o.mu.Unlock()
	item.StartWith(o.memory[spec.Repository])
	return item, true, nil
}

// keyed returns the id of the item that was submitted under a key, or else one
// that a repetition will find.
func (o *Orchestrator) keyed(key string, now time.Time) string {
	id := work.KeyedID(key, now)
	o.mu.Lock()
	defer o.mu.Unlock()
	for stored := range o.entries {
		if work.SameKey(stored, id) {
			return stored
		}
	}
	return id
}

// complete checks a specification and fills what it leaves open.
// It returns work.ErrInvalid.
func (o *Orchestrator) complete(spec work.Spec) (work.Spec, error) {
	if err := spec.Validate(); err != nil {
		return spec, err
	}
	name := cmp.Or(spec.Queue, work.DefaultQueue)
	queue, known := o.cfg.Queues[name]
	if !known {
		return spec, o.unknownQueue(name)
	}
	spec = spec.WithDefaults(o.cfg.Defaults.WithAgent(queue.Agent, queue.Command))
	if len(spec.Command) == 0 && spec.Agent == work.AgentPlain {
		return spec, fmt.Errorf("no command: say which agent to run, or have the server's configuration name one: %w", work.ErrInvalid)
	}
	return spec, nil
}

func (o *Orchestrator) unknownQueue(name string) error {
	return fmt.Errorf("unknown queue %q: known are %s: %w", name, strings.Join(o.queueNames(), ", "), work.ErrInvalid)
}

// sameSpec compares specifications as they are stored.
func sameSpec(a, b work.Spec) bool {
	left, errLeft := json.Marshal(a)
	right, errRight := json.Marshal(b)
	return errLeft == nil && errRight == nil && bytes.Equal(left, right)
}

func (o *Orchestrator) queueNames() []string {
	names := make([]string, 0, len(o.cfg.Queues))
	for name := range o.cfg.Queues {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// storeNew stores some new items, all or none. They are not to be changed after.
func (o *Orchestrator) storeNew(ctx context.Context, items []*work.Item) error {
	changes := make([]work.Change, len(items))
	for i, item := range items {
		changes[i].PutItem = item
	}
	if err := o.ledger.Commit(ctx, changes...); err != nil {
		return fmt.Errorf("store item %s: %w", items[0].ID, err)
	}
	for _, item := range items {
		o.track(o.add(item))
		o.announce(item)
	}
	return nil
}
