package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/internal/work"
)

// harvestPatience is how long drover looks at a tree and commits what is left in
// it: the agent's configuration can make git run anything.
const harvestPatience = 5 * time.Minute

// Harvest is what drover found in the agent's tree once the agent had ended, and
// what it made of it. Deliver pushes it.
type Harvest struct {
	Tree work.Tree
	// Fault says what the agent did to its repository, where that is no repository any more.
	Fault string
	// Uncommitted counts the files that were left uncommitted against the item's wish.
	Uncommitted int

	steps  []step   // that are not pushed yet
	differ []string // paths in the tree that no commit has
	head   string   // commit that the tree is at
}

// step is a tip of the agent's commits that goes to the remote branch.
type step struct {
	tip  string
	how  how
	left string // what to say where commits that began elsewhere don't fit; empty to take their files then
}

// how commits get onto the branch.
type how int

const (
	forward how = iota // they build on what was pushed
	beside             // they began elsewhere: they are rebased
	over               // they replace what was pushed: the files they end with are a commit on top of it
)

// Harvest looks for everything the agent has left in its tree: commits on any
// branch or none, and files that it has not committed, which it commits on the
// agent's behalf if uncommitted says so. Nothing is pushed. It is called once, when
// nothing of the agent runs any more. With an error, the Harvest has what was found before it.
func (r *Repo) Harvest(ctx context.Context, uncommitted string) (*Harvest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, harvestPatience, fmt.Errorf("the tree was looked at for %s", harvestPatience))
	defer cancel()
	h := &Harvest{}
	f, err := r.scan(ctx, "")
	if errors.Is(err, ErrTree) {
		h.Fault = "the agent removed or broke its repository (.git): " + err.Error()
		at := r.own
		if tip, tipErr := r.Tip(ctx); tipErr == nil && tip != r.own { // no tree, but commits
			h.steps, at = append(h.steps, step{tip: tip, how: forward}), tip
		}
		f, err = r.restore(ctx, at)
	}
	if err != nil {
		return h, err
	}
	agents := f
	if f, err = r.commitLeft(ctx, h, f, uncommitted); err != nil {
		return h, err
	}
	h.head = f.head
	return h, r.choose(ctx, h, f, agents)
}

// choose decides which of the agent's commits go to the branch, and how. agents is
// the tree as the agent left it, f as it is now.
func (r *Repo) choose(ctx context.Context, h *Harvest, f, agents found) error {
	h.leave(f)
	tips := f.tips()
	if len(tips) == 0 && f.head == r.own {
		return nil // the rule: everything is pushed
	}
	branch := f.refs["refs/heads/"+r.opts.Branch]
	if err := r.takeTips(ctx, slices.Concat(tips, []string{f.head, branch})); err != nil {
		return r.chooseFiles(ctx, h, f.head, err)
	}
	c := choice{r: r, h: h, f: f, base: r.own, branch: branch}
	if n := len(h.steps); n > 0 {
		c.base = h.steps[n-1].tip
	}
	if f.operation != operationRebase {
		c.head = f.head
	}
	if err := c.reflog(ctx); err != nil {
		return err
	}
	idle := r.own == r.start && c.within(ctx, agents.head, agents.refs["refs/heads/"+r.opts.Branch])
	c.chooseOwn(ctx)
	c.chooseOthers(ctx, tips, idle)
	return nil
}

// leave names what is in no commit that could be delivered.
func (h *Harvest) leave(f found) {
	if sha := f.refs[stash]; sha != "" {
		h.Tree.Leave(fmt.Sprintf("a stash (%.8s %s)", sha, f.commits[sha].subject))
	}
	for _, w := range f.worktrees {
		if w.changes > 0 {
			h.Tree.Leave(fmt.Sprintf("%d uncommitted files in the worktree %s", w.changes, w.dir))
		}
	}
}

// choice finds out which commits go to the branch.
type choice struct {
	r            *Repo
	h            *Harvest
	f            found
	head, branch string            // commits of the tree and of the item's branch in the agent's clone; empty if there are none
	base         string            // newest of the agent's commits that the branch is going to have
	leftBy       map[string]string // how the tree went on from a commit, by hash
}

// within reports whether the branch has commits already, or is going to have them.
func (c *choice) within(ctx context.Context, commits ...string) bool {
	return !slices.ContainsFunc(commits, func(sha string) bool { return sha != "" && sha != c.base && !c.r.descends(ctx, c.base, sha) })
}

func (c *choice) add(s step) {
	c.h.steps = append(c.h.steps, s)
	c.base = s.tip
}

// chooseOwn takes the commits of the item's branch and of the tree.
func (c *choice) chooseOwn(ctx context.Context) {
	for _, sha := range []string{c.branch, c.head} {
		if sha != "" && sha != c.base && c.r.descends(ctx, sha, c.base) {
			c.add(step{tip: sha, how: forward})
		}
	}
	switch {
	case c.head == "" && c.branch == "":
	case !c.kept(ctx):
		c.add(step{tip: c.rewritten(ctx), how: over})
	case !c.within(ctx, c.head):
		c.add(step{tip: c.head, how: beside})
	}
}

