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
	"cmp"
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
	DefaultLostAfter      = time.Minute
	DefaultSteady         = 15 * time.Second
)

// maxParallel is how many attempts are dispatched, observed or cleaned up at a
// time. Sixteen dispatches at once get about the most out of one Nomad server.
const maxParallel = 16

// Config says how an orchestrator works.
type Config struct {
	MaxInFlight    int              // attempts dispatched and not ended, over all queues
	Queues         map[string]Queue // that the configuration declares
	Defaults       work.Defaults
	Retry          work.RetryPolicy
	Breaker        work.BreakerPolicy
	Retention      Retention
	ReconcileEvery time.Duration
	LostAfter      time.Duration // since a worker's session was first seen gone, at least its TTL; DefaultLostAfter if 0
	Steady         time.Duration // for which Consul must have answered without fail before that counts; DefaultSteady if 0
	KVPrefix       string        // handed to the workers
	Observer       Observer
	Traced         bool // workers are told which trace they belong to
}

// Queue is what a queue has of its own.
type Queue = work.QueueSettings

// Orchestrator is one term of leadership.
type Orchestrator struct {
	cfg      Config
	store    Store
	ledger   Ledger
	cluster  Cluster
	log      hclog.Logger
	observer Observer
	slots    chan struct{} // bounds work done in parallel
	wake     chan struct{} // something may be dispatched
	look     chan struct{} // reconcile now
	doubt    chan struct{} // a worker may be lost
	steady   steadiness    // of what Consul answers
	away     atomic.Pointer[outage]
	index    atomic.Uint64 // of Nomad, from which to watch
	asked    chan struct{} // closed once it is known whether Nomad answers
	listed   chan struct{} // closed once Nomad's children are known
	ready    chan struct{} // closed when the stored items are loaded
	tasks    *errgroup.Group
	feed     *feed
	usage    *usage
	term     context.Context // of Run: work that outlives the call that began it

	submitting latch // of items that name others, or come with a key

	mu         sync.Mutex // guards what follows
	entries    map[string]*entry
	sorted     []known // the entries, in the order of their ids
	related    bool    // some item depends on another
	queue      *queue.Queue
	open       map[string]string          // queue by id, of items that have an open attempt or are about to
	lines      map[string]*line           // by queue
	breakers   map[string]*breaker        // by repository
	broken     map[string]*breaker        // of these, those that are not closed
	keys       map[string]string          // item by queue and unique key
	arriving   map[string]bool            // ids of items that are being stored for the first time
	dependants map[string]map[string]bool // ids of queued items, by the item that is to complete first
	withChild  map[string]bool            // items of which Nomad has a child; nil until it was asked
	doomed     []*entry                   // queued items that depend on one that did not complete
	cleaning   map[work.AttemptID]bool    // attempts that are cleaned up after; true once that is to be done again
	repos      map[string]*repository     // by URL
	reported   map[string]bool            // children that are not ours, said once
	outlivedAt map[string]time.Time       // items that are kept on for their references, and since when; by id
	beats      map[work.AttemptID]beat
	sampled    map[work.AttemptID]spent // of what attempts under way have used, what their queue's budget has counted
}

// entry is one item. It is locked over a whole transition, so that transitions
// of one item come one after the other.
type entry struct {
	latch
	item atomic.Pointer[work.Item] // replaced, never changed
	// removed says that the item is forgotten: nothing may be stored of it.
	// Guarded by the latch.
	removed bool
}

func newEntry(item *work.Item) *entry {
	e := &entry{latch: newLatch()}
	e.item.Store(item)
	return e
}

// latch is a lock that is held over a write to Consul, which can take long, so
// that waiting for it has a context. An item's is taken first, then a breaker's,
// then a queue's.
type latch chan struct{}

func newLatch() latch { return make(latch, 1) }

