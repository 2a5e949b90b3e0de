package worker_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"drover/internal/work"
)

// TestAttemptThatRemovesReferences removes those of ended items, runs no agent and takes no paths.
func TestAttemptThatRemovesReferences(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentPlain, `
		mkdir -p "$HOME/.agent-state"; echo x >"$HOME/.agent-state/x"
		echo '{"type":"session","id":"mine"}'; commit one; kill -KILL $$`)
	if r := b.result(); r.Reason != work.ReasonCrashed {
		t.Fatalf("result %+v\n%s", r, b.out)
	}
	ref := "refs/drover/" + b.envelope.Item + "/agent-state"
	head := b.git.Head(repo, b.envelope.Branch)
	if !slices.Contains(b.git.Refs(repo), ref) {
		t.Fatalf("refs %q, want %s", b.git.Refs(repo), ref)
	}
	b.nextAttempt("")
	b.program("echo started >" + filepath.Join(b.dir, "started"))
	b.envelope.Spec.Paths = []string{"src"}
	b.envelope.Resume = work.Resume{Cleanup: []string{b.envelope.Item, "01m8n6wp8xqjgwtb8sqfq4rttw"}}
	r := b.result()
	if r.Reason != work.ReasonCompleted || r.Detail != "removed 1 references of 2 items" || r.Iteration != 0 || r.RemoteCommit != "" || !r.Proven() {
		t.Errorf("result %+v\n%s", r, b.out)
	}
	if refs := b.git.Refs(repo); slices.Contains(refs, ref) || b.git.Head(repo, b.envelope.Branch) != head {
		t.Errorf("refs %q, want the branch as it was and no %s", refs, ref)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "started")); err == nil {
		t.Error("the agent was started")
	}
	if locks, _, err := b.client.Locks(t.Context(), 0); err != nil || len(locks) > 0 {
		t.Errorf("locks %+v, %v, want none", locks, err)
	}
}

func TestAttemptThatMayNotRemoveReferences(t *testing.T) {
	t.Parallel()
	b := newBench(t, "exit 1")
	b.environ = append(b.environ, "DROVER_GIT_TOKEN=wrong-token")
	b.envelope.Resume = work.Resume{Cleanup: []string{b.envelope.Item}}
	if r := b.result(); r.Reason != work.ReasonGitAuthFailed {
		t.Errorf("result %+v, want %s\n%s", r, work.ReasonGitAuthFailed, b.out)
	}
}
