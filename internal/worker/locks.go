package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/internal/work"
	"drover/internal/worker/locksocket"
)

// Bounds of the wait for the paths that an item declares. The dispatcher sends no
// item whose paths are held, so a wait is rare: a lost holder's, or one that asked
// for more meanwhile.
const (
	declaredPatience = 90 * time.Second // over work.LockDelay
	declaredPause    = time.Minute      // until the item is tried again
)

// errNoLease is why a fenced worker takes no paths.
var errNoLease = fmt.Errorf("the worker has lost its session in Consul, and tries to take its attempt back: %w", work.ErrUnavailable)

// lockDeclared takes the paths that the item declares, before any work. When that
// is not to be, it returns how the attempt ends, or an error with the hold lost.
// Who only publishes changes no file, and needs none.
func (w *worker) lockDeclared(ctx context.Context) (end *ending, err error) {
	paths := w.envelope.Spec.PathSet()
	if paths.Empty() || w.envelope.Resume.PublishOnly {
		return nil, nil
	}
	w.journal.phase(work.PhaseLocking)
	err = lockKeeper{w}.Lock(ctx, paths, declaredPatience)
	switch {
	case err == nil:
		w.log.Info("paths locked", "paths", paths)
		w.journal.phase(work.PhasePreparing)
		return nil, nil
	case errors.Is(err, errTimeout):
		return &ending{reason: work.ReasonTimeout, detail: fmt.Sprintf("waited for its paths: %v", err)}, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return &ending{
		reason: work.ReasonLocked, retryAt: time.Now().Add(declaredPause).UTC(),
		detail: fmt.Sprintf("its paths could not be had within %s: %v", declaredPatience, err),
	}, nil
}

// unlock gives up all locks: after the last push, once nothing works under them any
// more. Where the git server may still take a push whose end is not known, they are
// left to the end of the session and the lock delay.
func (w *worker) unlock(ctx context.Context) {
	if !w.locked.Load() {
		return
	}
	if !w.settled() {
		w.log.Warn("the end of a push is not known: locks are free a while after the attempt's end", "after", work.LockDelay)
		return
	}
	if err := w.heart.held(ctx, w.claim.UnlockAll); err != nil {
		w.log.Warn("locks not given up, they are free a while after the attempt's end", "after", work.LockDelay, "error", err)
		return
	}
	w.locked.Store(false)
}

// settled reports whether what became of every push is known.
func (w *worker) settled() bool {
	w.pushing.Lock()
	defer w.pushing.Unlock()
	return w.repo == nil || w.repo.Settled()
}

// serveLocks answers the agent's requests for locks until stop is called, and
// returns where. Without a socket the agent has no locks to ask for.
func (w *worker) serveLocks(hold context.Context) (path string, stop func()) {
	server, err := locksocket.Listen(hold, w.envelope.Attempt, lockKeeper{w}, w.log)
	if err != nil {
		w.log.Error("the agent can't ask for locks", "error", err)
		return "", func() {}
	}
	return server.Path(), func() {
		if err := server.Close(); err != nil {
			w.log.Warn("lock socket", "error", err)
		}
	}
}

// lockKeeper is the worker as the lock socket sees it.
type lockKeeper struct{ *worker }

func (k lockKeeper) Lock(ctx context.Context, paths work.PathSet, patience time.Duration) error {
	k.heart.touch()
	k.locked.Store(true)
	ctx, ended := k.span(ctx, "lock")
	began := time.Now()
	err := k.lock(ctx, paths, patience)
	k.metrics.lockWait.WithLabelValues(lockOutcome(err)).Observe(time.Since(began).Seconds())
	ended(err)
	if errors.Is(err, work.ErrLocked) {
		k.log.Info("paths are held by another", "paths", paths, "error", err)
	}
	return err
}

// lock takes paths. While the worker is fenced it waits, as for paths that another has.
func (k lockKeeper) lock(ctx context.Context, paths work.PathSet, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	ctx, cancel := context.WithDeadlineCause(ctx, deadline.Add(consulTimeout), errNoLease)
	defer cancel()
	return k.heart.held(ctx, func(ctx context.Context) error {
		_, err := k.claim.Lock(ctx, paths, max(time.Until(deadline), 0), func(why error) {
			k.heart.touch()
			k.journal.update(false, func(p *work.Progress) { p.LastTool = "waits: " + why.Error() })
		})
		return err
	})
}

// lockOutcome is how a request for locks went.
func lockOutcome(err error) string {
	switch {
	case err == nil:
		return lockGiven
	case errors.Is(err, work.ErrLocked):
		return lockHeld
	}
	return lockFailed
}

// Unlock pushes what was committed under the locks before it gives them up.
func (k lockKeeper) Unlock(ctx context.Context, paths work.PathSet) error {
	if err := k.pushBefore(ctx); err != nil {
		return err
	}
	return k.heart.held(ctx, func(ctx context.Context) error { return k.claim.Unlock(ctx, paths) })
}

// UnlockAll is Unlock of all.
func (k lockKeeper) UnlockAll(ctx context.Context) error {
	if err := k.pushBefore(ctx); err != nil {
		return err
	}
	return k.heart.held(ctx, k.claim.UnlockAll)
}

func (k lockKeeper) pushBefore(ctx context.Context) error {
	k.heart.touch()
	if _, err := k.push(ctx); err != nil {
		return fmt.Errorf("not unlocked, because the commits made under the locks are not pushed: %w", err)
	}
	if !k.settled() {
		return fmt.Errorf("not unlocked, because the git server may still take a push whose answer was lost: %w", work.ErrUnavailable)
	}
	return nil
}

func (k lockKeeper) Locks(ctx context.Context) ([]work.Lock, error) { return k.claim.Locks(ctx) }
