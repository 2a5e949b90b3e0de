package gitrepo

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// KeptRefs is the folder of what drover keeps of an item beside its branch.
func KeptRefs(item string) string { return "refs/drover/" + item + "/" }

// removedAtOnce bounds the references that one push removes.
const removedAtOnce = 50

// RemoveRefs removes what drover keeps of items from the remote, and returns how many
// references that were. A reference that is moved meanwhile stays, and is an error.
// It returns ErrAuth and ErrMoved.
func RemoveRefs(ctx context.Context, opts Options, items []string) (int, error) {
	r := &Repo{opts: opts}
	if err := r.prepare(); err != nil {
		return 0, fmt.Errorf("prepare %s: %w", opts.Dir, err)
	}
	if _, err := r.run(ctx, r.environ(), "init", "--quiet", "--bare", r.gitDir()); err != nil {
		return 0, err
	}
	refs, err := r.kept(ctx, items)
	if err != nil {
		return 0, err
	}
	removed := 0
	for some := range slices.Chunk(refs, removedAtOnce) {
		args := []string{"push", "--porcelain"}
		for _, ref := range some {
			args = append(args, "--force-with-lease="+ref.name+":"+ref.commit)
		}
		args = append(args, opts.URL)
		for _, ref := range some {
			args = append(args, ":"+ref.name)
		}
		if _, err := r.remote(ctx, args...); err != nil {
			return removed, fmt.Errorf("remove references of ended items: %w", err)
		}
		removed += len(some)
	}
	return removed, nil
}

type ref struct{ name, commit string }

// kept returns the references of items on the remote.
func (r *Repo) kept(ctx context.Context, items []string) (refs []ref, err error) {
	args := []string{"ls-remote", r.opts.URL}
	for _, item := range items {
		args = append(args, KeptRefs(item)+"*")
	}
	out, err := r.remote(ctx, args...)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		commit, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		// A pattern of ls-remote also fits what ends like it.
		if slices.ContainsFunc(items, func(item string) bool { return strings.HasPrefix(name, KeptRefs(item)) }) {
			refs = append(refs, ref{name, commit})
		}
	}
	return refs, nil
}
