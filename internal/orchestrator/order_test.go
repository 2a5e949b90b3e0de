package orchestrator_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/internal/control"
	"drover/internal/devcluster/nomadd"
	"drover/internal/orchestrator"
	"drover/internal/work"
)

// stuckOnce gets stuck in its first attempt.
func stuckOnce(r *run) nomadd.Exit {
	if r.envelope.Attempt.Number() == 1 {
		r.report(work.ReasonStuck)
		return nomadd.Exit{}
	}
	return succeed(r)
}

func TestRepeatedOrderIsCarriedOutOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, stuckOnce)
	s := c.start(faults{})
	id := c.submit(s, 1)[0]
	c.await(id, inState(work.StateStuck))
	order := control.Order{Verb: control.Retry, By: "a test", Key: "k"}
	if _, err := s.Order(t.Context(), id, order); err != nil {
		t.Fatal(err)
	}
	c.await(id, inState(work.StateCompleted))
	if item, err := s.Order(t.Context(), id, order); err != nil || item.State != work.StateCompleted {
		t.Fatalf("repeated: %s %v", item.State, err)
	}
	s.stop()
	s = c.start(faults{})
	if _, err := s.Order(t.Context(), id, order); err != nil {
		t.Fatalf("repeated under another leader: %v", err)
	}
	order.Key = "other"
	if _, err := s.Order(t.Context(), id, order); !errors.Is(err, work.ErrIllegalTransition) {
		t.Fatal(err)
	}
}

func TestOrderForAnotherStateOfTheItemIsRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	s := c.start(faults{})
	id := c.submit(s, 1, func(spec *work.Spec) { spec.NotBefore = time.Now().Add(time.Hour) })[0]
	stored := c.await(id, inState(work.StateQueued))
	tag, three := control.ETag(stored), 3
	first := control.Order{Verb: control.Prioritize, Priority: &three, Match: tag}
	item, err := s.Order(t.Context(), id, first)
	if err != nil || control.ETag(item) == tag {
		t.Fatalf("%v", err)
	}
	for _, verb := range []control.Verb{control.Prioritize, control.Cancel, control.Remove} {
		if _, err := s.Order(t.Context(), id, control.Order{Verb: verb, Priority: &three, Match: tag, Force: verb == control.Remove}); !errors.Is(err, control.ErrChanged) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if now := c.await(id, inState(work.StateQueued)); control.ETag(now) != control.ETag(item) {
		t.Error("a refused order changed the item")
	}
}

func TestRemovedItemLeavesNothingAndComesToLifeNoMore(t *testing.T) {
	t.Parallel()
	c := newCluster(t, untilKilled)
	s := c.start(faults{})
	id := c.submit(s, 1)[0]
	c.await(id, inState(work.StateInProgress))
	if _, err := s.Order(t.Context(), id, control.Order{Verb: control.Remove}); !errors.Is(err, work.ErrConflict) {
		t.Fatalf("an open item was removed: %v", err)
	}
	if _, err := s.Order(t.Context(), id, control.Order{Verb: control.Remove, Force: true}); err != nil {
		t.Fatal(err)
	}
	if children, err := c.children(); err != nil || len(children) != 0 {
		t.Errorf("%v %v", children, err)
	}
	if keys, _, err := c.consul.KV().Keys(c.prefix, "", nil); err != nil || slices.ContainsFunc(keys, func(key string) bool {
		return key != c.prefix+"leader" && key != c.prefix+"format" && !strings.HasSuffix(key, "/")
	}) {
		t.Errorf("%v %v", keys, err)
	}
	if _, err := s.Order(t.Context(), id, control.Order{Verb: control.Retry}); !errors.Is(err, work.ErrNotFound) {
		t.Error(err)
	}
}

func TestPagesHoldEveryItemOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	s := c.start(faults{})
	ids := c.submit(s, 25, func(spec *work.Spec) { spec.NotBefore = time.Now().Add(time.Hour) })
	for _, sort := range control.Sorts() {
		for _, asc := range []bool{false, true} {
			var seen []string
			q := control.Query{Sort: sort, Asc: asc, Limit: 7}
			for {
				page, err := s.Items(t.Context(), q)
				if err != nil || page.Total != len(ids) {
					t.Fatalf("%s: %d %v", sort, page.Total, err)
				}
				for _, item := range page.Items {
					seen = append(seen, item.ID)
				}
				if q.Cursor = page.Next; q.Cursor == "" {
					break
				}
			}
			if sorted := slices.Sorted(slices.Values(seen)); !slices.Equal(sorted, slices.Sorted(slices.Values(ids))) {
				t.Errorf("%s, ascending %t: %d items: %v", sort, asc, len(seen), seen)
			}
			if sort == control.SortCreated && slices.IsSorted(seen) != asc {
				t.Errorf("ascending %t: %v", asc, seen)
			}
		}
	}
}

// TestEventsGoOnWhereTheyEnded follows changes, leaves, and comes back.
func TestEventsGoOnWhereTheyEnded(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	s := c.start(faults{})
	enough := errors.New("enough")
	follow := func(after string, count int, during func()) (events []control.Event) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		err := s.Events(ctx, after, func(e control.Event) error {
			if events = append(events, e); len(events) == 1 && during != nil {
				during()
			}
			if len(events) == count {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Fatalf("%v after %d events", err, len(events))
		}
		return events
	}
	hold := func(spec *work.Spec) { spec.NotBefore = time.Now().Add(time.Hour) }
	var first, second string
	events := follow("", 2, func() { first = c.submit(s, 1, hold)[0] })
	if events[0].Type != control.EventResync || events[1].Item != first || events[1].State != work.StateQueued {
		t.Fatalf("%+v", events)
	}
	second = c.submit(s, 1, hold)[0]
	if _, err := s.Order(t.Context(), first, control.Order{Verb: control.Cancel}); err != nil {
		t.Fatal(err)
	}
	events = follow(events[1].ID, 2, nil)
	if events[0].Item != second || events[1].Item != first || events[1].State != work.StateCancelled {
		t.Fatalf("%+v", events)
	}
	for _, unknown := range []string{"other-3", "nonsense", events[0].ID + "9"} {
		if e := follow(unknown, 1, nil)[0]; e.Type != control.EventResync {
			t.Errorf("%s: %+v", unknown, e)
		}
	}
}

func TestKeyedSubmissionIsTheSameItem(t *testing.T) {
	t.Parallel()
	c := newCluster(t, succeed)
	s := c.start(faults{})
	submission := control.Submission{Key: "k", Spec: work.Spec{Repository: "https://git.example.org/a/b.git", Task: "x", NotBefore: time.Now().Add(time.Hour).UTC()}}
	submit := func() (string, error) {
		items, err := s.Submit(t.Context(), []control.Submission{submission})
		if err != nil {
			return "", err
		}
		return items[0].ID, nil
	}
	results := make(chan string, 8)
	for range cap(results) {
		go func() {
			id, err := submit()
			results <- fmt.Sprint(id, err)
		}()
	}
	first := <-results
	for range cap(results) - 1 {
		if other := <-results; other != first {
			t.Errorf("%s and %s", first, other)
		}
	}
	s.stop()
	s = c.start(faults{})
	if id, err := submit(); fmt.Sprint(id, err) != first {
		t.Errorf("under another leader: %s %v, want %s", id, err, first)
	}
	submission.Spec.Task = "y"
	if _, err := submit(); !errors.Is(err, work.ErrConflict) {
		t.Error(err)
	}
}

// TestOrderAnswersWithWhatItMade: the next attempt, which often begins at once,
// was in the answer to a requeue.
func TestOrderAnswersWithWhatItMade(t *testing.T) {
	const items, orders = 50, 60
	inModel(t, func(c *orchestrator.Config) { c.MaxInFlight = items }, func(t *testing.T, m *model) {
		var orderers sync.WaitGroup
		for _, id := range m.send(t, make([]work.Spec, items)...) {
			orderers.Go(func() {
				for range orders {
					item, err := m.o.Order(t.Context(), id, control.Order{Verb: control.Requeue, By: "a test"})
					if err != nil || item.State != work.StateQueued {
						t.Errorf("%s: %s, %v", item.State, item.Why, err)
					}
				}
			})
		}
		orderers.Wait()
	})
}
