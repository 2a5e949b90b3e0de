package consul_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-cleanhttp"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
)

const (
	firstAllocation  = "11111111-0000-0000-0000-000000000000"
	secondAllocation = "22222222-0000-0000-0000-000000000000"
)

func envelope(ttl time.Duration) work.Envelope {
	item := newItem("x")
	item.Spec.Limits.HeartbeatTTL = work.Duration(ttl)
	item.Spec.Repository = "https://someone@git.example.org/a/b.git"
	return work.Envelope{Format: work.StoredFormat, Item: item.ID, Attempt: work.NewAttemptID(item.ID, 1), Spec: item.Spec, Branch: item.Branch}
}

func claim(t *testing.T, client *consul.Client, e work.Envelope, allocation string) *consul.Attempt {
	t.Helper()
	a, err := client.ClaimAttempt(t.Context(), e, allocation)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Release(context.Background()) }) // its own tests check its error
	return a
}

// heartbeat returns the attempt's check as the orchestrator sees it.
func heartbeat(t *testing.T, client *consul.Client, id work.AttemptID) (work.Heartbeat, bool) {
	t.Helper()
	beats, _, err := client.Heartbeats(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, beat := range beats {
		if beat.Attempt == id {
			return beat, true
		}
	}
	return work.Heartbeat{}, false
}

// TestHealthCheckDecidesNothing: a worker whose /health fails keeps its session, and its heartbeat is the one that counts.
func TestHealthCheckDecidesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		const nobody = "127.0.0.1:9" // discards, if anybody is there at all
		client.AdvertiseHealth(nobody)
		e := envelope(time.Minute)
		a := claim(t, client, e, firstAllocation)
		testkit.Eventually(t, 2*patience, func() error {
			services, err := client.WorkerServices(t.Context())
			if err != nil || len(services) != 1 || services[0].Service.Address != "127.0.0.1" || services[0].Service.Port != 9 {
				return fmt.Errorf("services %+v, %w", services, err)
			}
			for _, check := range services[0].Checks {
				if check.Type == "http" && check.Status == api.HealthCritical {
					return nil
				}
			}
			return fmt.Errorf("no critical check of /health: %+v", services[0].Checks)
		})
		if err := a.Beat(t.Context(), "iteration 1", false); err != nil {
			t.Errorf("the session ended with the check of /health: %v", err)
		}
		if beat, ok := heartbeat(t, client, e.Attempt); !ok || beat.Critical {
			t.Errorf("heartbeat %+v", beat)
		}
	})
}

func TestAttemptIsClaimedByOneAllocation(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		const rivals = 8
		var won atomic.Int32
		var all sync.WaitGroup
		for i := range rivals {
			all.Go(func() {
				a, err := open().ClaimAttempt(t.Context(), e, fmt.Sprintf("%08d-rest", i))
				switch {
				case err == nil:
					won.Add(1)
					t.Cleanup(func() { _ = a.Release(context.Background()) }) // as in claim
				case !errors.Is(err, work.ErrClaimed):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d allocations claimed the attempt", won.Load())
		}
		stored, index, err := client.Claim(t.Context(), e.Attempt)
		if err != nil || index == 0 || stored.Session == "" || stored.Node == "" || stored.Ended {
			t.Fatalf("%+v %d %v", stored, index, err)
		}
		if beat, ok := heartbeat(t, client, e.Attempt); !ok || beat.Critical {
			t.Fatalf("heartbeat %+v, %v", beat, ok)
		}
	})
}

func TestLoserOfAClaimLeavesNothingAndHarmsNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		winner := claim(t, client, e, firstAllocation)
		if _, err := client.ClaimAttempt(t.Context(), e, secondAllocation); !errors.Is(err, work.ErrClaimed) {
			t.Fatal(err)
		}
		if err := winner.Beat(t.Context(), "still here", false); err != nil {
			t.Fatal(err)
		}
		if count := len(services(t, client, e)); count != 1 {
			t.Fatalf("%d services", count)
		}
	})
}

