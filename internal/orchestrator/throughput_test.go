package orchestrator_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"drover/internal/control"
	"drover/internal/orchestrator"
	"drover/internal/work"
)

// load is 1,000 items over 50 paths that overlap: ten directories, and four
// files in each. One item in five takes a whole directory, one in ten has paths
// in two of them.
type load struct {
	specs []work.Spec
	takes []time.Duration // each
	files []string
}

func newLoad(seed uint64) load {
	const items, directories, files = 1000, 10, 4
	random := rand.New(rand.NewPCG(seed, seed))
	var l load
	path := func() string {
		directory := fmt.Sprintf("area%d", random.IntN(directories))
		if random.IntN(5) == 0 {
			return directory
		}
		return fmt.Sprintf("%s/file%d.go", directory, random.IntN(files))
	}
	for d := range directories {
		for f := range files {
			l.files = append(l.files, fmt.Sprintf("area%d/file%d.go", d, f))
		}
	}
	for range items {
		paths := []string{path()}
		if random.IntN(10) == 0 {
			paths = append(paths, path())
		}
		l.specs = append(l.specs, work.Spec{Repository: modelRepositories[0], Task: "x", Paths: paths})
		l.takes = append(l.takes, time.Duration(5*60+random.IntN(15*60))*time.Second)
	}
	return l
}

// bound is less than any schedule can take: all items that touch one file run
// one after the other, and no more than slots run at a time.
func (l load) bound(slots int) time.Duration {
	var all, longest time.Duration
	for _, d := range l.takes {
		all += d
	}
	for _, file := range l.files {
		leaf, _ := work.NewPathSet(file)
		var chain time.Duration
		for i, spec := range l.specs {
			if spec.PathSet().Overlaps(leaf) {
				chain += l.takes[i]
			}
		}
		longest = max(longest, chain)
	}
	return max(longest, all/time.Duration(slots))
}

// TestThousandItemsOverFiftyPathsDrain says how long they take, in virtual
// time, as a share of what no schedule can beat.
func TestThousandItemsOverFiftyPathsDrain(t *testing.T) {
	const slots = 20
	for seed := range uint64(4) {
		l := newLoad(seed)
		inModel(t, func(c *orchestrator.Config) { c.MaxInFlight, c.Retention = slots, orchestrator.Retention{} }, func(t *testing.T, m *model) {
			began := time.Now()
			m.drain(t, l)
			took, bound := time.Since(began), l.bound(slots)
			m.noneOverlapped(t)
			share := float64(bound) / float64(took)
			t.Logf("seed %d: took %s, no schedule can take less than %s: %.0f %%", seed, took.Round(time.Second), bound.Round(time.Second), 100*share)
			if share < 0.8 {
				t.Errorf("%.2f of the throughput of the best schedule, want 0.8", share)
			}
		})
	}
}

// drain runs all items, each as long as it takes.
func (m *model) drain(t *testing.T, l load) {
	t.Helper()
	takes := map[string]time.Duration{}
	if _, err := m.o.MoveQueue(t.Context(), work.DefaultQueue, control.QueueTransition{State: work.QueuePaused}); err != nil {
		t.Fatal(err)
	}
	for i, spec := range l.specs {
		time.Sleep(time.Millisecond) // their order is always the same
		takes[m.send(t, spec)[0]] = l.takes[i]
	}
	if _, err := m.o.MoveQueue(t.Context(), work.DefaultQueue, control.QueueTransition{State: work.QueueActive}); err != nil {
		t.Fatal(err)
	}
	ends := map[string]time.Time{}
	for left := len(takes); left > 0; {
		synctest.Wait()
		m.mu.Lock()
		for _, p := range m.alive(work.ClientPending) {
			m.run(p.child, p.i)
			id := p.child.Attempt.Item()
			ends[id] = time.Now().Add(takes[id])
		}
		next := time.Time{}
		for _, end := range ends {
			if next.IsZero() || end.Before(next) {
				next = end
			}
		}
		m.mu.Unlock()
		if next.IsZero() {
			t.Fatalf("%d items are left, and none runs", left)
		}
		time.Sleep(time.Until(next))
		m.mu.Lock()
		for _, p := range m.alive(work.ClientRunning) {
			if id := p.child.Attempt.Item(); !ends[id].After(next) {
				m.happenTo("complete", p.child, p.i)
				delete(ends, id)
				left--
			}
		}
		m.mu.Unlock()
	}
	synctest.Wait()
}

// noneOverlapped checks what is stored of all attempts: no two ran at once whose
// paths overlap.
func (m *model) noneOverlapped(t *testing.T) {
	t.Helper()
	type ran struct {
		paths    work.PathSet
		from, to time.Time
		id       work.AttemptID
	}
	var all []ran
	for _, id := range sortedKeys(m.items) {
		item := m.item(id)
		if item.State != work.StateCompleted {
			t.Fatalf("item %s is %s", id, item.State)
		}
		for _, a := range item.Attempts {
			all = append(all, ran{item.Spec.PathSet(), a.CreatedAt, a.EndedAt, a.ID})
		}
	}
	slices.SortFunc(all, func(a, b ran) int { return a.from.Compare(b.from) })
	for i, a := range all {
		for _, b := range all[i+1:] {
			if !b.from.Before(a.to) {
				break
			}
			if a.paths.Overlaps(b.paths) {
				t.Errorf("%s with %s ran from %s to %s, %s with %s from %s to %s", a.id, a.paths, a.from, a.to, b.id, b.paths, b.from, b.to)
			}
		}
	}
	if len(all) < 1000 {
		t.Errorf("%d attempts", len(all))
	}
}
