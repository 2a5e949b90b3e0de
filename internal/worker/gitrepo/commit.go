package gitrepo

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"drover/internal/work"
)

// leftSubject is the subject of what drover commits on the agent's behalf.
const leftSubject = "Commit what the agent left uncommitted"

// embeddedSubject is the subject of a commit with the files of embedded repositories.
const embeddedSubject = "Keep the files of embedded repositories"

// commitLeft commits what the agent left uncommitted, where that is wanted, and
// turns repositories inside the tree into plain files: nobody could fetch them.
// It returns the tree as it is then.
func (r *Repo) commitLeft(ctx context.Context, h *Harvest, f found, uncommitted string) (found, error) {
	links, err := r.links(ctx, f.head)
	if err != nil {
		return f, err
	}
	inner := slices.Clone(links)
	for _, c := range f.changes {
		if c.embedded() {
			inner = append(inner, strings.TrimSuffix(c.path, "/"))
		}
	}
	if len(inner) > 0 {
		if f, err = r.absorb(ctx, h, f, links, inner); err != nil {
			return f, err
		}
	}
	included, err := r.include(ctx, h, f, uncommitted, links)
	if err != nil || len(included) == 0 && len(links) == 0 {
		return f, err
	}
	subject := leftSubject
	if len(links) > 0 && h.Tree.Committed == 0 {
		subject = embeddedSubject
	}
	return r.commitFiles(ctx, h, f, subject, included, links)
}

// include returns the changed files to commit, and takes note of those that are not.
func (r *Repo) include(ctx context.Context, h *Harvest, f found, uncommitted string, links []string) ([]change, error) {
	below := func(path string) bool {
		return slices.ContainsFunc(links, func(link string) bool { return strings.HasPrefix(path, link+"/") })
	}
	for _, path := range f.unmerged {
		h.Tree.LeaveOut(path, "in conflict")
		h.differ = append(h.differ, path)
	}
	wanted := uncommitted != work.UncommittedFail && uncommitted != work.UncommittedIgnore
	if f.operation != "" && (len(f.unmerged) > 0 || f.operation == operationRebase) {
		h.Tree.Note("a " + f.operation + " was under way in the tree: nothing was committed for the agent")
		wanted = false
	}
	large, err := r.large(ctx, f.changes)
	if err != nil {
		return nil, err
	}
	changes := slices.Clone(f.changes)
	slices.SortStableFunc(changes, func(a, b change) int { // what is deep down is the least likely to be the agent's own
		return cmp.Compare(strings.Count(a.path, "/"), strings.Count(b.path, "/"))
	})
	var included []change
	isNew := 0
	for _, c := range changes {
		leaveOut := ""
		switch {
		case slices.Contains(links, c.path):
			continue // it goes with its files
		case c.embedded():
			h.differ = append(h.differ, c.path) // another working tree of this repository
			continue
		case h.Fault != "" && c.gone:
			leaveOut = "missing, but nothing tells whether the agent removed it"
		case !wanted && !below(c.path):
			h.Uncommitted++
			h.Tree.Leave("the uncommitted file " + c.path)
			h.differ = append(h.differ, c.path)
			continue
		case large[c.path]:
			leaveOut = fmt.Sprintf("larger than %d MiB", work.MaxUncommittedBytes>>20)
		case c.isNew && isNew >= work.MaxUncommittedNew:
			leaveOut = fmt.Sprintf("beyond %d new files", work.MaxUncommittedNew)
		}
		if leaveOut != "" {
			h.Tree.LeaveOut(c.path, leaveOut)
			h.differ = append(h.differ, c.path)
			continue
		}
		if c.isNew {
			isNew++
		}
		if !below(c.path) {
			h.Tree.Committed++
		}
		included = append(included, c)
	}
	return included, nil
}

// large returns which of the changed files are too large to be committed.
func (r *Repo) large(ctx context.Context, changes []change) (map[string]bool, error) {
	const blocks = work.MaxUncommittedBytes / 512 // as find counts
	var paths strings.Builder
	for _, c := range changes {
		if !c.gone && !c.embedded() {
			paths.WriteString("./" + c.path + "\x00")
		}
	}
	found := map[string]bool{}
	if paths.Len() == 0 {
		return found, nil
	}
	out, err := r.script(ctx, "find", `xargs -0 -r sh -c 'find "$@" -prune -type f -size +`+strconv.Itoa(blocks)+` -print0' sh`, paths.String())
	for path := range strings.SplitSeq(out, "\x00") {
		found[strings.TrimPrefix(path, "./")] = true
	}
	return found, err
}

