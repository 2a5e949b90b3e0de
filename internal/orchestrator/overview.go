package orchestrator

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/internal/control"
	"drover/internal/work"
)

const (
	// endedShown is how many of the items that ended last an overview holds.
	endedShown = 20
	// usageAge is how old a figure of used memory gets before Nomad is asked again.
	usageAge = 2 * time.Second
	// usageTimeout bounds the question what attempts use: where Nomad's nodes are
	// not to be reached, an overview is worth having without.
	usageTimeout = 2 * time.Second
)

// Overview returns what runs and how the queues stand. Its status is left to the
// caller. It returns work.ErrUnavailable.
func (o *Orchestrator) Overview(ctx context.Context) (control.Overview, error) {
	if err := o.loaded(ctx); err != nil {
		return control.Overview{}, err
	}
	now := time.Now().UTC()
	queues := map[string]*control.QueueOverview{}
	for _, name := range o.queueNames() {
		queues[name] = &control.QueueOverview{Name: name, Items: map[work.State]int{}, MaxInFlight: value(o.settings(name).MaxInFlight)}
	}
	ended := &page{limit: endedShown, order: listOrder{position: position{Sort: control.SortUpdated}, key: sortKeys[control.SortUpdated]}}
	var open []*work.Item
	o.each(control.Filter{}, func(item *work.Item) {
		queue := queues[item.Spec.Queue]
		if queue == nil { // it was taken out of the configuration
			queue = &control.QueueOverview{Name: item.Spec.Queue, Items: map[work.State]int{}}
			queues[item.Spec.Queue] = queue
		}
		queue.Items[item.State]++
		switch {
		case item.State.Terminal():
			ended.offer(item)
		case item.State != work.StateQueued:
			open = append(open, item)
		case item.NotBefore.After(now):
			queue.Delayed++
		}
	})
	o.usage.keepOnly(open)
	out := control.Overview{At: now, Running: o.running(ctx, open)}
	for _, name := range slices.Sorted(maps.Keys(queues)) {
		out.Queues = append(out.Queues, *queues[name])
	}
	slices.SortFunc(ended.items, ended.order.compare)
	for _, item := range ended.items {
		out.Ended = append(out.Ended, *item)
	}
	return out, nil
}

// running describes the attempts under way, the oldest item first. What can't be
// read is left out.
func (o *Orchestrator) running(ctx context.Context, open []*work.Item) []control.Running {
	slices.SortFunc(open, func(a, b *work.Item) int { return strings.Compare(a.ID, b.ID) })
	running := make([]control.Running, len(open))
	ctx, cancel := context.WithTimeout(ctx, usageTimeout)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(maxParallel)
	for i, item := range open {
		group.Go(func() error {
			running[i] = o.describe(ctx, item)
			return nil
		})
	}
	_ = group.Wait() // nothing in it fails
	return running
}

func (o *Orchestrator) describe(ctx context.Context, item *work.Item) control.Running {
	a := item.Current()
	task, _, _ := strings.Cut(strings.TrimSpace(item.Spec.Task), "\n")
	r := control.Running{
		Item: item.ID, Attempt: a.Number, State: a.State, Why: item.Why, Queue: item.Spec.Queue, Repository: item.Spec.Repository,
		Task: task, Node: a.Node, Since: a.CreatedAt, MemoryMB: a.MemoryMB, Heartbeat: o.beatOf(a.ID).at,
	}
	if a.State != work.AttemptRunning {
		return r
	}
	r.Since = a.StartedAt
	if progress, err := o.store.Progress(ctx, a.ID); err == nil {
		r.Progress = progress
	}
	r.Heartbeat = o.lastSign(a, r.Progress).at
	r.UsedMB = o.usedMB(ctx, a)
	return r
}

// usage is the memory that was seen of running attempts, for who looks at them.
type usage struct {
	mu     sync.Mutex
	memory map[work.AttemptID]sample
}

type sample struct {
	mb int
	at time.Time
}

func newUsage() *usage { return &usage{memory: map[work.AttemptID]sample{}} }

// keepOnly forgets the attempts that are not among the open items'.
func (u *usage) keepOnly(open []*work.Item) {
	current := make(map[work.AttemptID]bool, len(open))
	for _, item := range open {
		current[item.CurrentID()] = true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.DeleteFunc(u.memory, func(a work.AttemptID, _ sample) bool { return !current[a] })
}

// usedMB returns the memory that an attempt uses, 0 when that is not known.
func (o *Orchestrator) usedMB(ctx context.Context, a *work.Attempt) int {
	o.usage.mu.Lock()
	old := o.usage.memory[a.ID]
	o.usage.mu.Unlock()
	if time.Since(old.at) < usageAge || a.Allocation == "" {
		return old.mb
	}
	mb, err := o.cluster.MemoryMB(ctx, a.Allocation)
	if err != nil {
		mb = old.mb // the last that was seen is better than nothing
	}
	o.usage.mu.Lock()
	defer o.usage.mu.Unlock()
	o.usage.memory[a.ID] = sample{mb: mb, at: time.Now()}
	return mb
}
