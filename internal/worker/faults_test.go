package worker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drover/internal/testkit"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
	"drover/internal/worker"
)

// made has an agent's script commit, and write down what it has committed.
const made = `
make_commit() { commit "$1"; git rev-parse HEAD >>"$HOME/made"; }
`

// wantEveryCommit checks that the remote branch is where the agent left its own,
// and has each commit that it wrote down.
func (b *bench) wantEveryCommit() (commits int) {
	b.t.Helper()
	tree := filepath.Join(b.dir, "work", "tree")
	head, err := exec.Command("git", "-C", tree, "rev-parse", "HEAD").Output()
	if err != nil {
		b.t.Fatalf("read the agent's tree: %v\n%s", err, b.out)
	}
	written, err := os.ReadFile(filepath.Join(b.dir, "work", "home", "made"))
	if err != nil && !errors.Is(err, os.ErrNotExist) { // ended before its first commit
		b.t.Fatal(err)
	}
	remote, own := b.git.Head(repo, b.envelope.Branch), strings.TrimSpace(string(head))
	if remote == "" && own == b.git.Head(repo, gittest.Branch) && len(written) == 0 {
		return 0
	}
	if remote != own {
		b.t.Errorf("the branch is at %q, the agent left it at %s\n%s", remote, own, b.out)
	}
	history, err := exec.Command("git", "-C", tree, "rev-list", remote).Output()
	if err != nil {
		b.t.Fatalf("read the history of %q: %v\n%s", remote, err, b.out)
	}
	for commit := range strings.FieldsSeq(string(written)) {
		if !slices.Contains(strings.Fields(string(history)), commit) {
			b.t.Errorf("commit %s is not on the branch\n%s", commit, b.out)
		}
	}
	return len(b.log()) - 1
}

// agentPID waits for the agent, which writes it down.
func (b *bench) agentPID() (pid int) {
	b.t.Helper()
	testkit.Eventually(b.t, patience, func() error {
		text, err := os.ReadFile(filepath.Join(b.dir, "work", "home", "pid"))
		if err == nil {
			pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	return pid
}

// TestAgentKilledAtAnyMomentLosesNoCommit kills agents that commit as fast as
// they can: half of them alone, and half with the git that they are waiting for.
func TestAgentKilledAtAnyMomentLosesNoCommit(t *testing.T) {
	t.Parallel()
	const kills, latest = 50, 600 * time.Millisecond
	var commits atomic.Int64
	t.Run("kill", func(t *testing.T) {
		for n := range kills {
			after := rand.N(latest)
			t.Run(fmt.Sprintf("%d after %s", n, after.Round(time.Millisecond)), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, made+`echo $$ >"$HOME/pid"; n=0; while :; do n=$((n+1)); make_commit $n; done`)
				wait := b.start(t.Context())
				pid := b.agentPID()
				<-time.After(after)
				if n%2 == 0 {
					pid = -pid // the group
				}
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				if err := wait(); err != nil {
					t.Fatal(err)
				}
				if r := b.reported(); r.Reason != work.ReasonCrashed || !strings.Contains(r.Detail, "signal 9") {
					t.Errorf("%s: %s", r.Reason, r.Detail)
				}
				commits.Add(int64(b.wantEveryCommit()))
			})
		}
	})
	if commits.Load() < kills {
		t.Errorf("%d commits in all: too few to have been in danger", commits.Load())
	}
}

func TestPushThatFailsThreeTimesIsRepeated(t *testing.T) {
	t.Parallel()
	b := newBench(t, made+`make_commit one; gate on; make_commit two; make_commit three`)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	b.git.FailPushes(3)
	b.open("on")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if r := b.reported(); r.Reason != work.ReasonCompleted || !r.Proven() {
		t.Errorf("result %+v", r)
	}
	if n := b.wantEveryCommit(); n != 3 {
		t.Errorf("%d commits", n)
	}
}

func TestPushThatTheRemoteRefusesThreeTimesIsRepeated(t *testing.T) {
	t.Parallel()
	b := newBench(t, made+`make_commit one; make_commit two`)
	count := b.hook("pre-receive", `n=$(cat count); [ "$n" -ge 3 ] || { echo $((n+1)) >count; echo "not now" >&2; exit 1; }`)
	if err := os.WriteFile(count, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := b.result(); r.Reason != work.ReasonCompleted || !r.Proven() {
		t.Errorf("result %+v", r)
	}
	if n := b.wantEveryCommit(); n != 2 {
		t.Errorf("%d commits", n)
	}
	if refused, err := os.ReadFile(count); err != nil || strings.TrimSpace(string(refused)) != "3" {
		t.Errorf("refused %s times, %v", refused, err)
	}
}

// hook gives the bench a git server of its own whose repository has a hook, and
// returns the path of the file count in that.
func (b *bench) hook(name, script string) (count string) {
	b.t.Helper()
	dir := b.t.TempDir()
	server, err := gittest.Start(dir, gittest.Options{Username: username, Password: password})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := server.Close(); err != nil {
			b.t.Error(err)
		}
	})
	if err := server.CreateRepo(repo, map[string]string{"README.md": "hello\n"}); err != nil {
		b.t.Fatal(err)
	}
	inside := filepath.Join(dir, repo+".git")
	if err := os.WriteFile(filepath.Join(inside, "hooks", name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		b.t.Fatal(err)
	}
	b.git, b.envelope.Spec.Repository = server, server.URL(repo)
	return filepath.Join(inside, "count")
}

// cutLine puts a connection that can be cut between the worker and its git server.
func (b *bench) cutLine() (cut func(bool)) {
	b.t.Helper()
	behind, err := url.Parse(b.git.URL(repo))
	if err != nil {
		b.t.Fatal(err)
	}
	var down atomic.Bool
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: behind.Scheme, Host: behind.Host})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			panic(http.ErrAbortHandler) // closes the connection without an answer
		}
		proxy.ServeHTTP(w, r)
	}))
	b.t.Cleanup(front.Close)
	b.envelope.Spec.Repository = front.URL + behind.Path
	return down.Store
}

