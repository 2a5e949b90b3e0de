package gitrepo_test

import (
	"os/exec"
	"strings"
	"testing"

	"drover/internal/worker/gitrepo"
)

// missing is how many objects of the history the agent's tree has not.
func (d *desk) missing() int {
	d.t.Helper()
	out, err := exec.Command("git", "-C", d.tree, "rev-list", "--objects", "--missing=print", "HEAD").Output()
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.Count("\n"+string(out), "\n?")
}

func TestPartialCloneHasTheHistoryWithoutOldContent(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	someone(t, d.url, "for i in 1 2 3 4 5; do echo $i >big; git add -A; git commit -qm base$i; done; git push -q")
	d.openWith(gitrepo.Options{Partial: true})
	if n := d.history(); n != "6" || d.missing() != 4 {
		t.Errorf("the tree has %s commits and misses %d objects", n, d.missing())
	}
	d.agent(`[ "$(cat big)" = 5 ] && git status --short`)
	d.commits("work", "one")
	d.push()
	d.wantChanges(1)

	someone(t, d.url, "echo 6 >big; git add -A; git commit -qm base6; git push -q") // the base moves on
	d.openWith(gitrepo.Options{Partial: true})                                      // the next attempt
	d.commits("work", "two")
	d.push()
	d.someone("echo theirs >other; git add -A; git commit -qm theirs && git push -q")
	d.commits("work", "three")
	d.push()
	d.wantLog("base1", "base2", "base3", "base4", "base5", "one", "two", "theirs", "three")
	if c, err := d.repo.Changes(t.Context(), d.repo.Pushed()); err != nil || c.Commits != 4 || c.Files != 2 {
		t.Errorf("changes %+v, %v", c, err)
	}
}
