package worker

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"drover/internal/worker/agent"
)

// traced returns a context whose spans are below the attempt's run, and tells
// how long it took to claim the attempt.
func (w *worker) traced(ctx context.Context, claimed time.Time) context.Context {
	if w.Tracer == nil {
		w.Tracer = noop.NewTracerProvider().Tracer("")
	}
	w.began = claimed.UTC()
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": w.envelope.Traceparent})
	_, claim := w.Tracer.Start(ctx, "claim", trace.WithTimestamp(w.began), trace.WithAttributes(
		attribute.String("drover.item", w.envelope.Item), attribute.Int("drover.attempt", w.envelope.Attempt.Number()),
		attribute.String("nomad.alloc", w.Allocation)))
	claim.End()
	return ctx
}

// span begins a span of what the worker does next. ended ends it, with an error
// where it went wrong.
func (w *worker) span(ctx context.Context, name string, about ...attribute.KeyValue) (below context.Context, ended func(error)) {
	below, span := w.Tracer.Start(ctx, name, trace.WithAttributes(about...))
	return below, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, w.Redactor.String(err.Error()))
		}
		span.End()
	}
}

// environ returns the worker's environment, with the trace context of what the
// agent is part of in place of the attempt's.
func (w *worker) environ(ctx context.Context) []string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return w.Environ
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return append(slices.Clone(w.Environ), "TRACEPARENT="+carrier["traceparent"])
}

// failure is what a span ends with: nil for an empty text.
func failure(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}

// failed says how a run of the agent went wrong, nil if it did not.
func (o outcome) failed(ctx context.Context) error {
	switch {
	case o.err != nil:
		return o.err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case o.status != agent.ExitComplete || o.exit.Signal != 0:
		return failure("the agent ended with " + o.exit.String())
	}
	return nil
}