func TestNetworkToTheGitServerIsCut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(b *bench) (cut, mend func()){
		"no connection": func(b *bench) (cut, mend func()) {
			down := b.cutLine()
			return func() { down(true) }, func() { down(false) }
		},
		"no answer": func(b *bench) (cut, mend func()) { return b.git.Pause, b.git.Resume },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, made+`make_commit one; gate on; make_commit two; gate more; make_commit three; echo finished`)
			cut, mend := c(b)
			wait := b.start(t.Context())
			b.eventuallyPushed(1)
			cut()
			b.open("on")
			if name == "no connection" {
				b.eventuallySaid("commit not pushed")
			}
			b.open("more")
			b.eventuallySaid("agent ended")
			b.wantLog("one")
			mend()
			if err := wait(); err != nil {
				t.Fatal(err)
			}
			if r := b.reported(); r.Reason != work.ReasonCompleted || !r.Proven() {
				t.Errorf("result %+v", r)
			}
			if n := b.wantEveryCommit(); n != 3 {
				t.Errorf("%d commits", n)
			}
		})
	}
}

func TestBranchMovedBySomeoneElseKeepsBothWorks(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; gate on; commit two`)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	clone := strings.Replace(b.git.URL(repo), "http://", "http://"+username+":"+password+"@", 1)
	other := exec.Command("sh", "-euc", "git clone -q -b "+b.envelope.Branch+" "+clone+` .; echo x >theirs; git add -A
		git -c user.name=someone -c user.email=someone@localhost commit -qm theirs; git push -q`)
	other.Dir = t.TempDir()
	if out, err := other.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.open("on")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if r := b.reported(); r.Reason != work.ReasonCompleted || !r.Proven() || r.Changes.Commits != 3 {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one", "theirs", "two")
}

func TestStopRepeatsALastPushThatFails(t *testing.T) {
	t.Parallel()
	b := newBench(t, made+`trap 'gate on; make_commit last; exit 143' TERM; echo ready; while :; do sleep 0.1; done`)
	ctx, stop := context.WithCancel(t.Context())
	wait := b.start(ctx)
	b.eventuallySaid("ready")
	b.git.FailPushes(2)
	stop()
	b.open("on")
	if err := wait(); !errors.Is(err, worker.ErrStopped) {
		t.Errorf("the worker ended with %v", err)
	}
	if n := b.wantEveryCommit(); n != 1 {
		t.Errorf("%d commits", n)
	}
}

func TestStopPushesCommitsThatCouldNotBePushedBefore(t *testing.T) {
	t.Parallel()
	b := newBench(t, made+`trap 'make_commit last; echo told; exit 143' TERM
		make_commit one; gate on; make_commit two; make_commit three; echo unpushed; while :; do sleep 0.1; done`)
	ctx, stop := context.WithCancel(t.Context())
	wait := b.start(ctx)
	b.eventuallyPushed(1)
	b.git.Pause() // the push that is under way has no answer when the worker is told to end
	b.open("on")
	b.eventuallySaid("unpushed")
	b.wantLog("one")
	stop()
	b.eventuallySaid("told")
	b.git.Resume()
	if err := wait(); !errors.Is(err, worker.ErrStopped) {
		t.Errorf("the worker ended with %v", err)
	}
	if n := b.wantEveryCommit(); n != 4 {
		t.Errorf("%d commits", n)
	}
	b.wantNoResult()
	b.wantNothingLeft()
}
