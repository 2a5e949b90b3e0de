// Package queue decides which waiting item runs next. It is pure: it lives in
// memory, does no I/O and is told the time.
package queue

import (
	"container/heap"
	"time"
)

// Entry is what the queue needs to know of an item.
type Entry struct {
	ID        string // sorts by age
	Queue     string
	Priority  int // higher first
	NotBefore time.Time
}

// Queue holds the items that wait. It is not safe for concurrent use.
type Queue struct {
	ready   map[string]*entries // by queue name: priority, then age
	delayed *entries            // by NotBefore
	places  map[string]*place
}

// New returns an empty queue.
func New() *Queue {
	return &Queue{
		ready:   map[string]*entries{},
		delayed: &entries{less: func(a, b Entry) bool { return a.NotBefore.Before(b.NotBefore) }},
		places:  map[string]*place{},
	}
}

// Put adds an entry, or replaces the one with its id.
func (q *Queue) Put(e Entry) {
	q.Remove(e.ID)
	p := &place{Entry: e}
	q.places[e.ID] = p
	p.put(q.delayed)
}

// Remove takes an entry out, if it is there.
func (q *Queue) Remove(id string) {
	if p := q.places[id]; p != nil {
		heap.Remove(p.in, p.at)
		delete(q.places, id)
	}
}

// Next takes out the entry that is to run now: of the queues that admit says
// have room, the one of highest priority, the oldest first.
func (q *Queue) Next(now time.Time, admit func(queue string) bool) (Entry, bool) {
	q.promote(now)
	var best *place
	for name, ready := range q.ready {
		if ready.Len() == 0 || !admit(name) {
			continue
		}
		if head := ready.places[0]; best == nil || before(head.Entry, best.Entry) {
			best = head
		}
	}
	if best == nil {
		return Entry{}, false
	}
	q.Remove(best.ID)
	return best.Entry, true
}

// Due returns when the next delayed entry becomes ready, false if none waits.
func (q *Queue) Due() (time.Time, bool) {
	if q.delayed.Len() == 0 {
		return time.Time{}, false
	}
	return q.delayed.places[0].NotBefore, true
}

// Len returns how many entries wait, ready or delayed.
func (q *Queue) Len() int { return len(q.places) }

// promote moves the delayed entries whose time has come.
func (q *Queue) promote(now time.Time) {
	for q.delayed.Len() > 0 && !q.delayed.places[0].NotBefore.After(now) {
		p := heap.Pop(q.delayed).(*place)
		ready := q.ready[p.Queue]
		if ready == nil {
			ready = &entries{less: before}
			q.ready[p.Queue] = ready
		}
		p.put(ready)
	}
}

func before(a, b Entry) bool {
	if a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	return a.ID < b.ID
}

// place is an entry and where it stands.
type place struct {
	Entry
	in *entries
	at int
}

func (p *place) put(in *entries) {
	p.in = in
	heap.Push(in, p)
}

// entries is a heap of places.
type entries struct {
	places []*place
	less   func(a, b Entry) bool
}

func (e *entries) Len() int           { return len(e.places) }
func (e *entries) Less(i, j int) bool { return e.less(e.places[i].Entry, e.places[j].Entry) }

func (e *entries) Swap(i, j int) {
	e.places[i], e.places[j] = e.places[j], e.places[i]
	e.places[i].at, e.places[j].at = i, j
}

func (e *entries) Push(x any) {
	p := x.(*place)
	p.at = len(e.places)
	e.places = append(e.places, p)
}

func (e *entries) Pop() any {
	last := len(e.places) - 1
	p := e.places[last]
	e.places = e.places[:last]
	return p
}
