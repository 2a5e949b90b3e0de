package orchestrator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"drover/internal/orchestrator"
	"drover/internal/work"
)

var errDown = fmt.Errorf("the model says it is down: %w", work.ErrUnavailable)

// world is a model of Consul, Nomad and the workers, in memory and in virtual
// time. It satisfies the orchestrator's ports and breaks on demand.
type world struct {
	orchestrator.Store // of the methods that the model does not drive

	mu         sync.Mutex
	changed    chan struct{} // closed and replaced at every change
	index      uint64
	term       int // of the leader; a ledger of another writes nothing
	nomadDown  bool
	consulDown bool
	lossy      bool          // events get lost
	reopens    bool          // people retry items that ended
	hold       chan struct{} // nil, or what answers about one child wait for

	items    map[string][]byte
	open     map[string]work.Item  // with an open attempt
	removed  map[string]work.State // as they were stored last
	queues   map[string]work.QueueRecord
	breakers map[string]work.Breaker
	results  map[work.AttemptID]work.Result
	progress map[work.AttemptID]work.Progress
	claims   map[work.AttemptID]work.Claim
	claimAt  map[work.AttemptID]uint64
	critical map[work.AttemptID]bool
	locks    map[work.AttemptID]work.Lock
	sessions map[string]bool
	dying    map[string]time.Time         // sessions whose worker is dead: when they end
	wrote    map[work.AttemptID]uint64    // index at which the worker wrote its claim last
	lostAt   map[work.AttemptID]time.Time // when the session of the claim went
	exits    map[work.AttemptID]int       // exit code of the allocation that held the claim
	purged   map[string]bool              // children that were removed by hand
	children map[string]*work.Child
	tokens   map[work.AttemptID]string      // idempotency tokens live as long as the child
	made     map[work.AttemptID]int         // children ever made
	worked   map[work.AttemptID]int         // allocations that got past the claim
	reported map[work.AttemptID]work.Reason // by the allocation that held the claim, in time
	events   []work.Allocation
	faults   []string
	serial   int
}

func newWorld() *world {
	return &world{
		changed: make(chan struct{}), index: 1, items: map[string][]byte{}, open: map[string]work.Item{}, removed: map[string]work.State{}, queues: map[string]work.QueueRecord{}, breakers: map[string]work.Breaker{}, results: map[work.AttemptID]work.Result{},
		progress: map[work.AttemptID]work.Progress{}, claims: map[work.AttemptID]work.Claim{}, claimAt: map[work.AttemptID]uint64{},
		critical: map[work.AttemptID]bool{}, locks: map[work.AttemptID]work.Lock{}, sessions: map[string]bool{},
		dying: map[string]time.Time{}, wrote: map[work.AttemptID]uint64{}, lostAt: map[work.AttemptID]time.Time{}, exits: map[work.AttemptID]int{}, purged: map[string]bool{}, children: map[string]*work.Child{},
		tokens: map[work.AttemptID]string{}, made: map[work.AttemptID]int{}, worked: map[work.AttemptID]int{}, reported: map[work.AttemptID]work.Reason{},
	}
}

