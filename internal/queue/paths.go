package queue

import (
	"slices"
	"strings"
	"time"

	"drover/internal/work"
)

// Holder is who has paths.
type Holder struct {
	Item    string
	Attempt int // 0 for an item that waits for them and comes first
	Since   time.Time
	Paths   []string // of the item that asks, which the holder's overlap
}

// Lock is a set of paths that an attempt has locked while it ran.
type Lock struct {
	Item    string
	Attempt int
	Since   time.Time
	Paths   work.PathSet
}

// repo is one repository, over all queues.
type repo struct {
	name   string
	closed bool
	lanes  map[string]*lane // by queue
	holds  map[string]*hold // by item
	locks  []*hold
	claims []*class // that wait on paths, the longest first
}

// parking is where classes wait for the end of something.
type parking struct{ classes []*class }

// hold is a set of paths that somebody has.
type hold struct {
	parking
	Holder
	paths work.PathSet
}

func (q *Queue) repo(name string) *repo {
	r := q.repos[name]
	if r == nil {
		r = &repo{name: name, lanes: map[string]*lane{}, holds: map[string]*hold{}}
		q.repos[name] = r
	}
	return r
}

// drop forgets a repository about which nothing is known.
func (q *Queue) drop(r *repo) {
	if !r.closed && len(r.lanes)+len(r.holds)+len(r.locks) == 0 {
		delete(q.repos, r.name)
	}
}

// Lock replaces what is locked, by repository: what is not named is locked no more.
func (q *Queue) Lock(locks map[string][]Lock) {
	for name, r := range q.repos {
		old := r.locks
		r.locks = nil
		for _, l := range locks[name] {
			r.locks = append(r.locks, &hold{Holder: Holder{Item: l.Item, Attempt: l.Attempt, Since: l.Since}, paths: l.Paths})
		}
		for _, h := range old {
			h.wake()
		}
		q.drop(r)
	}
	for name, held := range locks {
		if q.repos[name] == nil && len(held) > 0 {
			r := q.repo(name)
			for _, l := range held {
				r.locks = append(r.locks, &hold{Holder: Holder{Item: l.Item, Attempt: l.Attempt, Since: l.Since}, paths: l.Paths})
			}
		}
	}
}

// blocker returns where a class has to wait for its paths, nil if they are free.
func (r *repo) blocker(c *class, now time.Time) *parking {
	if c.paths.Empty() {
		return nil
	}
	for _, h := range r.holds {
		if h.paths.Overlaps(c.paths) {
			return &h.parking
		}
	}
	for _, h := range r.locks {
		if h.paths.Overlaps(c.paths) {
			return &h.parking
		}
	}
	if first := r.reservation(c, now); first != nil {
		return &first.parking
	}
	return nil
}

// reservation returns the class for which paths that c wants are reserved, nil if there is none.
func (r *repo) reservation(c *class, now time.Time) *class {
	for _, first := range r.claims {
		if first.lane.line.gate == Shut {
			continue
		}
		if first != c && now.Sub(first.since) >= ReserveAfter && first.paths.Overlaps(c.paths) {
			return first
		}
		return nil
	}
	return nil
}

// park has a class wait, and remembers since when it does.
func (c *class) park(by *parking, now time.Time) {
	c.on = by
	by.classes = append(by.classes, c)
	if c.since.IsZero() {
		c.since = now
		c.lane.repo.claims = append(c.lane.repo.claims, c)
	}
	c.update()
}

// wake has the classes that wait here look again.
func (p *parking) wake() {
	classes := p.classes
	p.classes = nil
	for _, c := range classes {
		if c.on == p {
			c.on = nil
			c.update()
		}
	}
}

// unclaim ends the wait of a class for its paths, and of those behind it.
func (c *class) unclaim() {
	if !c.since.IsZero() {
		r := c.lane.repo
		r.claims = slices.DeleteFunc(r.claims, func(other *class) bool { return other == c })
		c.since = time.Time{}
	}
	c.on = nil
	c.wake()
}

// Standing is what the queue knows of an entry that waits.
type Standing struct {
	Entry
	Holders []Holder // who has its paths; the oldest first
}

// Standing returns how a waiting entry stands, false if it does not wait.
func (q *Queue) Standing(id string, now time.Time) (Standing, bool) {
	p := q.places[id]
	if p == nil || p.in == nil {
		return Standing{}, false
	}
	s := Standing{Entry: p.Entry}
	if r := q.repos[p.Repository]; r != nil {
		s.Holders = r.holders(p, now)
	}
	return s, true
}

// Ahead returns how many entries of its queue and repository go before an entry
// that waits. It goes through all of them.
func (q *Queue) Ahead(id string) (count int) {
	p := q.places[id]
	if p == nil || p.class == nil {
		return 0
	}
	for _, c := range p.class.lane.classes {
		for _, other := range c.waiting.members {
			if other.before(p.Entry) {
				count++
			}
		}
	}
	return count
}

func (r *repo) holders(p *place, now time.Time) []Holder {
	if p.Paths.Empty() {
		return nil
	}
	var found []Holder
	add := func(who Holder, paths work.PathSet) {
		path, overlaps := p.Paths.Overlap(paths)
		known := slices.ContainsFunc(found, func(h Holder) bool { return h.Item == who.Item && h.Attempt == who.Attempt })
		if overlaps && !known { // an attempt locks what it declared, too
			who.Paths = []string{path}
			found = append(found, who)
		}
	}
	for _, h := range r.holds {
		add(h.Holder, h.paths)
	}
	for _, h := range r.locks {
		add(h.Holder, h.paths)
	}
	slices.SortFunc(found, func(a, b Holder) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.Item, b.Item)
	})
	if p.class != nil {
		if first := r.reservation(p.class, now); first != nil {
			add(Holder{Item: first.waiting.first().ID, Since: first.since}, first.paths)
		}
	}
	return found
}
