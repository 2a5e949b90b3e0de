package telemetry

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Backends counts and times the calls of Nomad and Consul.
type Backends struct {
	duration *prometheus.HistogramVec
	failed   *prometheus.CounterVec
}

// NewBackends registers the metrics of calls.
func NewBackends(reg prometheus.Registerer) (*Backends, error) {
	b := &Backends{
		duration: histograms("backend_request_duration_seconds", "Time Nomad and Consul took to answer a call; queries that wait for a change are left out.", callBuckets, "backend", "operation"),
		failed:   counters("backend_request_errors_total", "Calls of Nomad and Consul that were not answered, or with an error.", "backend", "operation"),
	}
	return b, register(reg, b.duration, b.failed)
}

// Around returns what makes a connection to a backend, nomad or consul, counted and timed.
func (b *Backends) Around(backend string) func(http.RoundTripper) http.RoundTripper {
	for _, op := range operations[backend] {
		b.failed.WithLabelValues(backend, op.name)
	}
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			operation := operationOf(backend, r)
			began := time.Now()
			resp, err := next.RoundTrip(r)
			if !waits(r) && err == nil {
				b.duration.WithLabelValues(backend, operation).Observe(time.Since(began).Seconds())
			}
			if err != nil && !errors.Is(err, context.Canceled) || err == nil && isFailure(resp.StatusCode) {
				b.failed.WithLabelValues(backend, operation).Inc()
			}
			return resp, err
		})
	}
}

// isFailure leaves out the answers that drover asks for: that there is no such
// thing, and that a transaction's condition does not hold.
func isFailure(status int) bool {
	return status >= http.StatusBadRequest && status != http.StatusNotFound && status != http.StatusConflict
}

// waits reports whether the answer comes when something changes.
func waits(r *http.Request) bool {
	q := r.URL.Query()
	return q.Get("index") != "" || q.Get("follow") == "true"
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An operation is a kind of call. Method and path select it: what is not listed
// is "other", so that there are never more than these.
type operation struct {
	name, method string
	path         *regexp.Regexp
}

const otherOperation = "other"

var operations = map[string][]operation{
	"nomad": {
		{"dispatch", "PUT", regexp.MustCompile(`^/v1/job/[^/]+/dispatch$`)},
		{"evaluations", "GET", regexp.MustCompile(`^/v1/job/[^/]+/evaluations$`)},
		{"job_allocations", "GET", regexp.MustCompile(`^/v1/job/[^/]+/allocations$`)},
		{"read_job", "GET", regexp.MustCompile(`^/v1/job/[^/]+$`)},
		{"stop_job", "DELETE", regexp.MustCompile(`^/v1/job/[^/]+$`)},
		{"list_jobs", "GET", regexp.MustCompile(`^/v1/jobs$`)},
		{"register_job", "PUT", regexp.MustCompile(`^/v1/jobs$`)},
		{"parse_job", "PUT", regexp.MustCompile(`^/v1/jobs/parse$`)},
		{"list_allocations", "GET", regexp.MustCompile(`^/v1/allocations$`)},
		{"logs", "GET", regexp.MustCompile(`^/v1/client/fs/logs/`)},
		{"events", "GET", regexp.MustCompile(`^/v1/event/stream$`)},
		{"leader", "GET", regexp.MustCompile(`^/v1/status/leader$`)},
		{otherOperation, "", nil},
	},
	"consul": {
		{"transaction", "PUT", regexp.MustCompile(`^/v1/txn$`)},
		{"read_kv", "GET", regexp.MustCompile(`^/v1/kv/`)},
		{"write_kv", "PUT", regexp.MustCompile(`^/v1/kv/`)},
		{"create_session", "PUT", regexp.MustCompile(`^/v1/session/create$`)},
		{"destroy_session", "PUT", regexp.MustCompile(`^/v1/session/destroy/`)},
		{"renew_session", "PUT", regexp.MustCompile(`^/v1/session/renew/`)},
		{"read_session", "GET", regexp.MustCompile(`^/v1/session/info/`)},
		{"pass_check", "PUT", regexp.MustCompile(`^/v1/agent/check/update/`)},
		{"register_service", "PUT", regexp.MustCompile(`^/v1/agent/service/register$`)},
		{"deregister_service", "PUT", regexp.MustCompile(`^/v1/(agent/service/deregister/|catalog/deregister)`)},
		{"checks", "GET", regexp.MustCompile(`^/v1/health/checks/`)},
		{otherOperation, "", nil},
	},
}

func operationOf(backend string, r *http.Request) string {
	for _, op := range operations[backend] {
		if op.path != nil && (op.method == r.Method || op.method == "PUT" && r.Method == "POST") && op.path.MatchString(r.URL.EscapedPath()) {
			return op.name
		}
	}
	return otherOperation
}