// bump tells everyone who waits that something changed. The caller holds mu.
func (w *world) bump() {
	w.index++
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) fault(format string, args ...any) {
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// read runs f under the lock unless the side it reads is down.
func (w *world) read(down *bool, f func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if *down {
		return errDown
	}
	f()
	return nil
}

// Items, Claims and the other methods up to EndSession are orchestrator.Store.
func (w *world) Items(context.Context) (items []work.Item, err error) {
	err = w.read(&w.consulDown, func() {
		for _, id := range slices.Sorted(maps.Keys(w.items)) {
			items = append(items, w.item(id))
		}
	})
	return items, err
}

// item returns a stored item. The caller holds mu.
func (w *world) item(id string) (item work.Item) {
	if err := json.Unmarshal(w.items[id], &item); err != nil {
		panic(err)
	}
	return item
}

func (w *world) Queues(context.Context) (queues []work.QueueRecord, err error) {
	err = w.read(&w.consulDown, func() { queues = slices.Collect(maps.Values(w.queues)) })
	return queues, err
}

func (w *world) Breakers(context.Context) (breakers []work.Breaker, err error) {
	err = w.read(&w.consulDown, func() { breakers = slices.Collect(maps.Values(w.breakers)) })
	return breakers, err
}

func (w *world) Claims(context.Context) (claims []work.Claim, err error) {
	err = w.read(&w.consulDown, func() { claims = slices.Collect(maps.Values(w.claims)) })
	return claims, err
}

func (w *world) Claim(_ context.Context, a work.AttemptID) (claim work.Claim, index uint64, err error) {
	err = w.read(&w.consulDown, func() {
		claim, index = w.claims[a], w.claimAt[a]
		claim.Attempt = a
	})
	return claim, index, err
}

// Sessions forgets those whose time is up: nobody beats for them.
func (w *world) Sessions(context.Context) (live map[string]bool, err error) {
	err = w.read(&w.consulDown, func() {
		for session, at := range w.dying {
			if !time.Now().Before(at) {
				w.endSession(session)
			}
		}
		live = maps.Clone(w.sessions)
	})
	return live, err
}

// endSession ends a session, with its check and its locks. Ending it again changes
// nothing. The caller holds mu.
func (w *world) endSession(session string) {
	if !w.sessions[session] {
		return
	}
	delete(w.sessions, session)
	delete(w.dying, session)
	for a, claim := range w.claims {
		if claim.Session == session && !claim.Ended {
			w.lostAt[a] = time.Now()
			delete(w.locks, a)
			if _, ok := w.critical[a]; ok {
				w.critical[a] = true
			}
		}
	}
	w.bump()
}

func (w *world) Progresses(context.Context) (all []work.Progress, err error) {
	err = w.read(&w.consulDown, func() { all = slices.Collect(maps.Values(w.progress)) })
	return all, err
}

func (w *world) Progress(_ context.Context, a work.AttemptID) (p *work.Progress, err error) {
	err = w.read(&w.consulDown, func() {
		if found, ok := w.progress[a]; ok {
			p = &found
		}
	})
	return p, err
}

func (w *world) Result(_ context.Context, a work.AttemptID) (r *work.Result, err error) {
	err = w.read(&w.consulDown, func() {
		if found, ok := w.results[a]; ok {
			r = &found
		}
	})
	return r, err
}

func (w *world) Logs(context.Context, work.AttemptID) (*work.KeptLogs, error) { return nil, nil }

func (w *world) Results(ctx context.Context, index uint64) (results []work.Result, next uint64, err error) {
	next, err = w.wait(ctx, index, func() { results = slices.Collect(maps.Values(w.results)) })
	return results, next, err
}

func (w *world) Heartbeats(ctx context.Context, index uint64) (beats []work.Heartbeat, next uint64, err error) {
	next, err = w.wait(ctx, index, func() {
		for a, critical := range w.critical {
			beats = append(beats, work.Heartbeat{Attempt: a, Critical: critical})
		}
	})
	return beats, next, err
}

func (w *world) Locks(ctx context.Context, index uint64) (locks []work.Lock, next uint64, err error) {
	next, err = w.wait(ctx, index, func() { locks = slices.Collect(maps.Values(w.locks)) })
	return locks, next, err
}

// FreeLost has nothing to do: EndSession of this world frees at once.
func (w *world) FreeLost(context.Context) error { return nil }

func (w *world) BreakLock(_ context.Context, lock work.Lock) error {
	return w.read(&w.consulDown, func() {
		if stored, ok := w.claims[lock.Attempt]; ok && !stored.Ended {
			w.fault("the session of attempt %s is destroyed, and its claim is open", lock.Attempt)
		}
		delete(w.sessions, lock.Session)
		w.bump()
	})
}

// wait is a blocking query.
func (w *world) wait(ctx context.Context, index uint64, f func()) (uint64, error) {
	for {
		w.mu.Lock()
		if w.consulDown {
			w.mu.Unlock()
			return 0, errDown
		}
		if w.index > index {
			f()
			next := w.index
			w.mu.Unlock()
			return next, nil
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (w *world) EndSession(_ context.Context, claim work.Claim) error {
	return w.read(&w.consulDown, func() {
		if stored, ok := w.claims[claim.Attempt]; ok && !stored.Ended {
			w.fault("the session of attempt %s is destroyed, and its claim is open", claim.Attempt)
		}
		delete(w.sessions, claim.Session)
		delete(w.dying, claim.Session)
		delete(w.locks, claim.Attempt)
		delete(w.critical, claim.Attempt)
		w.bump()
	})
}

// ledger is orchestrator.Ledger for one term.
type ledger struct {
	*world
	term int
}

func (l ledger) Commit(ctx context.Context, changes ...work.Change) error {
	for {
		l.mu.Lock()
		if !l.consulDown {
			defer l.mu.Unlock()
			return l.commit(changes)
		}
		changed := l.changed
		l.mu.Unlock()
		select { // the real one sends again until its term ends
		case <-changed:
		case <-ctx.Done():
			return work.ErrUnknownOutcome
		}
	}
}

func (l ledger) commit(changes []work.Change) error {
	if l.term != l.world.term {
		return work.ErrFenced
	}
	for _, c := range changes {
		if c.CloseClaim != nil && l.claimAt[c.CloseClaim.Claim.Attempt] != c.CloseClaim.Index {
			return work.ErrConflict
		}
	}
	for _, c := range changes {
		l.store(c)
	}
	l.bump()
	return nil
}

func (w *world) store(c work.Change) {
	switch {
	case c.PutItem != nil:
		w.put(*c.PutItem)
	case c.DeleteItem != "":
		w.remove(c.DeleteItem)
	case c.PutQueue != nil:
		w.queues[c.PutQueue.Name] = *c.PutQueue
	case c.DeleteQueue != "":
		delete(w.queues, c.DeleteQueue)
	case c.PutBreaker != nil:
		for _, outcome := range c.PutBreaker.Outcomes {
			if outcome.Reason.Infrastructure() {
				w.fault("the breaker of %s counts %s", c.PutBreaker.Repository, outcome.Reason)
			}
		}
		w.breakers[c.PutBreaker.Repository] = *c.PutBreaker
	case c.DeleteBreaker != "":
		delete(w.breakers, c.DeleteBreaker)
	case c.ConsumeResult != "":
		delete(w.results, c.ConsumeResult)
	case c.CloseClaim != nil:
		w.serial++
		w.claims[c.CloseClaim.Claim.Attempt], w.claimAt[c.CloseClaim.Claim.Attempt] = c.CloseClaim.Claim, uint64(w.serial)
	case c.Forget != "":
		delete(w.claims, c.Forget)
		delete(w.claimAt, c.Forget)
		delete(w.progress, c.Forget)
	}
}

// remove removes an item and checks that it may go.
func (w *world) remove(id string) {
	if _, ok := w.items[id]; !ok {
		return
	}
	item := w.item(id)
	if !item.State.Terminal() {
		w.fault("item %s was removed while %s", id, item.State)
	}
	for _, other := range sortedKeys(w.items) {
		if dependant := w.item(other); !dependant.State.Terminal() && slices.Contains(dependant.Spec.DependsOn, id) {
			w.fault("item %s was removed, and %s depends on it", id, other)
		}
	}
	w.removed[id] = item.State
	delete(w.items, id)
}

// put stores an item and checks what must hold between it and the one before.
func (w *world) put(item work.Item) {
	if _, ok := w.items[item.ID]; ok {
		before := w.item(item.ID)
		if before.State.Terminal() && before.State != item.State && !w.reopens {
			w.fault("item %s went from %s to %s", item.ID, before.State, item.State)
		}
		if item.AttemptCount() > before.AttemptCount() && !item.IsAside() {
			w.checkStart(item)
		}
		for _, a := range before.Attempts {
			now := item.Attempt(a.Number)
			if now == nil { // summarised
				continue
			}
			if !a.State.Terminal() && now.State.Terminal() {
				w.checkInfrastructure(before, item, *now)
			}
			if a.State.Terminal() && (now.State != a.State || now.Reason != a.Reason) {
				w.fault("attempt %s went from %s (%s) to %s (%s)", a.ID, a.State, a.Reason, now.State, now.Reason)
			}
		}
	}
	if item.Spec.UniqueKey != "" {
		w.checkKey(item)
	}
	open := 0
	for _, a := range item.Attempts {
		if !a.State.Terminal() {
			open++
			continue
		}
		if a.Reason == "" || a.Detail == "" {
			w.fault("attempt %s ended without a reason or a sentence", a.ID)
		}
		w.checkEnd(a)
	}
	if open > 1 || item.State.Terminal() && open > 0 && !item.IsAside() {
		w.fault("item %s is %s with %d open attempts", item.ID, item.State, open)
	}
	delete(w.open, item.ID)
	if open > 0 && !item.IsAside() {
		w.open[item.ID] = item
	}
	data, err := json.Marshal(item)
	if err != nil {
		panic(err)
	}
	w.items[item.ID] = data
}

// checkStart checks that an item's new attempt may begin now.
func (w *world) checkStart(item work.Item) {
	if w.queues[item.Spec.Queue].State == work.QueuePaused {
		w.fault("item %s was dispatched, its queue %s is paused", item.ID, item.Spec.Queue)
	}
	repository := work.RepositoryKey(item.Spec.Repository)
	switch b := w.breakers[repository]; {
	case b.State == work.BreakerOpen && !b.MayTry(time.Now()):
		w.fault("item %s was dispatched, the breaker of %s is open", item.ID, repository)
	case b.State == work.BreakerHalfOpen && b.Trial != "" && !w.over(b.Trial):
		w.fault("item %s was dispatched beside %s, which is to show whether it is any better", item.ID, b.Trial)
	}
	for _, id := range item.Spec.DependsOn {
		if state, gone := w.removed[id]; !gone && w.item(id).State != work.StateCompleted || gone && state != work.StateCompleted {
			w.fault("item %s was dispatched, and %s, on which it depends, has not completed", item.ID, id)
		}
	}
	for _, id := range sortedKeys(w.open) {
		other := w.open[id]
		if id != item.ID && work.RepositoryKey(other.Spec.Repository) == repository && other.Spec.PathSet().Overlaps(item.Spec.PathSet()) {
			w.fault("item %s with %s was dispatched beside %s with %s", item.ID, item.Spec.PathSet(), id, other.Spec.PathSet())
		}
	}
}

// checkInfrastructure checks what the end of an attempt by infrastructure did to its item.
func (w *world) checkInfrastructure(before, after work.Item, a work.Attempt) {
	if !a.Reason.Infrastructure() {
		return
	}
	if after.State == work.StateFailed && before.State != work.StateFailed || after.Retries != before.Retries {
		w.fault("attempt %s ended %s: item is %s with %d retries, %d before", a.ID, a.Reason, after.State, after.Retries, before.Retries)
	}
	if a.Reason != work.ReasonUnreachable {
		return
	}
	if w.sessions[w.claims[a.ID].Session] {
		w.fault("attempt %s ended %s, and its session lives", a.ID, a.Reason)
	}
	if gone := time.Since(w.lostAt[a.ID]); gone < before.LostAfter(orchestrator.DefaultLostAfter) {
		w.fault("attempt %s ended %s %s after its session", a.ID, a.Reason, gone)
	}
}

// over reports whether an attempt has ended.
func (w *world) over(a work.AttemptID) bool {
	if _, ok := w.items[a.Item()]; !ok {
		return true
	}
	item := w.item(a.Item())
	return item.Summarised(a.Number()) || item.Attempt(a.Number()).State.Terminal()
}

// checkKey checks that no other item has the item's unique key.
func (w *world) checkKey(item work.Item) {
	for _, id := range sortedKeys(w.items) {
		if other := w.item(id); item.Spec.UniqueKey != "" && id != item.ID && other.Spec.UniqueKey == item.Spec.UniqueKey && other.Spec.Queue == item.Spec.Queue {
			w.fault("items %s and %s have the same unique key", id, item.ID)
		}
	}
}

// checkEnd checks an ended attempt against what really became of its worker:
// what it reported in time counts, and it has not crashed while it works.
func (w *world) checkEnd(a work.Attempt) {
	if said := w.reported[a.ID]; said != "" && a.Reason != said && a.Reason != work.ReasonCancelled {
		w.fault("attempt %s ended %s, its worker had reported %s", a.ID, a.Reason, said)
	}
	if code, exited := w.exits[a.ID]; exited {
		if a.Reason == work.ReasonCrashed && code == work.WorkerExitFenced || a.Reason == work.ReasonFenced && code != work.WorkerExitFenced {
			w.fault("attempt %s ended %s, its worker had exited with %d", a.ID, a.Reason, code)
		}
	}
	child := w.children[a.Child]
	if a.Reason != work.ReasonCrashed && a.Reason != work.ReasonOOMKilled || child == nil {
		return
	}
	for _, alloc := range child.Allocations {
		if alloc.ID == w.claims[a.ID].Allocation && !alloc.Ended() {
			w.fault("attempt %s counts as %s, and its worker works", a.ID, a.Reason)
		}
	}
}

// Dispatch and the methods up to Stop are orchestrator.Cluster.
func (w *world) Dispatch(_ context.Context, e work.Envelope) (string, error) {
	var child string
	err := w.read(&w.nomadDown, func() {
		if child = w.tokens[e.Attempt]; child != "" {
			return
		}
		child = fmt.Sprintf("drover-worker/dispatch-%s-%d", e.Attempt, w.serial)
		w.tokens[e.Attempt] = child
		w.made[e.Attempt]++
		if w.made[e.Attempt] > 1 {
			w.fault("attempt %s was dispatched %d times", e.Attempt, w.made[e.Attempt])
		}
		w.children[child] = &work.Child{ID: child, Attempt: e.Attempt, Status: "pending"}
		w.place(w.children[child])
	})
	return child, err
}

// place adds a pending allocation to a child. The caller holds mu.
func (w *world) place(child *work.Child) {
	w.serial++
	child.Allocations = append(child.Allocations, work.Allocation{
		ID: fmt.Sprintf("alloc%04d", w.serial), Child: child.ID, Attempt: child.Attempt, Node: "n1",
		ClientStatus: work.ClientPending, DesiredStatus: work.DesiredRun,
	})
	w.tell(child.Allocations[len(child.Allocations)-1])
}

// tell puts an allocation on the event stream. The caller holds mu.
func (w *world) tell(a work.Allocation) {
	if !w.lossy {
		w.events = append(w.events, a)
	}
	w.bump()
}

func (w *world) Children(context.Context) (children []work.Child, index uint64, err error) {
	err = w.read(&w.nomadDown, func() {
		for _, id := range slices.Sorted(maps.Keys(w.children)) {
			children = append(children, w.copyOf(id))
		}
		index = uint64(len(w.events))
	})
	return children, index, err
}

func (w *world) copyOf(id string) work.Child {
	child := *w.children[id]
	child.Allocations = slices.Clone(child.Allocations)
	return child
}

func (w *world) Child(_ context.Context, id string) (child work.Child, err error) {
	found := false
	var hold chan struct{}
	err = w.read(&w.nomadDown, func() {
		if found = w.children[id] != nil; found {
			child = w.copyOf(id)
		}
		hold = w.hold
	})
	if hold != nil {
		<-hold
	}
	if err == nil && !found {
		err = work.ErrNotFound
	}
	return child, err
}

func (w *world) Deregistered(_ context.Context, child string) (removed bool, err error) {
	err = w.read(&w.nomadDown, func() { removed = w.purged[child] })
	return removed, err
}

func (w *world) Watch(ctx context.Context, index uint64, seen func(work.Allocation)) error {
	for {
		w.mu.Lock()
		if w.nomadDown {
			w.mu.Unlock()
			return errDown
		}
		var next []work.Allocation
		if int(index) < len(w.events) {
			next = slices.Clone(w.events[index:])
			index = uint64(len(w.events))
		}
		changed := w.changed
		w.mu.Unlock()
		for _, a := range next {
			seen(a)
		}
		if len(next) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *world) Follow(context.Context, string, string, int, io.Writer) error {
	return errors.ErrUnsupported
}

func (w *world) Stop(_ context.Context, id string, purge bool) error {
	return w.read(&w.nomadDown, func() { w.stop(id, purge) })
}

// stop deregisters a child as Nomad does. The caller holds mu.
func (w *world) stop(id string, purge bool) {
	child := w.children[id]
	if child == nil {
		return
	}
	child.Stopped = true
	for i := range child.Allocations {
		if a := &child.Allocations[i]; !a.Ended() {
			a.DesiredStatus = work.DesiredStop
			w.exit(child, i, 143, false)
		}
	}
	if purge {
		w.purged[id] = true
		delete(w.children, id)
		delete(w.tokens, child.Attempt)
		w.bump()
	}
}

func (w *world) Payload(context.Context, string) ([]byte, error) { return nil, work.ErrNotFound }

func (w *world) Check(context.Context) error { return w.read(&w.nomadDown, func() {}) }

func (w *world) RemoveIdleRunners(context.Context, time.Time) error { return nil }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (w *world) MemoryMB(context.Context, string) (int, error) { return 0, nil }
