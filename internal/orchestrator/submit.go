package orchestrator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/internal/control"
	"drover/internal/parallel"
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
// repeated, and so is the one that has a submission's unique key. What who
// submits should know is in an item's warnings.
// It returns work.ErrInvalid, work.ErrConflict when an id is taken by another
// item or the queue takes none, and what Ledger.Commit returns.
func (o *Orchestrator) Submit(ctx context.Context, submissions []control.Submission) ([]work.Item, error) {
	b, err := o.submit(ctx, submissions, false)
	if err != nil {
		return nil, err
	}
	return o.answer(b), nil
}

// Check returns the items that Submit would return, and stores none.
func (o *Orchestrator) Check(ctx context.Context, submissions []control.Submission) ([]work.Item, error) {
	b, err := o.submit(ctx, submissions, true)
	if err != nil {
		return nil, err
	}
	return o.answer(b), nil
}

// SubmitStream is Submit for the submissions that control.ReadSubmissions reads from lines.
func (o *Orchestrator) SubmitStream(ctx context.Context, lines io.Reader) (control.Submitted, error) {
	submissions, err := control.ReadSubmissions(lines)
	if err != nil {
		return control.Submitted{}, err
	}
	b, err := o.submit(ctx, submissions, false)
	if err != nil {
		return control.Submitted{}, err
	}
	done := control.Submitted{Repeated: len(b.items)}
	for _, fresh := range b.fresh {
		if fresh {
			done.Stored, done.Repeated = done.Stored+1, done.Repeated-1
		}
	}
	return done, nil
}

// submit checks submissions, and stores them unless dry.
func (o *Orchestrator) submit(ctx context.Context, submissions []control.Submission, dry bool) (*batch, error) {
	if err := o.loaded(ctx); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(submissions, namesOthers) { // these are checked against what is stored
		if err := o.submitting.lock(ctx); err != nil {
			return nil, err
		}
		defer o.submitting.unlock()
	}
	b, err := o.gather(submissions)
	if err != nil {
		return nil, err
	}
	waves, err := o.waves(b)
	if err != nil {
		return nil, err
	}
	if err := o.reachable(ctx); err != nil || dry {
		return b, err
	}
	for _, wave := range waves {
		items := make([]*work.Item, len(wave))
		for i, at := range wave {
			items[i] = &b.items[at]
		}
		if err := o.storeAll(ctx, items); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// gather returns the items that submissions become, or are already.
func (o *Orchestrator) gather(submissions []control.Submission) (*batch, error) {
	inBatch := func(i int, err error) error { return fmt.Errorf("item %d of %d: %w", i+1, len(submissions), err) }
	specs := make([]work.Spec, len(submissions))
	for i, err := range parallel.Each(len(specs), func(i int) (err error) {
		specs[i], err = o.complete(submissions[i].Spec)
		return err
	}) {
		if err != nil {
			return nil, inBatch(i, err)
		}
	}
	b := newBatch(len(submissions))
	for i, s := range submissions {
		s.Spec = specs[i]
		b.rename(&s)
		item, isNew, err := o.admit(s)
		if err != nil {
			return nil, inBatch(i, err)
		}
		o.put(b, i, item, isNew)
	}
	return b, nil
}

// answer returns the items of a batch, with their warnings.
func (o *Orchestrator) answer(b *batch) []work.Item {
	for i := range b.items {
		if first, repeats := b.repeat[i]; repeats {
			b.items[i] = b.items[first]
			b.items[i].Warnings = []string{fmt.Sprintf("unique key %s belongs to item %s of the same submission", b.items[i].Spec.UniqueKey, b.items[i].ID)}
		} else if !b.items[i].State.Terminal() {
			b.items[i].Warnings = append(b.items[i].Warnings, o.warnings(&b.items[i])...)
		}
	}
	return b.items
}

// namesOthers reports whether a submission is about other items, too, or is known by a key.
func namesOthers(s control.Submission) bool {
	return s.Key != "" || s.Spec.UniqueKey != "" || len(s.Spec.DependsOn) > 0
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

// admit returns the item that a submission with a complete specification becomes,
// or the stored one it repeats.
func (o *Orchestrator) admit(s control.Submission) (work.Item, bool, error) {
	now := time.Now().UTC()
	if s.ID == "" && s.Key != "" {
		s.ID = o.keyed(s.Key, now)
	}
	if !work.ValidID(s.ID) {
		return work.Item{}, false, fmt.Errorf("id %q is not a work item's id: %w", s.ID, work.ErrInvalid)
	}
	spec := s.Spec
	if e := o.entry(s.ID); e != nil {
		stored := e.item.Load()
		if !sameSpec(stored.Spec, spec) {
			return work.Item{}, false, fmt.Errorf("id %s is taken by another item: %w", s.ID, work.ErrConflict)
		}
		return *stored, false, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if record := o.line(spec.Queue).record; record.State == work.QueueDraining {
		return work.Item{}, false, fmt.Errorf("queue %s is draining since %s and takes no items: %w", spec.Queue, stamp(record.Since), work.ErrConflict)
	}
	item := work.NewItem(s.ID, spec, now)
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
	o.mu.Lock()
	line := o.lines[name]
	known := line != nil && line.known()
	o.mu.Unlock()
	if !known {
		return spec, o.unknownQueue(name)
	}
	spec = spec.WithDefaults(o.cfg.Defaults.WithQueue(o.settings(name)))
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

// storeNew stores some new items, all or none.
func (o *Orchestrator) storeNew(ctx context.Context, items []*work.Item) error {
	changes := make([]work.Change, len(items))
	for i, item := range items {
		changes[i].PutItem = item
	}
	if err := o.ledger.Commit(ctx, changes...); err != nil {
		return fmt.Errorf("store item %s: %w", items[0].ID, err)
	}
	for _, item := range items {
		stored := *item
		o.track(o.add(&stored))
		o.observer.Applied(nil, &stored)
		o.announce(&stored)
	}
	return nil
}
