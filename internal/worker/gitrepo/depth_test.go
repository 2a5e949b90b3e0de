package gitrepo_test

import (
	"os/exec"
	"strings"
	"testing"
)

// history is how many commits the agent's tree has.
func (d *desk) history() string {
	d.t.Helper()
	out, err := exec.Command("git", "-C", d.tree, "rev-list", "--count", "HEAD").Output()
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestShallowCloneIsWorkedInAndPushedFrom(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	someone(t, d.url, "for i in 1 2 3 4 5 6 7 8; do git commit -q --allow-empty -m base$i; done; git push -q")
	d.open(3)
	if n := d.history(); n != "3" {
		t.Errorf("the tree has %s commits", n)
	}
	d.commits("work", "one")
	d.push()
	d.commits("work", "two")
	d.push()
	if log := strings.Join(d.git.Log("app", branch), " "); !strings.HasSuffix(log, "base7 base8 one two") {
		t.Errorf("the branch has %s", log)
	}
	d.wantChanges(2)

	d.open(3) // the next attempt
	d.commits("work", "three")
	d.push()
	d.wantChanges(3)

	d.someone("git commit -q --allow-empty -m theirs && git push -q")
	d.commits("work", "four")
	d.push()
	if log := strings.Join(d.git.Log("app", branch), " "); !strings.HasSuffix(log, "one two three theirs four") {
		t.Errorf("the branch has %s", log)
	}
}

func (d *desk) wantChanges(commits int) {
	d.t.Helper()
	if c, err := d.repo.Changes(d.t.Context(), d.repo.Pushed()); err != nil || c.Commits != commits || c.Files != 1 || c.Added != commits {
		d.t.Errorf("changes %+v, %v", c, err)
	}
}

func TestShallowCloneIsDeepenedUntilBaseAndBranchMeet(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, subject := range []string{"one", "two", "three", "four"} {
		d.commits("work", subject)
	}
	d.push()
	someone(t, d.url, "for i in 1 2 3 4; do git commit -q --allow-empty -m base$i; done; git push -q")
	d.open(2)
	d.wantChanges(4)
	d.commits("work", "five")
	d.push()
	d.wantChanges(5)
}
