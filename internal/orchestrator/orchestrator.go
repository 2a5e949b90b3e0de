// Package orchestrator moves items through their lives while its server leads.
//
// It is level-triggered. Events (Nomad's stream, Consul's watches, calls of the
// API) are hints to look at one attempt; reconcile compares everything that is
// open with Nomad and Consul and finds what no event told. Every step may be
// repeated: a transition is stored before anything acts on it, and what acts
// (dispatch, stop, purge, destroying a session) can be done twice.
//
// What is authoritative: Consul for items, claims and results; Nomad for what
// runs. What is in memory is a copy that only this leader changes, after Consul
// has taken the change in a transaction that checks the leader's session.
package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"drover/internal/queue"
	"drover/internal/wait"
	"drover/internal/work"
)

// Defaults of Config.
const (
	DefaultMaxInFlight    = 32
	DefaultReconcileEvery = 30 * time.Second
)

// parallel is how many attempts are dispatched, observed or cleaned up at a
// time. Sixteen dispatches at once get about the most out of one Nomad server.
const parallel = 16

// Config says how an orchestrator works.
type Config struct {
	MaxInFlight    int              // attempts dispatched and not ended, over all queues
	Queues         map[string]Queue // known queues
	Defaults       work.Defaults
	Retry          work.RetryPolicy
	ReconcileEvery time.Duration
	KVPrefix       string // handed to the workers
}

// Queue is what a queue has of its own.
type Queue struct {
	MaxInFlight int                 // attempts in flight at a time; 0 is no limit of its own
	Retry       *work.RetryOverride // rows of the retry table that it changes; may be nil
	Agent       string              // kind of agent of items that name none; the server's if empty
	Command     []string            // of these agents; the adapter's own, or the server's where it is of the same kind, if empty
}

// Orchestrator is one term of leadership.
type Orchestrator struct {
	cfg     Config
	store   Store
	ledger  Ledger
	cluster Cluster
	log     hclog.Logger
	slots   chan struct{} // bounds work done in parallel
	wake    chan struct{} // something may be dispatched
	look    chan struct{} // reconcile now
	index   atomic.Uint64 // of Nomad, from which to watch
	ready   chan struct{} // closed when the stored items are loaded
	tasks   *errgroup.Group
	feed    *feed
	usage   *usage
	keying  chan struct{}   // holds a value while submissions with keys are stored
	term    context.Context // of Run: work that outlives the call that began it

	mu       sync.Mutex // guards what follows
	entries  map[string]*entry
	sorted   []known // the entries, in the order of their ids
	queue    *queue.Queue
	open     map[string]string // queue by id, of items that have an open attempt or are about to
	cleaning map[work.AttemptID]bool
	memory   map[string]int  // by repository: MiB its items outgrew their limits to
	reported map[string]bool // children that are not ours, said once
}

// entry is one item. It is locked over a whole transition, so that transitions
// of one item come one after the other.
type entry struct {
	locked chan struct{}             // holds a value while locked; a transition can wait long for Consul, so waiting has a context
	item   atomic.Pointer[work.Item] // replaced, never changed
	// removed says that the item is forgotten: nothing may be stored of it.
	// Guarded by locked.
	removed bool
}

func newEntry(item *work.Item) *entry {
	e := &entry{locked: make(chan struct{}, 1)}
	e.item.Store(item)
	return e
}

