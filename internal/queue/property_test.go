package queue_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/internal/queue"
	"drover/internal/work"
)

// model is the queue as anyone would write it: a list that is gone through anew
// for every question. It does not know reservations.
type model struct {
	waiting, running map[string]queue.Entry
	locks            map[string][]queue.Lock
	gates            map[string]queue.Gate
	closed           map[string]bool
	now              time.Time
}

func (m *model) gate(name string) queue.Gate { return m.gates[name] }

func (m *model) inFlight(match func(queue.Entry) bool) (n int) {
	for _, e := range m.running {
		if match(e) {
			n++
		}
	}
	return n
}

func (m *model) free(e queue.Entry) bool {
	for _, other := range m.running {
		if other.Repository == e.Repository && other.Paths.Overlaps(e.Paths) {
			return false
		}
	}
	for _, l := range m.locks[e.Repository] {
		if l.Paths.Overlaps(e.Paths) {
			return false
		}
	}
	return true
}

// runnable returns all that may run now.
func (m *model) runnable() (found []queue.Entry) {
	for _, id := range slices.Sorted(maps.Keys(m.waiting)) {
		e := m.waiting[id]
		if !e.NotBefore.After(m.now) && m.gates[e.Queue] == queue.Open && !m.closed[e.Repository] && m.free(e) {
			found = append(found, e)
		}
	}
	return found
}

func rank(e queue.Entry) time.Time {
	return e.Since.Add(-time.Duration(e.Priority) * queue.AgePerPoint)
}

// accept says what is wrong about the queue's choice.
func (m *model) accept(got queue.Entry, ok bool) error {
	runnable := m.runnable()
	if !ok {
		if len(runnable) > 0 {
			return fmt.Errorf("nothing runs, and %s could", runnable[0].ID)
		}
		return nil
	}
	if !slices.ContainsFunc(runnable, func(e queue.Entry) bool { return e.ID == got.ID }) {
		return fmt.Errorf("%s runs, and must not", got.ID)
	}
	ofQueue := func(name string) int {
		return m.inFlight(func(e queue.Entry) bool { return e.Queue == name })
	}
	ofLane := func(a queue.Entry) int {
		return m.inFlight(func(e queue.Entry) bool { return e.Queue == a.Queue && e.Repository == a.Repository })
	}
	for _, e := range runnable {
		switch {
		case ofQueue(e.Queue) < ofQueue(got.Queue):
			return fmt.Errorf("%s of queue %s runs, queue %s has fewer in flight", got.ID, got.Queue, e.Queue)
		case e.Queue == got.Queue && ofLane(e) < ofLane(got):
			return fmt.Errorf("%s of repository %s runs, %s has fewer in flight", got.ID, got.Repository, e.Repository)
		case e.Queue == got.Queue && e.Repository == got.Repository && (rank(e).Before(rank(got)) || rank(e).Equal(rank(got)) && e.ID < got.ID):
			return fmt.Errorf("%s runs before %s", got.ID, e.ID)
		}
	}
	return nil
}

func drawEntry(t *rapid.T, now time.Time) queue.Entry {
	names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "a/x", "a/y", "c/**/z", "."}), 0, 2).Draw(t, "paths")
	e := queue.Entry{
		ID: fmt.Sprintf("%02d", rapid.IntRange(0, 25).Draw(t, "id")), Queue: rapid.SampledFrom([]string{"q", "r"}).Draw(t, "queue"),
		Repository: rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "repository"),
		Priority:   rapid.IntRange(0, 3).Draw(t, "priority"), Since: now.Add(-time.Duration(rapid.IntRange(0, 4).Draw(t, "age")) * time.Hour),
		NotBefore: now.Add(time.Duration(rapid.IntRange(-2, 3).Draw(t, "delay")) * time.Second),
	}
	e.Paths = pathsOf(names)
	return e
}

