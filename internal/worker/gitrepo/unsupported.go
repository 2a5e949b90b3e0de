package gitrepo

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// supported refuses a repository whose working tree git alone can't make whole:
// the agent would work on holes, and commit them. What an agent added to the item's own
// branch is no reason: the next one is told, and may mend it.
// It returns ErrUnsupported.
func (r *Repo) supported(ctx context.Context) error {
	base, err := r.entries(ctx, r.from)
	if err != nil {
		return err
	}
	listed, here := base, base
	if r.start != r.from {
		if here, err = r.entries(ctx, r.start); err != nil {
			return err
		}
	}
	modules, err := r.modules(ctx, r.from, listed)
	if err != nil {
		return err
	}
	links := map[string]bool{}
	for _, e := range listed {
		links[e.path] = e.mode == modeLink
		if e.mode == modeLink && modules[e.path] {
			return fmt.Errorf("%s is a submodule: %w: workers clone no submodules", e.path, ErrUnsupported)
		}
	}
	lfs := false
	for _, e := range here {
		switch {
		case e.mode == modeLink && !links[e.path]:
			r.notes = append(r.notes, fmt.Sprintf("%s was committed as a link to a commit of another repository, without its files: the directory is empty here. "+
				"Remove the link (git rm --cached %s) and commit the files themselves, without a .git among them.", e.path, e.path))
		case e.mode == modeLink:
		case path.Base(e.path) == ".gitattributes" && !lfs:
			text, err := r.git(ctx, "cat-file", "blob", e.object)
			if err != nil {
				return err
			}
			lfs = strings.Contains(text, "filter=lfs")
		}
	}
	if lfs {
		return r.withoutLFS(ctx, here)
	}
	return nil
}

// entry is one of a commit's tree.
type entry struct{ mode, object, path string }

func (r *Repo) entries(ctx context.Context, commit string) ([]entry, error) {
	out, err := r.git(ctx, "ls-tree", "-r", "-z", commit)
	if err != nil {
		return nil, err
	}
	var entries []entry
	for line := range strings.SplitSeq(out, "\x00") {
		about, name, _ := strings.Cut(line, "\t")
		if fields := strings.Fields(about); len(fields) == 3 { // mode, type, object
			entries = append(entries, entry{fields[0], fields[2], name})
		}
	}
	return entries, nil
}

// modules returns the paths that a commit's .gitmodules names.
func (r *Repo) modules(ctx context.Context, commit string, entries []entry) (map[string]bool, error) {
	paths := map[string]bool{}
	for _, e := range entries {
		if e.path != ".gitmodules" {
			continue
		}
		out, _ := r.git(ctx, "config", "--blob", commit+":.gitmodules", "--get-regexp", `^submodule\..*\.path$`) // fails where there are none
		for line := range strings.Lines(out) {
			_, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			paths[path] = true
		}
	}
	return paths, ctx.Err()
}

// lfsPointer is how a file begins that Git LFS keeps elsewhere (git-lfs, docs/spec.md).
const lfsPointer = "version https://git-lfs.github.com/spec/"

// withoutLFS refuses a commit with a file that is stored in LFS: an attribute alone stores nothing.
func (r *Repo) withoutLFS(ctx context.Context, entries []entry) error {
	index := filepath.Join(r.opts.Dir, "attributes.index")
	defer os.Remove(index) // in the way of nothing
	env := append(r.local(), "GIT_INDEX_FILE="+index)
	if _, err := r.feedRaw(ctx, env, "", "read-tree", r.start); err != nil {
		return err
	}
	var paths strings.Builder
	objects := map[string]string{}
	for _, e := range entries {
		paths.WriteString(e.path + "\x00")
		objects[e.path] = e.object
	}
	out, err := r.feedRaw(ctx, env, paths.String(), "check-attr", "--cached", "--stdin", "-z", "filter")
	if err != nil {
		return err
	}
	var matching []string
	fields := strings.Split(out, "\x00") // path, attribute, value
	for i := 0; i+2 < len(fields); i += 3 {
		if fields[i+2] == "lfs" {
			matching = append(matching, fields[i])
		}
	}
	return r.noPointer(ctx, matching, objects)
}

// maxPointerBytes is how large a pointer file is at most (git-lfs, docs/spec.md: below 1024).
const maxPointerBytes = 1024

// noPointer returns ErrUnsupported where one of the files is a pointer into LFS.
func (r *Repo) noPointer(ctx context.Context, paths []string, objects map[string]string) error {
	var all, small strings.Builder
	for _, path := range paths {
		all.WriteString(objects[path] + "\n")
	}
	sizes, err := r.feedRaw(ctx, r.local(), all.String(), "cat-file", "--batch-check=%(objectsize)")
	if err != nil {
		return err
	}
	var candidates []string
	for i, size := range strings.Fields(sizes) {
		if n, _ := strconv.Atoi(size); n < maxPointerBytes && i < len(paths) {
			candidates = append(candidates, paths[i])
			small.WriteString(objects[paths[i]] + "\n")
		}
	}
	if len(candidates) == 0 {
		return nil
	}
	texts, err := r.feedRaw(ctx, r.local(), small.String(), "cat-file", "--batch=%(objectsize)")
	if err != nil {
		return err
	}
	for _, path := range candidates { // a line with the size, the content, a line end
		size, rest, _ := strings.Cut(texts, "\n")
		n, err := strconv.Atoi(size)
		if err != nil || n >= len(rest) {
			return fmt.Errorf("read %s: git answers %q for its size", path, size)
		}
		if strings.HasPrefix(rest, lfsPointer) {
			return fmt.Errorf("%s is stored in Git LFS: %w: workers have no LFS", path, ErrUnsupported)
		}
		texts = rest[n+1:]
	}
	return nil
}