// lock waits for the item. It returns the context's cause when that ends first.
func (e *entry) lock(ctx context.Context) error {
	select {
	case e.locked <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tryLock locks the item unless it is locked.
func (e *entry) tryLock() bool {
	select {
	case e.locked <- struct{}{}:
		return true
	default:
		return false
	}
}

func (e *entry) unlock() { <-e.locked }

// New returns an orchestrator for one term. Run starts it.
func New(cfg Config, store Store, ledger Ledger, cluster Cluster, log hclog.Logger) *Orchestrator {
	return &Orchestrator{
		cfg: cfg, store: store, ledger: ledger, cluster: cluster, log: log.Named("orchestrator"),
		slots: make(chan struct{}, parallel), wake: make(chan struct{}, 1), look: make(chan struct{}, 1),
		ready: make(chan struct{}), feed: newFeed(), usage: newUsage(), keying: make(chan struct{}, 1), entries: map[string]*entry{}, queue: queue.New(), open: map[string]string{},
		cleaning: map[work.AttemptID]bool{}, memory: map[string]int{}, reported: map[string]bool{},
	}
}

// Run leads until ctx ends, which is the end of the term, and returns its cause.
// Everything it started has ended when it returns.
func (o *Orchestrator) Run(ctx context.Context) error {
	if err := o.load(ctx); err != nil {
		return err
	}
	var group *errgroup.Group
	group, ctx = errgroup.WithContext(ctx)
	o.tasks, o.term = group, ctx
	close(o.ready)
	if err := o.reconcile(ctx); err != nil {
		o.log.Warn("first comparison failed, trying again", "error", err)
		nudge(o.look)
	}
	for _, loop := range []func(context.Context) error{o.dispatchLoop, o.eventLoop, o.resultLoop, o.heartbeatLoop, o.reconcileLoop} {
		group.Go(func() error { return loop(ctx) })
	}
	return group.Wait()
}

// load fills memory from the store, and tries until it can.
func (o *Orchestrator) load(ctx context.Context) error {
	for {
		items, err := o.store.Items(ctx)
		if err == nil {
			for i := range items {
				o.track(o.add(&items[i]))
			}
			o.log.Info("items loaded", "items", len(items), "open", len(o.open), "queued", o.queue.Len())
			return nil
		}
		o.log.Warn("items not loaded, trying again", "error", err)
		if err := wait.For(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (o *Orchestrator) add(item *work.Item) *entry {
	e := newEntry(item)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.entries[item.ID] = e
	at, found := o.place(item.ID)
	if found {
		o.sorted[at].entry = e
	} else {
		o.sorted = slices.Insert(o.sorted, at, known{item.ID, e})
	}
	return e
}

// known is an entry and its item's id.
type known struct {
	id    string
	entry *entry
}

// place returns where an id stands, or would stand, in sorted. The caller holds mu.
func (o *Orchestrator) place(id string) (int, bool) {
	return slices.BinarySearchFunc(o.sorted, id, func(k known, id string) int { return strings.Compare(k.id, id) })
}

// entry returns an item's entry, nil if there is no such item.
func (o *Orchestrator) entry(id string) *entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.entries[id]
}

// track keeps the queue and the number of open attempts in step with an item.
func (o *Orchestrator) track(e *entry) {
	item := e.item.Load()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.memory[item.Spec.Repository] = max(o.memory[item.Spec.Repository], item.OutgrewMB())
	switch {
	case item.State == work.StateQueued:
		delete(o.open, item.ID)
		o.queue.Put(queue.Entry{ID: item.ID, Queue: item.Spec.Queue, Priority: *item.Spec.Priority, NotBefore: item.NotBefore})
	case item.State.Terminal():
		delete(o.open, item.ID)
		o.queue.Remove(item.ID)
	default:
		o.open[item.ID] = item.Spec.Queue
		o.queue.Remove(item.ID)
	}
	nudge(o.wake)
}

// apply makes one transition: it is stored first, with what must change along
// with it, and counts only then. The caller has e locked.
// It returns what work.Apply and Ledger.Commit return.
func (o *Orchestrator) apply(ctx context.Context, e *entry, event work.Event, along ...work.Change) error {
	before := *e.item.Load()
	if e.removed {
		return fmt.Errorf("item %s was removed: %w", before.ID, work.ErrNotFound)
	}
	after, err := work.Apply(before, event, o.policy(before.Spec), time.Now().UTC())
	if err != nil {
		return err
	}
	changes := append([]work.Change{{PutItem: &after}}, along...)
	if err := o.ledger.Commit(ctx, changes...); err != nil {
		return fmt.Errorf("store item %s: %w", before.ID, err)
	}
	e.item.Store(&after)
	o.track(e)
	o.announce(&after)
	if before.State != after.State {
		o.log.Info("item moved", "item", after.ID, "attempt", len(after.Attempts), "from", before.State, "to", after.State, "reason", after.Reason, "why", after.Why)
	}
	return nil
}

// policy returns the retry policy of an item: the server's, changed by its
// queue's, changed by its own.
func (o *Orchestrator) policy(spec work.Spec) work.RetryPolicy {
	return o.cfg.Retry.With(o.cfg.Queues[spec.Queue].Retry).With(spec.Retry)
}

// openItems returns the entries that have an open attempt.
func (o *Orchestrator) openItems() []*entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	entries := make([]*entry, 0, len(o.open))
	for id := range o.open {
		entries = append(entries, o.entries[id])
	}
	return entries
}

// spawn runs f beside the loops, at most parallel at a time; it waits for a
// slot, and the term waits for f.
func (o *Orchestrator) spawn(ctx context.Context, f func()) {
	if ctx.Err() != nil {
		return
	}
	select {
	case o.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	o.tasks.Go(func() error {
		defer func() { <-o.slots }()
		f()
		return nil
	})
}

// complain logs an error that a later comparison will mend. That the term is
// over is no news.
func (o *Orchestrator) complain(what string, id any, err error) {
	if err == nil || errors.Is(err, work.ErrFenced) || errors.Is(err, context.Canceled) || errors.Is(err, work.ErrStaleAttempt) {
		return
	}
	o.log.Warn(what, "id", id, "error", err)
}

// nudge wakes a loop that may be waiting; one pending wake-up is enough.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
