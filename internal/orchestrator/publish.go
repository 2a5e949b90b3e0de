package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"drover/internal/work"
)

// Bounds of how fast pull requests are made again. A forge bounds what one
// identity may write: GitHub about 80 times a minute and 500 an hour, and a pull
// request with labels and reviewers is three writes. What an outage of the forge
// left undone, of all workers together, is caught up with below that.
const (
	publishEvery   = 3 * time.Second
	publishHourly  = 150
	publishHistory = time.Hour
)

// publishLoop makes the pull requests again that failed, one at a time.
func (o *Orchestrator) publishLoop(ctx context.Context) error {
	tick := time.NewTicker(publishEvery)
	defer tick.Stop()
	var made []time.Time // within the last hour
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		now := time.Now()
		made = slices.DeleteFunc(made, func(t time.Time) bool { return now.Sub(t) > publishHistory })
		if len(made) >= publishHourly {
			continue
		}
		if e := o.nextUnpublished(now); e != nil {
			made = append(made, now)
			o.spawn(ctx, func() { o.complain("pull request not made again", e.item.Load().ID, o.publish(ctx, e)) })
		}
	}
}

// nextUnpublished returns the item whose pull request has been due for longest,
// nil if there is none or no room for an attempt.
func (o *Orchestrator) nextUnpublished(now time.Time) *entry {
	var next *work.Item
	for _, item := range o.snapshot() {
		if item.PublishDue(now) && (next == nil || item.PublishAt.Before(next.PublishAt)) {
			next = item
		}
	}
	if next == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.open) >= o.cfg.MaxInFlight || o.away.Load() != nil {
		return nil
	}
	return o.entries[next.ID]
}

// publish dispatches an attempt that only makes the pull request.
func (o *Orchestrator) publish(ctx context.Context, e *entry) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	if !e.item.Load().PublishDue(time.Now()) {
		return nil
	}
	if err := o.apply(ctx, e, work.Publishing{}); err != nil {
		return err
	}
	item := e.item.Load()
	o.log.Info("pull request is made again", "item", item.ID, "attempt", item.AttemptCount(), "failed", item.PublishTries)
	return o.send(ctx, e)
}

// RetryPR has the pull request of a completed item made again, soon.
// It returns work.ErrNotFound, work.ErrInvalid, and work.ErrConflict unless the
// item is completed and its pull request failed.
func (o *Orchestrator) RetryPR(ctx context.Context, id string) (work.Item, error) {
	e, err := o.find(ctx, id)
	if err != nil {
		return work.Item{}, err
	}
	if err := e.lock(ctx); err != nil {
		return work.Item{}, err
	}
	defer e.unlock()
	if err := o.apply(ctx, e, work.PublishAsked{}); err != nil {
		return work.Item{}, fmt.Errorf("make the pull request again: %w", err)
	}
	return *e.item.Load(), nil
}
