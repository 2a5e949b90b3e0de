package queue

import (
	"strings"
	"time"

	"drover/internal/work"
)

// line is one queue.
type line struct {
	name     string
	gate     Gate
	inFlight int
	turn     uint64 // when it was served last, or came
	lanes    map[string]*lane
	ready    ranking[*lane] // lanes that have something to run
}

func (l *line) before(other *line) bool {
	if l.inFlight != other.inFlight {
		return l.inFlight < other.inFlight
	}
	return l.turn < other.turn
}

// pass takes note of the gate. Behind a shut one nothing is reserved.
func (l *line) pass(g Gate) {
	if g == Shut && l.gate != Shut {
		for _, lane := range l.lanes {
			for _, c := range lane.classes {
				c.wake()
			}
		}
	}
	l.gate = g
}

// lane holds the items of one queue and one repository.
type lane struct {
	line     *line
	repo     *repo
	at       int
	inFlight int
	turn     uint64
	classes  map[string]*class
	ready    ranking[*class] // classes that wait on nobody's paths, as far as is known
}

func (l *lane) spot() *int { return &l.at }

func (l *lane) before(other *lane) bool {
	if l.inFlight != other.inFlight {
		return l.inFlight < other.inFlight
	}
	return l.turn < other.turn
}

// update puts the lane where it belongs after a change.
func (l *lane) update() {
	runs := l.ready.len() > 0 && !l.repo.closed
	switch has := l.line.ready.has(l); {
	case runs && has:
		l.line.ready.fix(l)
	case runs:
		l.line.ready.put(l)
	case has:
		l.line.ready.remove(l)
	}
}

// class holds the waiting entries of a lane with the same paths: whoever holds
// one back holds back all.
type class struct {
	parking
	lane    *lane
	key     string
	paths   work.PathSet
	at      int
	waiting ranking[*place]
	on      *parking  // where it waits on paths; nil while it is ready
	since   time.Time // from when on it was kept from its paths; zero while it was not
}

func (c *class) spot() *int { return &c.at }

func (c *class) before(other *class) bool {
	return c.waiting.first().before(other.waiting.first().Entry)
}

// update puts the class where it belongs after a change.
func (c *class) update() {
	ready := &c.lane.ready
	runs := c.on == nil && c.waiting.len() > 0
	switch has := ready.has(c); {
	case runs && has:
		ready.fix(c)
	case runs:
		ready.put(c)
	case has:
		ready.remove(c)
	}
	c.lane.update()
}

// class returns the lane's class for paths.
func (l *lane) class(paths work.PathSet) *class {
	key := strings.Join(paths.Strings(), "\x00")
	c := l.classes[key]
	if c == nil {
		c = &class{lane: l, key: key, paths: paths, waiting: ranking[*place]{less: func(a, b *place) bool { return a.before(b.Entry) }}}
		l.classes[key] = c
	}
	return c
}

// lane returns the lane of an entry.
func (q *Queue) lane(e Entry) *lane {
	in := q.lines[e.Queue]
	if in == nil {
		in = &line{name: e.Queue, turn: q.turn(), lanes: map[string]*lane{}, ready: ranking[*lane]{less: (*lane).before}}
		q.lines[e.Queue] = in
	}
	l := in.lanes[e.Repository]
	if l == nil {
		r := q.repo(e.Repository)
		l = &lane{line: in, repo: r, turn: q.turn(), classes: map[string]*class{}, ready: ranking[*class]{less: (*class).before}}
		in.lanes[e.Repository], r.lanes[e.Queue] = l, l
	}
	return l
}

// settle puts a class where it belongs after it lost an entry, and forgets what is empty.
func (q *Queue) settle(c *class) {
	c.update()
	if c.waiting.len() > 0 {
		return
	}
	c.unclaim()
	delete(c.lane.classes, c.key)
	q.dropLane(c.lane)
}

func (q *Queue) dropLane(l *lane) {
	if len(l.classes) == 0 && l.inFlight == 0 {
		delete(l.line.lanes, l.repo.name)
		delete(l.repo.lanes, l.line.name)
		q.drop(l.repo)
	}
}

// start has a place run, and hold its paths.
func (q *Queue) start(p *place, l *lane, now time.Time) {
	p.in, p.class, p.lane, p.started = nil, nil, l, now
	q.running++
	l.line.inFlight++
	l.inFlight++
	l.update()
	if !p.Paths.Empty() {
		l.repo.holds[p.ID] = &hold{Holder: Holder{Item: p.ID, Attempt: p.Attempt, Since: now}, paths: p.Paths}
	}
}

// stop ends what start began.
func (q *Queue) stop(p *place) {
	l := p.lane
	q.running--
	l.line.inFlight--
	l.inFlight--
	l.update()
	if h := l.repo.holds[p.ID]; h != nil {
		delete(l.repo.holds, p.ID)
		h.wake()
	}
	q.dropLane(l)
}
