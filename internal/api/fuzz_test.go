package api_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

// calm answers every call that has a body, whatever it holds.
type calm struct{ api.Service }

func (calm) Submit(context.Context, []control.Submission) ([]work.Item, error) { return nil, nil }
func (calm) Check(context.Context, []control.Submission) ([]work.Item, error)  { return nil, nil }

func (calm) SubmitStream(_ context.Context, lines io.Reader) (control.Submitted, error) {
	submissions, err := control.ReadSubmissions(lines, func(s *control.Submission) (control.Submission, error) { return *s, nil })
	for n, s := range submissions {
		if s.ID == "" || s.Key != "" {
			return control.Submitted{}, fmt.Errorf("submission %d has no id", n)
		}
	}
	return control.Submitted{Stored: len(submissions)}, err
}

func (calm) Order(_ context.Context, id string, order control.Order) (work.Item, error) {
	if order.Verb != control.Edit {
		return work.Item{ID: id}, nil
	}
	spec, err := work.Spec{Repository: "https://example.com/r.git", Task: "x"}.WithDefaults(work.NewDefaults()).Merged(order.Patch)
	if err == nil {
		err = spec.Validate()
	}
	return work.Item{ID: id, Spec: spec}, err
}

func (calm) Import(_ context.Context, items []work.Item, _ bool) (control.Import, error) {
	for _, item := range items {
		if err := item.CheckStored(); err != nil {
			return control.Import{}, err
		}
	}
	return control.Import{Stored: len(items)}, nil
}

func (calm) ImportLogs(_ context.Context, kept []work.KeptLogs) (control.Import, error) {
	for _, logs := range kept {
		if err := logs.Check(); err != nil {
			return control.Import{}, err
		}
	}
	return control.Import{Stored: len(kept)}, nil
}

func (calm) Items(context.Context, control.Query) (control.Page, error) { return control.Page{}, nil }

func (calm) CreateToken(context.Context, control.TokenRequest) (control.NewToken, error) {
	return control.NewToken{}, nil
}

func (calm) SetQueue(context.Context, string, control.QueueChange) (control.Queue, error) {
	return control.Queue{}, nil
}

func (calm) MoveQueue(context.Context, string, control.QueueTransition) (control.Queue, error) {
	return control.Queue{}, nil
}

func (calm) TripBreaker(context.Context, control.Trip) (work.Breaker, error) {
	return work.Breaker{}, nil
}

// FuzzBodies sends bodies to every call that takes one: each is taken, or refused
// as the client's fault by a problem document.
func FuzzBodies(f *testing.F) {
	handler := api.NewHandler(api.Options{Service: calm{}})
	calls := []struct{ method, path, kind string }{
		{http.MethodPost, "/v1/items", "application/json"}, {http.MethodPost, "/v1/items?dry_run=1", "application/json"}, {http.MethodPost, "/v1/items", "application/x-ndjson"},
		{http.MethodPost, "/v1/items/x/cancel", "application/json"}, {http.MethodPost, "/v1/items/x/kill", "application/json"}, {http.MethodPost, "/v1/items/x/priority", "application/json"},
		{http.MethodPatch, "/v1/items/x", "application/merge-patch+json"}, {http.MethodPost, "/v1/import", "application/x-ndjson"}, {http.MethodPost, "/v1/import/logs", "application/x-ndjson"}, {http.MethodPost, "/v1/tokens", "application/json"},
		{http.MethodPatch, "/v1/queues/q", "application/json"}, {http.MethodPost, "/v1/queues/q/state", "application/json"}, {http.MethodPost, "/v1/breakers/trip", "application/json"},
	}
	for i := range calls {
		for _, seed := range []string{
			"", "{}", "[]", "null", "{", `{"id":"01k9zzzzzzzzzzzzzzzzzzzzzz","spec":{"repository":"https://h/r","task":"x"}}`, `[{"spec":{}},{"key":"k","spec":{"labels":{"a":"b"}}}]`,
			`{"by":"me","no_retry":true,"priority":3}`, `{"labels":{"a":null},"limits":{"timeout":"3h"},"priority":1e2}`, `{"role":"read","lifetime":"1h","name":"x"}`,
			`{"id":"x","state":"queued","attempts":[{"number":1}]}`, `{"set":{"rate":3},"unset":["rate"]}`, `{"state":"paused"}`, `{"repository":"h/r","for":"1h"}`,
		} {
			f.Add(i, seed)
		}
	}
	f.Fuzz(func(t *testing.T, call int, body string) {
		c := calls[uint(call)%uint(len(calls))]
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(body))
		r.Header.Set("Content-Type", c.kind)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		refused := w.Code >= 400 && w.Code < 500 && w.Header().Get("Content-Type") == "application/problem+json"
		if w.Code >= 300 && !refused {
			t.Fatalf("%s %s %q: %d %s", c.method, c.path, body, w.Code, w.Body)
		}
	})
}

// FuzzQuery lists items by any query: it is taken, or refused as the client's fault.
func FuzzQuery(f *testing.F) {
	handler := api.NewHandler(api.Options{Service: calm{}})
	for _, seed := range []string{"", "state=queued&state=failed", "label=a%3Db&older_than=1h", "limit=-1", "sort=x&order=asc&cursor=%00", "newer_than=1y", "%zz", "reason=stuck;id=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest(http.MethodGet, "/v1/items", nil)
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Fatalf("%q: %d %s", query, w.Code, w.Body)
		}
	})
}
