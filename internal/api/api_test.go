package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/testkit"
	"drover/internal/work"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// fake is a Service of functions; one that is nil must not be called.
type fake struct {
	api.Service // of the methods that no test calls

	submitFunc func([]control.Submission) ([]work.Item, error)
	itemsFunc  func(control.Query) (control.Page, error)
	itemFunc   func(id string) (work.Item, *work.Progress, error)
	logsFunc   func(id string, attempt int) (control.Logs, error)
	followFunc func(ctx context.Context, id string, stdout, stderr io.Writer) error
	orderFunc  func(id string, order control.Order) (work.Item, error)
	statusFunc func() (control.Status, error)

	retryPRFunc func(id string) (work.Item, error)
}

func (f *fake) Submit(_ context.Context, items []control.Submission) ([]work.Item, error) {
	return f.submitFunc(items)
}
func (f *fake) Items(_ context.Context, q control.Query) (control.Page, error) {
	return f.itemsFunc(q)
}
func (f *fake) Item(_ context.Context, id string) (work.Item, *work.Progress, error) {
	return f.itemFunc(id)
}
func (f *fake) Logs(_ context.Context, id string, attempt int) (control.Logs, error) {
	return f.logsFunc(id, attempt)
}
func (f *fake) Follow(ctx context.Context, id string, stdout, stderr io.Writer) error {
	return f.followFunc(ctx, id, stdout, stderr)
}
func (f *fake) RetryPR(_ context.Context, id string) (work.Item, error) {
	return f.retryPRFunc(id)
}
func (f *fake) Order(_ context.Context, id string, order control.Order) (work.Item, error) {
	return f.orderFunc(id, order)
}
func (f *fake) Status(context.Context) (control.Status, error) { return f.statusFunc() }

var created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func item(id string) work.Item {
	spec := work.Spec{Repository: "https://example.com/r.git", Task: "fix it"}
	return work.NewItem(id, spec.WithDefaults(work.NewDefaults()), created)
}

// serve starts a server and returns its client.
func serve(t *testing.T, opts api.Options) *api.Client {
	t.Helper()
	server := httptest.NewServer(api.NewHandler(opts))
	t.Cleanup(server.Close)
	return client(t, server.URL, opts.Token)
}

