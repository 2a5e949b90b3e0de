package telemetry

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"drover/internal/work"
)

const (
	scope = "drover"
	// exportEvery is how long a span waits for others to be sent with.
	exportEvery = time.Second
	// replayed is how far back a new leader tells spans again that the last one
	// may have had no time to send.
	replayed = 2 * time.Minute
)

// Traces sends spans to an OpenTelemetry collector. It may be used concurrently.
type Traces struct {
	provider *sdktrace.TracerProvider // nil where nothing is traced
	tracer   trace.Tracer
	now      func() time.Time
}

// OpenTraces returns the traces of a program as the standard variables say:
// OTEL_TRACES_EXPORTER=otlp, or an OTEL_EXPORTER_OTLP_ENDPOINT, switches them on,
// OTEL_EXPORTER_OTLP_PROTOCOL chooses between http/protobuf and grpc, and the
// exporters read the rest of the variables themselves. getenv is os.Getenv, or
// stands for it. It returns work.ErrInvalid for a value that it does not know.
func OpenTraces(ctx context.Context, getenv func(string) string, service, version string, log hclog.Logger) (*Traces, error) {
	t := &Traces{tracer: noop.NewTracerProvider().Tracer(scope), now: time.Now}
	on, err := tracingIsOn(getenv)
	if err != nil || !on {
		return t, err
	}
	client, err := otlpClient(getenv)
	if err != nil {
		return nil, err
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("traces: %v: %w", err, work.ErrInvalid)
	}
	// What the environment says of the resource comes last, and counts.
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(attribute.String("service.name", service), attribute.String("service.version", version)),
		resource.WithFromEnv())
	if err != nil {
		log.Warn("resource of traces is not as the environment says", "error", err)
	}
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&quiet{SpanExporter: exporter, log: log}, sdktrace.WithBatchTimeout(exportEvery)),
		sdktrace.WithResource(about), sdktrace.WithIDGenerator(derived{}))
	t.tracer = t.provider.Tracer(scope)
	return t, nil
}

func tracingIsOn(getenv func(string) string) (bool, error) {
	switch exporter := getenv("OTEL_TRACES_EXPORTER"); {
	case strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true"), exporter == "none":
		return false, nil
	case exporter == "otlp":
		return true, nil
	case exporter != "":
		return false, fmt.Errorf("OTEL_TRACES_EXPORTER=%s: use otlp or none: %w", exporter, work.ErrInvalid)
	}
	return getenv("OTEL_EXPORTER_OTLP_ENDPOINT")+getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "", nil
}

func otlpClient(getenv func(string) string) (otlptrace.Client, error) {
	protocol := getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = getenv("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch protocol {
	case "", "http/protobuf":
		return otlptracehttp.NewClient(), nil
	case "grpc":
		return otlptracegrpc.NewClient(), nil
	}
	return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL=%s: use http/protobuf or grpc: %w", protocol, work.ErrInvalid)
}

// Enabled reports whether spans are sent.
func (t *Traces) Enabled() bool { return t.provider != nil }

// Tracer makes spans.
func (t *Traces) Tracer() trace.Tracer { return t.tracer }

// Close sends what waits to be sent, for as long as ctx lasts.
func (t *Traces) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// quiet logs what could not be sent: it is nobody else's trouble.
type quiet struct {
	sdktrace.SpanExporter
	log hclog.Logger
}

func (q *quiet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := q.SpanExporter.ExportSpans(ctx, spans); err != nil {
		q.log.Warn("spans not sent", "spans", len(spans), "error", err)
	}
	return nil
}

// Loaded tells again what the leader before may not have told. A span's id comes
// from what it is about, so that one that arrives twice is the same.
func (t *Traces) Loaded(items []*work.Item) {
	since := t.now().Add(-replayed)
	for _, item := range items {
		if t.provider == nil || item.UpdatedAt.Before(since) {
			continue
		}
		for _, p := range phasesOf(item) {
			if p.end.After(since) {
				t.tell(item, p)
			}
		}
	}
}

// Applied tells the phases that came to their end with a transition.
func (t *Traces) Applied(before, after *work.Item) {
	if t.provider == nil {
		return
	}
	told := map[trace.SpanID]bool{}
	if before != nil {
		for _, p := range phasesOf(before) {
			told[p.id] = true
		}
	}
	for _, p := range phasesOf(after) {
		if !told[p.id] {
			t.tell(after, p)
		}
	}
}

// tell makes a span of a phase that is over.
func (t *Traces) tell(item *work.Item, p phase) {
	ctx := context.WithValue(context.Background(), idKey{}, ids{trace: traceID(item.ID), span: p.id})
	if p.parent.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, spanContext(item.ID, p.parent))
	}
	attributes := append([]attribute.KeyValue{
		attribute.String("drover.item", item.ID), attribute.String("drover.queue", item.Spec.Queue),
		attribute.String("drover.repository", work.RedactURL(item.Spec.Repository)),
	}, p.attributes...)
	_, span := t.tracer.Start(ctx, p.name, trace.WithTimestamp(p.start), trace.WithAttributes(attributes...))
	if p.failed != "" {
		span.SetStatus(codes.Error, work.RedactSecrets(p.failed))
	}
	span.End(trace.WithTimestamp(p.end))
}

// Submitted tells of items that a client had stored, from when their ids were made.
func (t *Traces) Submitted(items []work.Item) {
	for _, item := range items {
		ctx := trace.ContextWithRemoteSpanContext(context.Background(), spanContext(item.ID, trace.SpanID(work.SpanID(item.ID, phaseItem))))
		_, span := t.tracer.Start(ctx, "submit", trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(begin(&item)),
			trace.WithAttributes(attribute.String("drover.item", item.ID)))
		span.End()
	}
}

// WithTraceparent returns a context whose spans are below the one of a W3C trace context.
func WithTraceparent(ctx context.Context, traceparent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

func traceID(item string) trace.TraceID { return work.TraceID(item) }

func spanContext(item string, span trace.SpanID) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID(item), SpanID: span, TraceFlags: trace.FlagsSampled, Remote: true})
}

// derived gives a span the ids that its context holds, and random ones without.
type derived struct{}

type idKey struct{}

type ids struct {
	trace trace.TraceID
	span  trace.SpanID
}

// NewIDs implements sdktrace.IDGenerator.
func (d derived) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if wanted, ok := ctx.Value(idKey{}).(ids); ok {
		return wanted.trace, wanted.span
	}
	var id trace.TraceID
	_, _ = rand.Read(id[:]) // never fails
	return id, d.NewSpanID(ctx, id)
}

// NewSpanID implements sdktrace.IDGenerator.
func (derived) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if wanted, ok := ctx.Value(idKey{}).(ids); ok {
		return wanted.span
	}
	var id trace.SpanID
	_, _ = rand.Read(id[:]) // never fails
	return id
}