// commitScript commits on HEAD. $1 is the commit message, the rest are entries to
// remove; the paths to commit come on standard input, each ended by a NUL. It works on an
// index of its own, and takes files that can be read.
const commitScript = `
gd=$(git rev-parse --absolute-git-dir) || exit 1
rm -f "$gd/index.lock" "$gd/HEAD.lock" "$gd/drover-index"
message=$1
shift
export GIT_INDEX_FILE="$gd/drover-index" GIT_LITERAL_PATHSPECS=1
head=$(git rev-parse -q --verify HEAD)
[ -z "$head" ] || git read-tree "$head" || exit 1
for entry; do git update-index --force-remove -- "$entry" || exit 1; done
xargs -0 -r git add -A -f --ignore-errors -- || partial=1 # without a path, git would add everything
tree=$(git write-tree) || exit 1
set --
if [ -n "$head" ]; then
	[ "$tree" != "$(git rev-parse "$head^{tree}")" ] || exit 0
	set -- -p "$head"
	[ ! -f "$gd/MERGE_HEAD" ] || while read -r other; do set -- "$@" -p "$other"; done <"$gd/MERGE_HEAD"
fi
commit=$(printf '%s\n' "$message" | git commit-tree "$tree" "$@") || exit 1
git update-ref -m "drover: commit" HEAD "$commit" || exit 1
unset GIT_INDEX_FILE GIT_LITERAL_PATHSPECS
rm -f "$gd/drover-index"
git reset -q || exit 1
echo "$commit $partial"
`

// commitFiles commits changed files on the agent's behalf.
func (r *Repo) commitFiles(ctx context.Context, h *Harvest, f found, subject string, changes []change, links []string) (found, error) {
	var paths strings.Builder
	for _, c := range changes {
		paths.WriteString(c.path + "\x00")
	}
	message := subject + "\n\nThe agent ended without committing this; drover did on its behalf.\n"
	out, err := r.script(ctx, "git commit-tree", commitScript, paths.String(), slices.Concat([]string{message}, links)...)
	if err != nil || out == "" {
		return f, err
	}
	made, partial, _ := strings.Cut(strings.TrimSpace(out), " ")
	parents := []string{}
	if f.head != "" {
		parents = append(parents, f.head)
	}
	f.commits[made] = commit{parents: parents, subject: subject}
	f.newest = slices.Insert(f.newest, 0, made)
	f.head = made
	if f.branch != "" {
		f.refs["refs/heads/"+f.branch] = made
	}
	if partial == "" {
		return f, nil
	}
	left, err := r.scan(ctx, "")
	for _, c := range left.changes {
		if !slices.Contains(h.differ, c.path) {
			h.Tree.LeaveOut(c.path, "it can't be read")
			h.differ = append(h.differ, c.path)
			h.Tree.Committed = max(0, h.Tree.Committed-1)
		}
	}
	return f, err
}

// links returns the entries of a commit that name a commit of another repository
// and that nothing tells where to fetch, unless the attempt began with them.
func (r *Repo) links(ctx context.Context, head string) ([]string, error) {
	if head == "" || head == r.own {
		return nil, nil
	}
	out, err := r.script(ctx, "git diff-tree", `
if git cat-file -e "$2" 2>/dev/null; then git diff-tree -r --no-renames --diff-filter=d "$2" "$1"; else git ls-tree -r "$1"; fi | sed -n 's/^\(:[0-9]* \)\{0,1\}160000 [^`+"\t"+`]*`+"\t"+`/link /p'
git config --blob "$1:.gitmodules" --get-regexp '^submodule\..*\.path$' 2>/dev/null | sed 's/^[^ ]* /module /'`, "", head, r.own)
	if err != nil {
		return nil, err
	}
	return bareLinks(out), nil
}

// bareLinks returns the links that are in no .gitmodules: what names a module says where to fetch it.
func bareLinks(listed string) []string {
	var links []string
	modules := map[string]bool{}
	for line := range strings.Lines(listed) {
		kind, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch kind {
		case "link":
			links = append(links, path)
		case "module":
			modules[path] = true
		}
	}
	return slices.DeleteFunc(links, func(path string) bool { return modules[path] })
}

