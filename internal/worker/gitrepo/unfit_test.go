package gitrepo_test

import (
	"errors"
	"strings"
	"testing"

	"drover/internal/testkit/gittest"
	"drover/internal/worker/gitrepo"
)

func TestRepositoryThatCannotBeWorkedOnIsRefusedWithTheCause(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ base, remote, says string }{
		"branch above the item's": {"", "branch drover main", "has a branch drover, beside which git can have no branch drover/x"},
		"branch below the item's": {"", "branch drover/x/y main", "has a branch drover/x/y"},
		"base above the item's":   {"drover", "branch drover main", "has a branch drover,"},
		"HEAD dangles":            {"", "symbolic-ref HEAD refs/heads/master", "names a branch that is not there: name the item's base, one of main"},
		"HEAD is detached":        {"", "update-ref --no-deref HEAD main~0", "is detached"},
		"base is not there":       {"nope", "branch dev main", "base branch nope is not in"},
		"base has no commit":      {"", "update-ref -d refs/heads/main", "is empty"},
		"base is a tag":           {"v1", "tag v1 main", "base branch v1 is not in"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			git, url := server(t, map[string]string{"a": "b"})
			arguments := strings.Fields(c.remote)
			if name == "HEAD is detached" {
				arguments[len(arguments)-1] = git.Head("app", gittest.Branch)
			}
			if _, err := git.Git("app", arguments...); err != nil {
				t.Fatal(err)
			}
			_, err := openWith(t, url, gitrepo.Options{Base: c.base})
			if !errors.Is(err, gitrepo.ErrUnfit) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("opened with %v, want %q", err, c.says)
			}
		})
	}
}

func TestNamesThatOnlyLookAlikeAreNoObstacle(t *testing.T) {
	t.Parallel()
	git, url := server(t, map[string]string{"a": "b"})
	for _, arguments := range []string{"tag drover/x main", "branch Drover main", "branch drover-x main", "branch droverx/y main", "branch drover/xy/z main"} {
		if _, err := git.Git("app", strings.Fields(arguments)...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openWith(t, url, gitrepo.Options{}); err != nil {
		t.Error(err)
	}
}

func TestDetachedHeadIsNoObstacleWhereTheItemNamesItsBase(t *testing.T) {
	t.Parallel()
	git, url := server(t, map[string]string{"a": "b"})
	if _, err := git.Git("app", "update-ref", "--no-deref", "HEAD", git.Head("app", gittest.Branch)); err != nil {
		t.Fatal(err)
	}
	if _, err := openWith(t, url, gitrepo.Options{Base: gittest.Branch}); err != nil {
		t.Error(err)
	}
}
