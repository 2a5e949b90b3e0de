package gitrepo_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"drover/internal/testkit/gittest"
	"drover/internal/worker/gitrepo"
)

const branch = "drover/x"

// desk is an open repository, with its agent's tree and somebody else's clones.
type desk struct {
	t    *testing.T
	git  *gittest.Server
	url  string
	tree string
	repo *gitrepo.Repo
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t}
	d.git, d.url = server(t, map[string]string{"a": "b\n"})
	d.open(0)
	return d
}

// open opens the repository anew, with so much of its history.
func (d *desk) open(depth int) { d.openWith(gitrepo.Options{Depth: depth}) }

// openWith opens the repository anew, with options.
func (d *desk) openWith(opts gitrepo.Options) {
	t := d.t
	t.Helper()
	dir := t.TempDir()
	d.tree = filepath.Join(dir, "tree")
	opts.URL, opts.Branch, opts.Dir, opts.Tree, opts.Username, opts.Token = d.url, branch, filepath.Join(dir, "own"), d.tree, "u", secret
	opts.Environ, opts.Redact, opts.Alive = os.Environ(), func(s string) string { return s }, func() {}
	var err error
	if d.repo, err = gitrepo.Open(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
}

// agent runs commands in the agent's tree.
func (d *desk) agent(script string) {
	d.t.Helper()
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = d.tree
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=agent", "GIT_AUTHOR_EMAIL=agent@localhost", "GIT_COMMITTER_NAME=agent", "GIT_COMMITTER_EMAIL=agent@localhost")
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("%v\n%s", err, out)
	}
}

func (d *desk) commits(file, subject string) {
	d.t.Helper()
	d.agent(fmt.Sprintf("echo %s >>%s; git add -A; git commit -qm '%s'", subject, file, subject))
}

func (d *desk) someone(script string) {
	d.t.Helper()
	someone(d.t, d.url, "git checkout -q "+branch+" && "+script)
}

func (d *desk) push() {
	d.t.Helper()
	commit, err := d.repo.Push(d.t.Context())
	if head := d.git.Head("app", branch); err != nil || commit != head || d.repo.Pushed() != head {
		d.t.Fatalf("pushed %s, the branch is at %s: %v", commit, head, err)
	}
}

func (d *desk) wantLog(subjects ...string) {
	d.t.Helper()
	if got := strings.Join(d.git.Log("app", branch)[1:], " "); got != strings.Join(subjects, " ") {
		d.t.Errorf("the branch has %s, want %s", got, subjects)
	}
}

func TestCommitsAreRebasedOnSomebodyElses(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.commits("work", "one")
	d.push()
	d.someone("echo x >theirs && git add -A && git commit -qm theirs && git push -q")
	d.commits("work", "two")
	d.commits("work", "three")
	d.push()
	d.wantLog("one", "theirs", "two", "three")
	d.push() // nothing new
	d.commits("work", "four")
	d.push()
	d.wantLog("one", "theirs", "two", "three", "four")
	d.someone("echo x >>theirs && git add -A && git commit -qm again && git push -q")
	d.commits("work", "five")
	d.push()
	d.wantLog("one", "theirs", "two", "three", "four", "again", "five")
	if text, err := d.git.File("app", branch, "work"); err != nil || text != "one\ntwo\nthree\nfour\nfive\n" {
		t.Errorf("work holds %q, %v", text, err)
	}
	if changes, err := d.repo.Changes(t.Context(), d.repo.Pushed()); err != nil || changes.Commits != 7 {
		t.Errorf("changes %+v, %v", changes, err)
	}
}

func TestBranchThatSomebodyElseMadeMeanwhileIsRebasedOn(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	someone(t, d.url, "git checkout -q -b "+branch+" && echo x >theirs && git add -A && git commit -qm theirs && git push -q origin "+branch)
	d.commits("work", "one")
	d.push()
	d.wantLog("theirs", "one")
}

func TestMergesOfTheAgentStayMerges(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.commits("work", "one")
	d.push()
	d.someone("echo x >theirs && git add -A && git commit -qm theirs && git push -q")
	d.agent("git checkout -q -b side")
	d.commits("side", "side")
	d.agent("git checkout -q " + branch + "; git merge -q --no-ff -m merge side")
	d.push()
	log := strings.Join(d.git.Log("app", branch), " ") // by date
	if !strings.Contains(log, "theirs") || !strings.Contains(log, "side") || !strings.HasSuffix(log, "merge") {
		t.Errorf("the branch has %s", log)
	}
}

func TestWhatCannotBeRebasedIsReportedAndNothingOverwritten(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ theirs, agents, says string }{
		"conflict": {"echo theirs >>work && git add -A && git commit -qm theirs && git push -q", "echo two >>work; git add -A; git commit -qm two", "can't be rebased"},
		"the agent has rewritten what was pushed": {"true", "git commit -q --amend -m other", "has no longer what was pushed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			d.commits("work", "one")
			d.push()
			d.someone(c.theirs)
			head := d.git.Head("app", branch)
			d.agent(c.agents)
			for range 2 { // the first leaves nothing in the way of the second
				if _, err := d.repo.Push(t.Context()); !errors.Is(err, gitrepo.ErrMoved) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("pushed with %v", err)
				}
			}
			if now := d.git.Head("app", branch); now != head {
				t.Errorf("the branch went from %s to %s", head, now)
			}
		})
	}
}
