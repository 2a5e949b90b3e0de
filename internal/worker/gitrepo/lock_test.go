package gitrepo_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"drover/internal/testkit/gittest"
	"drover/internal/worker/gitrepo"
)

// TestStoppedGitLeavesNoLock: the watch for commits is stopped when the agent
// ends, often in the middle of a fetch; the last push must not fail on its lock.
func TestStoppedGitLeavesNoLock(t *testing.T) {
	server := gittest.New(t, gittest.Options{Username: "u", Password: "p"})
	if err := server.CreateRepo("app", map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	repo, err := gitrepo.Open(t.Context(), gitrepo.Options{
		URL: server.URL("app"), Branch: "drover/x", Dir: filepath.Join(dir, "own"), Tree: filepath.Join(dir, "tree"),
		Username: "u", Token: "p", Environ: os.Environ(), Redact: func(s string) string { return s }, Alive: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	commit := exec.Command("git", "-C", filepath.Join(dir, "tree"), "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--allow-empty", "--quiet", "-m", "one")
	if out, err := commit.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lock := filepath.Join(dir, "own", "repository.git", "refs", "drover", "agent", "HEAD.lock")
	if err := os.MkdirAll(filepath.Dir(lock), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Tip(t.Context()); err == nil {
		t.Fatal("a fetch works in spite of the lock: this test shows nothing")
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := repo.Tip(stopped); err == nil {
		t.Fatal("a stopped fetch works")
	}
	if _, err := repo.Tip(t.Context()); err != nil {
		t.Fatal(err)
	}
}
