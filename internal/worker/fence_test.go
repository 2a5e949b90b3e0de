package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
	"drover/internal/worker"
)

// onBoth runs a test with a bench on the embedded Consul, and with one on a real Consul.
func onBoth(t *testing.T, script string, test func(t *testing.T, b *bench)) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, string) *bench{"embedded": newBench, "real": realBench} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t, script))
		})
	}
}

// stored returns the claim as it is stored.
func (b *bench) stored() work.Claim {
	b.t.Helper()
	pair, _, err := b.api.KV().Get(b.client.Keys.Claim(b.envelope.Attempt), nil)
	if err != nil || pair == nil {
		b.t.Fatalf("no claim: %v", err)
	}
	var claim work.Claim
	if err := json.Unmarshal(pair.Value, &claim); err != nil {
		b.t.Fatal(err)
	}
	return claim
}

// closeClaim ends the claim, as the leader does before it ends a session.
func (b *bench) closeClaim() {
	b.t.Helper()
	pair, _, err := b.api.KV().Get(b.client.Keys.Claim(b.envelope.Attempt), nil)
	if err != nil || pair == nil {
		b.t.Fatalf("no claim: %v", err)
	}
	pair.Value = []byte(strings.Replace(string(pair.Value), "{", `{"ended":true,`, 1))
	if ok, _, err := b.api.KV().CAS(pair, nil); err != nil || !ok {
		b.t.Fatalf("claim not closed: %v", err)
	}
}

// endSession ends the worker's session as an operator does by hand, or a Consul agent that leaves.
func (b *bench) endSession() (session string) {
	b.t.Helper()
	session = b.stored().Session
	if _, err := b.api.Session().Destroy(session, nil); err != nil {
		b.t.Fatal(err)
	}
	return session
}

// eventuallyTakenBack waits until the claim names another session than the lost one.
func (b *bench) eventuallyTakenBack(lost string) {
	b.t.Helper()
	testkit.Eventually(b.t, patience, func() error {
		if claim := b.stored(); claim.Session == lost || claim.Ended {
			return fmt.Errorf("claim %+v", claim)
		}
		return nil
	})
}

// TestAttemptSurvivesTheEndOfItsSession has the session end by hand, twice, while its agent works under paths of its own.
func TestAttemptSurvivesTheEndOfItsSession(t *testing.T) {
	onBoth(t, `commit one; gate on; commit two; echo '{"type":"tokens","in":1200,"out":300}'; gate more; commit three`, func(t *testing.T, b *bench) {
		b.envelope.Spec.Paths = []string{"src"}
		wait := b.start(t.Context())
		b.eventuallyPushed(1)
		b.eventuallyTakenBack(b.endSession())
		b.open("on")
		b.eventuallyPushed(2)
		b.eventuallyTakenBack(b.endSession())
		if locks := b.locks(); len(locks) != 1 || locks[0].Lost || locks[0].Session != b.stored().Session || locks[0].PathSet().String() != "src" {
			t.Errorf("locks %+v", locks)
		}
		b.open("more")
		if err := wait(); err != nil {
			t.Fatal(err)
		}
		if r := b.reported(); r.Reason != work.ReasonCompleted || !r.Proven() || r.Tokens.In != 1200 {
			t.Errorf("result %+v", r)
		}
		b.wantLog("one", "two", "three")
		b.wantNothingLeft()
		if locks := b.locks(); len(locks) > 0 {
			t.Errorf("left %+v", locks)
		}
		if n := strings.Count(b.out.String(), "agent ended"); n != 1 {
			t.Errorf("the agent ended %d times, want once", n)
		}
	})
}

// TestFencedWorkerPushesNothing cuts the worker off for longer than its TTL. Its agent goes on meanwhile, and what it committed is pushed once the attempt is taken back.
func TestFencedWorkerPushesNothing(t *testing.T) {
	onBoth(t, `commit one; gate on; commit two; gate more; commit three; gate end`, func(t *testing.T, b *bench) {
		b.envelope.Spec.Paths, b.envelope.Spec.Limits.HeartbeatTTL = []string{"src"}, work.Duration(3*time.Second)
		wait := b.start(t.Context())
		b.eventuallyPushed(1)
		lost := b.stored().Session
		b.line.Cut()
		b.eventuallySaid("fenced: nothing is pushed")
		b.open("on")
		b.eventuallyCommitted(2)
		b.open("more")
		b.eventuallyCommitted(3)
		testkit.Eventually(t, patience, func() error { // the servers miss the heartbeat
			if b.lives(lost) {
				return errors.New("the session lives")
			}
			return nil
		})
		b.wantLog("one")
		b.line.Mend()
		b.eventuallyPushed(3)
		b.open("end")
		if err := wait(); err != nil {
			t.Fatal(err)
		}
		if r := b.reported(); r.Reason != work.ReasonCompleted || !r.Proven() {
			t.Errorf("result %+v", r)
		}
		b.wantLog("one", "two", "three")
		b.wantNothingLeft()
	})
}

// eventuallyCommitted waits until the agent's tree has so many commits of its own.
func (b *bench) eventuallyCommitted(n int) {
	b.t.Helper()
	testkit.Eventually(b.t, patience, func() error {
		out, err := exec.Command("git", "-C", b.dir+"/work/tree", "rev-list", "--count", "HEAD").Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != fmt.Sprint(n+1) {
			return fmt.Errorf("%s commits in the tree, want %d: %w", got, n+1, err)
		}
		return nil
	})
}

