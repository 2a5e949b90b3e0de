package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"drover/internal/wait"
	"drover/internal/worker/gitrepo"
)

const (
	// declineTries is how often a push is tried that a hook of the server declines.
	declineTries = 5
	// DefaultRemotePatience is how long a git server may be away at the end of an attempt.
	DefaultRemotePatience = 10 * time.Minute
	pushBackoff           = time.Second // doubled after each try
	maxPushBackoff        = 8 * time.Second
)

// pushCommits pushes every commit as it is made, until the agent has ended. A
// push that is under way then is finished, unless ctx ends. refused is called when the
// server refuses the branch itself; refused commits end nothing, the agent may rewrite them.
func (w *worker) pushCommits(ctx context.Context, ended <-chan struct{}, refused func(error)) {
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
			if err == nil || isFinal(err) || errors.Is(err, gitrepo.ErrEmbedded) {
				pushed, backoff = mark, pushBackoff // what was refused is tried again with the next commit
			} else {
				wait, backoff = backoff, min(2*backoff, maxPushBackoff)
			}
			if err != nil && ctx.Err() == nil {
				w.log.Warn("commit not pushed", "error", err)
			}
			if errors.Is(err, gitrepo.ErrBranch) {
				refused(err)
			}
			if err == nil && time.Since(saved) > stateInterval {
				loop.wait(func() { w.saveState(ctx) })
				saved = time.Now()
			}
		}
		next.Reset(wait)
	}
}

// isFinal reports whether the remote's answer stays the same however often it is asked.
func isFinal(err error) bool {
	return errors.Is(err, gitrepo.ErrMoved) || errors.Is(err, gitrepo.ErrAuth) || errors.Is(err, gitrepo.ErrRefused) || errors.Is(err, gitrepo.ErrTree)
}

// persistently calls the remote again where that may help: for long where it gives
// no answer, because work that is paid for is at stake, and a few times where it declines.
func (w *worker) persistently(ctx context.Context, call func() error) error {
	backoff, declined := pushBackoff, 0
	for deadline := time.Now().Add(cmp.Or(w.RemotePatience, DefaultRemotePatience)); ; {
		began := time.Now()
		if err := w.heart.hold(ctx); err != nil {
			return err
		}
		deadline = deadline.Add(time.Since(began)) // a fence is not the remote's doing
		err := call()
		if errors.Is(err, gitrepo.ErrDeclined) {
			declined++
		}
		over := declined == declineTries || isFinal(err) || time.Now().After(deadline)
		if err == nil || over && !errors.Is(err, errLeaseEnded) {
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
	return w.pushBy(ctx, w.repo.Push)
}

// pushBy is push with another way to push.
func (w *worker) pushBy(ctx context.Context, push func(context.Context) (string, error)) (commit string, err error) {
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
		commit, err = push(ctx)
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
