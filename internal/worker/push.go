package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/internal/wait"
	"drover/internal/worker/gitrepo"
)

const (
	pushTries      = 5
	pushBackoff    = time.Second // doubled after each try
	maxPushBackoff = 8 * time.Second
)

// pushCommits pushes every commit as it is made, until the agent has ended. A
// push that is under way then is finished, unless ctx ends.
func (w *worker) pushCommits(ctx context.Context, ended <-chan struct{}) {
	pushed, backoff := "", pushBackoff // the agent may have committed before the first look
	saved := time.Now()
	loop := w.dog.watch("push")
	defer loop.end()
	next := time.NewTimer(pushCheck)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended:
			return
		case <-next.C:
		}
		loop.turn()
		wait := pushCheck
		if mark := w.repo.Mark(); mark != pushed {
			var err error
			loop.wait(func() { _, err = w.push(ctx) })
			if err == nil || errors.Is(err, gitrepo.ErrMoved) || errors.Is(err, gitrepo.ErrAuth) {
				pushed, backoff = mark, pushBackoff // what was refused is tried again with the next commit
			} else {
				wait, backoff = backoff, min(2*backoff, maxPushBackoff)
			}
			if err != nil && ctx.Err() == nil {
				w.log.Warn("commit not pushed", "error", err)
			}
			if err == nil && time.Since(saved) > stateInterval {
				loop.wait(func() { w.saveState(ctx) })
				saved = time.Now()
			}
		}
		next.Reset(wait)
	}
}

// persistently calls the remote again where that may help.
func (w *worker) persistently(ctx context.Context, call func() error) error {
	backoff := pushBackoff
	for try := 1; ; try++ {
		err := call()
		if errors.Is(err, errLeaseEnded) {
			try-- // it was not the remote's doing
		}
		if err == nil || try == pushTries || errors.Is(err, gitrepo.ErrMoved) || errors.Is(err, gitrepo.ErrAuth) {
			return err
		}
		w.log.Warn("remote did not answer well, trying again", "error", err)
		if stopped := wait.For(ctx, backoff); stopped != nil {
			return errors.Join(err, stopped)
		}
		backoff = min(2*backoff, maxPushBackoff)
	}
}

// push pushes the agent's commits. While the worker is fenced it waits.
func (w *worker) push(ctx context.Context) (commit string, err error) {
	if err := w.heart.hold(ctx); err != nil {
		return "", err
	}
	w.pushing.Lock()
	defer w.pushing.Unlock()
	ctx, ended := w.span(ctx, "push")
	defer func() { ended(err) }()
	before := w.repo.Pushed()
	err = w.leased(ctx, func(ctx context.Context) (err error) {
		if err := w.lookAgain(ctx); err != nil {
			return err
		}
		commit, err = w.repo.Push(ctx)
		return err
	})
	if err == nil && commit != before && w.repo.Pushed() == commit {
		w.metrics.pushes.Inc()
		w.journal.pushed(commit)
		w.log.Info("pushed", "commit", commit, "branch", w.envelope.Branch)
	}
	if err != nil && ctx.Err() == nil {
		w.metrics.failedPushes.Inc()
	}
	return commit, err
}

// lookAgain reads where the remote branch is, before the first push after the
// attempt was taken back: it may have moved meanwhile, and may have taken a push
// whose answer never came.
func (w *worker) lookAgain(ctx context.Context) error {
	if !w.doubtful.Load() {
		return nil
	}
	before := w.repo.Pushed()
	now, err := w.repo.Remote(ctx)
	if err != nil {
		return fmt.Errorf("look where the branch is: %w", err)
	}
	w.doubtful.Store(false)
	if now != before {
		w.log.Info("the branch has moved since the last push", "from", before, "to", now)
	}
	return nil
}
