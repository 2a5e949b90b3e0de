package httpretry_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drover/internal/httpretry"
)

// answers is a server that gives each call the next status; 0 is a broken connection.
type answers struct {
	statuses []int
	calls    int
}

func (a *answers) RoundTrip(*http.Request) (*http.Response, error) {
	status := a.statuses[min(a.calls, len(a.statuses)-1)]
	a.calls++
	if status == 0 {
		return nil, errors.New("connection reset")
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}, nil
}

func TestCallsAreRepeatedAsTheyMayBe(t *testing.T) {
	for name, c := range map[string]struct {
		statuses []int
		final    []int
		want     int // status in the end
		calls    int
	}{
		"good":            {statuses: []int{200}, want: 200, calls: 1},
		"broken, good":    {statuses: []int{0, 0, 200}, want: 200, calls: 3},
		"500, good":       {statuses: []int{500, 200}, want: 200, calls: 2},
		"429, good":       {statuses: []int{429, 200}, want: 200, calls: 2},
		"final 500":       {statuses: []int{500, 200}, final: []int{500}, want: 500, calls: 1},
		"refused":         {statuses: []int{403, 200}, want: 403, calls: 1},
		"always 503":      {statuses: []int{503}, want: 503, calls: 5},
		"never connected": {statuses: []int{0}, want: 0, calls: 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, began := &answers{statuses: c.statuses}, time.Now()
				resp, err := httpretry.Client(server, c.final...).Get("http://x/")
				switch {
				case c.want == 0 && err == nil:
					t.Error("no error")
				case c.want != 0 && (err != nil || resp.StatusCode != c.want):
					t.Errorf("%v %v", resp, err)
				}
				if server.calls != c.calls {
					t.Errorf("%d calls, want %d", server.calls, c.calls)
				}
				if took := time.Since(began); took > 3*time.Second { // in virtual time
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

func TestCancelledCallEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/", strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := httpretry.Client(&answers{statuses: []int{500}}).Do(req); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
