package queue_test

import (
	"fmt"
	"sort"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/internal/queue"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func everyone(string) bool { return true }

func TestHigherPriorityRunsFirstThenTheOlder(t *testing.T) {
	q := queue.New()
	q.Put(queue.Entry{ID: "1", Queue: "a", Priority: 10})
	q.Put(queue.Entry{ID: "2", Queue: "a", Priority: 90})
	q.Put(queue.Entry{ID: "4", Queue: "a", Priority: 50})
	q.Put(queue.Entry{ID: "3", Queue: "b", Priority: 50})
	for _, want := range []string{"2", "3", "4", "1"} {
		if got, ok := q.Next(start, everyone); !ok || got.ID != want {
			t.Fatalf("next is %q, want %q", got.ID, want)
		}
	}
	if got, ok := q.Next(start, everyone); ok {
		t.Fatalf("an empty queue gave %q", got.ID)
	}
}

func TestDelayedEntryWaitsForItsTime(t *testing.T) {
	q := queue.New()
	q.Put(queue.Entry{ID: "1", NotBefore: start.Add(time.Minute)})
	if got, ok := q.Next(start, everyone); ok {
		t.Fatalf("%q ran before its time", got.ID)
	}
	if due, ok := q.Due(); !ok || !due.Equal(start.Add(time.Minute)) {
		t.Fatalf("due %v %v", due, ok)
	}
	if _, ok := q.Next(start.Add(time.Minute), everyone); !ok {
		t.Fatal("did not run at its time")
	}
}

func TestFullQueueLetsOthersRun(t *testing.T) {
	q := queue.New()
	q.Put(queue.Entry{ID: "1", Queue: "full", Priority: 100})
	q.Put(queue.Entry{ID: "2", Queue: "free"})
	got, ok := q.Next(start, func(name string) bool { return name != "full" })
	if !ok || got.ID != "2" {
		t.Fatalf("next is %q", got.ID)
	}
	if q.Len() != 1 {
		t.Fatalf("%d wait, want 1", q.Len())
	}
}

// TestQueueAgreesWithSortedList compares the heaps with a list that is sorted anew for every question.
func TestQueueAgreesWithSortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q, model, now := queue.New(), map[string]queue.Entry{}, start
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := fmt.Sprintf("%02d", rapid.IntRange(0, 20).Draw(t, "id"))
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0, 1:
				e := queue.Entry{
					ID: id, Queue: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "queue"),
					Priority:  rapid.IntRange(0, 3).Draw(t, "priority"),
					NotBefore: now.Add(time.Duration(rapid.IntRange(-2, 5).Draw(t, "delay")) * time.Second),
				}
				q.Put(e)
				model[id] = e
			case 2:
				q.Remove(id)
				delete(model, id)
			case 3:
				now = now.Add(time.Second)
				got, ok := q.Next(now, everyone)
				want, wantOK := first(model, now)
				if ok != wantOK || got != want {
					t.Fatalf("next is %v %v, want %v %v", got, ok, want, wantOK)
				}
				delete(model, got.ID)
			}
			if q.Len() != len(model) {
				t.Fatalf("%d wait, want %d", q.Len(), len(model))
			}
		}
	})
}

func first(model map[string]queue.Entry, now time.Time) (queue.Entry, bool) {
	var ready []queue.Entry
	for _, e := range model {
		if !e.NotBefore.After(now) {
			ready = append(ready, e)
		}
	}
	if len(ready) == 0 {
		return queue.Entry{}, false
	}
	sort.Slice(ready, func(i, j int) bool {
		if ready[i].Priority != ready[j].Priority {
			return ready[i].Priority > ready[j].Priority
		}
		return ready[i].ID < ready[j].ID
	})
	return ready[0], true
}