func services(t *testing.T, client *consul.Client, e work.Envelope) []*api.ServiceEntry {
	t.Helper()
	entries, err := client.WorkerServices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var own []*api.ServiceEntry
	for _, entry := range entries {
		if entry.Service.Meta["item"] == e.Item {
			own = append(own, entry)
		}
	}
	return own
}

func TestEndedAttemptIsNotClaimed(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		term := lead(t, client, "a")
		ended := work.CloseClaim{Claim: work.Claim{Attempt: e.Attempt, Ended: true}}
		if err := term.Commit(t.Context(), work.Change{CloseClaim: &ended}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.ClaimAttempt(t.Context(), e, firstAllocation); !errors.Is(err, work.ErrClaimed) || !strings.Contains(err.Error(), "has ended") {
			t.Fatal(err)
		}
		if left := services(t, client, e); len(left) > 0 {
			t.Fatalf("left %v", left)
		}
	})
}

// TestWorkerMayLeaveWhileItsSessionIsEnded has the worker's service vanish
// between the look at it and its removal.
func TestWorkerMayLeaveWhileItsSessionIsEnded(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		a := claim(t, client, e, firstAllocation)
		wire := &preceded{base: cleanhttp.DefaultPooledTransport(), path: "/agent/service/deregister/", first: func() error {
			return client.ForgetWorker(t.Context(), e.Attempt, firstAllocation)
		}}
		t.Cleanup(wire.base.CloseIdleConnections)
		vanishing := open(wire)
		if err := vanishing.EndSession(t.Context(), a.Claim()); err != nil {
			t.Fatal(err)
		}
		if left := services(t, client, e); len(left) > 0 {
			t.Fatalf("left %v", left)
		}
	})
}

// preceded does something before it passes a request of a path on.
type preceded struct {
	base  *http.Transport
	path  string
	first func() error
}

func (p *preceded) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.URL.Path, p.path) {
		if err := p.first(); err != nil {
			return nil, err
		}
	}
	return p.base.RoundTrip(r)
}

func TestServiceTellsPeopleWhatRuns(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		a := claim(t, client, e, firstAllocation)
		if err := a.Beat(t.Context(), "iteration 1/20", false); err != nil {
			t.Fatal(err)
		}
		found := services(t, client, e)
		if len(found) != 1 {
			t.Fatalf("services %v", found)
		}
		meta := found[0].Service.Meta
		want := map[string]string{"item": e.Item, "attempt": "1", "allocation": firstAllocation, "repository": "git.example.org/a/b.git", "branch": e.Branch}
		for key, value := range want {
			if meta[key] != value {
				t.Errorf("meta %s is %q, want %q", key, meta[key], value)
			}
		}
		if output, err := client.AgentOutput(t.Context(), e.Attempt, firstAllocation); err != nil || output != "iteration 1/20" {
			t.Errorf("the check shows %q, %v", output, err)
		}
	})
}

func TestSilentAttemptLosesItsSession(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(2*time.Second)
		a := claim(t, client, e, firstAllocation)
		testkit.Eventually(t, patience, func() error {
			if beat, ok := heartbeat(t, client, e.Attempt); !ok || !beat.Critical {
				return fmt.Errorf("heartbeat %+v, %v", beat, ok)
			}
			return nil
		})
		if err := a.Beat(t.Context(), "back", false); !errors.Is(err, work.ErrSessionLost) {
			t.Fatalf("beat after the silence: %v", err)
		}
	})
}

// TestForgottenCheckIsRegisteredAgain removes the service as a restarted agent does: the session bound to its check goes too.
func TestForgottenCheckIsRegisteredAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		a := claim(t, client, e, firstAllocation)
		if err := client.ForgetWorker(t.Context(), e.Attempt, firstAllocation); err != nil {
			t.Fatal(err)
		}
		if err := a.Beat(t.Context(), "back", false); !errors.Is(err, work.ErrSessionLost) {
			t.Fatalf("beat without the session: %v", err)
		}
		if beat, ok := heartbeat(t, client, e.Attempt); !ok || beat.Critical {
			t.Fatalf("heartbeat %+v, %v", beat, ok)
		}
	})
}

