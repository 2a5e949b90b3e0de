package gitrepo

import (
	"context"
	"strings"

	"drover/internal/worker/process"
)

// filter leaves out the content of files: it is fetched for the commits that
// are worked on, and of the rest of the history when git needs it.
const filter = "blob:none"

// partial are the settings of a repository that has not the content of every
// file, and of the clone that is made of it.
var partial = [][2]string{
	{"core.repositoryFormatVersion", "1"}, {"extensions.partialClone", "origin"},
	{"remote.origin.promisor", "true"}, {"remote.origin.partialCloneFilter", filter},
}

// configurePartial makes the worker's own repository a partial one.
func (r *Repo) configurePartial(ctx context.Context) error {
	for _, setting := range append([][2]string{{"remote.origin.url", r.opts.URL}}, partial...) {
		if _, err := r.git(ctx, "config", setting[0], setting[1]); err != nil {
			return err
		}
	}
	return nil
}

// complete fetches the content of all files of base and branch, so that the
// agent, who may not ask the remote, has them.
func (r *Repo) complete(ctx context.Context) error {
	wanted := map[string]bool{}
	for _, commit := range []string{r.from, r.start} {
		out, err := r.git(ctx, "ls-tree", "-r", "-z", commit)
		if err != nil {
			return err
		}
		for entry := range strings.SplitSeq(out, "\x00") {
			about, _, _ := strings.Cut(entry, "\t")
			if fields := strings.Fields(about); len(fields) == 3 && fields[1] == "blob" {
				wanted[fields[2]] = true
			}
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	var input strings.Builder
	for blob := range wanted {
		input.WriteString(blob + "\n")
	}
	var stdout strings.Builder
	return r.exec(ctx, process.Command{ // as git fetches what it misses
		Args: []string{
			"--git-dir=" + r.gitDir(), "-c", "fetch.negotiationAlgorithm=noop", "fetch", "--progress", "--no-tags", "--no-write-fetch-head",
			"--recurse-submodules=no", "--filter=" + filter, "--stdin", "origin",
		},
		Dir: r.opts.Dir, Env: append(r.environ(), r.credentials()...), Stdin: input.String(),
	}, &stdout)
}
