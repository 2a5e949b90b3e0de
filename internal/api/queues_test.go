package api_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

// queueFake remembers what it was asked.
type queueFake struct {
	api.Service
	asked []any
	err   error
}

func (f *queueFake) ask(what ...any) error {
	f.asked = append(f.asked, what...)
	return f.err
}

var (
	aQueue   = control.Queue{Name: "slow", State: work.QueuePaused, Queued: 3, Waits: []control.Wait{{Kind: control.WaitPaused, Sentence: "paused"}}}
	aBreaker = work.Breaker{Repository: "host/repo", State: work.BreakerOpen, Why: "tripped"}
)

func (f *queueFake) Queues(context.Context) ([]control.Queue, error) {
	return []control.Queue{aQueue}, f.ask("queues")
}
func (f *queueFake) Queue(_ context.Context, name string) (control.Queue, error) {
	return aQueue, f.ask("queue", name)
}
func (f *queueFake) SetQueue(_ context.Context, name string, change control.QueueChange) (control.Queue, error) {
	return aQueue, f.ask("set", name, change)
}
func (f *queueFake) MoveQueue(_ context.Context, name string, to control.QueueTransition) (control.Queue, error) {
	return aQueue, f.ask("move", name, to)
}
func (f *queueFake) DeleteQueue(_ context.Context, name string) error { return f.ask("delete", name) }
func (f *queueFake) Breakers(context.Context) ([]work.Breaker, error) {
	return []work.Breaker{aBreaker}, f.ask("breakers")
}
func (f *queueFake) TripBreaker(_ context.Context, trip control.Trip) (work.Breaker, error) {
	return aBreaker, f.ask("trip", trip)
}
func (f *queueFake) ResetBreaker(_ context.Context, repository string) (work.Breaker, error) {
	return aBreaker, f.ask("reset", repository)
}

func TestCallsAboutQueuesAndBreakersArriveAsTheyWereMade(t *testing.T) {
	limit := 4
	change := control.QueueChange{Set: work.QueueSettings{MaxInFlight: &limit}, Unset: []string{"rate"}}
	to := control.QueueTransition{State: work.QueueDraining, By: "me"}
	trip := control.Trip{Repository: "https://host/repo", For: work.Duration(time.Hour), Why: "because", By: "me"}
	for _, test := range []struct {
		call func(ctx context.Context, c *api.Client) (any, error)
		want any
		ask  []any
	}{
		{func(ctx context.Context, c *api.Client) (any, error) { return c.Queues(ctx) }, []control.Queue{aQueue}, []any{"queues"}},
		{func(ctx context.Context, c *api.Client) (any, error) { return c.Queue(ctx, "slow") }, aQueue, []any{"queue", "slow"}},
		{func(ctx context.Context, c *api.Client) (any, error) { return c.SetQueue(ctx, "slow", change) }, aQueue, []any{"set", "slow", change}},
		{func(ctx context.Context, c *api.Client) (any, error) { return c.MoveQueue(ctx, "slow", to) }, aQueue, []any{"move", "slow", to}},
		{func(ctx context.Context, c *api.Client) (any, error) { return nil, c.DeleteQueue(ctx, "slow") }, nil, []any{"delete", "slow"}},
		{func(ctx context.Context, c *api.Client) (any, error) { return c.Breakers(ctx) }, []work.Breaker{aBreaker}, []any{"breakers"}},
		{func(ctx context.Context, c *api.Client) (any, error) { return c.TripBreaker(ctx, trip) }, aBreaker, []any{"trip", trip}},
		{func(ctx context.Context, c *api.Client) (any, error) { return c.ResetBreaker(ctx, "https://host/repo") }, aBreaker, []any{"reset", "https://host/repo"}},
	} {
		f := &queueFake{}
		c := serve(t, api.Options{Service: f})
		if got, err := test.call(t.Context(), c); err != nil || !reflect.DeepEqual(got, test.want) || !reflect.DeepEqual(f.asked, test.ask) {
			t.Errorf("%v: %+v %v; asked %+v", test.ask, got, err, f.asked)
		}
		for _, want := range []error{work.ErrNotFound, work.ErrConflict, work.ErrInvalid} {
			f.err = fmt.Errorf("queue slow: %w", want)
			if _, err := test.call(t.Context(), c); !errors.Is(err, want) || err.Error() != f.err.Error() {
				t.Errorf("%v: %v, want %v", test.ask, err, f.err)
			}
		}
	}
}

func TestUnknownFieldsOfAQueueAreRefused(t *testing.T) {
	f := &queueFake{}
	c := serve(t, api.Options{Service: f})
	status, _, answer := post(t, c.Address()+"/v1/queues/slow/state", `{"state":"paused","spede":1}`)
	if status != 400 || len(f.asked) != 0 {
		t.Errorf("%d %s", status, answer)
	}
}