func TestReleaseLeavesOnlyTheClaim(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		a := claim(t, client, e, firstAllocation)
		for range 2 {
			if err := a.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if left := services(t, client, e); len(left) > 0 {
			t.Errorf("left %v", left)
		}
		if err := a.Beat(t.Context(), "", false); !errors.Is(err, work.ErrSessionLost) {
			t.Errorf("beat after the release: %v", err)
		}
		if _, err := client.ClaimAttempt(t.Context(), e, secondAllocation); !errors.Is(err, work.ErrClaimed) {
			t.Errorf("second claim: %v", err)
		}
		_ = a.Release(t.Context()) // the beat has registered it again
	})
}

func TestResultIsStoredOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		a := claim(t, client, e, firstAllocation)
		result := work.Result{Attempt: e.Attempt, Allocation: firstAllocation, Reason: work.ReasonCompleted, Detail: "done"}
		for range 2 {
			if err := a.Report(t.Context(), result); err != nil {
				t.Fatal(err)
			}
		}
		other := result
		other.Allocation = secondAllocation
		if err := a.Report(t.Context(), other); !errors.Is(err, work.ErrConflict) {
			t.Errorf("another allocation's report: %v", err)
		}
		if r, err := client.Result(t.Context(), e.Attempt); err != nil || r.Allocation != firstAllocation {
			t.Errorf("%+v %v", r, err)
		}
	})
}

// lossy passes transactions on and loses their answers.
type lossy struct {
	base *http.Transport
	left atomic.Int32
	then func() // called at each loss, if not nil
}

func (l *lossy) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := l.base.RoundTrip(r)
	if err == nil && strings.HasSuffix(r.URL.Path, "/txn") && l.left.Add(-1) >= 0 {
		answer.Body.Close()
		if l.then != nil {
			l.then()
		}
		return nil, errors.New("answer lost")
	}
	return answer, err
}

func TestLostAnswerDoesNotLoseClaimOrResult(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		wire := &lossy{base: cleanhttp.DefaultPooledTransport()}
		t.Cleanup(wire.base.CloseIdleConnections)
		client, e := open(wire), envelope(time.Minute)
		wire.left.Store(1)
		a := claim(t, client, e, firstAllocation)
		wire.left.Store(1)
		if err := a.Report(t.Context(), work.Result{Attempt: e.Attempt, Allocation: firstAllocation, Detail: "x"}); err != nil {
			t.Fatal(err)
		}
		if left := wire.left.Load(); left > 0 {
			t.Errorf("%d answers were not lost", left)
		}
	})
}

// TestClaimOfALostTryIsTakenOver has a try to claim end without knowing that it was stored, as when Consul is killed
// right after: the same process tries again, and must not take its own claim for another's.
func TestClaimOfALostTryIsTakenOver(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		pooled := cleanhttp.DefaultPooledTransport()
		t.Cleanup(pooled.CloseIdleConnections)
		var away, was atomic.Bool
		wire := roundTrip(func(r *http.Request) (*http.Response, error) {
			if away.Load() {
				return nil, errors.New("consul is away")
			}
			answer, err := pooled.RoundTrip(r)
			if err == nil && strings.HasSuffix(r.URL.Path, "/txn") && was.CompareAndSwap(false, true) {
				away.Store(true)
				answer.Body.Close()
				return nil, errors.New("answer lost")
			}
			return answer, err
		})
		client, other, e := open(wire), open(), envelope(time.Minute)
		if _, err := client.ClaimAttempt(t.Context(), e, firstAllocation); !errors.Is(err, work.ErrUnavailable) && !errors.Is(err, work.ErrUnknownOutcome) {
			t.Fatalf("first try: %v, want unavailable or unknown", err)
		}
		stored, _, err := other.Claim(t.Context(), e.Attempt)
		if err != nil || stored.Session == "" {
			t.Fatalf("claim of the first try is %+v, %v; want it stored", stored, err)
		}
		if _, err := other.ClaimAttempt(t.Context(), e, firstAllocation); !errors.Is(err, work.ErrClaimed) {
			t.Errorf("claim by another process of the allocation: %v, want claimed", err)
		}
		away.Store(false)
		a := claim(t, client, e, firstAllocation)
		now, _, err := other.Claim(t.Context(), e.Attempt)
		if err != nil || now.Session != a.Claim().Session || now.Session == stored.Session {
			t.Errorf("claim is %+v, %v; want that of the second try, session %s", now, err, a.Claim().Session)
		}
	})
}

