// Package gitrepo is a work item's repository as the worker uses it.
//
// There are two clones. The agent works in a tree of its own, whose
// configuration and hooks it may change at will. The worker keeps a bare
// repository beside it: it fetches the agent's commits from the tree, and only
// from the bare repository it speaks to the remote, so that the credentials
// never meet anything the agent has written. What works on the tree runs as the
// agent, which may be another user: then the bare repository is closed to it, and
// what crosses from one to the other is a bundle of commits.
package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"drover/internal/work"
	"drover/internal/worker/process"
)

// Options of a Repo.
type Options struct {
	URL      string
	Base     string          // branch to start from; the remote's HEAD if empty
	Branch   string          // that the work is pushed to
	Depth    int             // commits of history to fetch; all if 0
	Partial  bool            // fetch the content of files for base and branch alone; not with Depth
	StateRef string          // where the agent's state is kept
	Dir      string          // of the worker's own files; made if it is not there
	Tree     string          // the agent's clone; must not exist
	Username string          // for HTTP; what forges take beside a token if empty
	Token    string          // for HTTP; no credentials if empty
	Agent    process.Starter // of what works on the tree; nil makes that children of this process
	Environ  []string
	Redact   func(string) string // applied to what git says
	Alive    func()              // called at every sign of life of a git process
}

// Repo is an open repository. One goroutine at a time may use it, except for Mark.
type Repo struct {
	opts  Options
	base  string // branch
	from  string // commit the base was at
	start string // commit the agent's tree was at first
	seen  string // commit the remote branch was last seen at, empty if it is not there
	state string // commit the state ref was last seen at, empty if it is not there
	own   string // commit of the agent's that was pushed last; start at first
	as    string // what own is on the remote branch: another commit once it was rebased

	apart bool     // base and branch share no commit
	notes []string // see Notes

	unsettled bool   // see Settled
	tried     string // commit of the last push
}

