package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/testkit"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
	"drover/internal/worker"
)

// open lets a script's gate pass.
func (b *bench) open(gate string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, "work", "home", gate), nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func TestEachCommitIsPushedAsItIsMade(t *testing.T) {
	t.Parallel()
	b := newBench(t, `
		commit one; gate first
		commit two; gate second
		commit three
		echo '{"type":"iteration","n":2}'
		echo '{"type":"tool","name":"Edit","detail":"work.txt"}'
		echo '{"type":"tokens","in":1200,"out":300}'`)
	b.envelope.Spec.Test.Command = "test -s work.txt && echo 1..2 && echo 'ok 1 - there' && echo 'not ok 2 - later # TODO'"
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	b.wantLog("one")
	b.open("first")
	b.eventuallyPushed(2)
	b.wantLog("one", "two")
	b.open("second")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	b.wantLog("one", "two", "three")
	r := b.reported()
	head := b.git.Head(repo, b.envelope.Branch)
	if r.Reason != work.ReasonCompleted || !r.Proven() || r.RemoteCommit != head || r.Allocation != alloc {
		t.Errorf("result %+v, want completed at %s", r, head)
	}
	if r.Iteration != 2 || r.Tokens != (work.Tokens{In: 1200, Out: 300}) {
		t.Errorf("iteration %d, tokens %+v", r.Iteration, r.Tokens)
	}
	if r.Changes != (work.Changes{Commits: 3, Files: 1, Added: 3}) {
		t.Errorf("changes %+v", r.Changes)
	}
	if r.Test.Status != work.TestPassed || r.Test.Passed != 1 {
		t.Errorf("test %+v", r.Test)
	}
	if r.PR.Status != work.PRCreated || !strings.Contains(r.PR.Body, b.envelope.Branch) || r.PR.Title != "Do the work." {
		t.Errorf("pull request %+v", r.PR)
	}
	p, err := b.client.Progress(t.Context(), b.envelope.Attempt)
	if err != nil || p == nil || p.Finished == nil || p.Commit != head || p.Phase != work.PhasePublish {
		t.Errorf("progress %+v, %v", p, err)
	}
	b.wantNothingLeft()
}

func TestAgentsExitSaysTheReason(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		reason work.Reason
		says   string
	}{
		"stuck":            {"commit one; exit 1", work.ReasonStuck, "exit code 1"},
		"max iterations":   {"commit one; exit 2", work.ReasonMaxIterations, "exit code 2"},
		"agent error":      {"commit one; exit 7", work.ReasonAgentError, "exit code 7"},
		"signal":           {"commit one; kill -KILL $$", work.ReasonCrashed, "signal 9"},
		"beyond the limit": {`commit one; echo '{"type":"iteration","n":21}'; sleep 60`, work.ReasonMaxIterations, "iteration 20"},
		"rate limited": {`commit one; echo '{"type":"error","code":"rate_limited","retry_at":"2030-01-02T03:04:05Z","message":"quota is used up"}'; exit 3`,
			work.ReasonRateLimited, "quota is used up"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, c.script)
			r := b.result()
			if r.Reason != c.reason || !strings.Contains(r.Detail, c.says) {
				t.Errorf("%s: %s; want %s and %q", r.Reason, r.Detail, c.reason, c.says)
			}
			b.wantLog("one")
			if r.RemoteCommit != b.git.Head(repo, b.envelope.Branch) || r.PR.Status != work.PRNone {
				t.Errorf("result %+v", r)
			}
			if c.reason == work.ReasonRateLimited && r.RetryAt.Year() != 2030 {
				t.Errorf("retry at %s", r.RetryAt)
			}
			b.wantNothingLeft()
		})
	}
}

