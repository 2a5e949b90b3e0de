package telemetry

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"drover/internal/control"
	"drover/internal/work"
)

// nativeFactor is the growth from one bucket of a native histogram to the next.
const nativeFactor = 1.1

// maxNativeBuckets bounds a native histogram; it gets coarser beyond.
const maxNativeBuckets = 100

// Buckets of histograms for a Prometheus that takes no native ones, in seconds.
var (
	callBuckets  = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	phaseBuckets = []float64{1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400}
)

// Metrics are a server's. It is an observer of the orchestrator; its methods may
// be called concurrently. No label names an item, an attempt or a repository:
// what has no bound would be a series of its own each time.
type Metrics struct {
	leader atomic.Bool
	census func(time.Time) (control.Census, bool)

	submitted, ended, attempts, retries *prometheus.CounterVec
	tokens, pullRequests, tests         *prometheus.CounterVec
	cost, keptBytes, reconcileErrors    prometheus.Counter
	states, queueWait                   *prometheus.HistogramVec
	dispatch, start, toPR               prometheus.Histogram
	reconcile, eventLag                 prometheus.Histogram
}

// MetricsOptions say what metrics need to know besides what they are told.
type MetricsOptions struct {
	Version string
	Queues  []string // whose series are there from the beginning
	// Census counts the items; false while this server does not lead.
	Census func(now time.Time) (control.Census, bool)
}

