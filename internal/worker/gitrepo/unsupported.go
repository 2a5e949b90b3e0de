package gitrepo

import (
	"context"
	"fmt"
	"path"
	"strings"
)

// supported refuses a repository whose working tree git alone can't make whole:
// the agent would work on holes, and commit them.
// It returns ErrUnsupported.
func (r *Repo) supported(ctx context.Context) error {
	out, err := r.git(ctx, "ls-tree", "-r", "-z", r.start)
	if err != nil {
		return err
	}
	for entry := range strings.SplitSeq(out, "\x00") {
		about, name, _ := strings.Cut(entry, "\t")
		fields := strings.Fields(about) // mode, type, object
		switch {
		case len(fields) < 3:
		case fields[1] == "commit":
			return fmt.Errorf("%s is a submodule: %w: workers clone no submodules", name, ErrUnsupported)
		case path.Base(name) == ".gitattributes":
			if err := r.withoutLFS(ctx, name, fields[2]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Repo) withoutLFS(ctx context.Context, name, object string) error {
	attributes, err := r.git(ctx, "cat-file", "blob", object)
	if err != nil {
		return err
	}
	for line := range strings.Lines(attributes) {
		if !strings.HasPrefix(line, "#") && strings.Contains(line, "filter=lfs") {
			return fmt.Errorf("%s keeps %s in Git LFS: %w: workers have no LFS", name, strings.Fields(line)[0], ErrUnsupported)
		}
	}
	return nil
}
