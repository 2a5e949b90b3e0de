package gitrepo

import (
	"context"
	"fmt"
	"strings"

	"drover/internal/worker/process"
)

// stateFile is the one file of a commit that the state ref is at.
const stateFile = "state.tar.gz"

// HasState reports whether the remote has what an earlier attempt saved.
func (r *Repo) HasState() bool { return r.state != "" }

// LoadState returns what was saved last.
func (r *Repo) LoadState(ctx context.Context) ([]byte, error) {
	if err := r.fetchState(ctx); err != nil {
		return nil, err
	}
	out, err := r.git(ctx, "cat-file", "blob", r.state+":"+stateFile)
	return []byte(out), err
}

// fetchState fetches the commit that the state ref is at.
func (r *Repo) fetchState(ctx context.Context) error {
	const here = "refs/drover/state"
	_, err := r.remote(ctx, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--depth=1", r.opts.URL, "+"+r.opts.StateRef+":"+here)
	return err
}

// SaveState keeps data on the remote, at a ref of its own beside the branch:
// each time as a commit on top of the last, so that nothing is ever forced.
func (r *Repo) SaveState(ctx context.Context, data []byte) error {
	blob, err := r.feed(ctx, string(data), "hash-object", "-w", "--stdin")
	if err != nil {
		return err
	}
	tree, err := r.feed(ctx, fmt.Sprintf("100644 blob %s\t%s\n", blob, stateFile), "mktree")
	if err != nil {
		return err
	}
	commit := []string{"-c", "user.name=drover", "-c", "user.email=drover@localhost", "commit-tree", tree, "-m", "What the agent knows of its conversation"}
	if r.state != "" {
		if _, err := r.git(ctx, "cat-file", "-e", r.state+"^{commit}"); err != nil {
			if err := r.fetchState(ctx); err != nil {
				return err
			}
		}
		if last, err := r.git(ctx, "rev-parse", r.state+"^{tree}"); err == nil && strings.TrimSpace(last) == tree {
			return nil
		}
		commit = append(commit, "-p", r.state)
	}
	made, err := r.feed(ctx, "", commit...)
	if err != nil {
		return err
	}
	if _, err := r.remote(ctx, "push", "--porcelain", r.opts.URL, made+":"+r.opts.StateRef); err != nil {
		return err
	}
	r.state = made
	return nil
}

// RemoveState removes what was saved from the remote.
func (r *Repo) RemoveState(ctx context.Context) error {
	_, err := r.remote(ctx, "push", "--porcelain", r.opts.URL, ":"+r.opts.StateRef)
	if err == nil {
		r.state = ""
	}
	return err
}

// feed runs git on the worker's own repository with an input, and returns the word it answers.
func (r *Repo) feed(ctx context.Context, input string, args ...string) (string, error) {
	return r.feedWith(ctx, r.local(), input, args...)
}

// feedWith is feed with an environment.
func (r *Repo) feedWith(ctx context.Context, env []string, input string, args ...string) (string, error) {
	out, err := r.feedRaw(ctx, env, input, args...)
	return strings.TrimSpace(out), err
}

// feedRaw returns the answer as it is.
func (r *Repo) feedRaw(ctx context.Context, env []string, input string, args ...string) (string, error) {
	var stdout strings.Builder
	err := r.exec(ctx, process.Command{
		Args: append([]string{"--git-dir=" + r.gitDir()}, args...), Dir: r.opts.Dir, Env: env, Stdin: input,
	}, &stdout)
	return stdout.String(), err
}