// NewMetrics registers a server's metrics.
func NewMetrics(reg prometheus.Registerer, opts MetricsOptions) (*Metrics, error) {
	m := &Metrics{census: opts.Census}
	m.submitted = counters("items_submitted_total", "Items submitted to this leader.", "queue")
	m.ended = counters("items_ended_total", "Items that came to an end, by the state they ended in.", "queue", "state")
	m.attempts = counters("attempts_total", "Attempts that ended, by reason.", "queue", "reason")
	m.retries = counters("retries_total", "Items put back into their queue after an attempt, by what the retry table did.", "queue", "action")
	m.tokens = counters("tokens_total", "Tokens that agents read (in) and wrote (out).", "direction")
	m.pullRequests = counters("pull_requests_total", "Finished items, by what became of their pull request.", "status")
	m.tests = counters("tests_total", "Attempts that reported, by the outcome of the tests.", "status")
	m.cost = counter("cost_usd_total", "Cost in US dollars, as far as agents stated it.")
	m.keptBytes = counter("kept_log_bytes_total", "Output of attempts that was kept, before compression.")
	m.reconcileErrors = counter("reconcile_errors_total", "Full comparisons with Nomad and Consul that failed.")
	m.states = histograms("state_duration_seconds", "Time items spent in a state before they left it.", phaseBuckets, "state")
	m.queueWait = histograms("queue_wait_seconds", "Time from when an item might have run to its dispatch.", phaseBuckets, "queue")
	m.dispatch = histogram("dispatch_latency_seconds", "Time from an item's assignment to Nomad's having its job.", callBuckets)
	m.start = histogram("start_latency_seconds", "Time from a dispatch to its running container.", phaseBuckets)
	m.toPR = histogram("time_to_pull_request_seconds", "Time from submission to a completed item with its pull request.", phaseBuckets)
	m.reconcile = histogram("reconcile_duration_seconds", "Time a full comparison with Nomad and Consul took.", callBuckets)
	m.eventLag = histogram("event_stream_lag_seconds", "Age of a change when Nomad's event stream brought it.", callBuckets)
	m.begin(opts.Queues)
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "drover_build_info", Help: "Version of the program; always 1.", ConstLabels: prometheus.Labels{"version": opts.Version},
	})
	info.Set(1)
	return m, register(reg, info, m, m.submitted, m.ended, m.attempts, m.retries, m.tokens, m.pullRequests, m.tests, m.cost, m.keptBytes,
		m.reconcileErrors, m.states, m.queueWait, m.dispatch, m.start, m.toPR, m.reconcile, m.eventLag,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

func register(reg prometheus.Registerer, all ...prometheus.Collector) error {
	var errs []error
	for _, c := range all {
		errs = append(errs, reg.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// begin has every series that can be foreseen begin at zero, so that its first
// increase is one.
func (m *Metrics) begin(queues []string) {
	for _, queue := range queues {
		m.submitted.WithLabelValues(queue)
		m.queueWait.WithLabelValues(queue)
		for _, reason := range work.Reasons() {
			m.attempts.WithLabelValues(queue, string(reason))
		}
		for _, action := range retryActions {
			m.retries.WithLabelValues(queue, string(action))
		}
		for _, state := range work.States() {
			if state.Terminal() {
				m.ended.WithLabelValues(queue, string(state))
			}
		}
	}
	for _, state := range work.States() {
		if !state.Terminal() {
			m.states.WithLabelValues(string(state))
		}
	}
	for _, status := range []work.PRStatus{work.PRNone, work.PRPending, work.PRCreated, work.PRFailed} {
		m.pullRequests.WithLabelValues(string(status))
	}
	for _, status := range []work.TestStatus{work.TestPassed, work.TestFailed, work.TestTimeout, work.TestSkipped, work.TestError} {
		m.tests.WithLabelValues(string(status))
	}
	m.tokens.WithLabelValues("in")
	m.tokens.WithLabelValues("out")
}

// SetLeader says whether this server leads.
func (m *Metrics) SetLeader(leads bool) { m.leader.Store(leads) }

// Applied counts what a transition came to.
func (m *Metrics) Applied(before, after *work.Item) {
	if before == nil {
		m.submitted.WithLabelValues(after.Spec.Queue).Inc()
		return
	}
	if before.State != after.State {
		m.states.WithLabelValues(string(before.State)).Observe(after.Since().Sub(before.Since()).Seconds())
	}
	m.usage(before, after)
	was, is := before.Current(), after.Current()
	switch {
	case is == nil:
	case before.State == work.StateQueued && after.State == work.StateAssigned:
		due := before.Since()
		if before.NotBefore.After(due) {
			due = before.NotBefore
		}
		m.queueWait.WithLabelValues(after.Spec.Queue).Observe(max(0, is.CreatedAt.Sub(due).Seconds()))
	case was == nil:
	case was.Child == "" && is.Child != "" && !is.Adopted:
		m.dispatch.Observe(is.DispatchedAt.Sub(is.CreatedAt).Seconds())
	case was.State == work.AttemptStarting && is.State == work.AttemptRunning && !is.DispatchedAt.IsZero():
		m.start.Observe(max(0, is.StartedAt.Sub(is.DispatchedAt).Seconds()))
	case !was.State.Terminal() && is.State.Terminal():
		m.attemptEnded(before, after, is)
	}
	switch {
	case !before.State.Terminal() && after.State.Terminal():
		m.itemEnded(after)
	case before.PR.Status != after.PR.Status && before.State.Terminal(): // made again
		m.pullRequests.WithLabelValues(string(after.PR.Status)).Inc()
	}
}

func (m *Metrics) usage(before, after *work.Item) {
	m.tokens.WithLabelValues("in").Add(float64(max(0, after.Tokens.In-before.Tokens.In)))
	m.tokens.WithLabelValues("out").Add(float64(max(0, after.Tokens.Out-before.Tokens.Out)))
	m.cost.Add(max(0, after.CostUSD-before.CostUSD))
}

func (m *Metrics) attemptEnded(before, after *work.Item, a *work.Attempt) {
	m.attempts.WithLabelValues(after.Spec.Queue, string(a.Reason)).Inc()
	if a.Result != nil {
		m.tests.WithLabelValues(string(a.Result.Test.Status)).Inc()
	}
	if after.State == work.StateQueued {
		m.retries.WithLabelValues(after.Spec.Queue, string(actionOf(before, after))).Inc()
	}
}

func (m *Metrics) itemEnded(after *work.Item) {
	m.ended.WithLabelValues(after.Spec.Queue, string(after.State)).Inc()
	m.pullRequests.WithLabelValues(string(after.PR.Status)).Inc()
	if after.State == work.StateCompleted && after.PR.Status == work.PRCreated {
		m.toPR.Observe(after.Since().Sub(after.CreatedAt).Seconds())
	}
}

// retryActions are the rows of the retry table that queue an item again.
var retryActions = []work.Action{work.ActRetry, work.ActRequeue, work.ActWait}

// actionOf returns what queued an item again, from the counter that it spent.
func actionOf(before, after *work.Item) work.Action {
	switch {
	case after.Retries > before.Retries:
		return work.ActRetry
	case after.Requeues > before.Requeues:
		return work.ActRequeue
	}
	return work.ActWait
}

// Reconciled takes note of a full comparison.
func (m *Metrics) Reconciled(took time.Duration, err error) {
	m.reconcile.Observe(took.Seconds())
	if err != nil {
		m.reconcileErrors.Inc()
	}
}

// EventSeen takes note of an event of Nomad's stream.
func (m *Metrics) EventSeen(lag time.Duration) { m.eventLag.Observe(lag.Seconds()) }

// LogsKept takes note of output that was kept.
func (m *Metrics) LogsKept(bytes int) { m.keptBytes.Add(float64(bytes)) }

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: "drover_" + name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "drover_" + name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(histogramOptions(name, help, buckets))
}

func histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(histogramOptions(name, help, buckets), labels)
}

// histogramOptions make a histogram native, and a classic one for those who ask in text.
func histogramOptions(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: "drover_" + name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: nativeFactor, NativeHistogramMaxBucketNumber: maxNativeBuckets, NativeHistogramMinResetDuration: time.Hour,
	}
}
