package telemetry_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"drover/internal/control"
	"drover/internal/telemetry"
	"drover/internal/testkit"
	"drover/internal/work"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// server returns the metrics of a server that leads and has seen an item retried
// and completed.
func server(t *testing.T) (*prometheus.Registry, *telemetry.Metrics) {
	t.Helper()
	reg := prometheus.NewRegistry()
	m, err := telemetry.NewMetrics(reg, telemetry.MetricsOptions{
		Version: "1.2.3", Queues: []string{"default"},
		Census: func(time.Time) (control.Census, bool) {
			return control.Census{
				Groups:   []control.Group{{Queue: "default", State: work.StateQueued, Items: 3, Oldest: time.Minute}, {Queue: "default", State: work.StateCompleted, Items: 4}},
				InFlight: 2, MaxInFlight: 32, HeartbeatAge: 5 * time.Second, Breakers: map[work.BreakerState]int{work.BreakerOpen: 1},
			}, true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	backends, err := telemetry.NewBackends(reg)
	if err != nil {
		t.Fatal(err)
	}
	call(t, backends.Around("nomad"), http.StatusOK, "GET", "/v1/jobs")
	m.SetLeader(true)
	m.Reconciled(time.Second, nil)
	m.EventSeen(50 * time.Millisecond)
	m.LogsKept(1234)
	live(t, m)
	return reg, m
}

// live tells an observer of an item's life: an attempt that crashes, and one that completes.
func live(t *testing.T, m *telemetry.Metrics) work.Item {
	t.Helper()
	item := work.NewItem(work.NewID(began), work.Spec{Repository: "https://git.example.org/a/b.git", Task: "x"}.WithDefaults(work.NewDefaults()), began)
	m.Applied(nil, &item)
	now := began
	apply := func(after time.Duration, event work.Event) {
		now = now.Add(after)
		next, err := work.Apply(item, event, work.DefaultRetryPolicy(), now)
		if err != nil {
			t.Fatal(err)
		}
		before := item
		item = next
		m.Applied(&before, &item)
	}
	apply(2*time.Second, work.Assigned{})
	apply(time.Second, work.Dispatched{Attempt: item.CurrentID(), Child: "c1"})
	apply(3*time.Second, work.Started{Attempt: item.CurrentID(), Allocation: "a1", Node: "n", At: now.Add(3 * time.Second)})
	apply(time.Minute, work.Ended{Attempt: item.CurrentID(), Ending: work.Ending{Reason: work.ReasonOOMKilled, Detail: "x", Tokens: work.Tokens{In: 100, Out: 10}, CostUSD: 0.5}})
	now = item.NotBefore
	apply(4*time.Second, work.Assigned{})
	apply(time.Second, work.Dispatched{Attempt: item.CurrentID(), Child: "c2"})
	apply(time.Second, work.Started{Attempt: item.CurrentID(), Allocation: "a2", Node: "n", At: now.Add(time.Second)})
	result := work.Result{
		Attempt: item.CurrentID(), Reason: work.ReasonCompleted, Detail: "done", Tokens: work.Tokens{In: 250, Out: 30}, CostUSD: 0.75,
		Test: work.TestOutcome{Status: work.TestPassed}, PR: work.PullRequest{Status: work.PRCreated, Number: 1},
	}
	apply(time.Minute, work.Ended{Attempt: item.CurrentID(), Ending: work.Ending{Reason: work.ReasonCompleted, Detail: "done", Result: &result}})
	return item
}

func call(t *testing.T, around func(http.RoundTripper) http.RoundTripper, status int, method, path string) {
	t.Helper()
	transport := around(roundTripper(func(*http.Request) (*http.Response, error) {
		if status == 0 {
			return nil, errors.New("cut")
		}
		return &http.Response{StatusCode: status, Body: http.NoBody}, nil
	}))
	if resp, err := transport.RoundTrip(httptest.NewRequest(method, "http://x"+path, nil)); err == nil {
		resp.Body.Close()
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestMetricsFollowPrometheusConventions(t *testing.T) {
	reg, _ := server(t)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestDocumentedMetricsAreThoseOfTheServer(t *testing.T) {
	reg, _ := server(t)
	documented, found := testkit.DocumentedMetrics(t, "Server"), gathered(t, reg)
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if !reflect.DeepEqual(found[name], documented[name]) {
			t.Errorf("docs/metrics.md has %s as %+v, the server as %+v", name, documented[name], found[name])
		}
	}
	for name := range found {
		if _, ok := documented[name]; !ok && strings.HasPrefix(name, "drover_") {
			t.Errorf("docs/metrics.md lacks %s, %+v", name, found[name])
		}
	}
}

func gathered(t *testing.T, reg prometheus.Gatherer) map[string]testkit.DocumentedMetric {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]testkit.DocumentedMetric{}
	for _, family := range families {
		metric := testkit.DocumentedMetric{Type: strings.ToLower(family.GetType().String())}
		for _, label := range family.GetMetric()[0].GetLabel() {
			metric.Labels = append(metric.Labels, label.GetName())
		}
		if metric.Labels == nil {
			metric.Labels = []string{}
		}
		slices.Sort(metric.Labels)
		found[family.GetName()] = metric
	}
	return found
}

// TestItemsLifeIsCounted is the sum of what a retried and completed item comes to.
func TestItemsLifeIsCounted(t *testing.T) {
	reg, _ := server(t)
	for series, want := range map[string]float64{
		`drover_items_submitted_total{queue="default"}`:                      1,
		`drover_items_ended_total{queue="default",state="completed"}`:        1,
		`drover_items_ended_total{queue="default",state="failed"}`:           0,
		`drover_attempts_total{queue="default",reason="oom_killed"}`:         1,
		`drover_attempts_total{queue="default",reason="completed"}`:          1,
		`drover_retries_total{action="retry",queue="default"}`:               1,
		`drover_tokens_total{direction="in"}`:                                250,
		`drover_tokens_total{direction="out"}`:                               30,
		`drover_cost_usd_total{}`:                                            0.75,
		`drover_pull_requests_total{status="created"}`:                       1,
		`drover_tests_total{status="passed"}`:                                1,
		`drover_kept_log_bytes_total{}`:                                      1234,
		`drover_queue_wait_seconds_sum{queue="default"}`:                     6,
		`drover_dispatch_latency_seconds_sum{}`:                              2,
		`drover_start_latency_seconds_sum{}`:                                 4,
		`drover_state_duration_seconds_sum{state="in_progress"}`:             120,
		`drover_state_duration_seconds_sum{state="assigned"}`:                6,
		`drover_items{queue="default",state="queued"}`:                       3,
		`drover_oldest_item_age_seconds{queue="default",state="queued"}`:     60,
		`drover_attempts_in_flight{}`:                                        2,
		`drover_heartbeat_age_seconds{}`:                                     5,
		`drover_leader{}`:                                                    1,
		`drover_breakers{state="open"}`:                                      1,
		`drover_breakers{state="closed"}`:                                    0,
		`drover_backend_request_errors_total{backend="nomad",operation="x"}`: -1,
	} {
		if got := value(t, reg, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
}

// value returns a series' value, or its sum where it is a histogram named with _sum; -1 if there is none.
func value(t *testing.T, reg prometheus.Gatherer, series string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name, number := family.GetName(), m.GetCounter().GetValue()+m.GetGauge().GetValue()
			if family.GetType() == dto.MetricType_HISTOGRAM {
				name, number = name+"_sum", m.GetHistogram().GetSampleSum()
			}
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if series == name+"{"+strings.Join(labels, ",")+"}" {
				return number
			}
		}
	}
	return -1
}

func TestHistogramsAreNativeToo(t *testing.T) {
	reg, _ := server(t)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetType() != dto.MetricType_HISTOGRAM || !strings.HasPrefix(family.GetName(), "drover_") {
			continue
		}
		for _, m := range family.GetMetric() {
			if h := m.GetHistogram(); h.Schema == nil || len(h.GetBucket()) == 0 {
				t.Errorf("%s has schema %v and %d classic buckets", family.GetName(), h.Schema, len(h.GetBucket()))
			}
		}
	}
}

func TestOnlyTheLeaderCountsItems(t *testing.T) {
	reg := prometheus.NewRegistry()
	if _, err := telemetry.NewMetrics(reg, telemetry.MetricsOptions{Census: func(time.Time) (control.Census, bool) { return control.Census{}, false }}); err != nil {
		t.Fatal(err)
	}
	found := gathered(t, reg)
	if _, ok := found["drover_items"]; ok || value(t, reg, "drover_leader{}") != 0 {
		t.Errorf("a server that does not lead tells of items, or leads: %v", found)
	}
}

// TestCallsAreNamedByWhatTheyDo has no more series than there are operations, whatever is called.
func TestCallsAreNamedByWhatTheyDo(t *testing.T) {
	reg := prometheus.NewRegistry()
	backends, err := telemetry.NewBackends(reg)
	if err != nil {
		t.Fatal(err)
	}
	nomad, consul := backends.Around("nomad"), backends.Around("consul")
	call(t, nomad, http.StatusInternalServerError, "PUT", "/v1/job/drover-worker%2Fdispatch-01j-1/dispatch")
	call(t, nomad, http.StatusNotFound, "GET", "/v1/job/drover-worker%2Fdispatch-01j-1")
	call(t, nomad, 0, "GET", "/v1/event/stream?index=5")
	call(t, consul, http.StatusConflict, "PUT", "/v1/txn")
	call(t, consul, http.StatusForbidden, "GET", "/v1/kv/drover/items/?recurse")
	call(t, consul, http.StatusOK, "GET", "/v1/something/new")
	for operation, want := range map[string]float64{
		`nomad",operation="dispatch`: 1, `nomad",operation="read_job`: 0, `nomad",operation="events`: 1,
		`consul",operation="transaction`: 0, `consul",operation="read_kv`: 1, `consul",operation="other`: 0,
	} {
		if got := value(t, reg, `drover_backend_request_errors_total{backend="`+operation+`"}`); got != want {
			t.Errorf("%s: %v errors, want %v", operation, got, want)
		}
	}
	if got := value(t, reg, `drover_backend_request_duration_seconds_sum{backend="nomad",operation="events"}`); got != -1 {
		t.Errorf("a query that waits for a change is timed: %v", got)
	}
}
