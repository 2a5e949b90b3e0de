package gitrepo_test

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"drover/internal/testkit/gittest"
	"drover/internal/worker/gitrepo"
)

func removeRefs(t *testing.T, url, token string, items ...string) (int, error) {
	t.Helper()
	return gitrepo.RemoveRefs(t.Context(), gitrepo.Options{
		URL: url, Dir: t.TempDir(), Username: "u", Token: token, Environ: os.Environ(), Redact: func(s string) string { return s },
	}, items)
}

// pushRefs makes references on the remote, each at the commit of the branch.
func pushRefs(t *testing.T, url string, names ...string) {
	t.Helper()
	dir := t.TempDir()
	url = strings.Replace(url, "http://", "http://u:"+secret+"@", 1)
	args := []string{"-C", dir, "push", "--quiet", "origin"}
	for _, name := range names {
		args = append(args, "HEAD:"+name)
	}
	for _, cmd := range [][]string{{"clone", "--quiet", url, dir}, args} {
		if out, err := exec.Command("git", cmd...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", cmd, err, out)
		}
	}
}

func TestRemoveRefs_OfTheseItemsAlone(t *testing.T) {
	t.Parallel()
	server := gittest.New(t, gittest.Options{Username: "u", Password: secret})
	if err := server.CreateRepo("app", map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	kept := []string{
		"refs/heads/drover/one", "refs/drover/oneandmore/agent-state", "refs/drover/three/agent-state", "refs/tags/drover/one/x",
	}
	gone := []string{"refs/drover/one/agent-state", "refs/drover/one/work/1", "refs/drover/two/agent-state"}
	for n := range 60 {
		gone = append(gone, "refs/drover/two/many/"+strings.Repeat("x", n+1))
	}
	pushRefs(t, server.URL("app"), gone...)
	pushRefs(t, server.URL("app"), kept...)
	removed, err := removeRefs(t, server.URL("app"), secret, "one", "two", "never-there")
	if err != nil || removed != len(gone) {
		t.Errorf("removed %d references, %v, want %d", removed, err, len(gone))
	}
	left := server.Refs("app")
	for _, name := range kept {
		if !slices.Contains(left, name) {
			t.Errorf("reference %s is gone, want it kept", name)
		}
	}
	for _, name := range gone {
		if slices.Contains(left, name) {
			t.Errorf("reference %s is left", name)
		}
	}
	if again, err := removeRefs(t, server.URL("app"), secret, "one", "two"); err != nil || again != 0 {
		t.Errorf("a second time removed %d references, %v, want none", again, err)
	}
}

// TestRemoveRefs_ThatMovedMeanwhile stay: what is pushed after the list was read is not lost.
func TestRemoveRefs_ThatMovedMeanwhile(t *testing.T) {
	t.Parallel()
	const name = "refs/drover/one/agent-state"
	var move func() // before the push is answered
	url := front(t, "app", func(r *http.Request) http.HandlerFunc {
		if strings.Contains(r.URL.String(), "git-receive-pack") && move != nil {
			do := move
			move = nil
			do()
		}
		return nil
	})
	pushRefs(t, url, name)
	move = func() {
		dir := t.TempDir()
		authorized := strings.Replace(url, "http://", "http://u:"+secret+"@", 1)
		for _, cmd := range [][]string{
			{"clone", "--quiet", authorized, dir},
			{"-C", dir, "-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "--quiet", "--allow-empty", "-m", "newer"},
			{"-C", dir, "push", "--quiet", "origin", "HEAD:" + name},
		} {
			if out, err := exec.Command("git", cmd...).CombinedOutput(); err != nil {
				t.Errorf("git %v: %v\n%s", cmd, err, out)
			}
		}
	}
	if _, err := removeRefs(t, url, secret, "one"); !errors.Is(err, gitrepo.ErrMoved) {
		t.Errorf("removal: %v, want %v", err, gitrepo.ErrMoved)
	}
	out, err := exec.Command("git", "ls-remote", strings.Replace(url, "http://", "http://u:"+secret+"@", 1), name).Output()
	if err != nil || !strings.Contains(string(out), name) {
		t.Errorf("the newer reference is gone: %s, %v", out, err)
	}
}

func TestRemoveRefs_Refused(t *testing.T) {
	t.Parallel()
	url := front(t, "app", func(*http.Request) http.HandlerFunc { return nil })
	if _, err := removeRefs(t, url, "wrong-token", "one"); !errors.Is(err, gitrepo.ErrAuth) {
		t.Errorf("removal: %v, want %v", err, gitrepo.ErrAuth)
	}
}
