package consul_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-cleanhttp"
	"golang.org/x/sync/errgroup"

	"drover/internal/testkit"
	"drover/internal/work"
)

// roundTrip is a connection made of a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// readBody returns a request's body, and leaves the request as it was.
func readBody(r *http.Request) []byte {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body
}

// later returns a copy of a request that can be sent when it is over.
func later(ctx context.Context, r *http.Request) *http.Request {
	copied := r.Clone(ctx)
	copied.Body = io.NopCloser(bytes.NewReader(readBody(r)))
	return copied
}

// TestTransactionThatIsHeldUpUndoesNothing: a paused agent carried out a
// transaction after the next ones, when its sender had long sent it again.
func TestTransactionThatIsHeldUpUndoesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		pooled := cleanhttp.DefaultPooledTransport()
		t.Cleanup(pooled.CloseIdleConnections)
		var armed atomic.Bool
		held := make(chan *http.Request, 1)
		client := open(roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/v1/txn" && armed.CompareAndSwap(true, false) {
				held <- later(t.Context(), r)
				return nil, errors.New("timeout awaiting response headers")
			}
			return pooled.RoundTrip(r)
		}))
		term, item := lead(t, client, "a"), newItem("")
		for _, task := range []string{"first", "second"} {
			item.Spec.Task = task
			armed.Store(task == "first")
			if err := term.Commit(t.Context(), work.Change{PutItem: item}); err != nil {
				t.Fatal(err)
			}
		}
		resp, err := pooled.RoundTrip(<-held)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		items, err := client.Items(t.Context())
		if err != nil || len(items) != 1 || items[0].Spec.Task != "second" || resp.StatusCode != http.StatusConflict {
			t.Fatalf("%d: %v, %+v", resp.StatusCode, err, items)
		}
		item.Spec.Task = "third"
		if err := term.Commit(t.Context(), work.Change{PutItem: item}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestFenceThatIsRaisedTwiceEndsNoTerm: the writes that raise the fence can be
// held up as well.
func TestFenceThatIsRaisedTwiceEndsNoTerm(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		pooled := cleanhttp.DefaultPooledTransport()
		t.Cleanup(pooled.CloseIdleConnections)
		var failing atomic.Bool
		held := make(chan *http.Request, 1)
		client := open(roundTrip(func(r *http.Request) (*http.Response, error) {
			lock := r.URL.Query().Has("acquire")
			if !failing.Load() || !lock && r.URL.Path != "/v1/txn" {
				return pooled.RoundTrip(r)
			}
			if lock {
				held <- later(t.Context(), r)
				failing.Store(false)
			}
			return nil, errors.New("connection reset by peer")
		}))
		term, item := lead(t, client, "a"), newItem("x")
		failing.Store(true)
		if err := term.Commit(t.Context(), work.Change{PutItem: item}); err != nil {
			t.Fatal(err)
		}
		resp, err := pooled.RoundTrip(<-held)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := term.Commit(t.Context(), work.Change{PutItem: item}); err != nil || term.Context().Err() != nil {
			t.Fatal(err, term.Context().Err())
		}
	})
}

// TestConsulThatTakesFewerOperationsIsFollowed plays a Consul before 1.14.0.
func TestConsulThatTakesFewerOperationsIsFollowed(t *testing.T) {
	pooled := cleanhttp.DefaultPooledTransport()
	t.Cleanup(pooled.CloseIdleConnections)
	const most, commits, items = 64, 40, 25
	var refused atomic.Int32
	client := open(t, testkit.EmbeddedConsul(t), "test", roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/v1/txn" {
			var ops []json.RawMessage
			if err := json.Unmarshal(readBody(r), &ops); err != nil {
				return nil, err
			}
			if len(ops) > most {
				refused.Add(1)
				says := fmt.Sprintf("Transaction contains too many operations (%d > %d)", len(ops), most)
				return &http.Response{StatusCode: http.StatusRequestEntityTooLarge, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(says))}, nil
			}
		}
		return pooled.RoundTrip(r)
	}))
	term := lead(t, client, "a")
	storeAll := func() {
		var group errgroup.Group
		for range commits {
			var changes []work.Change
			for range items {
				changes = append(changes, work.Change{PutItem: newItem("x")})
			}
			group.Go(func() error { return term.Commit(t.Context(), changes...) })
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	storeAll()
	first := refused.Load()
	storeAll()
	stored, err := client.Items(t.Context())
	if err != nil || len(stored) != 2*commits*items {
		t.Fatalf("%d items: %v", len(stored), err)
	}
	if first == 0 || refused.Load() != first {
		t.Fatalf("%d transactions are refused at first, %d in the end", first, refused.Load())
	}
}

// TestCommitThatConsulCanNeverTakeIsRefused: it was sent for ever.
func TestCommitThatConsulCanNeverTakeIsRefused(t *testing.T) {
	pooled := cleanhttp.DefaultPooledTransport()
	t.Cleanup(pooled.CloseIdleConnections)
	var once sync.Once
	client := open(t, testkit.EmbeddedConsul(t), "test", roundTrip(func(r *http.Request) (resp *http.Response, err error) {
		if r.URL.Path == "/v1/txn" && strings.Contains(string(readBody(r)), "items") {
			once.Do(func() {
				resp = &http.Response{StatusCode: http.StatusRequestEntityTooLarge, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("Request body(600000 bytes) too large"))}
			})
			if resp != nil {
				return resp, nil
			}
		}
		return pooled.RoundTrip(r)
	}))
	term := lead(t, client, "a")
	if err := term.Commit(t.Context(), work.Change{PutItem: newItem("x")}); !errors.Is(err, work.ErrInvalid) {
		t.Fatal(err)
	}
}