func TestAgentSeesItsTaskAndNoSecretOfTheWorker(t *testing.T) {
	t.Parallel()
	b := newBench(t, `
		cat >prompt.txt; cp "$DROVER_TASK_FILE" task.txt
		env >env.txt
		cat .git/config >config.txt
		git add -A; git commit -q -m all
		echo "the key is $AGENT_API_KEY"`)
	b.envelope.Resume = work.Resume{Iteration: 4, LastReason: work.ReasonCrashed}
	b.environ = append(b.environ, "NOMAD_META_traceparent=00-trace")
	b.result()
	env := b.file("env.txt")
	for _, want := range []string{
		"DROVER_ITEM=" + b.envelope.Item, "DROVER_ATTEMPT=1", "DROVER_ITERATION=4", "DROVER_LAST_REASON=crashed",
		"TRACEPARENT=00-trace", "AGENT_API_KEY=agent-secret-key", "HOME=" + filepath.Join(b.dir, "work", "home"),
	} {
		if !strings.Contains(env, want+"\n") {
			t.Errorf("the agent's environment lacks %s:\n%s", want, env)
		}
	}
	for _, name := range []string{"CONSUL", "NOMAD", "DROVER_GIT", password} {
		if strings.Contains(env+b.file("config.txt"), name) {
			t.Errorf("the agent sees %s", name)
		}
	}
	if task := strings.TrimSpace(b.file("task.txt")); task != b.envelope.Spec.Task {
		t.Errorf("task %q", task)
	}
	prompt := b.file("prompt.txt")
	if !strings.HasPrefix(prompt, b.envelope.Spec.Task+"\n\nThis is attempt 1. The one before ended with crashed.\n") {
		t.Errorf("prompt %q", prompt)
	}
	if out := b.out.String(); !strings.Contains(out, "the key is [redacted]") {
		t.Errorf("output %s", out)
	}
}

func (b *bench) file(path string) string {
	b.t.Helper()
	text, err := b.git.File(repo, b.envelope.Branch, path)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, b.out)
	}
	return text
}

func TestSecretIsWrittenNowhere(t *testing.T) {
	t.Parallel()
	b := newBench(t, `
		printf 'half agent-secr'; sleep 0.1; printf 'et-key half\n'
		echo '{"type":"tool","name":"Bash","detail":"curl agent-secret-key"}'
		echo "err agent-secret-key" >&2
		commit one; gate on
		echo '{"type":"error","code":"x","message":"agent-secret-key is wrong"}'
		exit 3`)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	b.open("on")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	pairs, _, err := b.api.KV().List("test/", nil)
	if err != nil {
		t.Fatal(err)
	}
	all := b.out.String()
	for _, pair := range pairs {
		all += string(pair.Value)
	}
	for _, secret := range []string{"agent-secret-key", password, "consul-secret-token", "nomad-secret-token"} {
		if strings.Contains(all, secret) {
			t.Errorf("%s is in\n%s", secret, all)
		}
	}
	if strings.Count(all, "[redacted]") < 4 {
		t.Errorf("less redacted than written:\n%s", all)
	}
}

func TestNextAttemptGoesOnFromTheBranch(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; kill -KILL $$`)
	b.result()
	b.nextAttempt(`[ "$(cat work.txt)" = one ]; commit two`)
	b.envelope.Resume = work.Resume{Iteration: 1, Tokens: work.Tokens{In: 10, Out: 5}, LastReason: work.ReasonCrashed}
	r := b.result()
	if r.Reason != work.ReasonCompleted || r.Iteration != 2 || r.Changes.Commits != 2 || r.Tokens.In != 10 {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one", "two")
}

// nextAttempt makes the bench one of the item's next attempt, in a container of its own.
func (b *bench) nextAttempt(script string) {
	b.envelope.Attempt = work.NewAttemptID(b.envelope.Item, b.envelope.Attempt.Number()+1)
	b.envelope.Spec.Command = []string{"sh", "-c", "set -eu\n" + functions + script}
	b.dir = b.t.TempDir()
}

func TestFinishedWorkIsOnlyPublished(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one`)
	finished := b.result()
	head := b.git.Head(repo, b.envelope.Branch)
	finished.PR = work.PullRequest{}
	b.nextAttempt(`commit never`)
	b.envelope.Resume.Finished = &finished
	r := b.result()
	if r.Reason != work.ReasonCompleted || !r.Proven() || r.Commit != head || r.PR.Status != work.PRCreated || r.Attempt != b.envelope.Attempt {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one")
}

