package gittest_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drover/internal/testkit"
	"drover/internal/testkit/gittest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var account = gittest.Options{Username: "drover", Password: "s3cret"}

func TestCloneCommitAndPush(t *testing.T) {
	t.Parallel()
	server, work := clone(t)
	if text, err := os.ReadFile(filepath.Join(work, "hello.txt")); err != nil || string(text) != "hello\n" {
		t.Errorf("hello.txt of the clone: %q, %v", text, err)
	}
	if info, err := os.Stat(filepath.Join(work, "bin/run.sh")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("bin/run.sh is not executable: %v, %v", info, err)
	}
	commit(t, work, "second", []byte("new\n"))
	mustGit(t, work, "push", "--quiet", "origin", "HEAD:refs/heads/drover/x")

	if got, want := server.Log("app", "drover/x"), []string{gittest.InitialSubject, "second"}; !slices.Equal(got, want) {
		t.Errorf("log is %q, want %q", got, want)
	}
	if got, want := server.Branches("app"), []string{"drover/x", gittest.Branch}; !slices.Equal(got, want) {
		t.Errorf("branches are %q, want %q", got, want)
	}
	if got, want := server.Head("app", "drover/x"), strings.TrimSpace(mustGit(t, work, "rev-parse", "HEAD")); got != want {
		t.Errorf("head is %q, want %q", got, want)
	}
	if got, err := server.File("app", "drover/x", "second"); err != nil || got != "new\n" {
		t.Errorf("pushed file: %q, %v", got, err)
	}
	if got := server.Head("app", "none"); got != "" {
		t.Errorf("head of an absent branch is %q", got)
	}
	if got := server.Log("app", "none"); len(got) != 0 {
		t.Errorf("log of an absent branch is %q", got)
	}
}

func TestBigPushComesInChunks(t *testing.T) {
	t.Parallel()
	server, work := clone(t)
	big := make([]byte, 3<<20) // above git's http.postBuffer of 1 MiB
	_, _ = rand.Read(big)      // never fails
	commit(t, work, "big", big)
	mustGit(t, work, "push", "--quiet", "origin", gittest.Branch)
	if got, err := server.File("app", gittest.Branch, "big"); err != nil || got != string(big) {
		t.Errorf("pushed file has %d bytes, want %d: %v", len(got), len(big), err)
	}
}

func TestCredentialsAreRequired(t *testing.T) {
	t.Parallel()
	server := gittest.New(t, account)
	if err := server.CreateRepo("app", nil); err != nil {
		t.Fatal(err)
	}
	plain := server.URL("app")
	if strings.Contains(plain, account.Password) {
		t.Errorf("the URL %s holds the password", plain)
	}
	for name, address := range map[string]string{"none": plain, "wrong": withUser(t, plain, url.UserPassword("drover", "guess"))} {
		if out, err := git(t, t.TempDir(), "ls-remote", address); err == nil {
			t.Errorf("%s credentials: ls-remote was answered: %s", name, out)
		}
	}
	mustGit(t, t.TempDir(), "ls-remote", withUser(t, plain, url.UserPassword(account.Username, account.Password)))
}

func TestFailPushesFailsThatManyPushesAndNoFetch(t *testing.T) {
	t.Parallel()
	server, work := clone(t)
	commit(t, work, "second", nil)
	server.FailPushes(2)
	for range 2 {
		if out, err := git(t, work, "push", "origin", gittest.Branch); err == nil || !strings.Contains(out, "503") {
			t.Errorf("push: %v: %s, want a 503", err, out)
		}
		mustGit(t, work, "fetch", "--quiet", "origin")
	}
	mustGit(t, work, "push", "--quiet", "origin", gittest.Branch)
	if got, want := server.Head("app", gittest.Branch), strings.TrimSpace(mustGit(t, work, "rev-parse", "HEAD")); got != want {
		t.Errorf("head after the third push is %q, want %q", got, want)
	}
}

func TestPausedRequestsWaitForResume(t *testing.T) {
	t.Parallel()
	server, work := clone(t)
	server.Pause()
	done := make(chan error, 1)
	go func() {
		_, err := git(t, work, "ls-remote", "--quiet", "origin")
		done <- err
	}()
	_, other := clone(t) // as long as an unpaused server needs for more
	mustGit(t, other, "ls-remote", "--quiet", "origin")
	select {
	case err := <-done:
		t.Fatalf("a paused server answered: %v", err)
	default:
	}
	server.Resume()
	if err := <-done; err != nil {
		t.Errorf("ls-remote after resume: %v", err)
	}
}

func TestCloseAnswersPausedRequests(t *testing.T) {
	t.Parallel()
	server, err := gittest.Start(t.TempDir(), gittest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	server.Pause()
	done := make(chan error, 1)
	go func() {
		_, err := git(t, "", "ls-remote", server.URL("app"))
		done <- err
	}()
	if err := server.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-done; err == nil {
		t.Error("ls-remote was answered by a closed server")
	}
}

// clone serves a repository "app" and returns a clone of it, whose origin carries the credentials.
func clone(t *testing.T) (*gittest.Server, string) {
	t.Helper()
	server := gittest.New(t, account)
	if err := server.CreateRepo("app", map[string]string{"hello.txt": "hello\n", "bin/run.sh": "#!/bin/sh\n"}); err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	mustGit(t, work, "clone", "--quiet", withUser(t, server.URL("app"), url.UserPassword(account.Username, account.Password)), ".")
	return server, work
}

func commit(t *testing.T, work, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(work, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
	mustGit(t, work, "add", name)
	mustGit(t, work, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message="+name)
}

func withUser(t *testing.T, address string, user *url.Userinfo) string {
	t.Helper()
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	parsed.User = user
	return parsed.String()
}

func mustGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := git(t, dir, args...)
	if err != nil {
		t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

func git(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Errorf("run git: %v", err)
	}
	return out.String(), err
}
