package api_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"drover/internal/api"
	"drover/internal/control"
)

// timed is an answer whose connection notes the time limit of reading.
type timed struct {
	*httptest.ResponseRecorder
	limit time.Time
}

func (w *timed) SetReadDeadline(t time.Time) error {
	w.limit = t
	return nil
}

// slowStore takes a stream, and looks at the time limit while it stores.
type slowStore struct {
	calm
	during func()
}

func (s slowStore) SubmitStream(_ context.Context, lines io.Reader) (control.Submitted, error) {
	_, err := control.ReadSubmissions(lines, func(s *control.Submission) (control.Submission, error) { return *s, nil })
	s.during()
	return control.Submitted{}, err
}

// TestStoringAStreamHasNoReadLimit: a limit that ran out after the last line made
// the server believe that the client had gone.
func TestStoringAStreamHasNoReadLimit(t *testing.T) {
	w := &timed{ResponseRecorder: httptest.NewRecorder()}
	checked := false
	handler := api.NewHandler(api.Options{Service: slowStore{during: func() {
		if checked = true; !w.limit.IsZero() {
			t.Errorf("reading is limited to %s while items are stored", w.limit)
		}
	}}})
	r := httptest.NewRequest(http.MethodPost, "/v1/items", strings.NewReader(`{"id":"01k9zzzzzzzzzzzzzzzzzzzzzz","spec":{}}`))
	r.Header.Set("Content-Type", "application/x-ndjson")
	handler.ServeHTTP(w, r)
	if w.Code != http.StatusCreated || !checked {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