// lock waits for the latch. It returns the context's cause when that ends first.
func (l latch) lock(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tryLock locks the latch unless it is locked.
func (l latch) tryLock() bool {
	select {
	case l <- struct{}{}:
		return true
	default:
		return false
	}
}

func (l latch) unlock() { <-l }

// New returns an orchestrator for one term. Run starts it.
func New(cfg Config, store Store, ledger Ledger, cluster Cluster, log hclog.Logger) *Orchestrator {
	if cfg.Observer == nil {
		cfg.Observer = Unobserved{}
	}
	cfg.LostAfter, cfg.Steady = cmp.Or(cfg.LostAfter, DefaultLostAfter), cmp.Or(cfg.Steady, DefaultSteady)
	o := &Orchestrator{
		submitting: newLatch(), lines: map[string]*line{}, breakers: map[string]*breaker{}, broken: map[string]*breaker{}, keys: map[string]string{}, arriving: map[string]bool{}, dependants: map[string]map[string]bool{},
		cfg: cfg, store: store, ledger: ledger, cluster: cluster, log: log.Named("orchestrator"), observer: cfg.Observer,
		slots: make(chan struct{}, maxParallel), wake: make(chan struct{}, 1), look: make(chan struct{}, 1), doubt: make(chan struct{}, 1), asked: make(chan struct{}), listed: make(chan struct{}),
		ready: make(chan struct{}), feed: newFeed(), usage: newUsage(), entries: map[string]*entry{}, queue: queue.New(), open: map[string]string{},
		cleaning: map[work.AttemptID]bool{}, sampled: map[work.AttemptID]spent{}, repos: map[string]*repository{}, reported: map[string]bool{}, outlivedAt: map[string]time.Time{},
	}
	for name, settings := range cfg.Queues {
		o.lines[name] = newLine(name, &settings)
	}
	return o
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
	nudge(o.look)
	for _, loop := range []func(context.Context) error{
		o.dispatchLoop, o.eventLoop, o.resultLoop, o.heartbeatLoop, o.workerLoop, o.budgetLoop, o.lockLoop, o.freeLoop, o.reconcileLoop, o.retentionLoop, o.publishLoop, o.refsLoop,
	} {
		group.Go(func() error { return loop(ctx) })
	}
	return group.Wait()
}

// load fills memory from the store, and tries until it can.
func (o *Orchestrator) load(ctx context.Context) error {
	for {
		err := o.loadOnce(ctx)
		if err == nil {
			o.observer.Loaded(o.snapshot())
			return nil
		}
		o.log.Warn("items not loaded, trying again", "error", err)
		if err := wait.For(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (o *Orchestrator) loadOnce(ctx context.Context) error {
	queues, err := o.store.Queues(ctx)
	if err != nil {
		return err
	}
	breakers, err := o.store.Breakers(ctx)
	if err != nil {
		return err
	}
	items, err := o.store.Items(ctx)
	if err != nil {
		return err
	}
	o.recall(queues, breakers, items, time.Now())
	entries := make([]*entry, len(items))
	for i := range items {
		entries[i] = o.add(&items[i])
	}
	for _, e := range entries { // once all are known: items name others
		o.track(e)
	}
	o.log.Info("items loaded", "items", len(items), "open", len(o.open), "queued", o.queue.Len())
	return nil
}

func (o *Orchestrator) add(item *work.Item) *entry {
	e := newEntry(item)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.entries[item.ID] = e
	at, found := o.rank(item.ID)
	if found {
		o.sorted[at].entry = e
	} else {
		o.sorted = slices.Insert(o.sorted, at, known{item.ID, e})
	}
	if item.Spec.UniqueKey != "" {
		o.keys[keyOf(item.Spec)] = item.ID
	}
	o.related = o.related || len(item.Spec.DependsOn) > 0
	return e
}

// known is an entry and its item's id.
type known struct {
	id    string
	entry *entry
}

// rank returns where an id stands, or would stand, in sorted. The caller holds mu.
func (o *Orchestrator) rank(id string) (int, bool) {
	return slices.BinarySearchFunc(o.sorted, id, func(k known, id string) int { return strings.Compare(k.id, id) })
}

// remove forgets an item that is stored no more.
func (o *Orchestrator) remove(item *work.Item) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.entries, item.ID)
	delete(o.outlivedAt, item.ID)
	if at, found := o.rank(item.ID); found {
		o.sorted = slices.Delete(o.sorted, at, at+1)
	}
	delete(o.open, item.ID)
	o.queue.Remove(item.ID)
	if o.keys[keyOf(item.Spec)] == item.ID {
		delete(o.keys, keyOf(item.Spec))
	}
	o.settleDependants(item.ID)
}

// entry returns an item's entry, nil if there is no such item.
func (o *Orchestrator) entry(id string) *entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.entries[id]
}

// track keeps the queue and the number of open attempts in step with an item.
func (o *Orchestrator) track(e *entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.place(e)
	nudge(o.wake)
}

// place is track for who holds mu.
func (o *Orchestrator) place(e *entry) {
	item := e.item.Load()
	r := o.repository(item.Spec.Repository)
	r.outgrewMB = max(r.outgrewMB, item.OutgrewMB())
	switch {
	case item.State == work.StateQueued:
		delete(o.open, item.ID)
		if o.independent(e, item) {
			o.queue.Put(entryOf(item, r.key))
		} else {
			o.queue.Remove(item.ID)
		}
	case item.State.Terminal() && !item.IsAside():
		delete(o.open, item.ID)
		o.queue.Remove(item.ID)
		o.settleDependants(item.ID)
	default:
		o.open[item.ID] = item.Spec.Queue
		o.queue.Start(entryOf(item, r.key), item.Current().CreatedAt)
	}
}

// repository is what is known of the repository at one URL.
type repository struct {
	key       string // work.RepositoryKey
	outgrewMB int    // limits that its items outgrew, at most
}

// repository is for who holds mu.
func (o *Orchestrator) repository(url string) *repository {
	r := o.repos[url]
	if r == nil {
		r = &repository{key: work.RepositoryKey(url)}
		o.repos[url] = r
	}
	return r
}

// entryOf is what the queue needs to know of an item in the repository with a key.
func entryOf(item *work.Item, repository string) queue.Entry {
	e := queue.Entry{
		ID: item.ID, Queue: item.Spec.Queue, Repository: repository, Priority: *item.Spec.Priority,
		Since: item.CreatedAt, NotBefore: item.NotBefore, Paths: item.Spec.PathSet(), Attempt: len(item.Attempts),
	}
	switch {
	case item.State == work.StateQueued:
		e.Attempt++
	case item.IsAside():
		e.Paths = work.PathSet{} // its work is done
	}
	if item.Spec.NotBefore.After(e.Since) {
		e.Since = item.Spec.NotBefore
	}
	return e
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
	with, err := o.alongside(ctx, &before, &after)
	if err != nil {
		return err
	}
	defer with.unlock()
	changes := slices.Concat([]work.Change{{PutItem: &after}}, along, with.changes)
	if err := o.ledger.Commit(ctx, changes...); err != nil {
		return fmt.Errorf("store item %s: %w", before.ID, err)
	}
	e.item.Store(&after)
	o.mu.Lock()
	with.takeOver()
	o.place(e)
	o.mu.Unlock()
	nudge(o.wake)
	o.observer.Applied(&before, &after)
	o.announce(&after)
	if before.State != after.State {
		o.itemLog(&after).Info("item moved", "from", before.State, "to", after.State, "reason", after.Reason, "why", after.Why)
	}
	return nil
}

// policy returns the retry policy of an item: the server's, changed by its
// queue's, changed by its own.
func (o *Orchestrator) policy(spec work.Spec) work.RetryPolicy {
	return o.cfg.Retry.With(o.settings(spec.Queue).Retry).With(spec.Retry)
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

// spawn runs f beside the loops, at most maxParallel at a time; it waits for a
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
	o.logOf(id).Warn(what, "error", err)
}

// nudge wakes a loop that may be waiting; one pending wake-up is enough.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
