package worker_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/prometheus/client_golang/prometheus"

	"drover/internal/testkit"
	"drover/internal/work"
)

// ask reads a page of the worker's own server.
func (b *bench) ask(page string) (status int, body string, err error) {
	client := &http.Client{Transport: cleanhttp.DefaultTransport()} // keeps no connection
	answer, err := client.Get("http://" + b.health + page)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(data), err
}

// healthBench is a bench whose worker serves its health.
func healthBench(t *testing.T, script string) *bench {
	t.Helper()
	b := newBench(t, script)
	b.health, b.registry = fmt.Sprintf("127.0.0.1:%d", testkit.FreePorts(t, 1)[0]), prometheus.NewRegistry()
	return b
}

func TestMetricsCountTheWorkAndNameNoItem(t *testing.T) {
	t.Parallel()
	b := healthBench(t, `commit one; echo '{"type":"iteration","n":2}'; echo '{"type":"tokens","in":1200,"out":300}'; gate on; commit two; gate end`)
	wait := b.start(t.Context())
	b.eventuallyPushed(1)
	b.git.FailPushes(1)
	b.open("on")
	b.eventuallyPushed(2)
	testkit.Eventually(t, patience, func() error {
		status, body, err := b.ask("/metrics")
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("status %d: %s %w", status, body, err)
		}
		for _, want := range []string{
			"drover_worker_iterations 2\n", `drover_worker_tokens{direction="in"} 1200`, `drover_worker_tokens{direction="out"} 300`,
			"drover_worker_pushes_total 2\n", "drover_worker_failed_pushes_total 1\n", "drover_worker_sign_of_life_age_seconds 0.",
		} {
			if !strings.Contains(body, want) {
				return fmt.Errorf("no %q in\n%s", want, body)
			}
		}
		for _, never := range []string{b.envelope.Item, alloc, "agent-secret-key", password} {
			if strings.Contains(body, never) {
				t.Errorf("%s is in\n%s", never, body)
			}
		}
		return nil
	})
	b.open("end")
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.ask("/health"); err == nil {
		t.Error("health is served after the worker's end")
	}
}

func TestHealthFollowsTheHeartbeat(t *testing.T) {
	t.Parallel()
	b := healthBench(t, `commit one; gate on`)
	b.envelope.Spec.Limits.HeartbeatTTL = work.Duration(3 * time.Second)
	wait := b.start(t.Context())
	b.eventuallySaid("waiting")
	b.wantHealth(http.StatusOK, `{"live":true,"ready":true}`)
	b.line.Cut()
	b.wantHealth(http.StatusServiceUnavailable, `{"live":true,"ready":false,"reasons":["fenced since 20`)
	b.line.Mend()
	b.wantHealth(http.StatusOK, `{"live":true,"ready":true}`)
	b.open("on")
	if err := wait(); err != nil {
		t.Error(err)
	}
}

func (b *bench) wantHealth(want int, says string) {
	b.t.Helper()
	testkit.Eventually(b.t, patience, func() error {
		status, body, err := b.ask("/health")
		if err != nil || status != want || !strings.HasPrefix(body, says) {
			return fmt.Errorf("status %d: %s %w; want %d: %s", status, body, err, want, says)
		}
		return nil
	})
}

func TestUnusableHealthAddressStopsNoWork(t *testing.T) {
	t.Parallel()
	b := healthBench(t, `commit one`)
	b.health = "127.0.0.1:http-not-a-port"
	if r := b.result(); r.Reason != work.ReasonCompleted || !strings.Contains(b.out.String(), "health is not served") {
		t.Errorf("result %+v\n%s", r, b.out)
	}
}
