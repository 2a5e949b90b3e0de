package worker

import (
	"context"
	"errors"
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
		wait := pushCheck
		if mark := w.repo.Mark(); mark != pushed {
			_, err := w.push(ctx)
			if err == nil || errors.Is(err, gitrepo.ErrMoved) || errors.Is(err, gitrepo.ErrAuth) {
				pushed, backoff = mark, pushBackoff // what was refused is tried again with the next commit
			} else {
				wait, backoff = backoff, min(2*backoff, maxPushBackoff)
			}
			if err != nil && ctx.Err() == nil {
				w.log.Warn("commit not pushed", "error", err)
			}
			if err == nil && time.Since(saved) > stateInterval {
				w.saveState(ctx)
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

// push pushes the agent's commits, unless the attempt is not the worker's any more.
func (w *worker) push(ctx context.Context) (commit string, err error) {
	w.pushing.Lock()
	defer w.pushing.Unlock()
	if err := w.heart.hold(ctx); err != nil {
		return "", err
	}
	ctx, ended := w.span(ctx, "push")
	defer func() { ended(err) }()
	before := w.repo.Pushed()
	err = w.leased(ctx, func(ctx context.Context) (err error) {
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
