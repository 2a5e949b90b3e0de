package orchestrator

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"drover/internal/work"
)

// keyOf is the place of a unique key: queues have keys of their own.
func keyOf(spec work.Spec) string { return spec.Queue + "\x00" + spec.UniqueKey }

// holderOf returns the item that has a specification's unique key, nil if it has
// none or the key is free. The key is its item's as long as that is kept,
// whatever became of it: to run the same again takes a retry, or another key.
func (o *Orchestrator) holderOf(spec work.Spec) *work.Item {
	if spec.UniqueKey == "" {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.entries[o.keys[keyOf(spec)]]; e != nil {
		return e.item.Load()
	}
	return nil
}

// batch is a submission of items that may name each other.
type batch struct {
	items    []*work.Item
	keys     []string          // under which they were submitted, empty for none
	fresh    []bool            // whether they are new
	arriving []string          // ids, to be given to Orchestrator.arrived
	says     map[int]string    // what who submits is to know of an item, by its index
	unique   map[string]int    // index of the first fresh item with a unique key
	ids      map[string]int    // index by id, of fresh items
	keyed    map[string]int    // index by the key of a submission, of fresh items
	repeat   map[int]int       // index of an item that another one before it is, too, to that
	stands   map[string]string // id by the id of a submission for which it stands
}

func newBatch(size int) *batch {
	return &batch{
		items: make([]*work.Item, size), keys: make([]string, size), fresh: make([]bool, size), says: map[int]string{}, unique: map[string]int{},
		ids: make(map[string]int, size), keyed: map[string]int{}, repeat: map[int]int{}, stands: map[string]string{},
	}
}

// fault says of which item an error is.
func (b *batch) fault(i int, err error) error {
	return fmt.Errorf("item %d of %d: %w", i+1, len(b.items), err)
}

// rename has an item depend on those that stand for the ones it names.
func (b *batch) rename(item *work.Item) {
	names := make([]string, len(item.Spec.DependsOn))
	for i, id := range item.Spec.DependsOn {
		names[i] = id
		if other := b.stands[id]; other != "" {
			names[i] = other
		}
	}
	if len(names) > 0 {
		item.Spec.DependsOn = names
	}
}

// admit takes the draft of an item in, unless it is stored already or another has
// its key. It returns work.ErrConflict when its id, or the key it was submitted
// under, is another item's, or its queue takes none.
func (o *Orchestrator) admit(b *batch, i int) error {
	item, key := b.items[i], b.keys[i]
	b.rename(item)
	first, taken := b.ids[item.ID]
	if !taken && key != "" {
		first, taken = b.keyed[key]
	}
	if taken {
		b.repeat[i] = first
		return sameItem(b.items[first], item)
	}
	stored, err := o.arrive(item.ID)
	switch {
	case err != nil:
		return err
	case stored != nil:
		b.items[i] = stored
		return sameItem(stored, item)
	}
	b.arriving = append(b.arriving, item.ID)
	if first := o.holderOf(item.Spec); first != nil {
		b.items[i], b.stands[item.ID] = first, first.ID
		b.says[i] = fmt.Sprintf("unique key %s belongs to item %s, which is %s: nothing new was stored", item.Spec.UniqueKey, first.ID, first.State)
		return nil
	}
	if item.Spec.UniqueKey != "" {
		if first, taken := b.unique[keyOf(item.Spec)]; taken {
			b.repeat[i], b.stands[item.ID] = first, b.items[first].ID
			b.says[i] = fmt.Sprintf("unique key %s belongs to item %s of the same submission", item.Spec.UniqueKey, b.items[first].ID)
			return nil
		}
		b.unique[keyOf(item.Spec)] = i
	}
	b.ids[item.ID], b.fresh[i] = i, true
	if key != "" {
		b.keyed[key] = i
	}
	return o.enter(item)
}

// arrive reserves the id of a new item until arrived is called, so that a request
// that is repeated while it is still carried out does not put an item back to
// where it began. It returns the item if it is stored already, and
// work.ErrUnavailable while another request stores it.
func (o *Orchestrator) arrive(id string) (stored *work.Item, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.entries[id]; e != nil {
		return e.item.Load(), nil
	}
	if o.arriving[id] {
		return nil, fmt.Errorf("item %s is just being stored by another request: repeat this one: %w", id, work.ErrUnavailable)
	}
	o.arriving[id] = true
	return nil, nil
}

// enter gives a new item the memory that its repository's were seen to need.
// It returns work.ErrConflict when its queue is draining.
func (o *Orchestrator) enter(item *work.Item) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if record := o.line(item.Spec.Queue).record; record.State == work.QueueDraining {
		return fmt.Errorf("queue %s is draining since %s and takes no items: %w", item.Spec.Queue, stamp(record.Since), work.ErrConflict)
	}
	item.StartWith(o.repository(item.Spec.Repository).outgrewMB)
	return nil
}

