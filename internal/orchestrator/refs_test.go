package orchestrator_test

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"drover/internal/control"
	"drover/internal/orchestrator"
	"drover/internal/work"
)

// keepAll keeps items for ever.
func keepAll(c *orchestrator.Config) {
	c.Retention = orchestrator.Retention{}
	c.MaxInFlight = 200
}

// cleanups returns the attempts of items that remove references.
func (m *model) cleanups(ids []string) (found []work.Attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		for _, a := range m.item(id).Attempts {
			if a.Kind() == work.KindCleanup {
				found = append(found, a)
			}
		}
	}
	return found
}

// refsLeft returns the items whose references are not known to be gone.
func (m *model) refsLeft(ids []string) (left []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if item := m.item(id); item.RefsRemovedAt.IsZero() {
			left = append(left, id)
		}
	}
	return left
}

func later(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Times of what is to be removed: when that is due, and when the attempt is dispatched.
const (
	week     = 7 * 24 * time.Hour
	dispatch = week + time.Hour + 2*time.Minute
)

// TestReferencesOfEndedItemsAreRemoved: a week after they ended, one attempt for the
// items of each repository, which changes nothing else of them.
func TestReferencesOfEndedItemsAreRemoved(t *testing.T) {
	inModel(t, keepAll, func(t *testing.T, m *model) {
		stuck := m.send(t, make([]work.Spec, 30)...)
		other := m.send(t, work.Spec{Repository: modelRepositories[1]})
		m.finish(work.ReasonStuck)
		done := m.send(t, make([]work.Spec, 3)...)
		m.finish(work.ReasonCompleted)
		waiting := m.send(t, work.Spec{NotBefore: time.Now().Add(1000 * time.Hour)})
		ids := slices.Concat(stuck, other, done, waiting)
		later(week - time.Minute)
		m.mu.Lock()
		was := m.item(stuck[0])
		m.mu.Unlock()
		if early := m.cleanups(ids); len(early) > 0 {
			t.Fatalf("%d attempts remove references before their time", len(early))
		}
		later(dispatch - week + time.Minute)
		attempts := m.cleanups(ids)
		if len(attempts) != 2 {
			t.Fatalf("%d attempts remove references, want one for each repository: %+v", len(attempts), attempts)
		}
		if got := len(attempts[0].Cleanup) + len(attempts[1].Cleanup); got != 31 {
			t.Errorf("the references of %d items are removed, want 31", got)
		}
		m.finish(work.ReasonCompleted)
		later(2 * time.Minute)
		if left := m.refsLeft(slices.Concat(stuck, other)); len(left) > 0 {
			t.Errorf("the references of %d items are left", len(left))
		}
		if kept := m.refsLeft(slices.Concat(done, waiting)); len(kept) != 4 {
			t.Errorf("%d items that have no references are left alone, want 4", len(kept))
		}
		m.expect(t, stuck[0], work.StateStuck)
		m.mu.Lock()
		is := m.item(stuck[0])
		m.mu.Unlock()
		if !is.UpdatedAt.Equal(was.UpdatedAt) || is.Why != was.Why || len(is.History) != len(was.History) {
			t.Errorf("updated %s, why %q, %d transitions; want it as it was: %s, %q, %d", is.UpdatedAt, is.Why, len(is.History), was.UpdatedAt, was.Why, len(was.History))
		}
		later(3 * time.Hour)
		if again := m.cleanups(ids); len(again) != 2 {
			t.Errorf("%d attempts three hours later, want 2", len(again))
		}
	})
}

// TestItemWhoseReferencesAreRemovedIsNotRetried until that has ended; then its next
// attempt keeps references anew.
func TestItemWhoseReferencesAreRemovedIsNotRetried(t *testing.T) {
	inModel(t, keepAll, func(t *testing.T, m *model) {
		m.reopens = true
		ids := m.send(t, make([]work.Spec, 2)...)
		m.finish(work.ReasonStuck)
		later(dispatch)
		for _, id := range ids { // the one that has the attempt, and the other
			if _, err := m.o.Order(t.Context(), id, control.Order{Verb: control.Retry}); !errors.Is(err, work.ErrConflict) {
				t.Errorf("retry of item %s: %v, want %v", id, err, work.ErrConflict)
			}
		}
		m.finish(work.ReasonCompleted)
		later(2 * time.Minute)
		for _, id := range ids {
			if _, err := m.o.Order(t.Context(), id, control.Order{Verb: control.Retry}); err != nil {
				t.Errorf("retry of item %s: %v", id, err)
			}
		}
		m.finish(work.ReasonStuck)
		if left := m.refsLeft(ids); len(left) != 2 {
			t.Errorf("%d items may have references again, want 2", len(left))
		}
		later(dispatch)
		if n := len(m.cleanups(ids)); n != 2 {
			t.Errorf("%d attempts removed references, want 2", n)
		}
	})
}

// TestRemovalOfReferencesSurvivesLeaders: a leader that dies before, during or after
// the attempt loses nothing and does nothing twice.
func TestRemovalOfReferencesSurvivesLeaders(t *testing.T) {
	inModel(t, keepAll, func(t *testing.T, m *model) {
		ids := m.send(t, make([]work.Spec, 5)...)
		m.finish(work.ReasonStuck)
		next := func() {
			m.cancel(work.ErrFenced)
			<-m.done
			m.lead()
			synctest.Wait()
		}
		later(week)
		next()
		later(dispatch - week)
		next()
		m.finish(work.ReasonCompleted)
		next()
		later(2 * time.Minute)
		if left := m.refsLeft(ids); len(left) > 0 || len(m.cleanups(ids)) != 1 {
			t.Errorf("the references of %d items are left after %d attempts, want none after 1", len(left), len(m.cleanups(ids)))
		}
	})
}

// TestRemovalOfReferencesThatFails is tried again the next day, three times in all
// for an item, and harms nothing.
func TestRemovalOfReferencesThatFails(t *testing.T) {
	inModel(t, keepAll, func(t *testing.T, m *model) {
		id := m.send(t, work.Spec{})[0]
		m.finish(work.ReasonStuck)
		later(dispatch)
		for try := 1; try <= 5; try++ {
			m.finish(work.ReasonGitAuthFailed)
			if got := len(m.cleanups([]string{id})); got != min(try, 3) {
				t.Errorf("after day %d there are %d attempts, want %d", try, got, min(try, 3))
			}
			m.expect(t, id, work.StateStuck)
			later(23*time.Hour + 58*time.Minute)
			if got := len(m.cleanups([]string{id})); got > try {
				t.Errorf("%d attempts within a day of a failure, want %d", got, try)
			}
			later(4 * time.Minute)
		}
		if breakers, err := m.Breakers(t.Context()); err != nil || len(breakers) > 0 {
			t.Errorf("breakers %+v, %v: want none", breakers, err)
		}
	})
}

// TestItemIsKeptUntilItsReferencesAreRemoved although retention would remove it
// earlier; where they can't be removed, it goes two days later.
func TestItemIsKeptUntilItsReferencesAreRemoved(t *testing.T) {
	inModel(t, func(c *orchestrator.Config) { c.Retention = orchestrator.Retention{KeepFor: 2 * time.Hour} }, func(t *testing.T, m *model) {
		id, other := m.send(t, work.Spec{})[0], m.send(t, work.Spec{Repository: modelRepositories[1]})[0]
		m.finish(work.ReasonStuck)
		later(3*time.Hour + 2*time.Minute)
		if n := len(m.cleanups([]string{id, other})); n != 2 {
			t.Fatalf("%d attempts remove references, want 2", n)
		}
		m.mu.Lock()
		for _, p := range m.alive(work.ClientPending) {
			m.run(p.child, p.i)
		}
		for _, p := range m.alive(work.ClientRunning) {
			a := p.child.Allocations[p.i]
			reason := work.ReasonCompleted
			if a.Attempt.Item() == other {
				reason = work.ReasonGitAuthFailed
			}
			m.report(a, reason)
			m.exit(p.child, p.i, 0, false)
		}
		m.mu.Unlock()
		later(5 * time.Minute)
		m.mu.Lock()
		removed := maps.Clone(m.removed)
		m.mu.Unlock()
		if removed[id] != work.StateStuck || removed[other] != "" {
			t.Errorf("removed are %v, want item %s alone", removed, id)
		}
		for range 50 {
			later(time.Hour)
			m.finish(work.ReasonGitAuthFailed)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.removed[other] != work.StateStuck {
			t.Error("the item whose references can't be removed is kept for ever")
		}
	})
}