func client(t *testing.T, address, token string) *api.Client {
	t.Helper()
	c, err := api.NewClient(api.ClientOptions{Address: address, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// post sends a body and returns status, content type and answer.
func post(t *testing.T, address, body string) (int, string, string) {
	t.Helper()
	resp, err := http.Post(address, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(answer)
}

func TestCallsArriveAsTheyWereMade(t *testing.T) {
	id := work.NewID(created)
	stored := item(id)
	progress := &work.Progress{Attempt: work.NewAttemptID(id, 1), Iteration: 3}
	logs := control.Logs{Attempt: work.NewAttemptID(id, 2), Stdout: []string{"out"}, Stderr: []string{}, Live: true}
	status := control.Status{Leader: "one", Items: map[work.State]int{work.StateQueued: 2}, InFlight: 1}
	submission := control.Submission{ID: id, Spec: stored.Spec}
	query := control.Query{
		Filter: control.Filter{
			States: []work.State{work.StateQueued, work.StateStuck}, Queue: "q", Repository: "r&r", Reasons: []work.Reason{work.ReasonStuck},
			Labels: map[string]string{"a": "b=c", "d": ""}, OlderThan: time.Hour, NewerThan: 48 * time.Hour, IDs: []string{id},
		},
		Sort: control.SortUpdated, Asc: true, Limit: 7, Cursor: "x",
	}
	c := serve(t, api.Options{Token: "secret", Service: &fake{
		submitFunc: func(got []control.Submission) ([]work.Item, error) {
			same(t, got, []control.Submission{submission})
			return []work.Item{stored}, nil
		},
		itemsFunc: func(got control.Query) (control.Page, error) {
			same(t, got, query)
			return control.Page{Items: []work.Item{stored}, Total: 9, Next: "y"}, nil
		},
		itemFunc: func(got string) (work.Item, *work.Progress, error) {
			same(t, got, id[:8])
			return stored, progress, nil
		},
		logsFunc: func(got string, attempt int) (control.Logs, error) {
			same(t, got, id)
			same(t, attempt, 2)
			return logs, nil
		},
		orderFunc: func(got string, order control.Order) (work.Item, error) {
			same(t, []string{got, string(order.Verb), order.By}, []string{id, "cancel", "me"})
			return stored, nil
		},
		statusFunc: func() (control.Status, error) { return status, nil },
		retryPRFunc: func(gotID string) (work.Item, error) {
			same(t, gotID, id)
			return stored, nil
		},
	}})
	ctx := t.Context()

	items, err := c.Submit(ctx, []control.Submission{submission})
	ok(t, err)
	same(t, items, []work.Item{stored})
	page, err := c.Items(ctx, query)
	ok(t, err)
	same(t, page, control.Page{Items: []work.Item{stored}, Total: 9, Next: "y"})
	got, gotProgress, err := c.Item(ctx, id[:8])
	ok(t, err)
	same(t, got, stored)
	same(t, gotProgress, progress)
	gotLogs, err := c.Logs(ctx, id, 2)
	ok(t, err)
	same(t, gotLogs, logs)
	got, err = c.Order(ctx, id, control.Order{Verb: control.Cancel, By: "me"})
	ok(t, err)
	same(t, got, stored)
	got, err = c.RetryPR(ctx, id)
	ok(t, err)
	same(t, got, stored)
	gotStatus, err := c.Status(ctx)
	ok(t, err)
	same(t, gotStatus, status)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same compares by JSON, which is what goes over the wire.
func same(t *testing.T, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	ok(t, err)
	w, err := json.Marshal(want)
	ok(t, err)
	if !bytes.Equal(g, w) {
		t.Errorf("\n got %s\nwant %s", g, w)
	}
}

func TestErrorsCrossTheWire(t *testing.T) {
	for _, test := range []struct {
		err    error
		want   error
		status int
	}{
		{work.ErrInvalid, work.ErrInvalid, http.StatusBadRequest},
		{work.ErrNotFound, work.ErrNotFound, http.StatusNotFound},
		{work.ErrConflict, work.ErrConflict, http.StatusConflict},
		{&work.TransitionError{What: "item", From: "failed", To: "cancelled"}, work.ErrIllegalTransition, http.StatusConflict},
		{work.ErrUnavailable, work.ErrUnavailable, http.StatusServiceUnavailable},
		{work.ErrNoLeader, work.ErrNoLeader, http.StatusServiceUnavailable},
		{work.ErrFenced, work.ErrNoLeader, http.StatusServiceUnavailable},
		{work.ErrUnknownOutcome, work.ErrUnknownOutcome, http.StatusServiceUnavailable},
		{errors.New("odd"), nil, http.StatusInternalServerError},
	} {
		t.Run(test.err.Error(), func(t *testing.T) {
			err := fmt.Errorf("cancel x: %w", test.err)
			c := serve(t, api.Options{Service: &fake{orderFunc: func(string, control.Order) (work.Item, error) { return work.Item{}, err }}})
			_, got := c.Order(t.Context(), "x", control.Order{Verb: control.Cancel})
			var answer *api.Error
			if !errors.As(got, &answer) || answer.Status != test.status || answer.Error() != err.Error() {
				t.Fatalf("got %v, want status %d and the text %q", got, test.status, err)
			}
			if test.want != nil && !errors.Is(got, test.want) {
				t.Errorf("%v is not %v", got, test.want)
			}
		})
	}
}

func TestReadsAndSubmitsAreRepeatedUntilThereIsALeader(t *testing.T) {
	var calls atomic.Int32
	once := func() error {
		if calls.Add(1) == 1 {
			return work.ErrUnavailable
		}
		return nil
	}
	c := serve(t, api.Options{Service: &fake{
		itemsFunc:  func(control.Query) (control.Page, error) { return control.Page{}, once() },
		submitFunc: func([]control.Submission) ([]work.Item, error) { return nil, once() },
		orderFunc:  func(string, control.Order) (work.Item, error) { return work.Item{}, once() },
	}})
	if _, err := c.Items(t.Context(), control.Query{}); err != nil || calls.Swap(0) != 2 {
		t.Errorf("items: %v", err)
	}
	if _, err := c.Submit(t.Context(), []control.Submission{{ID: work.NewID(created)}}); err != nil || calls.Swap(0) != 2 {
		t.Errorf("submit: %v", err)
	}
	if _, err := c.Order(t.Context(), "x", control.Order{Verb: control.Cancel}); !errors.Is(err, work.ErrUnavailable) || calls.Load() != 1 {
		t.Errorf("cancel, which is not repeated: %v after %d calls", err, calls.Load())
	}
}

func TestBadRequestsDoNotReachTheService(t *testing.T) {
	server := httptest.NewServer(api.NewHandler(api.Options{Service: &fake{}}))
	defer server.Close()
	for _, test := range []struct{ path, body, says string }{
		{"/v1/items", `{"spec":{"repositori":"x"}}`, `unknown field "repositori"`},
		{"/v1/items", `{"spec":{}} x`, "invalid character"},
		{"/v1/items", `[]`, "0 items"},
		{"/v1/items", ``, "0 items"},
		{"/v1/items", "[" + strings.Repeat(`{"spec":{}},`, api.MaxSubmissions) + `{"spec":{}}]`, "1001 items"},
		{"/v1/items", strings.Repeat(" ", 33<<20), "too large"},
		{"/v1/items/x/cancel", `{"who":"me"}`, `unknown field "who"`},
	} {
		status, kind, answer := post(t, server.URL+test.path, test.body)
		if status != http.StatusBadRequest || kind != "application/problem+json" || !strings.Contains(answer, strings.ReplaceAll(test.says, `"`, `\"`)) {
			t.Errorf("%s: got %d %s %s, want 400 with %q", test.path, status, kind, answer, test.says)
		}
	}
	for _, path := range []string{"/v1/items?state=done", "/v1/items?limit=-1", "/v1/items/x/logs?attempt=one"} {
		resp, err := http.Get(server.URL + path)
		ok(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: got %s", path, resp.Status)
		}
	}
	if status, _, _ := post(t, server.URL+"/v1/nothing", ""); status != http.StatusNotFound {
		t.Errorf("unknown path: %d", status)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestAnItemWithoutAnIDGetsOne(t *testing.T) {
	var got []control.Submission
	server := httptest.NewServer(api.NewHandler(api.Options{Service: &fake{submitFunc: func(items []control.Submission) ([]work.Item, error) {
		got = items
		return nil, nil
	}}}))
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	if status, _, answer := post(t, server.URL+"/v1/items", `{"spec":{"repository":"https://example.com/r"}}`); status != http.StatusCreated {
		t.Fatal(status, answer)
	}
	if len(got) != 1 || !work.ValidID(got[0].ID) || got[0].Spec.Repository != "https://example.com/r" {
		t.Errorf("got %+v", got)
	}
}

func TestTokenIsChecked(t *testing.T) {
	service := &fake{statusFunc: func() (control.Status, error) { return control.Status{}, nil }}
	server := httptest.NewServer(api.NewHandler(api.Options{Service: service, Token: "right"}))
	defer server.Close()
	for token, want := range map[string]error{"right": nil, "wrong": api.ErrUnauthorized, "": api.ErrUnauthorized} {
		_, err := client(t, server.URL, token).Status(t.Context())
		if !errors.Is(err, want) {
			t.Errorf("token %q: got %v, want %v", token, err, want)
		}
	}
	resp, err := http.Get(server.URL + "/health")
	ok(t, err)
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("health without a token: %s", resp.Status)
	}
}

func TestHealth(t *testing.T) {
	ready := func(reasons ...string) *fake {
		return &fake{statusFunc: func() (control.Status, error) { return control.Status{NotReady: reasons}, nil }}
	}
	withoutNomad := &fake{statusFunc: func() (control.Status, error) {
		return control.Status{NotDispatching: []string{"nomad does not answer"}}, nil
	}}
	leader := func(self bool, err error) func(context.Context) (string, bool, error) {
		return func(context.Context) (string, bool, error) { return "a", self, err }
	}
	for name, test := range map[string]struct {
		opts api.Options
		want int
		says string
	}{
		"leads":            {api.Options{Service: ready(), Leader: leader(true, nil)}, http.StatusOK, `"ready":true,"leads":true`},
		"leads, no consul": {api.Options{Service: ready("consul does not answer"), Leader: leader(true, nil)}, http.StatusServiceUnavailable, "consul does not answer"},
		"leads, no nomad":  {api.Options{Service: withoutNomad, Leader: leader(true, nil)}, http.StatusOK, "nomad does not answer"},
		"follows":          {api.Options{Leader: leader(false, nil)}, http.StatusOK, `"ready":true`},
		"nobody leads":     {api.Options{Leader: leader(false, work.ErrNoLeader)}, http.StatusServiceUnavailable, "who leads is not known"},
		"no consul":        {api.Options{Leader: leader(false, work.ErrUnavailable)}, http.StatusServiceUnavailable, "who leads is not known"},
	} {
		recorder := httptest.NewRecorder()
		api.NewHandler(test.opts).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/health", nil))
		if recorder.Code != test.want || !strings.Contains(recorder.Body.String(), test.says) {
			t.Errorf("%s: status = %d, body = %s, want %d and %q", name, recorder.Code, recorder.Body, test.want, test.says)
		}
	}
}

func TestFollowersForwardToTheLeader(t *testing.T) {
	service := &fake{
		statusFunc: func() (control.Status, error) { return control.Status{Leader: "one"}, nil },
		itemFunc: func(string) (work.Item, *work.Progress, error) {
			return work.Item{}, nil, fmt.Errorf("item x: %w", work.ErrNotFound)
		},
		followFunc: func(_ context.Context, _ string, stdout, _ io.Writer) error {
			_, err := io.WriteString(stdout, "hello\n")
			return err
		},
	}
	leader := httptest.NewServer(api.NewHandler(api.Options{Service: service, Token: "t"}))
	defer leader.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	follower := serve(t, api.Options{Token: "t", Transport: transport, Leader: func(context.Context) (string, bool, error) { return leader.URL, false, nil }})

	status, err := follower.Status(t.Context())
	if err != nil || status.Leader != "one" {
		t.Errorf("status %+v, %v", status, err)
	}
	if _, _, err := follower.Item(t.Context(), "x"); !errors.Is(err, work.ErrNotFound) {
		t.Errorf("item: %v", err)
	}
	var out bytes.Buffer
	if err := follower.Follow(t.Context(), "x", &out, io.Discard); err != nil || out.String() != "hello\n" {
		t.Errorf("follow: %v, %q", err, out.String())
	}
}

func TestForwardingEnds(t *testing.T) {
	var address atomic.Value
	address.Store("")
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	var calls atomic.Int32
	handler := api.NewHandler(api.Options{Transport: transport, Leader: func(context.Context) (string, bool, error) { return address.Load().(string), false, nil }})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for name, leader := range map[string]string{"nobody leads": "", "itself": server.URL, "unreachable": "127.0.0.1:1", "no address": "::"} {
		address.Store(leader)
		calls.Store(0)
		resp, err := http.Post(server.URL+"/v1/items", "application/json", strings.NewReader("{}"))
		ok(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || calls.Load() > 2 {
			t.Errorf("%s: %s after %d calls, Retry-After %q", name, resp.Status, calls.Load(), resp.Header.Get("Retry-After"))
		}
	}
}

func TestFollowKeepsTheTextWhole(t *testing.T) {
	const text = "naïve — 世界 🐂\nend\n"
	c := serve(t, api.Options{Service: &fake{followFunc: func(_ context.Context, _ string, stdout, stderr io.Writer) error {
		_, outErr := io.CopyBuffer(struct{ io.Writer }{stdout}, iotest.OneByteReader(strings.NewReader(text)), make([]byte, 1))
		_, errErr := io.WriteString(stderr, "cut: \xe4\xb8")
		return errors.Join(outErr, errErr)
	}}})
	var stdout, stderr bytes.Buffer
	if err := c.Follow(t.Context(), "x", &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != text || !strings.HasPrefix(stderr.String(), "cut: \uFFFD") {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
}

func TestFollowIsLiveAndEndsWithItsCaller(t *testing.T) {
	gone := make(chan struct{})
	c := serve(t, api.Options{Service: &fake{followFunc: func(ctx context.Context, _ string, stdout, _ io.Writer) error {
		defer close(gone)
		if _, err := io.WriteString(stdout, "first"); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}}})
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	stop := writerFunc(func(p []byte) (int, error) {
		cancel(enough)
		return len(p), nil
	})
	if err := c.Follow(ctx, "x", stop, io.Discard); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	<-gone
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestFollowTellsHowItEnded(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		err  error
		want error
	}{
		"at once":   {"", work.ErrNotFound, work.ErrNotFound},
		"later":     {"some", work.ErrUnavailable, work.ErrUnavailable},
		"all right": {"some", nil, nil},
	} {
		c := serve(t, api.Options{Service: &fake{followFunc: func(_ context.Context, _ string, stdout, _ io.Writer) error {
			if test.text != "" {
				_, _ = io.WriteString(stdout, test.text)
			}
			return test.err
		}}})
		var out bytes.Buffer
		if err := c.Follow(t.Context(), "x", &out, io.Discard); !errors.Is(err, test.want) || out.String() != test.text {
			t.Errorf("%s: got %v with %q", name, err, out.String())
		}
	}
}

func TestFollowNoticesABrokenConnection(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"stream":"stdout","data":"x"}`+"\n")
	}))
	defer server.Close()
	if err := client(t, server.URL, "").Follow(t.Context(), "x", io.Discard, io.Discard); !errors.Is(err, work.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestClientAnswersOfOthers(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, err := client(t, server.URL, "").Order(t.Context(), "x", control.Order{Verb: control.Cancel})
	if err == nil || errors.Is(err, work.ErrNotFound) || !strings.Contains(err.Error(), "not as a drover server does") {
		t.Errorf("an answer that is not drover's: %v", err)
	}
	_, err = client(t, "127.0.0.1:1", "").Order(t.Context(), "x", control.Order{Verb: control.Cancel})
	if !errors.Is(err, work.ErrUnavailable) || strings.Contains(err.Error(), "\n") {
		t.Errorf("nobody there: %v", err)
	}
	for _, opts := range []api.ClientOptions{
		{Address: "ftp://host"}, {Address: ""}, {Address: "host:1", TLS: api.TLS{CACert: "/nonexistent"}},
		{Address: "host:1", TLS: api.TLS{Cert: "/nonexistent"}},
	} {
		if _, err := api.NewClient(opts); !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
}
