package consul_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	patience  = 20 * time.Second
	leaderTTL = 2 * time.Second
)

// onBoth runs a test against the embedded Consul and the real one.
func onBoth(t *testing.T, test func(t *testing.T, open opener)) {
	t.Helper()
	for name, address := range map[string]func(t *testing.T) string{"embedded": func(t *testing.T) string { return testkit.EmbeddedConsul(t) }, "real": func(t *testing.T) string { return testkit.ConsulAddress(t) }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, prefix := address(t), "test/"+work.NewID(time.Now())
			test(t, func(via ...http.RoundTripper) *consul.Client { return open(t, addr, prefix, via...) })
		})
	}
}

// opener opens a client of the test's own Consul and prefix, over the connection given if there is one.
type opener func(via ...http.RoundTripper) *consul.Client

func open(t *testing.T, address, prefix string, via ...http.RoundTripper) *consul.Client {
	t.Helper()
	opts := consul.Options{Address: address, Prefix: prefix}
	if len(via) > 0 {
		opts.Transport = via[0]
	}
	return openWith(t, opts)
}

// openWith opens a client over a connection of its own, unless the options have one.
func openWith(t *testing.T, opts consul.Options) *consul.Client {
	t.Helper()
	if opts.Transport == nil {
		pooled := cleanhttp.DefaultPooledTransport()
		t.Cleanup(pooled.CloseIdleConnections)
		opts.Transport = pooled
	}
	client, err := consul.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func lead(t *testing.T, client *consul.Client, id string) *consul.Term {
	t.Helper()
	term, err := client.Lead(t.Context(), consul.Candidate{Leader: consul.Leader{ID: id, Address: id}, TTL: leaderTTL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(term.Resign)
	return term
}

func newItem(task string) *work.Item {
	spec := work.Spec{Repository: "https://git.example.org/a/b.git", Task: task}.WithDefaults(work.NewDefaults())
	item := work.NewItem(work.NewID(time.Now()), spec, time.Now().UTC())
	return &item
}

func TestDeposedLeaderCanWriteNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		first, second := open(), open()
		old := lead(t, first, "a")
		if err := old.Commit(t.Context(), work.Change{PutItem: newItem("before")}); err != nil {
			t.Fatal(err)
		}
		if err := second.DestroyLeaderSession(t.Context()); err != nil {
			t.Fatal(err)
		}
		lead(t, second, "b")
		if err := old.Commit(t.Context(), work.Change{PutItem: newItem("after")}); !errors.Is(err, work.ErrFenced) {
			t.Fatalf("commit of a deposed leader: %v", err)
		}
		items, err := second.Items(t.Context())
		if err != nil || len(items) != 1 || items[0].Spec.Task != "before" {
			t.Fatalf("%v %v", items, err)
		}
		<-old.Context().Done()
		if !errors.Is(context.Cause(old.Context()), work.ErrFenced) {
			t.Fatalf("the term ended because %v", context.Cause(old.Context()))
		}
	})
}

func TestResignLetsTheNextLeadAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		first := lead(t, open(), "a")
		client := open()
		leads := make(chan *consul.Term, 1)
		go func() {
			term, err := client.Lead(t.Context(), consul.Candidate{Leader: consul.Leader{ID: "b", Address: "b"}, TTL: leaderTTL})
			if err != nil {
				t.Error(err)
			}
			leads <- term
		}()
		first.Resign()
		next := <-leads
		if next == nil {
			return
		}
		defer next.Resign()
		leader, err := client.Leader(t.Context())
		if err != nil || leader.ID != "b" {
			t.Fatalf("%v %v", leader, err)
		}
	})
}

func TestSilentLeaderLosesItsTerm(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		transport := cleanhttp.DefaultPooledTransport()
		t.Cleanup(transport.CloseIdleConnections)
		line := &testkit.Line{Base: transport}
		old := lead(t, open(line), "a")
		line.Cut()
		lead(t, client, "b")
		<-old.Context().Done()
		if err := old.Commit(t.Context(), work.Change{PutItem: newItem("late")}); !errors.Is(err, work.ErrFenced) {
			t.Fatalf("%v", err)
		}
	})
}