// absorbScript moves the .git of embedded repositories out of the tree. $1 is where
// to, $2 an index to make without the entries that follow, up to --; the rest are the
// directories. A further working tree of the agent's own repository stays as it is.
const absorbScript = `
aside=$1 index=$2
shift 2
mkdir -p "$aside" || exit 1
real=$(git rev-parse --absolute-git-dir)/index
[ ! -f "$real" ] || cp "$real" "$index" || exit 1
while [ "$1" != -- ]; do GIT_INDEX_FILE=$index git update-index --force-remove -- "$1"; shift; done
shift
for dir; do
	[ -d "$dir" ] || continue
	if [ -f "$dir/.git" ] && grep -q /worktrees/ "$dir/.git"; then continue; fi
	echo "$dir"
	find "$dir" -name .git -prune | while read -r inner; do
		mv "$inner" "$(mktemp -d "$aside/git.XXXXXX")/" || exit 1
	done
done
`

// absorb makes plain directories of repositories in the tree. links are those that the agent has committed.
func (r *Repo) absorb(ctx context.Context, h *Harvest, f found, links, inner []string) (found, error) {
	index := filepath.Join(r.aside(), "index")
	args := slices.Concat([]string{r.aside(), index}, links, []string{"--"}, inner)
	out, err := r.script(ctx, "move embedded repositories", absorbScript, "", args...)
	if err != nil {
		return f, err
	}
	for dir := range strings.Lines(out) {
		h.Tree.Note("the repository inside the tree, " + strings.TrimSpace(dir) + ", was turned into plain files")
	}
	now, err := r.scan(ctx, index)
	return now, err
}

// aside is a directory of the agent's beside its tree, for what must not be in that.
func (r *Repo) aside() string { return filepath.Join(filepath.Dir(r.opts.Tree), "aside") }

// restoreScript makes the tree's repository anew at commit $1 on branch $2, from a
// pack on standard input; what was in its place goes to $3. The files stay as they are.
const restoreScript = `
mkdir -p "$3" || exit 1
[ ! -e .git ] && [ ! -L .git ] || mv .git "$(mktemp -d "$3/git.XXXXXX")/" || exit 1
git init --quiet . && git index-pack --stdin >/dev/null || exit 1
echo "$1" >.git/shallow
git update-ref "refs/heads/$2" "$1" && git symbolic-ref HEAD "refs/heads/$2" && git reset -q
`

// restore makes a new repository of a tree whose own is gone, at a commit.
func (r *Repo) restore(ctx context.Context, at string) (found, error) {
	objects, err := r.git(ctx, "rev-list", "--objects", "--no-walk", at)
	if err != nil {
		return found{}, err
	}
	pack, err := r.pack(ctx, objects, "--stdout", "-q")
	if err != nil {
		return found{}, err
	}
	if _, err := r.script(ctx, "git init", restoreScript, pack, at, r.opts.Branch, r.aside()); err != nil {
		return found{}, err
	}
	return r.scan(ctx, "")
}

// pack packs objects of the worker's own repository.
func (r *Repo) pack(ctx context.Context, input string, args ...string) (string, error) {
	return r.feedRaw(ctx, r.local(), input, slices.Concat([]string{"pack-objects"}, args)...)
}

// setAsideScript brings the tree to commit $1: paths on standard input, each ended
// by a NUL, go to the directory $2.
const setAsideScript = `
mkdir -p "$2/files" || exit 1
xargs -0 -r sh -c 'aside=$1; shift
for path; do
	[ -e "$path" ] || [ -L "$path" ] || continue
	mkdir -p "$aside/$(dirname "$path")" && mv -f "$path" "$aside/$(dirname "$path")/" || exit 255
done' sh "$2/files" || exit 1
rm -f "$(git rev-parse --absolute-git-dir)/index.lock"
git reset -q --hard "$1"
`

// SetAside makes the agent's tree what was pushed: files that differ from that are
// moved out of it, ignored ones stay, because they may be what the work depends on.
func (r *Repo) SetAside(ctx context.Context, h *Harvest) error {
	if h.head == r.as && len(h.differ) == 0 {
		return nil
	}
	if h.head != r.as {
		pack, err := r.pack(ctx, r.as+"\n^"+r.start+"\n^"+r.own+"\n", "--revs", "--thin", "--stdout", "-q")
		if err != nil {
			return err
		}
		if _, err := r.script(ctx, "git index-pack", "git index-pack --stdin --fix-thin >/dev/null", pack); err != nil {
			return err
		}
	}
	paths := ""
	for _, path := range h.differ {
		paths += strings.TrimSuffix(path, "/") + "\x00"
	}
	if _, err := r.script(ctx, "git reset", setAsideScript, paths, r.as, r.aside()); err != nil {
		return err
	}
	h.Tree.SetAside, h.head, h.differ = len(h.differ), r.as, nil
	return nil
}
