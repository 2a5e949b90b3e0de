package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"drover/internal/control"
)

// healthHeaderTimeout bounds how long a client may take to say what it wants.
const healthHeaderTimeout = 5 * time.Second

// metrics count what one attempt does. No label names the item: its worker's
// numbers are gone with it, and a monitoring system would keep a series of each.
type metrics struct {
	pushes, failedPushes prometheus.Counter
	lockWait             *prometheus.HistogramVec // by outcome
}

// Outcomes of requests for locks.
const (
	lockGiven  = "given"
	lockHeld   = "held" // by another, for too long
	lockFailed = "failed"
)

// Of the histogram of waits for locks: the growth from one native bucket to the
// next, and classic ones in seconds.
const lockFactor = 1.1

var lockBuckets = []float64{.01, .05, .25, 1, 5, 15, 30, 60, 120}

// newMetrics registers the worker's metrics.
func newMetrics(w *worker) *metrics {
	m := &metrics{
		pushes:       prometheus.NewCounter(prometheus.CounterOpts{Name: "drover_worker_pushes_total", Help: "Pushes that moved the remote branch."}),
		failedPushes: prometheus.NewCounter(prometheus.CounterOpts{Name: "drover_worker_failed_pushes_total", Help: "Pushes that failed, each try counted."}),
	}
	m.lockWait = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "drover_worker_lock_wait_seconds", Help: "Time that requests for locks of paths took, by their outcome.",
		Buckets: lockBuckets, NativeHistogramBucketFactor: lockFactor,
	}, []string{"outcome"})
	for _, outcome := range []string{lockGiven, lockHeld, lockFailed} {
		m.lockWait.WithLabelValues(outcome)
	}
	if w.Registry == nil {
		return m
	}
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value)
	}
	const tokens, tokensHelp = "drover_worker_tokens", "Tokens the item has used, over all attempts."
	var errs []error
	for _, c := range []prometheus.Collector{
		m.pushes, m.failedPushes, m.lockWait,
		gauge("drover_worker_iterations", "Iterations the item has begun, over all attempts.", nil,
			func() float64 { return float64(w.journal.progress().Iteration) }),
		gauge(tokens, tokensHelp, prometheus.Labels{"direction": "in"}, func() float64 { return float64(w.journal.progress().Tokens.In) }),
		gauge(tokens, tokensHelp, prometheus.Labels{"direction": "out"}, func() float64 { return float64(w.journal.progress().Tokens.Out) }),
		gauge("drover_worker_sign_of_life_age_seconds", "Time since the agent's last sign of life.", nil,
			func() float64 { return w.heart.silence().Seconds() }),
		gauge("drover_worker_heartbeat_age_seconds", "Time since the last heartbeat that Consul took.", nil,
			func() float64 { return w.heart.sinceBeat().Seconds() }),
		gauge("drover_worker_cost_usd", "Cost of the item in US dollars, over all attempts, as far as its agent stated it.", nil,
			func() float64 { return w.journal.progress().CostUSD }),
	} {
		errs = append(errs, w.Registry.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		w.log.Warn("metrics not registered", "error", err)
	}
	return m
}

// serveHealth serves /health and /metrics until stop is called. Without them the
// work goes on.
func (w *worker) serveHealth(hold context.Context) (stop func()) {
	if w.Health == "" {
		return func() {}
	}
	listener, err := net.Listen("tcp", w.Health)
	if err != nil {
		w.log.Warn("health is not served", "error", err)
		return func() {}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(answer http.ResponseWriter, _ *http.Request) {
		health := control.Health{Live: true, Ready: true}
		if err := w.healthy(hold); err != nil {
			health.Ready, health.Reasons = false, []string{w.Redactor.String(err.Error())}
		}
		answer.Header().Set("Content-Type", "application/json")
		if !health.Ready {
			answer.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(answer).Encode(health) // the client has gone; nobody is left to tell
	})
	if w.Registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(w.Registry, promhttp.HandlerOpts{}))
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: healthHeaderTimeout}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			w.log.Warn("health is not served any more", "error", err)
		}
	})
	w.log.Info("serving health", "address", listener.Addr())
	return func() {
		_ = server.Close() // nobody is to wait for the worker any more
		serving.Wait()
	}
}

// healthy returns nil while the claim is held and Consul hears from the worker in time.
func (w *worker) healthy(hold context.Context) error {
	if err := context.Cause(hold); err != nil {
		return fmt.Errorf("the attempt is not this worker's: %w", err)
	}
	if f := w.heart.fenced(); f != nil {
		return fmt.Errorf("fenced since %s: %w", f.since.UTC().Format(time.RFC3339), f.cause)
	}
	if silent := w.heart.sinceBeat(); silent > w.heart.ttl {
		return fmt.Errorf("no heartbeat for %s, more than %s", silent.Round(time.Second), w.heart.ttl)
	}
	return nil
}