// arrived frees ids that arrive reserved: their items are stored, or never will be.
func (o *Orchestrator) arrived(ids iter.Seq[string]) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id := range ids {
		delete(o.arriving, id)
	}
}

// sameItem returns work.ErrConflict unless a submission repeats one of its id.
func sameItem(first, again *work.Item) error {
	if sameSpec(first.Spec, again.Spec) {
		return nil
	}
	return fmt.Errorf("id %s is taken by another item: %w", first.ID, work.ErrConflict)
}

// waves returns the indices of the fresh items in the order in which they are
// stored: those that others depend on come first, so that whatever happens in
// between no item is stored that names one that is not.
// It returns work.ErrInvalid for a cycle, and for what can never complete.
func (o *Orchestrator) waves(b *batch) ([][]int, error) {
	const visiting = -1
	depth := make([]int, len(b.items))
	var visit func(i int) (int, error)
	visit = func(i int) (int, error) {
		if d := depth[i]; d == visiting {
			return 0, fmt.Errorf("item %s depends on itself, over others: %w", b.items[i].ID, work.ErrInvalid)
		} else if d > 0 {
			return d, nil
		}
		depth[i] = visiting
		deepest := 0
		for _, id := range b.items[i].Spec.DependsOn {
			other, here := b.ids[id]
			if !here {
				if err := o.canComplete(id); err != nil {
					return 0, fmt.Errorf("item %s: %w", b.items[i].ID, err)
				}
				continue
			}
			d, err := visit(other)
			if err != nil {
				return 0, err
			}
			deepest = max(deepest, d)
		}
		depth[i] = deepest + 1
		return depth[i], nil
	}
	var waves [][]int
	for i, fresh := range b.fresh {
		if !fresh {
			continue
		}
		d, err := visit(i)
		if err != nil {
			return nil, err
		}
		for len(waves) < d {
			waves = append(waves, nil)
		}
		waves[d-1] = append(waves[d-1], i)
	}
	return waves, nil
}

// inOrder sorts items so that each comes after those that it depends on, as far
// as they are among them: one that is stored first would depend on nothing.
func inOrder(items []*work.Item) (waves [][]*work.Item) {
	left := map[string]bool{}
	for _, item := range items {
		left[item.ID] = true
	}
	for len(items) > 0 {
		var wave, later []*work.Item
		for _, item := range items {
			if slices.ContainsFunc(item.Spec.DependsOn, func(id string) bool { return left[id] }) {
				later = append(later, item)
			} else {
				wave = append(wave, item)
			}
		}
		if len(wave) == 0 { // a cycle, which no server ever stored
			wave, later = later, nil
		}
		for _, item := range wave {
			delete(left, item.ID)
		}
		waves, items = append(waves, wave), later
	}
	return waves
}

// canComplete returns work.ErrInvalid for an item on which none is to depend.
func (o *Orchestrator) canComplete(id string) error {
	e := o.entry(id)
	if e == nil {
		return fmt.Errorf("depends on item %s, which does not exist: %w", id, work.ErrInvalid)
	}
	if state := e.item.Load().State; state.Terminal() && state != work.StateCompleted {
		return fmt.Errorf("depends on item %s, which is %s: %w", id, state, work.ErrInvalid)
	}
	return nil
}

// independent reports whether all that a queued item depends on has completed,
// and sees to it that it is looked at again otherwise. The caller holds mu.
func (o *Orchestrator) independent(e *entry, item *work.Item) bool {
	free := true
	for _, id := range item.Spec.DependsOn {
		other := o.entries[id]
		switch {
		case other == nil || other.item.Load().State.Terminal() && other.item.Load().State != work.StateCompleted:
			o.doomed = append(o.doomed, e)
			nudge(o.wake)
			return false
		case !other.item.Load().State.Terminal():
			free = false
			if o.dependants[id] == nil {
				o.dependants[id] = map[string]bool{}
			}
			o.dependants[id][item.ID] = true
		}
	}
	return free
}

// settleDependants looks again at the items that wait for one that is over. The caller holds mu.
func (o *Orchestrator) settleDependants(id string) {
	waiting := o.dependants[id]
	delete(o.dependants, id)
	for other := range waiting {
		if e := o.entries[other]; e != nil {
			o.place(e)
		}
	}
}

func (o *Orchestrator) trackID(id string) {
	if e := o.entry(id); e != nil {
		o.track(e)
	}
}

func (o *Orchestrator) takeDoomed() []*entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	doomed := o.doomed
	o.doomed = nil
	return doomed
}

// doom ends an item that depends on one that did not complete.
func (o *Orchestrator) doom(ctx context.Context, e *entry) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	item := e.item.Load()
	if item.State != work.StateQueued {
		return nil
	}
	for _, id := range item.Spec.DependsOn {
		var state work.State
		if other := o.entry(id); other != nil {
			state = other.item.Load().State
		}
		if state == "" || state.Terminal() && state != work.StateCompleted {
			return o.apply(ctx, e, work.DependencyEnded{ID: id, State: state})
		}
	}
	return nil
}