// kept reports whether what was pushed is still somewhere in the agent's clone, or
// was left by going elsewhere. Otherwise the agent has rewritten it.
func (c *choice) kept(ctx context.Context) bool {
	if c.base != c.r.own || strings.HasPrefix(c.leftBy[c.r.own], "checkout:") {
		return true
	}
	has := func(sha string) bool { return sha == c.r.own || sha != "" && c.r.descends(ctx, sha, c.r.own) }
	for _, sha := range c.f.refs {
		if has(sha) {
			return true
		}
	}
	for sha, how := range c.leftBy {
		if _, isNew := c.f.commits[sha]; isNew && strings.HasPrefix(how, "checkout:") && has(sha) {
			return true
		}
	}
	return has(c.head) || slices.ContainsFunc(c.f.worktrees, func(w worktree) bool { return has(w.head) })
}

// rewritten returns the commit whose files replace what was pushed: of the tree, or
// of the item's branch where the tree has only gone back.
func (c *choice) rewritten(ctx context.Context) string {
	for _, sha := range []string{c.head, c.branch} {
		if sha != "" && !c.within(ctx, sha) {
			return sha
		}
	}
	if c.branch != "" && c.f.branch != c.r.opts.Branch {
		return c.branch
	}
	return c.head
}

// chooseOthers takes the commits that the agent left elsewhere where that is beyond
// doubt, and names the rest. idle says that the agent has made no commit on its
// branch or in its tree.
func (c *choice) chooseOthers(ctx context.Context, tips []string, idle bool) {
	var elsewhere, dropped []string
	for _, tip := range tips {
		switch how := c.leftBy[tip]; {
		case tip == c.f.refs[stash], c.isStash(tip), c.within(ctx, tip), c.has(ctx, tip):
		case c.f.where(tip) != nowhere, strings.HasPrefix(how, "checkout:"):
			elsewhere = append(elsewhere, tip)
		case strings.HasPrefix(how, "reset:") || how == "":
			dropped = append(dropped, tip)
		}
	}
	if len(elsewhere) == 1 {
		tip := elsewhere[0]
		switch {
		case c.r.descends(ctx, tip, c.base):
			c.add(step{tip: tip, how: forward})
			elsewhere = nil
		case idle:
			c.add(step{tip: tip, how: beside, left: c.describe(tip)})
			elsewhere = nil
		}
	}
	for _, tip := range elsewhere {
		c.h.Tree.Leave(c.describe(tip))
	}
	if len(c.h.steps) == 0 && c.r.own == c.r.start {
		for _, tip := range dropped {
			c.h.Tree.Leave(c.describe(tip))
		}
	}
}

// isStash reports whether a commit is a part of a stash, or an older one.
func (c *choice) isStash(tip string) bool {
	subject := c.f.commits[tip].subject
	return len(c.f.commits[tip].parents) > 1 && (strings.HasPrefix(subject, "WIP on ") || strings.HasPrefix(subject, "On "))
}

// has reports whether the branch is going to have what the commits up to tip
// change: the same files, or the same changes in other commits.
func (c *choice) has(ctx context.Context, tip string) bool {
	trees, err := c.r.git(ctx, "rev-parse", c.base+"^{tree}", tip+"^{tree}")
	if lines := strings.Fields(trees); err == nil && len(lines) == 2 && lines[0] == lines[1] {
		return true
	}
	out, err := c.r.git(ctx, "cherry", c.base, tip)
	return err == nil && !strings.Contains(out, "+")
}

// describe says which commits were left where.
func (c *choice) describe(tip string) string {
	n := c.f.own(tip, c.base, c.head, c.branch)
	commits := "1 commit"
	if n != 1 {
		commits = fmt.Sprintf("%d commits", n)
	}
	return fmt.Sprintf("%s on %s (%.8s %s)", commits, c.f.where(tip), tip, c.f.commits[tip].subject)
}

// maxReflog bounds how far back the tree's moves are read.
const maxReflog = "5000"

// reflog reads how the tree went on from each commit that it was at.
func (c *choice) reflog(ctx context.Context) error {
	c.leftBy = map[string]string{}
	out, err := c.r.script(ctx, "git log", `git rev-parse -q --verify HEAD >/dev/null || exit 0
git log -g --max-count=`+maxReflog+` --format='%H %gs' HEAD`, "")
	if err != nil && !errors.Is(err, ErrTree) {
		return err
	}
	next := ""
	for line := range strings.Lines(out) { // newest first
		sha, action, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, seen := c.leftBy[sha]; !seen && next != "" {
			c.leftBy[sha] = next
		}
		next = action
	}
	return nil
}

