package gitrepo_test

import (
	"strings"
	"testing"
)

// TestLookAtTheBranchSettlesAPush loses the answers of two pushes. Until the branch is seen at what was pushed last, a server may still take either.
func TestLookAtTheBranchSettlesAPush(t *testing.T) {
	d := newDesk(t)
	look := func(want bool, when string) {
		t.Helper()
		if _, err := d.repo.Remote(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := d.repo.Settled(); got != want {
			t.Errorf("%s: settled = %t, want %t", when, got, want)
		}
	}
	// taken is what the server does with a push whose client has gone.
	taken := func(commit string) {
		d.agent("git push -q " + strings.Replace(d.url, "http://", "http://u:"+secret+"@", 1) + " " + commit + ":refs/heads/" + branch)
	}
	look(true, "before any push")
	for _, subject := range []string{"one", "two"} {
		d.agent("git commit -q --allow-empty -m " + subject)
		d.git.FailPushes(1)
		if _, err := d.repo.Push(t.Context()); err == nil {
			t.Fatal("a push that fails works")
		}
		look(false, "after the push of "+subject)
	}
	taken("HEAD~1")
	look(false, "with the first push taken")
	taken("HEAD")
	look(true, "with the last push taken")
}