// TestPublishingRunsNoAgent: not even where people have gone on with the branch.
func TestPublishingRunsNoAgent(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one`)
	done := b.result()
	done.PR = work.PullRequest{Status: work.PRFailed}
	b.nextAttempt(`commit two`)
	b.result()
	b.nextAttempt(`commit never`)
	b.envelope.Resume = work.Resume{Finished: &done, PublishOnly: true}
	r := b.result()
	if r.Reason != work.ReasonCompleted || r.PR.Status != work.PRCreated || r.Attempt != b.envelope.Attempt || r.Commit != done.Commit {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one", "two")
	if _, err := os.Stat(filepath.Join(b.dir, "work", "tree")); err == nil {
		t.Error("a tree was made for nobody")
	}
	b.nextAttempt(`commit never`)
	b.envelope.Branch = "drover/elsewhere"
	if r := b.result(); r.Reason != work.ReasonStartFailed || !r.NoRetry || !strings.Contains(r.Detail, "drover/elsewhere is not there any more") {
		t.Errorf("without its branch: %s: %s, no retry %t", r.Reason, r.Detail, r.NoRetry)
	}
}

// TestAgentThatIsNotInTheImageIsNotTriedAgain: nothing of it is infrastructure.
func TestAgentThatIsNotInTheImageIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{"not there": "/no/such/agent", "not on the path": "drover-no-such-agent", "not executable": "/dev/null"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, `commit never`)
			b.envelope.Spec.Command = []string{command}
			if r := b.result(); r.Reason != work.ReasonStartFailed || !r.NoRetry || !strings.Contains(r.Detail, command) {
				t.Errorf("reason = %s (%s), no retry = %t, want start_failed that names %s, true", r.Reason, r.Detail, r.NoRetry, command)
			}
		})
	}
}

func TestFinishedWorkIsDoneAnewWhereTheBranchIsElsewhere(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one`)
	b.envelope.Resume.Finished = &work.Result{Reason: work.ReasonCompleted, Commit: "abc", RemoteCommit: "abc"}
	if r := b.result(); r.Reason != work.ReasonCompleted || r.RemoteCommit != b.git.Head(repo, b.envelope.Branch) {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one")
}

func TestWorkWithoutACommitNeedsNoBranch(t *testing.T) {
	t.Parallel()
	b := newBench(t, `echo nothing to do`)
	r := b.result()
	if r.Reason != work.ReasonCompleted || !r.Proven() || r.PR.Status != work.PRNone {
		t.Errorf("result %+v", r)
	}
	b.wantLog()
}

func TestSecondAllocationDoesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; gate on`)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	twin := *b
	twin.alloc, twin.dir = "ffffffff-0000-0000-0000-000000000000", t.TempDir()
	if err := twin.run(); err != nil {
		t.Errorf("the second allocation: %v", err)
	}
	if checks := b.checks(); len(checks) != 1 {
		t.Errorf("checks %v, want the first allocation's", checks)
	}
	if _, err := os.Stat(filepath.Join(twin.dir, "work")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the second allocation worked: %v", err)
	}
	b.open("on")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if r := b.reported(); r.Allocation != alloc {
		t.Errorf("result of %s", r.Allocation)
	}
}

func TestEnvelopeByReferenceIsReadFromTheStore(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one`)
	whole := b.envelope
	b.putEnvelope(whole)
	b.envelope = whole.Referenced()
	if r := b.result(); r.Reason != work.ReasonCompleted {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one")
}

func TestBadCredentialsEndTheAttemptBeforeAnyWork(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ environ, says string }{
		"wrong": {"DROVER_GIT_TOKEN=wrong-password", "check that DROVER_GIT_TOKEN is valid"},
		"none":  {"DROVER_GIT_TOKEN=", "they have no credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, `touch "$HOME/ran"`)
			b.environ = append(b.environ, c.environ)
			r := b.result()
			if r.Reason != work.ReasonGitAuthFailed || !strings.Contains(r.Detail, c.says) {
				t.Errorf("%s: %s", r.Reason, r.Detail)
			}
			if _, err := os.Stat(filepath.Join(b.dir, "work", "home", "ran")); err == nil {
				t.Error("the agent ran")
			}
		})
	}
}

func TestWhatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(*work.Spec)
		says    string
		noRetry bool
	}{
		"no command":  {func(s *work.Spec) { s.Command = nil }, "no agent command is configured", false},
		"no program":  {func(s *work.Spec) { s.Command = []string{"no-such-agent"} }, "no-such-agent", false},
		"no base":     {func(s *work.Spec) { s.Base = "nowhere" }, "base branch nowhere is not in", true},
		"unreachable": {func(s *work.Spec) { s.Repository = "http://127.0.0.1:1/x.git" }, "connect", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, ``)
			c.change(&b.envelope.Spec)
			if r := b.result(); r.Reason != work.ReasonStartFailed || r.NoRetry != c.noRetry || !strings.Contains(r.Detail, c.says) {
				t.Errorf("%s, not to be retried %v: %s; want %v and %q", r.Reason, r.NoRetry, r.Detail, c.noRetry, c.says)
			}
		})
	}
}

// TestFloodOfOutputIsBounded: the events among the lines count all the same, and the end is kept.
func TestFloodOfOutputIsBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, `yes 'a line that is said again and again and again' | head -c 30000000
		yes 'an error that is said again and again and again' | head -c 30000000 >&2
		echo; echo '{"type":"tokens","in":7,"out":5}'; echo 'the last word'; commit one`)
	r := b.result()
	if r.Reason != work.ReasonCompleted || r.Tokens != (work.Tokens{In: 7, Out: 5}) {
		t.Errorf("result %+v", r)
	}
	out := b.out.String()
	const most = 20 << 20
	if len(out) > most {
		t.Errorf("%d bytes were passed on", len(out))
	}
	if strings.Count(out, "left out") < 2 || !strings.Contains(out, "the last word\n") {
		t.Errorf("no notice or no end: %s", out[len(out)-1000:])
	}
}

// TestRepositoryThatNeedsMoreThanGitIsNotTriedAgain: another attempt would find the same submodules.
func TestRepositoryThatNeedsMoreThanGitIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit never`)
	if err := b.git.CreateRepo("media", map[string]string{
		".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "a.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
	}); err != nil {
		t.Fatal(err)
	}
	b.envelope.Spec.Repository = b.git.URL("media")
	if r := b.result(); r.Reason != work.ReasonStartFailed || !r.NoRetry || !strings.Contains(r.Detail, "a.bin is stored in Git LFS") {
		t.Errorf("%s, not to be retried %v: %s", r.Reason, r.NoRetry, r.Detail)
	}
}

func TestPartialCloneIsWorkedIn(t *testing.T) {
	t.Parallel()
	b := newBench(t, `[ "$(cat README.md)" = hello ]; commit one; git log --oneline | wc -l`)
	b.envelope.Spec.ClonePartial = true
	if r := b.result(); r.Reason != work.ReasonCompleted || r.Changes.Commits != 1 {
		t.Errorf("result %+v\n%s", r, b.out)
	}
	b.wantLog("one")
}

func TestTimeoutStopsTheAgentAndKeepsItsCommits(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; while :; do sleep 0.1; echo working; done`)
	b.envelope.Spec.Limits.Timeout = work.Duration(3 * time.Second)
	r := b.result()
	if r.Reason != work.ReasonTimeout || !strings.Contains(r.Detail, "3s") {
		t.Errorf("%s: %s", r.Reason, r.Detail)
	}
	b.wantLog("one")
}

func TestStopPushesTheLastCommits(t *testing.T) {
	t.Parallel()
	b := newBench(t, `trap 'commit last; exit 143' TERM; commit one; echo ready; while :; do sleep 0.1; done`)
	ctx, stop := context.WithCancel(t.Context())
	wait := b.start(ctx)
	b.eventuallySaid("ready")
	stop()
	if err := wait(); !errors.Is(err, worker.ErrStopped) {
		t.Errorf("the worker ended with %v", err)
	}
	b.wantLog("one", "last")
	b.wantNoResult()
	p, err := b.client.Progress(t.Context(), b.envelope.Attempt)
	if err != nil || p == nil || p.Commit != b.git.Head(repo, b.envelope.Branch) {
		t.Errorf("progress %+v, %v", p, err)
	}
	b.wantNothingLeft()
}

