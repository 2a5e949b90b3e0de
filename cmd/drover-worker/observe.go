package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"drover/internal/telemetry"
)

// tracesTimeout bounds how long the worker's end waits for its spans to be sent.
const tracesTimeout = 3 * time.Second

// observed is how the worker is seen.
type observed struct {
	log      hclog.Logger
	registry *prometheus.Registry
	backends *telemetry.Backends
	traces   *telemetry.Traces
}

// observe opens log, metrics and traces as the environment says. The log is JSON,
// as whoever collects a container's output wants it, unless a person looks on.
func observe(ctx context.Context, env map[string]string, to io.Writer) (*observed, error) {
	logs, err := telemetry.NewLogs(telemetry.LogOptions{
		Name: "drover-worker", Output: to, JSON: cmp.Or(env["DROVER_LOG_FORMAT"], formatHere()) == formatJSON,
		Level: cmp.Or(env["DROVER_LOG_LEVEL"], "info"),
	})
	if err != nil {
		return nil, err
	}
	o := &observed{log: logs.Logger(), registry: prometheus.NewRegistry()}
	var tracing error
	o.backends, err = telemetry.NewBackends(o.registry)
	o.traces, tracing = telemetry.OpenTraces(ctx, func(name string) string { return env[name] }, "drover-worker", version, o.log)
	return o, errors.Join(err, tracing)
}

const (
	formatJSON = "json"
	formatText = "text"
)

// formatHere is text where standard error is a terminal.
func formatHere() string {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		return formatText
	}
	return formatJSON
}

// close sends what is left of the spans.
func (o *observed) close() {
	ctx, cancel := context.WithTimeout(context.Background(), tracesTimeout)
	defer cancel()
	if err := o.traces.Close(ctx); err != nil {
		o.log.Warn("last spans not sent", "error", err)
	}
}