// TestSessionThatANewLeaderDoesNotKnowIsEnded has Consul answer that a session is destroyed, and leave it: so does a
// server that was elected and has not caught up yet.
func TestSessionThatANewLeaderDoesNotKnowIsEnded(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		pooled := cleanhttp.DefaultPooledTransport()
		t.Cleanup(pooled.CloseIdleConnections)
		var unknown atomic.Int32 // calls that do nothing
		wire := roundTrip(func(r *http.Request) (*http.Response, error) {
			if strings.Contains(r.URL.Path, "/session/destroy/") && unknown.Add(-1) >= 0 {
				return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("true")), Request: r}, nil
			}
			return pooled.RoundTrip(r)
		})
		client, e := open(wire), envelope(time.Minute)
		for name, end := range map[string]func(*consul.Attempt) error{
			"EndSession": func(a *consul.Attempt) error { return client.EndSession(t.Context(), a.Claim()) },
			"BreakLock": func(a *consul.Attempt) error {
				return client.BreakLock(t.Context(), work.Lock{Attempt: e.Attempt, Session: a.Claim().Session})
			},
			"Release": func(a *consul.Attempt) error { return a.Release(t.Context()) },
		} {
			e = envelope(time.Minute)
			a := claim(t, client, e, firstAllocation)
			unknown.Store(1)
			if err := end(a); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := a.Confirm(t.Context()); !errors.Is(err, work.ErrSessionLost) {
				t.Errorf("after %s the session is confirmed with %v, want it lost", name, err)
			}
		}
		a := claim(t, client, envelope(time.Minute), firstAllocation)
		unknown.Store(2)
		if err := client.EndSession(t.Context(), a.Claim()); !errors.Is(err, work.ErrUnavailable) {
			t.Errorf("a session that stays: %v, want unavailable", err)
		}
	})
}

// TestResultThatIsAppliedMeanwhileIsNotStoredAgain loses the answer to a report, which the leader applies before it is looked for.
func TestResultThatIsAppliedMeanwhileIsNotStoredAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		wire := &lossy{base: cleanhttp.DefaultPooledTransport()}
		t.Cleanup(wire.base.CloseIdleConnections)
		client, e := open(), envelope(time.Minute)
		term := lead(t, client, "a")
		a := claim(t, open(wire), e, firstAllocation)
		wire.then = func() {
			ended, index, err := client.Claim(t.Context(), e.Attempt)
			if err != nil {
				t.Error(err)
			}
			ended.Ended = true
			closed := work.Change{CloseClaim: &work.CloseClaim{Claim: ended, Index: index}}
			if err := term.Commit(t.Context(), closed, work.Change{ConsumeResult: e.Attempt}); err != nil {
				t.Error(err)
			}
		}
		wire.left.Store(1)
		if err := a.Report(t.Context(), work.Result{Attempt: e.Attempt, Allocation: firstAllocation, Detail: "x"}); err != nil {
			t.Fatal(err)
		}
		if r, err := client.Result(t.Context(), e.Attempt); err != nil || r != nil {
			t.Errorf("%+v %v", r, err)
		}
	})
}

func TestEnvelopeThatIsNotThere(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		if _, err := open().Envelope(t.Context(), envelope(time.Minute).Attempt); !errors.Is(err, work.ErrNotFound) {
			t.Fatal(err)
		}
	})
}