func TestAgentsOwnBranchAndHooksChangeNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, `
		mkdir hooks; printf '#!/bin/sh\nexit 1\n' >hooks/pre-push; chmod +x hooks/pre-push
		git config core.hooksPath "$PWD/hooks"; git remote set-url origin http://127.0.0.1:1/elsewhere.git
		git config credential.helper '!touch "$HOME/asked"'
		git checkout -q -b mine; commit one`)
	r := b.result()
	if r.Reason != work.ReasonCompleted || !r.Proven() {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one")
	if branches := fmt.Sprint(b.git.Branches(repo)); branches != fmt.Sprint([]string{b.envelope.Branch, gittest.Branch}) {
		t.Errorf("branches %s", branches)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "work", "home", "asked")); err == nil {
		t.Error("the agent's credential helper was asked")
	}
}

// TestRewrittenHistoryIsDeliveredOnTopOfWhatWasPushed: nothing is forced, and nothing thrown away.
func TestRewrittenHistoryIsDeliveredOnTopOfWhatWasPushed(t *testing.T) {
	t.Parallel()
	b := newBench(t, `gate on; git checkout -q --orphan other; commit rewritten; git branch -f "$(git for-each-ref --format='%(refname:lstrip=2)' refs/heads/drover)" HEAD`)
	first := *b
	first.envelope.Spec.Command = []string{"sh", "-c", functions + "commit one"}
	first.result()
	b.dir = t.TempDir()
	b.envelope.Attempt = work.NewAttemptID(b.envelope.Item, 2)
	wait := b.start(t.Context())
	b.eventuallySaid("waiting")
	b.open("on")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	r := b.reported()
	if r.Reason != work.ReasonCompleted || !r.Proven() || !strings.Contains(r.Detail, "the agent rewrote what was pushed") {
		t.Errorf("%s: %s", r.Reason, r.Detail)
	}
	b.wantLog("one", "rewritten")
}

// TestSilentAgentTurnsTheCheckToWarning: the heartbeat is the worker's, and it ends no session.
func TestSilentAgentTurnsTheCheckToWarning(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; sleep 600`)
	b.envelope.Spec.Limits.HeartbeatTTL = work.Duration(3 * time.Second)
	ctx, stop := context.WithCancel(t.Context())
	wait := b.start(ctx)
	b.eventuallyPushed(1)
	b.eventuallyWarned()
	b.wantNoResult()
	if claim, _, err := b.client.Claim(t.Context(), b.envelope.Attempt); err != nil || !b.lives(claim.Session) {
		t.Errorf("the session of %+v is gone: %v", claim, err)
	}
	stop()
	if err := wait(); !errors.Is(err, worker.ErrStopped) {
		t.Errorf("the worker ended with %v", err)
	}
}

// eventuallyWarned waits until the heartbeat says that the agent is silent.
func (b *bench) eventuallyWarned() {
	b.t.Helper()
	testkit.Eventually(b.t, patience, func() error {
		for _, check := range b.checks() {
			if check.Status == api.HealthWarning && strings.HasPrefix(check.Output, "agent silent since ") && strings.Contains(check.Output, "iteration 1/20 · agent · 0/0 tokens · ") {
				return nil
			}
		}
		return fmt.Errorf("no warning: %v", b.checks())
	})
}

// lives reports whether Consul has a session.
func (b *bench) lives(session string) bool {
	b.t.Helper()
	info, _, err := b.api.Session().Info(session, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return info != nil
}

func TestBusyAgentIsAliveWithoutAWord(t *testing.T) {
	t.Parallel()
	b := newBench(t, `end=$(($(date +%s) + 7)); while [ "$(date +%s)" -lt "$end" ]; do :; done; commit one`)
	b.envelope.Spec.Limits.HeartbeatTTL = work.Duration(3 * time.Second)
	if r := b.result(); r.Reason != work.ReasonCompleted {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one")
}

func TestConsulAwayForLessThanTheTTLIsSurvived(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; gate on; commit two`)
	b.envelope.Spec.Limits.HeartbeatTTL = work.Duration(20 * time.Second)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	b.line.Cut()
	b.eventuallySaid("heartbeat not taken")
	b.line.Mend()
	b.open("on")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	b.wantLog("one", "two")
	b.wantNothingLeft()
}
