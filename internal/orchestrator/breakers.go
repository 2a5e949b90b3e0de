package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/queue"
	"drover/internal/work"
)

// breaker is the breaker of one repository. What it is changes under its latch
// and mu.
type breaker struct {
	latch
	work.Breaker
	picked string // item that is let through and not assigned yet
}

// breaker returns the breaker of a repository, by its key.
func (o *Orchestrator) breaker(repository string) *breaker {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.breakers[repository]
	if b == nil {
		b = &breaker{latch: newLatch(), Breaker: work.Breaker{Repository: repository}}
		o.breakers[repository] = b
	}
	return b
}

// knownBreaker returns the breaker of a repository by its URL, nil if nothing was counted yet.
func (o *Orchestrator) knownBreaker(url string) *breaker {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.breakers[work.RepositoryKey(url)]
}

// closeBroken keeps the items of breakers that are not closed from running,
// except for the one that is let through. The caller holds mu.
func (o *Orchestrator) closeBroken(now time.Time) {
	for repository, b := range o.broken {
		o.queue.Close(repository, !o.mayPass(b, now))
	}
}

// setBreaker changes a breaker in memory. The caller holds its latch and mu.
func (o *Orchestrator) setBreaker(b *breaker, next work.Breaker) {
	b.Breaker, b.picked = next, ""
	if next.Closed() {
		delete(o.broken, next.Repository)
		o.queue.Close(next.Repository, false)
	} else {
		o.broken[next.Repository] = b
	}
}

// breakerChange is how a breaker is stored: one that speaks against nobody needs no record.
func breakerChange(b work.Breaker) work.Change {
	if b.Quiet() {
		return work.Change{DeleteBreaker: b.Repository}
	}
	return work.Change{PutBreaker: &b}
}

// mayPass reports whether a breaker that is not closed lets an item through. The caller holds mu.
func (o *Orchestrator) mayPass(b *breaker, now time.Time) bool {
	if _, busy := o.open[b.picked]; busy {
		return false
	}
	return b.MayTry(now) || o.trialLost(b)
}

// trialLost reports whether the attempt that was let through is not to be seen
// any more. The caller holds mu.
func (o *Orchestrator) trialLost(b *breaker) bool {
	_, open := o.open[b.Trial.Item()]
	return b.State == work.BreakerHalfOpen && b.Trial != "" && !open
}

// letThrough remembers the item that a breaker lets through. The caller holds mu.
func (o *Orchestrator) letThrough(picked queue.Entry) {
	if b := o.broken[picked.Repository]; b != nil {
		b.picked = picked.ID
	}
}

// Breakers returns the breakers that count failures, or are not closed, by their repositories.
func (o *Orchestrator) Breakers(ctx context.Context) ([]work.Breaker, error) {
	if err := o.loaded(ctx); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	found := []work.Breaker{}
	for _, b := range o.breakers {
		if !b.Quiet() {
			found = append(found, b.Breaker)
		}
	}
	slices.SortFunc(found, func(a, b work.Breaker) int { return strings.Compare(a.Repository, b.Repository) })
	return found, nil
}

// TripBreaker opens a repository's breaker by hand. It returns work.ErrInvalid,
// and what Ledger.Commit returns.
func (o *Orchestrator) TripBreaker(ctx context.Context, trip control.Trip) (work.Breaker, error) {
	if trip.For < 0 {
		return work.Breaker{}, fmt.Errorf("a pause of %s: must not be negative: %w", trip.For, work.ErrInvalid)
	}
	return o.changeBreaker(ctx, trip.Repository, func(b work.Breaker, now time.Time) (work.Breaker, error) {
		return b.Trip(trip.By, trip.Why, trip.For.Std(), now), nil
	})
}

// ResetBreaker closes a repository's breaker by hand. It returns
// work.ErrNotFound when it is closed, work.ErrInvalid, and what Ledger.Commit returns.
func (o *Orchestrator) ResetBreaker(ctx context.Context, repository string) (work.Breaker, error) {
	return o.changeBreaker(ctx, repository, func(b work.Breaker, now time.Time) (work.Breaker, error) {
		if b.Quiet() {
			return b, fmt.Errorf("the breaker of %s is closed and counts no failure: %w", b.Repository, work.ErrNotFound)
		}
		return b.Reset(now), nil
	})
}

func (o *Orchestrator) changeBreaker(ctx context.Context, repository string, change func(work.Breaker, time.Time) (work.Breaker, error)) (work.Breaker, error) {
	if err := o.loaded(ctx); err != nil {
		return work.Breaker{}, err
	}
	key := work.RepositoryKey(repository)
	if key == "" {
		return work.Breaker{}, fmt.Errorf("repository %q: give its URL, or host/path: %w", work.RedactURL(repository), work.ErrInvalid)
	}
	b := o.breaker(key)
	if err := b.lock(ctx); err != nil {
		return work.Breaker{}, err
	}
	defer b.unlock()
	next, err := change(b.Breaker, time.Now().UTC())
	if err != nil {
		return work.Breaker{}, err
	}
	if err := o.ledger.Commit(ctx, breakerChange(next)); err != nil {
		return work.Breaker{}, fmt.Errorf("store the breaker of %s: %w", key, err)
	}
	o.mu.Lock()
	o.setBreaker(b, next)
	o.mu.Unlock()
	nudge(o.wake)
	return next, nil
}
