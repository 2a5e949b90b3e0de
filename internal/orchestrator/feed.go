package orchestrator

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// feedSize is how many changes are kept for those who come back.
const feedSize = 4096

// feed holds the latest changes, for who follows them. Nobody is waited for: who
// falls too far behind is told to read anew.
type feed struct {
	term string // begins the ids of its events: those of another term are not known here

	mu      sync.Mutex
	recent  []control.Event // ring, by number
	last    uint64          // number of the latest, from 1
	changed chan struct{}   // closed and replaced with every event
}

func newFeed() *feed {
	return &feed{term: work.NewID(time.Now()), recent: make([]control.Event, feedSize), changed: make(chan struct{})}
}

func (f *feed) publish(e control.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	f.recent[f.last%feedSize] = e
	close(f.changed)
	f.changed = make(chan struct{})
}

// after returns the events after a number, false when some of them are not kept
// any more, and what is closed with the next one.
func (f *feed) after(number uint64) ([]control.Event, bool, uint64, chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if number > f.last || f.last-number > feedSize {
		return nil, false, f.last, f.changed
	}
	var events []control.Event
	for n := number + 1; n <= f.last; n++ {
		e := f.recent[n%feedSize]
		e.ID = f.id(n)
		events = append(events, e)
	}
	return events, true, f.last, f.changed
}

// number returns the number of an event's id, false for one of another term.
func (f *feed) number(id string) (uint64, bool) {
	term, text, _ := strings.Cut(id, "-")
	number, err := strconv.ParseUint(text, 10, 64)
	return number, err == nil && term == f.term
}

// id is what people know the event of a number by.
func (f *feed) id(number uint64) string { return f.term + "-" + strconv.FormatUint(number, 10) }

// Events sends every change after the event of an id until ctx or the term ends,
// or send fails. Where there is no id, or changes after it are not kept any more,
// it begins with one of the type "resync": who reads what it needs after that
// misses nothing.
func (o *Orchestrator) Events(ctx context.Context, after string, send func(control.Event) error) error {
	if err := o.loaded(ctx); err != nil {
		return err
	}
	number, known := o.feed.number(after)
	for {
		events, whole, last, changed := o.feed.after(number)
		if !known || !whole {
			events = []control.Event{{ID: o.feed.id(last), Type: control.EventResync, At: time.Now().UTC()}}
			known = true
		}
		for _, e := range events {
			if err := send(e); err != nil {
				return err
			}
		}
		number = last
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-o.term.Done():
			return work.ErrNoLeader
		}
	}
}

// announce tells who follows that an item was stored.
func (o *Orchestrator) announce(item *work.Item) {
	o.feed.publish(control.Event{
		Type: control.EventItem, At: item.UpdatedAt, Item: item.ID, State: item.State, Queue: item.Spec.Queue,
		Reason: item.Reason, Why: item.Why, Attempt: item.AttemptCount(), PRStatus: item.PR.Status,
	})
}
