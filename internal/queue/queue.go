// Package queue decides which waiting item runs next. It is pure: it lives in
// memory, does no I/O and is told the time.
//
// Queues share fairly: the one with the fewest attempts in flight is served
// first, and of equals the one that was not served for longest. Within a queue
// its repositories share in the same way. Within a repository the higher
// priority goes first, then the older item; waiting raises priority, see
// AgePerPoint.
//
// Items that have declared paths run only while nobody else has one that
// overlaps: an attempt that runs, or a lock. The next that can run is taken
// instead. One that waited so for ReserveAfter gets its paths reserved: those
// that came later wait behind it.
//
// A decision costs the logarithm of the number of items, and as much as there
// are holders of paths in one repository.
package queue

import (
	"time"

	"drover/internal/work"
)

// AgePerPoint is how much waiting weighs as much as one point of priority. It is
// counted from the submission, or from the time before which the item was not
// to start, so that whatever priority others have, an item is overtaken for
// work.MaxPriority times this at most.
const AgePerPoint = time.Hour

// ReserveAfter is how long an item waits on paths alone before those that come
// after it, and whose paths overlap, have to wait for it. While paths are reserved
// and not yet free they stand idle, so in each repository only those are reserved
// that were waited for the longest: the next ones follow when these are had.
const ReserveAfter = 30 * time.Minute

// Entry is what the queue needs to know of an item.
type Entry struct {
	ID         string // sorts by age
	Queue      string
	Repository string       // work.RepositoryKey
	Priority   int          // 0 to work.MaxPriority, higher first
	Since      time.Time    // from when on it waits
	NotBefore  time.Time    // earliest start
	Paths      work.PathSet // that it is to have for itself
	Attempt    int          // number of the attempt that runs, or is to run
}

// rank orders the entries of a repository: the earlier first. It does not change
// while an item waits, since all age alike.
func (e Entry) rank() time.Time { return e.Since.Add(-time.Duration(e.Priority) * AgePerPoint) }

func (e Entry) before(other Entry) bool {
	if a, b := e.rank(), other.rank(); !a.Equal(b) {
		return a.Before(b)
	}
	return e.ID < other.ID
}

func (e Entry) equal(other Entry) bool {
	return e.ID == other.ID && e.Queue == other.Queue && e.Repository == other.Repository && e.Priority == other.Priority &&
		e.Since.Equal(other.Since) && e.NotBefore.Equal(other.NotBefore) && e.Paths.String() == other.Paths.String() && e.Attempt == other.Attempt
}

// Gate is whether a queue may start something.
type Gate int

// The states of a gate.
const (
	Open Gate = iota
	Full      // in a while, when an attempt has ended or the rate allows
	Shut      // not before something changes; meanwhile it reserves no paths
)

// Queue holds the items that wait and those that run. It is not safe for
// concurrent use.
type Queue struct {
	lines   map[string]*line
	repos   map[string]*repo
	delayed ranking[*place] // by NotBefore
	places  map[string]*place
	running int
	turns   uint64
}

// place is an entry and where it stands.
type place struct {
	Entry
	in      *ranking[*place] // nil while it runs
	at      int
	class   *class // nil while it is delayed or runs
	lane    *lane  // nil unless it runs
	started time.Time
}

func (p *place) spot() *int { return &p.at }

// New returns an empty queue.
func New() *Queue {
	return &Queue{
		lines: map[string]*line{}, repos: map[string]*repo{}, places: map[string]*place{},
		delayed: ranking[*place]{less: func(a, b *place) bool {
			if !a.NotBefore.Equal(b.NotBefore) {
				return a.NotBefore.Before(b.NotBefore)
			}
			return a.ID < b.ID
		}},
	}
}

// Put has an entry wait, instead of the one with its id, or of running.
func (q *Queue) Put(e Entry) {
	if p := q.places[e.ID]; p != nil && p.in != nil && p.equal(e) {
		return
	}
	q.Remove(e.ID)
	p := &place{Entry: e}
	q.places[e.ID] = p
	p.enter(&q.delayed)
}

// Start has an entry run since a time, whether it may or not.
func (q *Queue) Start(e Entry, since time.Time) {
	if p := q.places[e.ID]; p != nil && p.in == nil && p.Queue == e.Queue && p.Repository == e.Repository && p.Attempt == e.Attempt {
		return
	}
	q.Remove(e.ID)
	p := &place{Entry: e}
	q.places[e.ID] = p
	q.start(p, q.lane(e), since)
}

// Remove takes an entry out, whether it waits or runs, if it is there.
func (q *Queue) Remove(id string) {
	p := q.places[id]
	if p == nil {
		return
	}
	delete(q.places, id)
	switch {
	case p.lane != nil:
		q.stop(p)
	case p.class != nil:
		c := p.class
		c.waiting.remove(p)
		q.settle(c)
	default:
		q.delayed.remove(p)
	}
}

// Next has the entry run that is to run now, false if there is none. It asks
// gate about every queue.
func (q *Queue) Next(now time.Time, gate func(queue string) Gate) (Entry, bool) {
	q.promote(now)
	for name, l := range q.lines {
		l.pass(gate(name))
	}
	for {
		l := q.nextLane()
		if l == nil {
			return Entry{}, false
		}
		c := l.ready.first()
		if by := l.repo.blocker(c, now); by != nil {
			c.park(by, now)
			continue
		}
		return q.serve(c, now), true
	}
}

// nextLane returns the lane that is served next, nil if none can be.
func (q *Queue) nextLane() *lane {
	var next *line
	for _, l := range q.lines {
		if l.gate == Open && l.ready.len() > 0 && (next == nil || l.before(next)) {
			next = l
		}
	}
	if next == nil {
		return nil
	}
	return next.ready.first()
}

// serve has the first of a class run.
func (q *Queue) serve(c *class, now time.Time) Entry {
	p, l := c.waiting.first(), c.lane
	c.waiting.remove(p)
	c.update() // before others are compared with it
	c.unclaim()
	l.turn, l.line.turn = q.turn(), q.turns
	q.start(p, l, now)
	q.settle(c)
	return p.Entry
}

func (q *Queue) turn() uint64 {
	q.turns++
	return q.turns
}

// Due returns when the next delayed entry becomes ready, false if none is delayed.
func (q *Queue) Due() (time.Time, bool) {
	if q.delayed.len() == 0 {
		return time.Time{}, false
	}
	return q.delayed.first().NotBefore, true
}

// Len returns how many entries wait, ready or delayed.
func (q *Queue) Len() int { return len(q.places) - q.running }

// Running returns how many entries run.
func (q *Queue) Running() int { return q.running }

// InFlight returns how many entries of a queue run.
func (q *Queue) InFlight(queue string) int {
	if l := q.lines[queue]; l != nil {
		return l.inFlight
	}
	return 0
}

// Close keeps all of a repository from running, or lets it.
func (q *Queue) Close(repository string, closed bool) {
	r := q.repo(repository)
	if r.closed != closed {
		r.closed = closed
		for _, l := range r.lanes {
			l.update()
		}
	}
	q.drop(r)
}

// promote moves the delayed entries whose time has come.
func (q *Queue) promote(now time.Time) {
	for q.delayed.len() > 0 && !q.delayed.first().NotBefore.After(now) {
		p := q.delayed.first()
		q.delayed.remove(p)
		c := q.lane(p.Entry).class(p.Paths)
		p.class = c
		p.enter(&c.waiting)
		c.update()
	}
}

func (p *place) enter(in *ranking[*place]) {
	p.in = in
	in.put(p)
}