// Open checks the access to the remote, clones it, and puts the agent's tree on
// the branch: at its remote state if it is there, and else at the base.
// It returns ErrAuth, also when the credentials may read but not push, ErrUnsupported and ErrUnfit.
func Open(ctx context.Context, opts Options) (*Repo, error) {
	r := &Repo{opts: opts}
	if err := r.prepare(); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", opts.Dir, err)
	}
	if _, err := r.run(ctx, r.environ(), "init", "--quiet", "--bare", r.gitDir()); err != nil {
		return nil, err
	}
	if opts.Partial {
		if err := r.configurePartial(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.look(ctx); err != nil {
		return nil, err
	}
	if err := r.fetch(ctx); err != nil {
		return nil, err
	}
	if err := r.findStart(ctx); err != nil {
		return nil, err
	}
	if err := r.deepen(ctx); err != nil {
		return nil, err
	}
	if err := r.meet(ctx); err != nil {
		return nil, err
	}
	if opts.Tree == "" {
		return r, nil
	}
	if opts.Partial {
		if err := r.complete(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.supported(ctx); err != nil {
		return nil, err
	}
	target := r.start + ":refs/heads/" + r.opts.Branch
	if _, err := r.remote(ctx, "push", "--dry-run", "--porcelain", r.opts.URL, target); err != nil {
		return nil, fmt.Errorf("check push access: %w", err)
	}
	return r, r.makeTree(ctx)
}

// look reads which branch is the base and where the remote branch is.
// It returns ErrUnfit where no push to the item's branch could succeed, or there is no base.
func (r *Repo) look(ctx context.Context) error {
	const heads = "refs/heads/"
	refs := []string{"ls-remote", "--symref", r.opts.URL, "HEAD", heads + "*"}
	if r.opts.StateRef != "" {
		refs = append(refs, r.opts.StateRef)
	}
	out, err := r.remote(ctx, refs...)
	if err != nil {
		return err
	}
	r.base = r.opts.Base
	head, branches := "", map[string]bool{}
	for line := range strings.Lines(out) {
		value, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		target, symbolic := strings.CutPrefix(value, "ref: "+heads)
		branch, isBranch := strings.CutPrefix(name, heads)
		switch {
		case name == "HEAD" && symbolic:
			r.base = or(r.base, target)
		case name == "HEAD":
			head = value
		case name == r.opts.StateRef:
			r.state = value
		case isBranch:
			branches[branch] = true
			if branch == r.opts.Branch {
				r.seen = value
			}
		}
	}
	for branch := range branches {
		if strings.HasPrefix(r.opts.Branch, branch+"/") || strings.HasPrefix(branch, r.opts.Branch+"/") {
			return fmt.Errorf("%w: %s has a branch %s, beside which git can have no branch %s: rename or delete it", ErrUnfit, r.opts.URL, branch, r.opts.Branch)
		}
	}
	return r.checkBase(head, branches)
}

// checkBase returns ErrUnfit where there is no base to start from. head is the commit of the remote's HEAD.
func (r *Repo) checkBase(head string, branches map[string]bool) error {
	switch {
	case branches[r.base] && r.base != "":
		return nil
	case len(branches) == 0:
		return fmt.Errorf("%w: the repository %s is empty: it has no commit to start from", ErrUnfit, r.opts.URL)
	case r.base != "":
		return fmt.Errorf("%w: base branch %s is not in %s, which has %s", ErrUnfit, r.base, r.opts.URL, someOf(branches))
	case head != "":
		return fmt.Errorf("%w: HEAD of %s is detached, at %.12s: name the item's base, one of %s", ErrUnfit, r.opts.URL, head, someOf(branches))
	}
	return fmt.Errorf("%w: HEAD of %s names a branch that is not there: name the item's base, one of %s", ErrUnfit, r.opts.URL, someOf(branches))
}

// someOf names branches, the first few of them.
func someOf(branches map[string]bool) string {
	const named = 5
	names := slices.Sorted(maps.Keys(branches))
	if more := len(names) - named; more > 0 {
		names = append(names[:named], fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

func or(value, other string) string {
	if value != "" {
		return value
	}
	return other
}

// fetch fetches every branch and tag, or some of the history of the two branches
// that matter.
func (r *Repo) fetch(ctx context.Context) error {
	args, from := []string{"fetch", "--progress", "--no-write-fetch-head"}, r.opts.URL
	if r.opts.Partial {
		args, from = append(args, "--filter="+filter), "origin"
	}
	if r.opts.Depth > 0 {
		args = append(args, "--no-tags", "--depth="+strconv.Itoa(r.opts.Depth), from)
		args = append(args, r.branches()...)
	} else {
		args = append(args, from, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
	}
	_, err := r.remote(ctx, args...)
	return err
}

// branches are what to fetch of the base, and of the item's branch if it is there.
func (r *Repo) branches() []string {
	specs := []string{"+refs/heads/" + r.base + ":refs/heads/" + r.base}
	if r.seen != "" && r.base != r.opts.Branch {
		specs = append(specs, "+refs/heads/"+r.opts.Branch+":refs/heads/"+r.opts.Branch)
	}
	return specs
}

// deepen fetches the whole history of a shallow clone in which base and branch
// don't meet: what was changed between them could not be told.
func (r *Repo) deepen(ctx context.Context) error {
	if r.opts.Depth == 0 {
		return nil
	}
	if _, err := r.git(ctx, "merge-base", r.from, r.start); err == nil || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	shallow, err := r.git(ctx, "rev-parse", "--is-shallow-repository")
	if err != nil || strings.TrimSpace(shallow) != "true" {
		return err // they never meet
	}
	_, err = r.remote(ctx, append([]string{"fetch", "--progress", "--no-write-fetch-head", "--no-tags", "--unshallow", r.opts.URL}, r.branches()...)...)
	return err
}

func (r *Repo) findStart(ctx context.Context) error {
	from, err := r.commit(ctx, "refs/heads/"+r.base)
	if err != nil {
		return fmt.Errorf("read base branch %s of %s: %w", r.base, r.opts.URL, err)
	}
	r.from, r.start = from, from
	if r.seen != "" {
		r.start, err = r.commit(ctx, "refs/heads/"+r.opts.Branch)
	}
	r.own, r.as = r.start, r.start
	return err
}

// meet finds out whether base and branch share a commit: the base's history may have
// been replaced since the branch began.
func (r *Repo) meet(ctx context.Context) error {
	if r.start == r.from {
		return nil
	}
	_, err := r.git(ctx, "merge-base", r.from, r.start)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if r.apart = err != nil; r.apart {
		r.notes = append(r.notes, fmt.Sprintf("The history of %s was replaced: it shares no commit with the branch %s, which is checked out.", r.base, r.opts.Branch))
	}
	return nil
}

// makeTree clones the worker's repository for the agent. Nothing of the agent
// runs yet, so that this is when the repository can be open to it.
func (r *Repo) makeTree(ctx context.Context) (err error) {
	if _, err := r.git(ctx, "symbolic-ref", "HEAD", "refs/heads/"+r.base); err != nil {
		return err
	}
	const open, closed = 0o755, 0o700
	if err := os.Chmod(r.opts.Dir, open); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Chmod(r.opts.Dir, closed)) }()
	steps := [][]string{{"clone", "--quiet", "--no-checkout", r.gitDir(), r.opts.Tree}}
	if r.opts.Partial {
		for _, setting := range partial {
			steps = append(steps, []string{"-C", r.opts.Tree, "config", setting[0], setting[1]})
		}
	}
	steps = append(steps,
		[]string{"-C", r.opts.Tree, "checkout", "--quiet", "--no-track", "-B", r.opts.Branch, r.start},
		[]string{"-C", r.opts.Tree, "remote", "set-url", "origin", r.opts.URL},
	)
	for _, args := range steps {
		if err := r.asAgent(ctx, r.cloneConfigPath(), io.Discard, args...); err != nil {
			return err
		}
	}
	return nil
}

// Base returns the branch the work starts from.
func (r *Repo) Base() string { return r.base }

// Notes are sentences that the agent is to know about the state of its tree.
func (r *Repo) Notes() []string { return r.notes }

// Start returns the commit that the agent's tree began at.
func (r *Repo) Start() string { return r.start }

// Pushed returns the commit the remote branch was last seen at, empty if it is not there.
func (r *Repo) Pushed() string { return r.seen }

// Settled reports whether what became of every push is known. A server may still
// take what a push had sent that failed, or was stopped.
func (r *Repo) Settled() bool { return !r.unsettled }

// maxRefBytes is more than git writes into a ref's file.
const maxRefBytes = 1 << 10

// Mark changes whenever the agent may have made a commit. It costs three small reads.
func (r *Repo) Mark() string {
	root, err := os.OpenRoot(filepath.Join(r.opts.Tree, ".git")) // no link leads out of it
	if err != nil {
		return "" // the agent tampers, and the last push tells
	}
	defer root.Close()
	mark := readRef(root, "HEAD")
	names := []string{"refs/heads/" + r.opts.Branch}
	if name, ok := strings.CutPrefix(strings.TrimSpace(mark), "ref: "); ok && filepath.IsLocal(name) {
		names = append(names, name)
	}
	for _, name := range names {
		mark += readRef(root, name)
	}
	return mark
}

// readRef reads a ref's file, empty if there is none: a packed one is unpacked
// by the next commit. Anything else in its place, such as a pipe that nobody
// writes to, is the agent's tampering.
func readRef(root *os.Root, name string) string {
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(file, maxRefBytes)) // what was read is as good a mark
	return string(text)
}

// Tip fetches the agent's commits and returns the newest of the item: the HEAD
// of the tree where it descends from the branch (an agent may have made a branch
// of its own), and else the branch. Where neither has what was pushed it returns
// ErrMoved: what that comes to is for Harvest to tell, at the agent's end.
func (r *Repo) Tip(ctx context.Context) (string, error) {
	branch := "refs/heads/" + r.opts.Branch
	var listed strings.Builder
	if err := r.asAgent(ctx, os.DevNull, &listed, "ls-remote", r.opts.Tree, "HEAD", branch); err != nil {
		return "", err
	}
	found := map[string]string{}
	var fresh []string
	for line := range strings.Lines(listed.String()) {
		sha, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if name != "HEAD" && name != branch || name == "HEAD" && r.rebasing() { // git matches refs/remotes/origin/HEAD, too
			continue
		}
		found[name] = sha
		if sha != r.start && sha != r.own {
			fresh = append(fresh, name)
		}
	}
	if len(found) == 0 {
		return r.own, nil
	}
	if err := r.take(ctx, fresh); err != nil {
		return "", err
	}
	tip, kept := r.own, false
	for _, sha := range []string{found[branch], found["HEAD"]} {
		switch {
		case sha == "":
		case sha == tip:
			kept = true
		case r.descends(ctx, sha, tip):
			tip, kept = sha, true
		}
	}
	if !kept && r.own != r.start {
		return "", fmt.Errorf("%w: the agent's branch has no longer what was pushed; what it has is delivered when the agent ends", ErrMoved)
	}
	return tip, nil
}

// rebasing reports whether the agent's git is in the middle of a rebase: HEAD is at
// none of its results then.
func (r *Repo) rebasing() bool {
	for _, name := range []string{"rebase-merge", "rebase-apply"} {
		if _, err := os.Lstat(filepath.Join(r.opts.Tree, ".git", name)); err == nil {
			return true
		}
	}
	return false
}

// take fetches refs of the agent's clone: by a bundle, because neither user's
// git can read the other's repository.
func (r *Repo) take(ctx context.Context, names []string) (err error) {
	if len(names) == 0 {
		return nil
	}
	path := filepath.Join(r.opts.Dir, "agent.bundle")
	bundle, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bundle.Close(), os.Remove(path)) }()
	known := []string{"--ignore-missing", "--not", r.start, r.own}
	if err := r.asAgent(ctx, os.DevNull, bundle, slices.Concat([]string{"-C", r.opts.Tree, "bundle", "create", "--quiet", "-"}, names, known)...); err != nil {
		if strings.Contains(err.Error(), "empty bundle") {
			return nil // nothing that is not here: the agent has gone back
		}
		return err
	}
	fetch := []string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", path}
	fetch = append(fetch, "+*:refs/drover/agent/*") // git leaves those out of a bundle that are not fresh
	_, err = r.git(ctx, fetch...)
	return err
}

func (r *Repo) descends(ctx context.Context, sha, ancestor string) bool {
	_, err := r.git(ctx, "merge-base", "--is-ancestor", ancestor, sha)
	return err == nil
}

// Push pushes the agent's commits and returns the newest, as it is on the remote
// branch. Without any commit nothing is pushed. It never forces: where somebody
// else has moved the remote branch, the commits are rebased for it. Where that
// makes a conflict, or the agent has rewritten what was pushed, it returns ErrMoved,
// and ErrEmbedded where a commit has what only Deliver can mend.
func (r *Repo) Push(ctx context.Context) (string, error) {
	tip, err := r.Tip(ctx)
	if err != nil {
		return "", err
	}
	if tip == r.own {
		return r.as, nil
	}
	if err := r.plain(ctx, tip); err != nil {
		return "", err
	}
	return r.pushRebased(ctx, tip, tip, r.own)
}

// plain returns ErrEmbedded where the commits up to tip add a repository that nobody can fetch.
func (r *Repo) plain(ctx context.Context, tip string) error {
	out, err := r.git(ctx, "diff-tree", "-r", "-z", "--no-renames", "--diff-filter=d", r.own, tip)
	if err != nil {
		return err
	}
	var listed strings.Builder
	entries := strings.Split(out, "\x00")
	for i := 0; i+1 < len(entries); i += 2 { // ":100644 160000 <object> <object> M", path
		if fields := strings.Fields(entries[i]); len(fields) > 1 && fields[1] == modeLink {
			listed.WriteString("link " + entries[i+1] + "\n")
		}
	}
	if listed.Len() == 0 {
		return nil
	}
	modules, _ := r.git(ctx, "config", "--blob", tip+":.gitmodules", "--get-regexp", `^submodule\..*\.path$`) // fails where there are none
	for line := range strings.Lines(modules) {
		_, path, _ := strings.Cut(line, " ")
		listed.WriteString("module " + path)
	}
	if links := bareLinks(listed.String()); len(links) > 0 {
		return fmt.Errorf("%w: %s", ErrEmbedded, strings.Join(links, ", "))
	}
	return nil
}

// modeLink is the mode of a tree's entry that names a commit of another repository.
const modeLink = "160000"

// Remote reads back where the remote branch is; empty if it is not there.
func (r *Repo) Remote(ctx context.Context) (string, error) {
	out, err := r.remote(ctx, "ls-remote", r.opts.URL, "refs/heads/"+r.opts.Branch)
	if err != nil {
		return "", err
	}
	sha, _, _ := strings.Cut(out, "\t")
	r.seen = sha
	if sha != "" && sha == r.tried {
		r.unsettled = false // it was taken, and a push before it does not fit any more
	}
	return sha, nil
}

// Changes returns the scope of the work from the base to a commit.
func (r *Repo) Changes(ctx context.Context, commit string) (work.Changes, error) {
	var c work.Changes
	out, err := r.git(ctx, "rev-list", "--count", r.from+".."+commit)
	if err != nil {
		return c, err
	}
	c.Commits, _ = strconv.Atoi(strings.TrimSpace(out))
	between := r.from + "..." + commit
	if r.apart {
		between = r.from + ".." + commit
	}
	out, err = r.git(ctx, "diff", "--numstat", between)
	if err != nil {
		return c, err
	}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		added, _ := strconv.Atoi(fields[0]) // "-" for a binary file
		removed, _ := strconv.Atoi(fields[1])
		c.Files++
		c.Added += added
		c.Removed += removed
	}
	return c, nil
}

// RequestPull returns the text of git request-pull for the pushed branch.
func (r *Repo) RequestPull(ctx context.Context, commit string) (string, error) {
	if r.apart {
		return fmt.Sprintf("The branch %s of %s, at %s, shares no commit with %s.\n", r.opts.Branch, r.opts.URL, commit, r.base), nil
	}
	return r.remote(ctx, "request-pull", r.from, r.opts.URL, commit+":refs/heads/"+r.opts.Branch)
}

func (r *Repo) commit(ctx context.Context, ref string) (string, error) {
	out, err := r.git(ctx, "rev-parse", "--verify", "--quiet", ref+"^{commit}")
	return strings.TrimSpace(out), err
}