func TestCommitsTogetherAreAllStored(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		term := lead(t, client, "a")
		const callers = 300
		errs := make(chan error, callers)
		for i := range callers {
			go func() { errs <- term.Commit(t.Context(), work.Change{PutItem: newItem(fmt.Sprint("task ", i))}) }()
		}
		for range callers {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		items, err := client.Items(t.Context())
		if err != nil || len(items) != callers {
			t.Fatalf("%d items, %v", len(items), err)
		}
	})
}

// TestRefusedCommitHarmsNoOther closes a claim that a worker has taken meanwhile, beside commits that are fine.
func TestRefusedCommitHarmsNoOther(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		term := lead(t, client, "a")
		item := newItem("x")
		claim := work.Claim{Attempt: work.NewAttemptID(item.ID, 1), Ended: true}
		if err := term.Commit(t.Context(), work.Change{CloseClaim: &work.CloseClaim{Claim: claim}}); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 20)
		for range 20 {
			go func() { errs <- term.Commit(t.Context(), work.Change{PutItem: newItem("fine")}) }()
		}
		claim.Node = "another"
		if err := term.Commit(t.Context(), work.Change{CloseClaim: &work.CloseClaim{Claim: claim}}); !errors.Is(err, work.ErrConflict) {
			t.Fatalf("stale claim: %v", err)
		}
		for range 20 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		_, index, err := client.Claim(t.Context(), claim.Attempt)
		if err != nil || index == 0 {
			t.Fatalf("%d %v", index, err)
		}
		if err := term.Commit(t.Context(), work.Change{CloseClaim: &work.CloseClaim{Claim: claim, Index: index}}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOversizedCommitIsRefusedAndHarmless(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		term := lead(t, client, "a")
		big := newItem(string(make([]byte, 600<<10)))
		if err := term.Commit(t.Context(), work.Change{PutItem: big}); !errors.Is(err, work.ErrInvalid) {
			t.Fatal(err)
		}
		if err := term.Commit(t.Context(), work.Change{PutItem: newItem("small")}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestKeptLogsComeBackWhole(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		term := lead(t, client, "a")
		a := work.NewAttemptID(work.NewID(time.Now()), 1)
		if logs, err := client.Logs(t.Context(), a); err != nil || logs != nil {
			t.Fatalf("%v %v", logs, err)
		}
		want := &work.KeptLogs{Attempt: a, Stdout: []string{"one", "two"}, Stderr: []string{"three"}}
		if err := term.Commit(t.Context(), work.Change{PutLogs: want}); err != nil {
			t.Fatal(err)
		}
		got, err := client.Logs(t.Context(), a)
		if err != nil || len(got.Stdout) != 2 || got.Stderr[0] != "three" {
			t.Fatalf("%v %v", got, err)
		}
	})
}

// TestLongLogsKeepTheirEnd stores lines that don't compress.
func TestLongLogsKeepTheirEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		term := lead(t, client, "a")
		a, random := work.NewAttemptID(work.NewID(time.Now()), 1), rand.New(rand.NewPCG(1, 2))
		logs := &work.KeptLogs{Attempt: a}
		for range 100 {
			line := make([]byte, 1500)
			for i := range line {
				line[i] = byte('!' + random.IntN(90))
			}
			logs.Stdout = append(logs.Stdout, string(line))
		}
		if err := term.Commit(t.Context(), work.Change{PutLogs: logs}); err != nil {
			t.Fatal(err)
		}
		got, err := client.Logs(t.Context(), a)
		if err != nil || len(got.Stdout) == 0 || len(got.Stdout) == 100 || got.Stdout[len(got.Stdout)-1] != logs.Stdout[99] {
			t.Fatalf("%d lines, %v", len(got.Stdout), err)
		}
	})
}