// TestResultOfAFencedWorkerIsReportedOnceItCan has the agent end while Consul is away.
func TestResultOfAFencedWorkerIsReportedOnceItCan(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		reason work.Reason
	}{
		"completed": {`commit one; gate on; commit two`, work.ReasonCompleted},
		"stuck":     {`commit one; gate on; commit two; exit 1`, work.ReasonStuck},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, c.script, func(t *testing.T, b *bench) {
				b.envelope.Spec.Limits.HeartbeatTTL = work.Duration(3 * time.Second)
				wait := b.start(t.Context())
				b.eventuallyPushed(1)
				b.line.Cut()
				b.eventuallySaid("fenced: nothing is pushed")
				b.open("on")
				b.eventuallySaid("agent ended")
				b.line.Mend()
				if err := wait(); err != nil {
					t.Fatal(err)
				}
				if r := b.reported(); r.Reason != c.reason || r.RemoteCommit == "" || r.Commit != r.RemoteCommit {
					t.Errorf("result %+v", r)
				}
				b.wantLog("one", "two")
				b.wantNothingLeft()
			})
		})
	}
}

// TestFencedWorkerWhoseAttemptIsGone has each way in which another comes between. The worker stops its agent, and pushes nothing of what that committed meanwhile.
func TestFencedWorkerWhoseAttemptIsGone(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(b *bench)
		stop      bool
		says      string
	}{
		"the claim was closed": {meanwhile: (*bench).closeClaim, says: "it has ended"},
		"the claim is gone": {meanwhile: func(b *bench) {
			if _, err := b.api.KV().Delete(b.client.Keys.Claim(b.envelope.Attempt), nil); err != nil {
				b.t.Fatal(err)
			}
		}, says: "its claim is gone"},
		"the claim was written by another": {meanwhile: func(b *bench) {
			pair := &api.KVPair{Key: b.client.Keys.Claim(b.envelope.Attempt), Value: []byte(`{"allocation":"other","session":"other"}`)}
			if _, err := b.api.KV().Put(pair, nil); err != nil {
				b.t.Fatal(err)
			}
		}, says: "allocation other has claimed it"},
		"another has the paths": {meanwhile: func(b *bench) {
			b.consulTiming = consul.Timing{LockDelay: 100 * time.Millisecond}
			other := b.beside(`commit theirs`)
			other.envelope.Spec.Paths = []string{"src/a"}
			if r := other.result(); r.Reason != work.ReasonCompleted {
				b.t.Errorf("result of the other %+v", r)
			}
		}, says: "another may have them"},
		"told to end": {meanwhile: func(*bench) {}, stop: true, says: "stopped by a signal"},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, `commit one; gate on; commit two; echo made; while :; do echo working; sleep 0.1; done`, func(t *testing.T, b *bench) {
				b.envelope.Spec.Paths, b.envelope.Spec.Limits.HeartbeatTTL = []string{"src"}, work.Duration(3*time.Second)
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				wait := b.start(ctx)
				b.eventuallyPushed(1)
				b.line.Cut()
				b.eventuallySaid("fenced: nothing is pushed")
				b.open("on")
				b.eventuallyCommitted(2)
				b.endSession()
				c.meanwhile(b)
				if c.stop {
					stop()
				} else {
					b.line.Mend()
				}
				if err := wait(); !errors.Is(err, worker.ErrFenced) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("the worker ended with %v, want %q in it", err, c.says)
				}
				b.wantLog("one")
				b.line.Mend()
				b.wantNoResult()
			})
		})
	}
}

// TestPushUnderWayEndsWithTheFence has the git server take a push after its client was killed. The worker finds that once it has its attempt back, and so knows what became of the push.
func TestPushUnderWayEndsWithTheFence(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; gate on; commit two; echo made; gate end`)
	count := b.hook("pre-receive", `if [ -e hold ]; then touch count; while [ -e hold ]; do sleep 0.05; done; fi`)
	hold := filepath.Join(filepath.Dir(count), "hold")
	b.envelope.Spec.Paths, b.envelope.Spec.Limits.HeartbeatTTL = []string{"src"}, work.Duration(3*time.Second)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	if err := os.WriteFile(hold, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.open("on")
	testkit.Eventually(t, patience, func() error {
		_, err := os.Stat(count) // the push is under way
		return err
	})
	b.line.Cut()
	b.eventuallySaid("commit not pushed")
	if !strings.Contains(b.out.String(), "fenced: nothing is pushed") {
		t.Error("the push ended before the fence fell")
	}
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	b.eventuallyPushed(2) // by the client that is dead
	b.line.Mend()
	b.eventuallySaid("the branch has moved since the last push")
	b.open("end")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if r := b.reported(); r.Reason != work.ReasonCompleted || !r.Proven() {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one", "two")
	if locks := b.locks(); len(locks) > 0 {
		t.Errorf("left %+v", locks)
	}
}

// TestConsulAwayForLongerThanTheTTL kills a real Consul, and starts it again: the agent runs to its end in the same attempt, and is started once.
func TestConsulAwayForLongerThanTheTTL(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	b := benchOn(t, server.address, `commit one; gate on; commit two; gate more; commit three`)
	b.envelope.Spec.Paths, b.envelope.Spec.Limits.HeartbeatTTL = []string{"src"}, work.Duration(3*time.Second)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	server.kill()
	b.eventuallySaid("fenced: nothing is pushed")
	b.open("on")
	b.eventuallyCommitted(2)
	b.wantLog("one")
	server.start()
	b.eventuallyPushed(2)
	b.open("more")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if r := b.reported(); r.Reason != work.ReasonCompleted || !r.Proven() {
		t.Errorf("result %+v", r)
	}
	b.wantLog("one", "two", "three")
	b.wantNothingLeft()
	if n := strings.Count(b.out.String(), "agent ended"); n != 1 {
		t.Errorf("the agent ended %d times, want once", n)
	}
}