// takeTips fetches the commits that the agent's clone has beyond the worker's.
func (r *Repo) takeTips(ctx context.Context, tips []string) error {
	var updates strings.Builder
	var names []string
	for _, tip := range tips {
		name := "refs/drover/found/" + tip
		if tip == "" || tip == r.own || tip == r.start || slices.Contains(names, name) {
			continue
		}
		fmt.Fprintf(&updates, "update %s %s\n", name, tip)
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil
	}
	if _, err := r.script(ctx, "git update-ref", "git update-ref --stdin", updates.String()); err != nil {
		return err
	}
	return r.take(ctx, names)
}

// chooseFiles takes the files of the tree's commit alone, where its history can't be had.
func (r *Repo) chooseFiles(ctx context.Context, h *Harvest, head string, cause error) error {
	if ctx.Err() != nil || head == "" {
		return cause
	}
	const name = "refs/drover/found/files"
	out, err := r.script(ctx, "git commit-tree", `c=$(git commit-tree "$1^{tree}" -m "`+rewrittenSubject+`") && git update-ref "$2" "$c" && echo "$c"`, "", head, name)
	if err == nil {
		err = r.take(ctx, []string{name})
	}
	if err != nil {
		return errors.Join(cause, err)
	}
	h.Tree.Note("the history of the agent's commits could not be read, so their files were committed as one: " + cause.Error())
	h.steps = append(h.steps, step{tip: strings.TrimSpace(out), how: over})
	return nil
}

// Deliver pushes what Harvest found and returns the newest commit, as it is on the
// remote branch. After an error it may be called again. It never forces: what
// replaces pushed commits is pushed on top of them.
func (r *Repo) Deliver(ctx context.Context, h *Harvest) (string, error) {
	for len(h.steps) > 0 {
		if err := r.deliver(ctx, h, h.steps[0]); err != nil {
			return r.as, err
		}
		h.steps = h.steps[1:]
	}
	return r.as, nil
}

func (r *Repo) deliver(ctx context.Context, h *Harvest, s step) error {
	switch s.how {
	case beside:
		made, err := r.rebase(ctx, s.tip, r.as, r.own)
		switch {
		case errors.Is(err, ErrMoved) && s.left != "":
			h.Tree.Leave(s.left)
			return nil
		case errors.Is(err, ErrMoved):
			return r.deliverOver(ctx, h, s.tip, "the agent's commits began elsewhere and conflict with the branch: their files were committed on top of it")
		case err != nil:
			return err
		}
		h.Tree.Note("the agent's commits began elsewhere and were rebased onto the branch")
		_, err = r.pushRebased(ctx, s.tip, made, r.as)
		return err
	case over:
		return r.deliverOver(ctx, h, s.tip, "the agent rewrote what was pushed: its files were committed on top of that")
	}
	_, err := r.pushRebased(ctx, s.tip, s.tip, r.own)
	return err
}

// deliverOver pushes the files of a commit as one on top of the remote branch, and says why.
func (r *Repo) deliverOver(ctx context.Context, h *Harvest, tip, why string) error {
	made, err := r.commitOver(ctx, tip)
	if err != nil {
		return err
	}
	if made == r.as { // the same files
		r.own = tip
		return nil
	}
	h.Tree.Note(why)
	_, err = r.pushRebased(ctx, tip, made, r.as)
	return err
}

// rewrittenSubject is the subject of a commit that stands for several others.
const rewrittenSubject = "Bring the branch to the agent's final state"

// commitOver returns a commit on top of the remote branch with the files of tip:
// that branch's commit where they are the same. A single commit keeps its author and message.
func (r *Repo) commitOver(ctx context.Context, tip string) (string, error) {
	out, err := r.git(ctx, "rev-parse", r.as+"^{tree}", tip+"^{tree}")
	if err != nil {
		return "", err
	}
	trees := strings.Fields(out)
	if len(trees) == 2 && trees[0] == trees[1] {
		return r.as, nil
	}
	if out, err = r.git(ctx, "log", "--format=%an%x00%ae%x00%aI%x00%B%x00%x00", "--max-count=50", tip, "--not", r.own, r.from); err != nil {
		return "", err
	}
	commits := strings.Split(strings.TrimSuffix(strings.TrimSpace(out), "\x00\x00"), "\x00\x00\n")
	env, message := r.local(), rewrittenSubject+"\n\nThe agent had rewritten its commits after they were pushed.\n"
	if fields := strings.SplitN(commits[0], "\x00", 4); len(commits) == 1 && len(fields) == 4 && strings.TrimSpace(fields[3]) != "" {
		env = append(env, "GIT_AUTHOR_NAME="+fields[0], "GIT_AUTHOR_EMAIL="+fields[1], "GIT_AUTHOR_DATE="+fields[2])
		message = fields[3]
	} else if len(commits) > 1 {
		message += "It had:\n"
		for _, commit := range slices.Backward(commits) {
			if fields := strings.SplitN(commit, "\x00", 4); len(fields) == 4 {
				subject, _, _ := strings.Cut(strings.TrimSpace(fields[3]), "\n")
				message += "- " + subject + "\n"
			}
		}
	}
	return r.feedWith(ctx, env, message, "commit-tree", trees[1], "-p", r.as)
}
