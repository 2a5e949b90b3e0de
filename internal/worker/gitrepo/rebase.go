package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Refs of the worker's own repository that keep what is rebased.
const theirs, ours = "refs/drover/theirs", "refs/drover/ours"

// rebase puts the commits after from, up to tip, on the commit onto. The agent's
// tree stays as it is. Where that makes a conflict it returns ErrMoved, and nothing has changed.
func (r *Repo) rebase(ctx context.Context, tip, onto, from string) (string, error) {
	dir := filepath.Join(r.opts.Dir, "rebase")
	defer os.RemoveAll(dir) // a leftover is removed before the next one
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if _, err := r.git(ctx, "worktree", "prune"); err != nil {
		return "", err
	}
	if _, err := r.git(ctx, "worktree", "add", "--quiet", "--detach", dir, tip); err != nil {
		return "", err
	}
	_, err := r.run(ctx, r.local(), "-C", dir, "rebase", "--quiet", "--rebase-merges", "--onto", onto, from)
	if ctx.Err() != nil {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("%w: these can't be rebased onto %.12s: %v", ErrMoved, onto, err)
	}
	if _, err := r.run(ctx, r.local(), "-C", dir, "update-ref", ours, "HEAD"); err != nil {
		return "", err
	}
	return r.commit(ctx, ours)
}

// moved looks where the remote branch is now that it refused a push, and fetches
// it. It is empty where nobody else has moved the branch.
func (r *Repo) moved(ctx context.Context) (string, error) {
	if _, err := r.remote(ctx, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", r.opts.URL, "+refs/heads/"+r.opts.Branch+":"+theirs); err != nil {
		return "", err
	}
	now, err := r.commit(ctx, theirs)
	if err != nil || now == r.as {
		return "", err
	}
	return now, nil
}

// pushTries is how often commits are rebased that somebody else is always ahead of.
const pushTries = 3

// pushRebased pushes the commits after from, up to made, on top of what somebody
// else has pushed, and returns the commit the remote branch is at then. made stands
// for the agent's tip.
func (r *Repo) pushRebased(ctx context.Context, tip, made, from string) (string, error) {
	commit, onto := made, ""
	if from != r.as {
		onto = r.as // rebased before
	}
	for try := 1; ; try++ {
		var err error
		if onto != "" {
			if commit, err = r.rebase(ctx, made, onto, from); err != nil {
				return tip, err
			}
		}
		err = r.pushOnce(ctx, commit)
		if err == nil {
			r.own, r.as, r.seen = tip, commit, commit
			return commit, nil
		}
		if !errors.Is(err, ErrMoved) || try == pushTries {
			return tip, err
		}
		now, lookErr := r.moved(ctx)
		if lookErr != nil || now == "" {
			return tip, errors.Join(err, lookErr)
		}
		onto = now
	}
}

// pushOnce pushes a commit. Once the branch was seen where a push put it, or
// where it does not fit, none of the pushes before can still be taken.
func (r *Repo) pushOnce(ctx context.Context, commit string) error {
	before := r.unsettled
	r.unsettled, r.tried = true, commit
	_, err := r.remote(ctx, "push", "--porcelain", r.opts.URL, commit+":refs/heads/"+r.opts.Branch)
	switch {
	case err == nil, errors.Is(err, ErrMoved):
		r.unsettled = false
	case errors.Is(err, ErrAuth), errors.Is(err, ErrRefused), errors.Is(err, ErrDeclined):
		r.unsettled = before // this one was not taken
	}
	return err
}
