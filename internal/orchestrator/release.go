package orchestrator

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/wait"
	"drover/internal/work"
)

// lostCheck is how often locks are looked for whose holder's session is gone.
const lostCheck = 2 * time.Second

// freeLoop removes the locks of ended attempts whose session has been gone for the lock delay.
func (o *Orchestrator) freeLoop(ctx context.Context) error {
	for {
		o.complain("locks of lost sessions not removed, trying again", "", o.store.FreeLost(ctx))
		if err := wait.For(ctx, lostCheck); err != nil {
			return err
		}
	}
}

// hasEnded reports whether no worker can hold an attempt any more: its claim is
// closed, in the transaction that stored its end, or nothing is stored of it.
func (o *Orchestrator) hasEnded(a work.AttemptID) bool {
	e := o.entry(a.Item())
	if e == nil {
		return true
	}
	attempt := e.item.Load().Attempt(a.Number())
	return attempt == nil || attempt.State.Terminal()
}

// Locks returns what is locked in a repository, given by its URL or key, or in
// all of them. It returns work.ErrUnavailable.
func (o *Orchestrator) Locks(ctx context.Context, repository string) ([]work.Lock, error) {
	all, _, err := o.store.Locks(ctx, 0)
	if err != nil {
		return nil, err
	}
	locks := []work.Lock{}
	for _, lock := range all {
		if repository == "" || lock.Repository == repository || lock.Repository == work.RepositoryKey(repository) {
			locks = append(locks, lock)
		}
	}
	return locks, nil
}

// ReleaseLocks breaks what an item's attempt has locked, for an operator. The
// attempt ends with that: it may work on paths only while it holds them.
// It returns work.ErrNotFound when nothing is locked, work.ErrInvalid when the id
// begins the ids of several items, and what Ledger.Commit and Store.BreakLock return.
func (o *Orchestrator) ReleaseLocks(ctx context.Context, r control.LockRelease) (control.ReleasedLocks, error) {
	if err := o.loaded(ctx); err != nil {
		return control.ReleasedLocks{}, err
	}
	locks, err := o.locksOf(ctx, r.ID)
	if err != nil {
		return control.ReleasedLocks{}, err
	}
	var means []string
	for i, lock := range locks {
		if lock.Lost && o.hasEnded(lock.Attempt) {
			means = append(means, fmt.Sprintf("attempt %s has lost them already: they are free within %s", lock.Attempt, work.LockDelay))
			continue
		}
		ended, err := o.endHolder(ctx, lock, r.By)
		if err == nil {
			err = o.store.BreakLock(ctx, lock)
		}
		if err != nil {
			return control.ReleasedLocks{}, err
		}
		locks[i].Lost = true
		means = append(means, fmt.Sprintf("%s: its worker stops the agent and pushes nothing more, and the paths are free within %s", ended, work.LockDelay))
	}
	return control.ReleasedLocks{Locks: locks, Means: strings.Join(means, "; ")}, nil
}

// locksOf finds the locks of one item, or one attempt, by the beginning of its id.
func (o *Orchestrator) locksOf(ctx context.Context, id string) ([]work.Lock, error) {
	all, err := o.Locks(ctx, "")
	if err != nil {
		return nil, err
	}
	var found []work.Lock
	for _, lock := range all {
		if id == "" || !strings.HasPrefix(string(lock.Attempt), id) {
			continue
		}
		if len(found) > 0 && found[0].Item != lock.Item {
			return nil, fmt.Errorf("several items that have locked paths begin with %q: give more of the id: %w", id, work.ErrInvalid)
		}
		found = append(found, lock)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no item or attempt %q has locked a path: %w", id, work.ErrNotFound)
	}
	return found, nil
}

// closeClaim closes the claim of an attempt that belongs to no item.
func (o *Orchestrator) closeClaim(ctx context.Context, a work.AttemptID) error {
	claim, index, err := o.store.Claim(ctx, a)
	if err != nil || index == 0 || claim.Ended {
		return err
	}
	claim.Ended, claim.EndedAt = true, time.Now().UTC()
	return o.ledger.Commit(ctx, work.Change{CloseClaim: &work.CloseClaim{Claim: claim, Index: index}})
}

// endHolder ends the attempt that has locked something, if it is an open one, and
// returns what became of it. With its end its claim is closed, so that its worker
// can't take the attempt back once the session is gone.
func (o *Orchestrator) endHolder(ctx context.Context, lock work.Lock, by string) (string, error) {
	e := o.entry(lock.Item)
	if e == nil {
		return fmt.Sprintf("attempt %s belongs to no item that is stored here", lock.Attempt), o.closeClaim(ctx, lock.Attempt)
	}
	detail := fmt.Sprintf("its locks (%s) were released by %s", lock.PathSet(), cmp.Or(by, "an operator"))
	if err := o.lockedEnd(ctx, e, lock.Attempt, work.Ending{Reason: work.ReasonKilledByOperator, Detail: detail}); err != nil {
		return "", err
	}
	o.spawn(o.term, func() { o.cleanup(o.term, e, lock.Attempt) })
	item := e.item.Load()
	return fmt.Sprintf("attempt %d of item %s is ended, the item is %s (%s)", lock.Attempt.Number(), item.ID, item.State, item.Why), nil
}
