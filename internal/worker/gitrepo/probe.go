package gitrepo

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// probeRef is the reference that a probe asks whether it could push. It is never made.
const probeRef = "refs/drover/probe"

// Probe reads the references of the remote and checks push access with the
// credentials of opts, below opts.Dir. It sends nothing and changes nothing.
// It returns ErrAuth.
func Probe(ctx context.Context, opts Options) error {
	r := &Repo{opts: opts}
	if err := r.prepare(); err != nil {
		return fmt.Errorf("prepare %s: %w", opts.Dir, err)
	}
	if _, err := r.run(ctx, r.environ(), "init", "--quiet", "--bare", r.gitDir()); err != nil {
		return err
	}
	if _, err := r.remote(ctx, "ls-remote", r.opts.URL); err != nil {
		return fmt.Errorf("read the references: %w", err)
	}
	commit, err := r.emptyCommit(ctx)
	if err != nil {
		return err
	}
	if _, err := r.remote(ctx, "push", "--dry-run", "--porcelain", r.opts.URL, commit+":"+probeRef); err != nil {
		return fmt.Errorf("check push access: %w", err)
	}
	return nil
}

// emptyCommit makes a commit of no files in the worker's own repository.
func (r *Repo) emptyCommit(ctx context.Context) (string, error) {
	tree, err := r.git(ctx, "hash-object", "-t", "tree", "-w", os.DevNull)
	if err != nil {
		return "", err
	}
	out, err := r.git(ctx, "-c", "user.name=drover", "-c", "user.email=drover@localhost", "commit-tree", "-m", "probe", strings.TrimSpace(tree))
	return strings.TrimSpace(out), err
}
