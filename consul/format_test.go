package consul_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"pgregory.net/rapid"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
)

// strictestKey is the rule of Consul 1.21.5 and 1.22.0, see consuld.
var strictestKey = regexp.MustCompile(`^[a-zA-Z0-9,_./\-?&=]+$`)

func TestKeysAreTakenByEveryConsul(t *testing.T) {
	keys := consul.NewKeys("")
	id := work.NewAttemptID(work.NewID(time.Now()), 1)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z.:/~%,=& -]{0,300}`)).Draw(t, "name")
		other := rapid.OneOf(rapid.String(), rapid.Just(strings.ReplaceAll(name, "/", ",")), rapid.Just(name+"."), rapid.Just(strings.ToUpper(name))).Draw(t, "other")
		for _, key := range []string{keys.Breaker(name), keys.Lock(name, id), keys.LockGuard(name), keys.Queue(name)} {
			if !strictestKey.MatchString(key) || strings.Contains(key, "..") || strings.Contains(key, "//") || len(key) > 300 {
				t.Errorf("key of %q = %q, want one that every Consul takes", name, key)
			}
		}
		if name != other && (keys.Breaker(name) == keys.Breaker(other) || keys.RepositoryLocks(name) == keys.RepositoryLocks(other)) {
			t.Errorf("%q and %q have one key, %s", name, other, keys.Breaker(name))
		}
	})
	if got, want := keys.Breaker("github.com/acme/widget"), "drover/breakers/github.com,acme,widget"; got != want {
		t.Errorf("key = %s, want %s", got, want)
	}
}

// TestServerOfAnOlderFormatDoesNotLead: a number that this version does not know bars
// it, and leaves what is stored alone.
func TestServerOfAnOlderFormatDoesNotLead(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		for name, value := range map[string]string{"newer": fmt.Sprintf(`{"format":%d,"version":"9"}`, work.StoredFormat+1), "unreadable": `"x"`} {
			if err := client.Overwrite(t.Context(), client.Keys.Format(), value); err != nil {
				t.Fatal(err)
			}
			if err := client.CheckFormat(t.Context()); !errors.Is(err, work.ErrFormat) {
				t.Errorf("%s: check = %v, want %v", name, err, work.ErrFormat)
			}
			_, err := client.Lead(t.Context(), consul.Candidate{Leader: consul.Leader{ID: "a"}, TTL: leaderTTL})
			if !errors.Is(err, work.ErrFormat) {
				t.Errorf("%s: lead = %v, want %v", name, err, work.ErrFormat)
			}
			if _, err := client.Leader(t.Context()); !errors.Is(err, work.ErrNoLeader) {
				t.Errorf("%s: leader = %v, want none", name, err)
			}
		}
	})
}

func TestFirstLeaderWritesTheFormat(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		lead(t, client, "a").Resign()
		if err := client.CheckFormat(t.Context()); err != nil {
			t.Fatal(err)
		}
		first, err := client.Read(t.Context(), client.Keys.Format())
		if err != nil || !strings.Contains(first, fmt.Sprintf(`"format":%d`, work.StoredFormat)) {
			t.Fatalf("format = %s, %v; want number %d", first, err, work.StoredFormat)
		}
		lead(t, client, "b").Resign()
		if second, err := client.Read(t.Context(), client.Keys.Format()); err != nil || second != first {
			t.Errorf("format after another term = %s, %v; want it as it was, %s", second, err, first)
		}
	})
}

// older writes what drover stored before there was a number, in a Consul that takes
// such keys: the embedded one does not.
type older struct {
	*testing.T
	*consul.Client
	api *api.Client
}

func newOlder(t *testing.T) older {
	address := testkit.ConsulAddress(t)
	prefix := "test/" + work.NewID(time.Now())
	return older{T: t, Client: open(t, address, prefix), api: testkit.ConsulClient(t, address)}
}

func (o older) put(key string, v any) {
	o.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		err = o.Overwrite(o.Context(), o.Keys.Prefix()+key, string(data))
	}
	if err != nil {
		o.Fatal(err)
	}
}

// worker claims an attempt of a running item, as a worker of a format.
func (o older) worker(format int) (*consul.Attempt, work.Item) {
	o.Helper()
	e := envelope(30 * time.Second)
	e.Format = format
	attempt, err := o.ClaimAttempt(o.Context(), e, "a")
	if err != nil {
		o.Fatal(err)
	}
	o.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := attempt.Release(ctx); err != nil {
			o.Error(err)
		}
	})
	item := work.NewItem(e.Item, e.Spec, time.Now())
	if item, err = work.Apply(item, work.Assigned{}, work.DefaultRetryPolicy(), time.Now()); err != nil {
		o.Fatal(err)
	}
	return attempt, item
}

func (o older) keys() []string {
	o.Helper()
	keys, _, err := o.api.KV().Keys(o.Keys.Prefix(), "", nil)
	if err != nil {
		o.Fatal(err)
	}
	return keys
}

func TestTakeoverRenamesBreakersAndQueues(t *testing.T) {
	o := newOlder(t)
	o.put("breakers/git.example.org:a:b", work.Breaker{Repository: "git.example.org/a/b", State: work.BreakerOpen})
	o.put("queues/a..b", work.QueueRecord{Name: "a..b", State: work.QueuePaused})
	o.put("queues/plain", work.QueueRecord{Name: "plain"})
	term := lead(t, o.Client, "a")
	for _, key := range o.keys() {
		if strings.ContainsAny(key, ":") || strings.Contains(key, "..") {
			t.Errorf("key %s is left", key)
		}
	}
	breakers, err := o.Breakers(t.Context())
	queues, bad := o.Queues(t.Context())
	if errors.Join(err, bad) != nil || len(breakers) != 1 || len(queues) != 2 {
		t.Fatalf("breakers %v, queues %v, %v", breakers, queues, errors.Join(err, bad))
	}
	if err := term.Commit(t.Context(), work.Change{DeleteBreaker: breakers[0].Repository}, work.Change{DeleteQueue: "a..b"}); err != nil {
		t.Fatal(err)
	}
	if left, err := o.Breakers(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("breakers left = %v, %v", left, err)
	}
}

// TestTakeoverKeepsOlderLocksExclusive: a running worker of before keeps its paths
// against workers of now, is granted nothing more, and gives up what it has.
func TestTakeoverKeepsOlderLocksExclusive(t *testing.T) {
	o := newOlder(t)
	running, item := o.worker(0)
	mustLock(t, running, "src")
	o.put("items/"+item.ID, item)
	guard := o.Keys.Prefix() + "locks/git.example.org:a:b/guard"
	before, err := o.Read(t.Context(), guard)
	if err != nil || before == "" {
		t.Fatalf("guard of the older form = %q, %v; want one", before, err)
	}
	lead(t, o.Client, "a").Resign()
	if after, err := o.Read(t.Context(), guard); err != nil || after == before {
		t.Errorf("guard of the older form = %q, %v; want it moved, so that a grant under way fails", after, err)
	}
	lead(t, o.Client, "b") // which finds the takeover done

	o.SetLockDelay(100 * time.Millisecond)
	fresh, _ := o.worker(work.StoredFormat)
	if refused := mustBeRefused(t, fresh, "src/main.go"); refused.Holder.Attempt != running.Claim().Attempt {
		t.Errorf("holder = %s, want %s", refused.Holder.Attempt, running.Claim().Attempt)
	}
	mustLock(t, fresh, "docs")
	mustBeRefused(t, running, "elsewhere")
	locks, _, err := o.Locks(t.Context(), 0)
	if err != nil || len(locks) != 2 {
		t.Errorf("locks = %v, %v; want two", locks, err)
	}
	if err := errors.Join(running.UnlockAll(t.Context()), running.Release(t.Context())); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() error {
		if err := o.FreeLost(t.Context()); err != nil {
			return err
		}
		_, err := fresh.Lock(t.Context(), pathSet(t, "src/main.go"), 0, nil)
		return err
	})
}

// TestTakeoverIsRepeatedAfterACrash: all but the number was written.
func TestTakeoverIsRepeatedAfterACrash(t *testing.T) {
	o := newOlder(t)
	running, item := o.worker(0)
	mustLock(t, running, "src")
	o.put("items/"+item.ID, item)
	lead(t, o.Client, "a").Resign()
	before := o.keys()
	if _, err := o.api.KV().Delete(o.Keys.Format(), nil); err != nil {
		t.Fatal(err)
	}
	lead(t, o.Client, "b").Resign()
	if after := o.keys(); !slices.Equal(after, before) {
		t.Errorf("keys = %v, want them as they were, %v", after, before)
	}
	sessions, _, err := o.api.Session().List(nil)
	takeovers := 0
	for _, s := range sessions {
		if strings.HasPrefix(s.Name, "drover takeover ") && strings.HasSuffix(s.Name, o.Keys.Prefix()) {
			takeovers++
		}
	}
	if err != nil || takeovers != 1 {
		t.Errorf("%d sessions of takeovers, %v; want 1", takeovers, err)
	}
}

// TestTakeoverEnds: once no worker of before can run, nothing is left of it.
func TestTakeoverEnds(t *testing.T) {
	o := newOlder(t)
	running, item := o.worker(0)
	mustLock(t, running, "src")
	o.put("items/"+item.ID, item)
	lead(t, o.Client, "a").Resign()
	if err := errors.Join(running.UnlockAll(t.Context()), running.Release(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, key := range o.keys() {
		if strings.Contains(key, "/00000000000000000000000000.") {
			value, err := o.Read(t.Context(), key)
			if err == nil {
				err = o.Overwrite(t.Context(), key, regexp.MustCompile(`"until":"[^"]*"`).ReplaceAllString(value, `"until":"2026-01-01T00:00:00Z"`))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := o.api.KV().Delete(o.Keys.Claim(running.Claim().Attempt), nil); err != nil { // as a leader does once the attempt has ended
		t.Fatal(err)
	}
	o.SetLockDelay(time.Millisecond)
	testkit.Eventually(t, patience, func() error {
		if err := o.FreeLost(t.Context()); err != nil {
			return err
		}
		for _, key := range o.keys() {
			if strings.Contains(key, "/locks/") && !strings.HasSuffix(key, "/locks/") {
				return fmt.Errorf("%s is left", key)
			}
		}
		return nil
	})
	sessions, _, err := o.api.Session().List(nil)
	if err != nil || slices.ContainsFunc(sessions, func(s *api.SessionEntry) bool { return strings.HasSuffix(s.Name, "takeover "+o.Keys.Prefix()) }) {
		t.Errorf("sessions = %v, %v; want none of the takeover", sessions, err)
	}
}

// TestLargestItemFitsATransaction: with all that changes along with it.
func TestLargestItemFitsATransaction(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		term := lead(t, client, "a")
		item := newItem("x")
		item.PR.Body = strings.Repeat("\x01", (work.MaxItemBytes-3000)/6)
		b := work.Breaker{Repository: "git.example.org/a/b", Why: strings.Repeat("w", 1500)}
		for range 100 {
			b.Outcomes = append(b.Outcomes, work.Outcome{At: time.Now(), Reason: work.ReasonKilledByOperator, Weight: 1.0 / 3})
		}
		queue := work.QueueRecord{Name: "q", Settings: work.QueueSettings{Image: strings.Repeat("i", 15<<10)}}
		claim := work.Claim{Attempt: item.NextAttempt(), Ended: true}
		err := term.Commit(t.Context(), work.Change{PutItem: item}, work.Change{PutBreaker: &b}, work.Change{PutQueue: &queue},
			work.Change{CloseClaim: &work.CloseClaim{Claim: claim}}, work.Change{ConsumeResult: item.NextAttempt()})
		if err != nil {
			t.Fatal(err)
		}
	})
}