// TestEveryChoiceIsTheOneOfTheRules compares the queue with a list, over random
// orders of what can happen: nothing is lost, no two that overlap run at once,
// what can run does, in the order of the rules.
func TestEveryChoiceIsTheOneOfTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := queue.New()
		m := &model{waiting: map[string]queue.Entry{}, running: map[string]queue.Entry{}, gates: map[string]queue.Gate{}, closed: map[string]bool{}, now: start}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "op") {
			case 0, 1, 2:
				e := drawEntry(t, m.now)
				q.Put(e)
				delete(m.running, e.ID)
				m.waiting[e.ID] = e
			case 3:
				id := fmt.Sprintf("%02d", rapid.IntRange(0, 25).Draw(t, "id"))
				q.Remove(id)
				delete(m.waiting, id)
				delete(m.running, id)
			case 4:
				m.gates[rapid.SampledFrom([]string{"q", "r"}).Draw(t, "queue")] = queue.Gate(rapid.IntRange(0, 2).Draw(t, "gate"))
			case 5:
				name, closed := rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "repository"), rapid.Bool().Draw(t, "closed")
				q.Close(name, closed)
				m.closed[name] = closed
			case 6:
				m.locks = map[string][]queue.Lock{}
				if rapid.Bool().Draw(t, "locked") {
					m.locks["one"] = []queue.Lock{{Item: "x", Paths: pathsOf([]string{rapid.SampledFrom([]string{"a", "b", "a/x"}).Draw(t, "path")})}}
				}
				q.Lock(m.locks)
			default:
				m.now = m.now.Add(time.Second)
				got, ok := q.Next(m.now, m.gate)
				if err := m.accept(got, ok); err != nil {
					t.Fatal(err)
				}
				if ok {
					m.running[got.ID] = got
					delete(m.waiting, got.ID)
				}
			}
			if q.Len() != len(m.waiting) || q.Running() != len(m.running) {
				t.Fatalf("%d wait and %d run, want %d and %d", q.Len(), q.Running(), len(m.waiting), len(m.running))
			}
		}
	})
}

// TestNothingStarves has one item of the lowest priority and with paths that
// overlap all others, among a stream of better ones that never ends.
func TestNothingStarves(t *testing.T) {
	const (
		step    = queue.AgePerPoint
		longest = 3 // steps that an attempt takes
		slots   = 4
		arrive  = 3 // items in a step
		// Those that come before age has made up for priority may all go first.
		bound = work.MaxPriority*arrive*(longest+1) + 10*longest
	)
	rapid.Check(t, func(t *rapid.T) {
		q := queue.New()
		now := start
		victim := drawEntry(t, now)
		victim.ID, victim.Priority, victim.Since, victim.NotBefore, victim.Paths = "victim", 0, now, now, pathsOf([]string{"."})
		q.Put(victim)
		ends := map[string]int{}
		stream := rapid.Custom(func(t *rapid.T) queue.Entry { return drawEntry(t, start) })
		pattern := rapid.SliceOfN(stream, 5, 30).Draw(t, "stream")
		lengths := rapid.SliceOfN(rapid.IntRange(1, longest), 7, 7).Draw(t, "lengths")
		for i := range bound {
			for k := range arrive {
				e := pattern[(arrive*i+k)%len(pattern)]
				e.ID, e.Priority, e.Since, e.NotBefore = fmt.Sprintf("%06d", arrive*i+k), 100, now, now
				q.Put(e)
			}
			for q.Running() < slots {
				e, ok := q.Next(now, everyone)
				if !ok {
					break
				}
				if e.ID == victim.ID {
					return
				}
				ends[e.ID] = i + lengths[i%len(lengths)]
			}
			for id, end := range ends {
				if end <= i {
					q.Remove(id)
					delete(ends, id)
				}
			}
			now = now.Add(step)
		}
		t.Fatalf("did not run in %d steps", bound)
	})
}

func pathsOf(names []string) work.PathSet {
	set, err := work.NewPathSet(names...)
	if err != nil {
		panic(err)
	}
	return set
}
