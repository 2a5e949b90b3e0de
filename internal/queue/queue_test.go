package queue_test

import (
	"fmt"
	"testing"
	"time"

	"drover/internal/queue"
	"drover/internal/work"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func everyone(string) queue.Gate { return queue.Open }

func paths(t testing.TB, names ...string) work.PathSet {
	t.Helper()
	set, err := work.NewPathSet(names...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// order takes what runs next until nothing can, nothing ending meanwhile.
func order(q *queue.Queue, now time.Time) (ids []string) {
	for {
		e, ok := q.Next(now, everyone)
		if !ok {
			return ids
		}
		ids = append(ids, e.ID)
	}
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("ran %v, want %v", got, want)
	}
}

func TestHigherPriorityRunsFirstThenTheOlder(t *testing.T) {
	q := queue.New()
	q.Put(queue.Entry{ID: "1", Priority: 10, Since: start})
	q.Put(queue.Entry{ID: "4", Priority: 50, Since: start.Add(time.Second)})
	q.Put(queue.Entry{ID: "2", Priority: 90, Since: start})
	q.Put(queue.Entry{ID: "3", Priority: 50, Since: start})
	expect(t, order(q, start), "2", "3", "4", "1")
}

func TestWaitingRaisesPriority(t *testing.T) {
	q := queue.New()
	q.Put(queue.Entry{ID: "old", Priority: 10, Since: start.Add(-11 * queue.AgePerPoint)})
	q.Put(queue.Entry{ID: "new", Priority: 20, Since: start})
	expect(t, order(q, start), "old", "new")
}

func TestDelayedEntryWaitsForItsTime(t *testing.T) {
	q := queue.New()
	q.Put(queue.Entry{ID: "1", NotBefore: start.Add(time.Minute)})
	expect(t, order(q, start))
	if due, ok := q.Due(); !ok || !due.Equal(start.Add(time.Minute)) {
		t.Fatalf("due %v %v", due, ok)
	}
	expect(t, order(q, start.Add(time.Minute)), "1")
}

func TestFullQueueLetsOthersRun(t *testing.T) {
	for _, gate := range []queue.Gate{queue.Full, queue.Shut} {
		q := queue.New()
		q.Put(queue.Entry{ID: "1", Queue: "full", Priority: 100})
		q.Put(queue.Entry{ID: "2", Queue: "free"})
		got, ok := q.Next(start, func(name string) queue.Gate {
			if name == "full" {
				return gate
			}
			return queue.Open
		})
		if !ok || got.ID != "2" || q.Len() != 1 || q.Running() != 1 {
			t.Fatalf("next is %q, %d wait, %d run", got.ID, q.Len(), q.Running())
		}
	}
}

// TestManyItemsOfOneRepositoryDoNotStarveAnother: whatever their priority.
func TestManyItemsOfOneRepositoryDoNotStarveAnother(t *testing.T) {
	q := queue.New()
	for i := range 10000 {
		q.Put(queue.Entry{ID: fmt.Sprintf("big%05d", i), Repository: "big", Priority: 100, Since: start})
	}
	q.Put(queue.Entry{ID: "small", Repository: "small", Since: start})
	_, _ = q.Next(start, everyone)
	if second, _ := q.Next(start, everyone); second.ID != "small" {
		t.Fatalf("%s ran before the only item of another repository", second.ID)
	}
}

func TestQueuesShareFairly(t *testing.T) {
	q := queue.New()
	for i := range 6 {
		q.Put(queue.Entry{ID: fmt.Sprint("a", i), Queue: "a", Repository: fmt.Sprint("r", i%3), Since: start})
	}
	for i := range 3 {
		q.Put(queue.Entry{ID: fmt.Sprint("b", i), Queue: "b", Repository: "r0", Since: start})
	}
	expect(t, order(q, start), "a0", "b0", "a1", "b1", "a2", "b2", "a3", "a4", "a5")
}

// TestStreamOfNewRepositoriesDoesNotStarveAnOldOne: who comes takes its turn at the end.
func TestStreamOfNewRepositoriesDoesNotStarveAnOldOne(t *testing.T) {
	q := queue.New()
	q.Put(queue.Entry{ID: "old1", Repository: "old", Since: start})
	q.Put(queue.Entry{ID: "old2", Repository: "old", Since: start})
	first, _ := q.Next(start, everyone)
	q.Remove(first.ID)
	for i := range 5 {
		q.Put(queue.Entry{ID: fmt.Sprint("new", i), Repository: fmt.Sprint("new", i), Since: start})
		e, _ := q.Next(start, everyone)
		q.Remove(e.ID)
		if e.ID == "old2" {
			return
		}
	}
	t.Fatal("five new repositories were served before the old one's second item")
}

func TestOverlappingPathsWaitAndTheNextThatCanRunIsTaken(t *testing.T) {
	q := queue.New()
	q.Put(queue.Entry{ID: "1", Since: start, Paths: paths(t, "src")})
	q.Put(queue.Entry{ID: "2", Since: start, Paths: paths(t, "src/main.go")})
	q.Put(queue.Entry{ID: "3", Since: start, Paths: paths(t, "docs")})
	q.Put(queue.Entry{ID: "4", Since: start})
	q.Put(queue.Entry{ID: "5", Since: start, Repository: "other", Paths: paths(t, ".")})
	expect(t, order(q, start), "1", "5", "3", "4")
	standing, _ := q.Standing("2", start)
	if len(standing.Holders) != 1 || standing.Holders[0].Item != "1" || standing.Holders[0].Paths[0] != "src/main.go" {
		t.Fatalf("%+v", standing)
	}
	q.Remove("1")
	expect(t, order(q, start), "2")
}

func TestLockedPathsAreWaitedFor(t *testing.T) {
	q := queue.New()
	q.Lock(map[string][]queue.Lock{"r": {{Item: "x", Attempt: 2, Since: start, Paths: paths(t, "src/a")}}})
	q.Put(queue.Entry{ID: "1", Repository: "r", Since: start, Paths: paths(t, "src")})
	expect(t, order(q, start))
	if s, _ := q.Standing("1", start); len(s.Holders) != 1 || s.Holders[0].Item != "x" || s.Holders[0].Attempt != 2 {
		t.Fatalf("%+v", s)
	}
	q.Lock(nil)
	expect(t, order(q, start), "1")
}

// TestLongWaitOnPathsReservesThem: small overlapping items that come later no
// longer overtake; what does not overlap does.
func TestLongWaitOnPathsReservesThem(t *testing.T) {
	q := queue.New()
	q.Start(queue.Entry{ID: "runs", Paths: paths(t, "a")}, start)
	q.Put(queue.Entry{ID: "whole", Since: start, Paths: paths(t, ".")})
	expect(t, order(q, start))
	q.Put(queue.Entry{ID: "b1", Priority: 100, Since: start, Paths: paths(t, "b")})
	expect(t, order(q, start.Add(queue.ReserveAfter-1)), "b1")
	q.Remove("b1")
	q.Put(queue.Entry{ID: "b2", Priority: 100, Since: start, Paths: paths(t, "b")})
	q.Put(queue.Entry{ID: "none", Since: start})
	expect(t, order(q, start.Add(queue.ReserveAfter)), "none")
	if s, _ := q.Standing("b2", start.Add(queue.ReserveAfter)); len(s.Holders) != 1 || s.Holders[0].Item != "whole" || s.Holders[0].Attempt != 0 {
		t.Fatalf("%+v", s)
	}
	q.Remove("runs")
	expect(t, order(q, start.Add(queue.ReserveAfter)), "whole")
	q.Remove("whole")
	expect(t, order(q, start.Add(queue.ReserveAfter)), "b2")
}

// TestShutQueueReservesNothing: a paused queue must not keep paths from the others.
func TestShutQueueReservesNothing(t *testing.T) {
	q := queue.New()
	q.Start(queue.Entry{ID: "runs", Queue: "q", Paths: paths(t, "a")}, start)
	q.Put(queue.Entry{ID: "whole", Queue: "paused", Since: start, Paths: paths(t, ".")})
	expect(t, order(q, start))
	late := start.Add(queue.ReserveAfter)
	q.Put(queue.Entry{ID: "b", Queue: "q", Since: start, Paths: paths(t, "b")})
	expect(t, order(q, late))
	got, ok := q.Next(late, func(name string) queue.Gate {
		if name == "paused" {
			return queue.Shut
		}
		return queue.Open
	})
	if !ok || got.ID != "b" {
		t.Fatalf("next is %q", got.ID)
	}
}

func TestClosedRepositoryWaits(t *testing.T) {
	q := queue.New()
	q.Put(queue.Entry{ID: "1", Repository: "bad", Since: start})
	q.Put(queue.Entry{ID: "2", Repository: "good", Since: start})
	q.Close("bad", true)
	expect(t, order(q, start), "2")
	q.Close("bad", false)
	expect(t, order(q, start), "1")
}

// BenchmarkNext decides among 100,000 items of 50 overlapping paths in 10 repositories.
func BenchmarkNext(b *testing.B) {
	q := queue.New()
	put := func(i int) {
		q.Put(queue.Entry{
			ID: fmt.Sprint(i), Repository: fmt.Sprint("r", i%10), Priority: i % 100, Since: start.Add(time.Duration(i) * time.Millisecond),
			Paths: paths(b, fmt.Sprintf("d%d/f%d", i%7, i%50)),
		})
	}
	const items, inFlight = 100_000, 200
	for i := range items {
		put(i)
	}
	var running []string
	n := items
	for b.Loop() {
		if e, ok := q.Next(start, everyone); ok {
			running = append(running, e.ID)
			put(n)
			n++
			if len(running) < inFlight {
				continue
			}
		}
		q.Remove(running[0])
		running = running[1:]
	}
}