func TestUnreachableConsulIsUnavailable(t *testing.T) {
	t.Parallel()
	client := open(t, "127.0.0.1:1", "x")
	if _, err := client.Items(t.Context()); !errors.Is(err, work.ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestQueuesAndBreakersComeBackAsTheyWereStored(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		term := lead(t, client, "a")
		limit := 3
		queue := work.QueueRecord{Name: "slow", State: work.QueuePaused, By: "me", Settings: work.QueueSettings{MaxInFlight: &limit}, Slow: work.Slowdown{Until: time.Now().UTC(), Detail: "429"}}
		breaker := work.Breaker{Repository: "git.example.org/a/b"}.Trip("me", "no network", time.Hour, time.Now().UTC())
		below := work.Breaker{Repository: "git.example.org/a"}.Trip("me", "", 0, time.Now().UTC())
		for _, change := range []work.Change{{PutQueue: &queue}, {PutBreaker: &breaker}, {PutBreaker: &below}} {
			if err := term.Commit(t.Context(), change); err != nil {
				t.Fatal(err)
			}
		}
		queues, err := client.Queues(t.Context())
		if err != nil || len(queues) != 1 || *queues[0].Settings.MaxInFlight != limit || queues[0].State != queue.State || !queues[0].Slow.Until.Equal(queue.Slow.Until) {
			t.Fatalf("%+v %v", queues, err)
		}
		breakers, err := client.Breakers(t.Context())
		if err != nil || len(breakers) != 2 || breakers[0].Sentence() != below.Sentence() || breakers[1].Sentence() != breaker.Sentence() {
			t.Fatalf("%+v %v", breakers, err)
		}
		for _, change := range []work.Change{{DeleteQueue: "slow"}, {DeleteBreaker: below.Repository}} {
			if err := term.Commit(t.Context(), change); err != nil {
				t.Fatal(err)
			}
		}
		queues, errQueues := client.Queues(t.Context())
		breakers, errBreakers := client.Breakers(t.Context())
		if err := errors.Join(errQueues, errBreakers); err != nil || len(queues) != 0 || len(breakers) != 1 {
			t.Fatalf("%v %v %v", queues, breakers, err)
		}
	})
}

// TestRemovedItemLeavesNothing: its logs go with it, and another's stay.
func TestRemovedItemLeavesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		term := lead(t, client, "a")
		gone, stays := newItem("gone"), newItem("stays")
		for _, item := range []*work.Item{gone, stays} {
			a := item.NextAttempt()
			err := term.Commit(t.Context(), work.Change{PutItem: item}, work.Change{PutLogs: &work.KeptLogs{Attempt: a, Stdout: []string{"x"}}},
				work.Change{CloseClaim: &work.CloseClaim{Claim: work.Claim{Attempt: a, Ended: true}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		err := term.Commit(t.Context(), work.Change{Forget: gone.NextAttempt()}, work.Change{ConsumeResult: gone.NextAttempt()}, work.Change{DeleteItem: gone.ID})
		if err != nil {
			t.Fatal(err)
		}
		items, errItems := client.Items(t.Context())
		claims, errClaims := client.Claims(t.Context())
		left, errLeft := client.Logs(t.Context(), gone.NextAttempt())
		kept, errKept := client.Logs(t.Context(), stays.NextAttempt())
		if err := errors.Join(errItems, errClaims, errLeft, errKept); err != nil || len(items) != 1 || len(claims) != 1 || left != nil || kept == nil {
			t.Fatalf("%d items, %d claims, %v, %v: %v", len(items), len(claims), left, kept, err)
		}
	})
}

// TestWatchesSleepThroughOtherWrites: a watch of a folder that never had a key
// wakes with every write there is in Consul.
func TestWatchesSleepThroughOtherWrites(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		term := lead(t, client, "a")
		watches := map[string]func(context.Context, uint64) (uint64, error){
			"results": func(ctx context.Context, index uint64) (uint64, error) {
				_, next, err := client.Results(ctx, index)
				return next, err
			},
			"locks": func(ctx context.Context, index uint64) (uint64, error) {
				_, next, err := client.Locks(ctx, index)
				return next, err
			},
		}
		for name, watch := range watches {
			before, err := watch(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			item := newItem(name)
			if err := term.Commit(t.Context(), work.Change{PutItem: item}); err != nil {
				t.Fatal(err)
			}
			if after, err := watch(t.Context(), 0); err != nil || after != before {
				t.Errorf("the index of %s went from %d to %d with another folder's write: %v", name, before, after, err)
			}
		}
	})
}
