package gitrepo

import (
	"context"
	"strconv"
	"strings"
)

// found is what the agent has left in its tree.
type found struct {
	head      string            // commit HEAD is at; empty if there is none
	branch    string            // that HEAD is on; empty if it is on none
	refs      map[string]string // branches and the stash, by name
	worktrees []worktree        // others than the tree itself
	commits   map[string]commit // that began after the attempt, by hash
	newest    []string          // hashes of commits, newest first
	changes   []change          // of files, against HEAD
	unmerged  []string          // paths in conflict
	operation string            // that git is in the middle of; empty if none
}

// commit is one that the agent made, or fetched.
type commit struct {
	parents []string
	subject string
}

// change is a file that differs from HEAD.
type change struct {
	path        string
	isNew, gone bool
}

// worktree is a further working tree of the agent's repository.
type worktree struct {
	dir, head string
	changes   int // files
}

// embedded reports whether a change is a directory that is a repository of its own.
func (c change) embedded() bool { return strings.HasSuffix(c.path, "/") }

// maxFound bounds how many new commits are looked at.
const maxFound = "10000"

// scanScript lists the tree in one go: changed files, refs, new commits, and what
// git is in the middle of. $1 is the index to use, empty for the tree's own; the rest
// are commits that drover knows.
const scanScript = `
status() { git --no-optional-locks status --porcelain=v2 --branch -z --untracked-files=all --no-renames --ignore-submodules=dirty; }
if [ -n "$1" ]; then GIT_INDEX_FILE="$1" status; else status; fi || exit 4
shift
printf '\0'
git for-each-ref --format='ref %(objectname) %(refname)' refs/heads refs/stash || exit 4
git rev-list --ignore-missing --max-count=` + maxFound + ` --format='%H %P%x09%s' --exclude='refs/remotes/*' --exclude='refs/tags/*' --exclude='refs/drover/*' --all --reflog --not --remotes "$@" | sed -n '/^commit /d;s/^/rev /p'
gd=$(git rev-parse --git-dir)
for op in rebase-merge rebase-apply MERGE_HEAD CHERRY_PICK_HEAD REVERT_HEAD; do [ ! -e "$gd/$op" ] || echo "op $op"; done
[ ! -d "$gd/worktrees" ] || git worktree list --porcelain | while read -r key value; do
	case $key in
	worktree) dir=$value ;;
	HEAD) echo "tree $(git -C "$dir" status --porcelain --ignore-submodules=dirty 2>/dev/null | wc -l) $value $dir" ;;
	esac
done
exit 0
`

// scan looks at the agent's tree. It returns a treeError when that is no repository.
func (r *Repo) scan(ctx context.Context, index string) (found, error) {
	f := found{refs: map[string]string{}, commits: map[string]commit{}}
	out, err := r.script(ctx, "git status", scanScript, "", index, r.start, r.own, r.from)
	if err != nil {
		return f, err
	}
	status, rest, _ := strings.Cut(out, "\x00\x00")
	for entry := range strings.SplitSeq(status, "\x00") {
		f.entry(entry)
	}
	for line := range strings.Lines(rest) {
		f.line(strings.TrimSuffix(line, "\n"))
	}
	if len(f.worktrees) > 0 {
		f.worktrees = f.worktrees[1:] // git names the tree itself first
	}
	return f, nil
}

// entry reads an entry of git status --porcelain=v2 -z --no-renames.
func (f *found) entry(entry string) {
	kind, rest, _ := strings.Cut(entry, " ")
	const ordinary, unmerged = 7, 9 // fields before the path
	path := func(n int) string {
		if fields := strings.SplitN(rest, " ", n+1); len(fields) == n+1 {
			return fields[n]
		}
		return ""
	}
	switch kind {
	case "#":
		name, value, _ := strings.Cut(rest, " ")
		switch {
		case name == "branch.oid" && value != "(initial)":
			f.head = value
		case name == "branch.head" && value != "(detached)":
			f.branch = value
		}
	case "?":
		f.changes = append(f.changes, change{path: rest, isNew: true})
	case "1":
		index, tree := rest[0], rest[1]
		switch {
		case index == 'A' && tree == 'D': // staged, and removed again
		default:
			f.changes = append(f.changes, change{path: path(ordinary), isNew: index == 'A', gone: tree == 'D' || index == 'D' && tree == '.'})
		}
	case "u":
		f.unmerged = append(f.unmerged, path(unmerged))
	}
}

// line reads a line of what scanScript prints after the changed files.
func (f *found) line(line string) {
	kind, rest, _ := strings.Cut(line, " ")
	switch kind {
	case "ref":
		sha, name, _ := strings.Cut(rest, " ")
		f.refs[name] = sha
	case "rev":
		hashes, subject, _ := strings.Cut(rest, "\t")
		fields := strings.Fields(hashes)
		if len(fields) > 0 {
			f.commits[fields[0]] = commit{parents: fields[1:], subject: subject}
			f.newest = append(f.newest, fields[0])
		}
	case "op":
		f.operation = operations[rest]
	case "tree":
		count, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
		sha, dir, _ := strings.Cut(rest, " ")
		n, _ := strconv.Atoi(count) // of wc
		f.worktrees = append(f.worktrees, worktree{dir: dir, head: sha, changes: n})
	}
}

// operations are what git can be in the middle of, by the file that tells.
var operations = map[string]string{
	"rebase-merge": operationRebase, "rebase-apply": operationRebase, "MERGE_HEAD": "merge", "CHERRY_PICK_HEAD": "cherry-pick", "REVERT_HEAD": "revert",
}

// tips are the new commits that no other new one builds on.
func (f *found) tips() []string {
	parents := map[string]bool{}
	for _, c := range f.commits {
		for _, parent := range c.parents {
			parents[parent] = true
		}
	}
	var tips []string
	for _, sha := range f.newest {
		if !parents[sha] {
			tips = append(tips, sha)
		}
	}
	return tips
}

// own counts the new commits that tip has and none of the others has.
func (f *found) own(tip string, others ...string) (n int) {
	theirs := map[string]bool{}
	for _, other := range others {
		f.walk(other, func(sha string) { theirs[sha] = true })
	}
	f.walk(tip, func(sha string) {
		if !theirs[sha] {
			n++
		}
	})
	return n
}

// walk calls visit for each new commit in the history of tip.
func (f *found) walk(tip string, visit func(sha string)) {
	seen, next := map[string]bool{}, []string{tip}
	for len(next) > 0 {
		at := next[len(next)-1]
		next = next[:len(next)-1]
		c, isNew := f.commits[at]
		if !isNew || seen[at] {
			continue
		}
		seen[at] = true
		visit(at)
		next = append(next, c.parents...)
	}
}

// where says where a commit was left: the branch or worktree it is the tip of.
func (f *found) where(sha string) string {
	for name, at := range f.refs {
		if at == sha && name != stash {
			return "branch " + strings.TrimPrefix(name, "refs/heads/")
		}
	}
	for _, w := range f.worktrees {
		if w.head == sha {
			return "worktree " + w.dir
		}
	}
	return nowhere
}

const (
	stash           = "refs/stash"
	nowhere         = "no branch"
	operationRebase = "rebase"
)
