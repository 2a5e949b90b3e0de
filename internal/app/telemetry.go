package app

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"drover/internal/control"
	"drover/internal/telemetry"
	"drover/internal/work"
)

// telemetryOf is how one server is seen: it observes the orchestrator on behalf
// of metrics and traces.
type telemetryOf struct {
	registry *prometheus.Registry
	metrics  *telemetry.Metrics
	backends *telemetry.Backends
	traces   *telemetry.Traces // nil where nothing is traced
}

func (s *Server) newTelemetry() (*telemetryOf, error) {
	t := &telemetryOf{registry: prometheus.NewRegistry()}
	if s.opts.Traces != nil && s.opts.Traces.Enabled() {
		t.traces = s.opts.Traces
	}
	var err error
	t.metrics, err = telemetry.NewMetrics(t.registry, telemetry.MetricsOptions{
		Version: s.opts.Version, Queues: slices.Sorted(maps.Keys(s.opts.Config.Queues())), Census: s.census,
	})
	if err != nil {
		return nil, err
	}
	t.backends, err = telemetry.NewBackends(t.registry)
	return t, err
}

// census counts the items where this server leads.
func (s *Server) census(now time.Time) (control.Census, bool) {
	o := s.leading.Load()
	if o == nil {
		return control.Census{}, false
	}
	return o.Census(now), true
}

func (t *telemetryOf) handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{})
}

// Loaded and the other methods make it an orchestrator's observer.
func (t *telemetryOf) Loaded(items []*work.Item) {
	if t.traces != nil {
		t.traces.Loaded(items)
	}
}

// Applied counts a transition and tells its spans.
func (t *telemetryOf) Applied(before, after *work.Item) {
	t.metrics.Applied(before, after)
	if t.traces != nil {
		t.traces.Applied(before, after)
	}
}

func (t *telemetryOf) Reconciled(took time.Duration, err error) { t.metrics.Reconciled(took, err) }

func (t *telemetryOf) EventSeen(lag time.Duration) { t.metrics.EventSeen(lag) }

func (t *telemetryOf) LogsKept(bytes int) { t.metrics.LogsKept(bytes) }

// local is what this server tells of itself.
type local struct{ *Server }

// LogLevels returns the level of each subsystem.
func (l local) LogLevels() map[string]string { return l.opts.Logs.Levels() }

// SetLogLevel sets a subsystem's level. It returns work.ErrInvalid.
func (l local) SetLogLevel(subsystem, level string) error {
	err := l.opts.Logs.SetLevel(subsystem, level)
	if err == nil {
		l.log.Info("log level set", "subsystem", subsystem, "level", level)
	}
	return err
}
