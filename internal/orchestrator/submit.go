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
	chunkItems  = 63
	chunkBytes  = 240 << 10 // by work.Item.StoredBytes, which is about four times what a small item takes
	chunkFlight = 16
)

// Submit stores items. All are checked before any is stored. An item whose id,
// or key, is stored already is returned as it is, so that a request can be
// repeated, and so is the one that has a submission's unique key. What who
// submits should know is in an item's warnings.
// It returns work.ErrInvalid, work.ErrConflict when an id is taken by another
// item or the queue takes none, and what Ledger.Commit returns.
func (o *Orchestrator) Submit(ctx context.Context, submissions []control.Submission) ([]work.Item, error) {
	const dry = false
	return o.submit(ctx, submissions, dry)
}

// Check returns the items that Submit would return, and stores none.
func (o *Orchestrator) Check(ctx context.Context, submissions []control.Submission) ([]work.Item, error) {
	const dry = true
	return o.submit(ctx, submissions, dry)
}

func (o *Orchestrator) submit(ctx context.Context, submissions []control.Submission, dry bool) ([]work.Item, error) {
	if err := o.loaded(ctx); err != nil {
		return nil, err
	}
	unlock, err := o.settled(ctx, slices.ContainsFunc(submissions, func(s control.Submission) bool { return s.Key != "" || namesOthers(&s.Spec) }))
	if err != nil {
		return nil, err
	}
	defer unlock()
	b := newBatch(len(submissions))
	for i, err := range parallel.Each(len(submissions), func(i int) (err error) {
		b.keys[i] = submissions[i].Key
		b.items[i], err = o.draft(&submissions[i])
		return err
	}) {
		if err != nil {
			return nil, b.fault(i, err)
		}
	}
	if err := o.storeBatch(ctx, b, dry); err != nil {
		return nil, err
	}
	return o.answer(b), nil
}

// SubmitStream is Submit for the submissions that control.ReadSubmissions reads from lines.
func (o *Orchestrator) SubmitStream(ctx context.Context, lines io.Reader) (control.Submitted, error) {
	if err := o.loaded(ctx); err != nil {
		return control.Submitted{}, err
	}
	drafts, err := control.ReadSubmissions(lines, o.draft)
	if err != nil {
		return control.Submitted{}, err
	}
	unlock, err := o.settled(ctx, slices.ContainsFunc(drafts, func(item *work.Item) bool { return namesOthers(&item.Spec) }))
	if err != nil {
		return control.Submitted{}, err
	}
	defer unlock()
	b := newBatch(len(drafts))
	copy(b.items, drafts)
	const dry = false
	if err := o.storeBatch(ctx, b, dry); err != nil {
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

// settled waits until no other submission is under way that names items, for one
// that does: it is checked against what is stored.
func (o *Orchestrator) settled(ctx context.Context, names bool) (unlock func(), err error) {
	if !names {
		return func() {}, nil
	}
	return o.submitting.unlock, o.submitting.lock(ctx)
}

// storeBatch checks the drafts of a batch against each other and what is stored, and
// stores those that are new unless dry.
func (o *Orchestrator) storeBatch(ctx context.Context, b *batch, dry bool) error {
	defer func() { o.arrived(slices.Values(b.arriving)) }()
	for i := range b.items {
		if err := o.admit(b, i); err != nil {
			return b.fault(i, err)
		}
	}
	waves, err := o.waves(b)
	if err != nil {
		return err
	}
	if dry {
		return nil
	}
	for _, wave := range waves {
		items := make([]*work.Item, len(wave))
		for i, at := range wave {
			items[i] = b.items[at]
		}
		if err := o.storeAll(ctx, items); err != nil {
			return err
		}
	}
	return nil
}

// answer returns the items of a batch, with their warnings.
func (o *Orchestrator) answer(b *batch) []work.Item {
	items := make([]work.Item, len(b.items))
	for i := range items {
		first, repeats := b.repeat[i]
		if !repeats {
			first = i
		}
		items[i] = *b.items[first]
		if says := b.says[i]; says != "" {
			items[i].Warnings = append(items[i].Warnings, says)
		}
		if !repeats && !items[i].State.Terminal() {
			items[i].Warnings = append(items[i].Warnings, o.warnings(&items[i])...)
		}
	}
	return items
}

// namesOthers reports whether a specification is about other items, too.
func namesOthers(spec *work.Spec) bool { return spec.UniqueKey != "" || len(spec.DependsOn) > 0 }

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
	if away := o.away.Load(); away != nil {
		found = append(found, away.sentence())
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
			bytes += items[n].StoredBytes()
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

// draft returns the item that a submission becomes if it is new. It fills what
// its specification leaves open.
func (o *Orchestrator) draft(s *control.Submission) (*work.Item, error) {
	id, now := s.ID, time.Now().UTC()
	if id == "" && s.Key != "" {
		id = o.keyed(s.Key, now)
	}
	if !work.ValidID(id) {
		return nil, fmt.Errorf("id %q is not a work item's id: %w", id, work.ErrInvalid)
	}
	if err := o.complete(&s.Spec); err != nil {
		return nil, err
	}
	item := work.NewItem(id, s.Spec, now)
	return &item, nil
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
func (o *Orchestrator) complete(spec *work.Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	name := cmp.Or(spec.Queue, work.DefaultQueue)
	o.mu.Lock()
	line := o.lines[name]
	known := line != nil && line.known()
	o.mu.Unlock()
	if !known {
		return o.unknownQueue(name)
	}
	*spec = spec.WithDefaults(o.cfg.Defaults.WithQueue(o.settings(name)))
	if len(spec.Command) == 0 && spec.Agent == work.AgentPlain {
		return fmt.Errorf("no command: say which agent to run, or have the server's configuration name one: %w", work.ErrInvalid)
	}
	return spec.CheckStoredSize()
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

// storeNew stores some new items, all or none. They are the orchestrator's from
// then on, and not to be changed.
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
		o.observer.Applied(nil, item)
		o.announce(item)
	}
	return nil
}
