package work

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/oklog/ulid/v2"
)

// TraceID returns the id of an item's trace: the item's own 16 bytes, so that
// everyone who knows the item knows its trace, whoever leads and whichever
// attempt runs. It is zero for what is no item's id.
func TraceID(item string) [16]byte {
	id, err := ulid.ParseStrict(strings.ToUpper(item))
	if err != nil {
		return [16]byte{}
	}
	return id
}

// SpanID returns the id of the span of an item's or attempt's phase. It comes
// from the names alone: a span that is told twice is the same span.
func SpanID(of, phase string) (id [8]byte) {
	sum := sha256.Sum256([]byte(of + "\x00" + phase))
	copy(id[:], sum[:])
	return id
}

// PhaseRun is the phase of an attempt in which its container runs. What a worker
// does is below it.
const PhaseRun = "run"

// Traceparent returns the W3C trace context of an attempt's run.
func Traceparent(a AttemptID) string {
	trace, span := TraceID(a.Item()), SpanID(string(a), PhaseRun)
	return "00-" + hex.EncodeToString(trace[:]) + "-" + hex.EncodeToString(span[:]) + "-01"
}

// LogFields are what every line of a log says that concerns an item: pairs of a
// name and a value. attempt is the one it is about, nil for none.
func (i *Item) LogFields(attempt *Attempt) []any {
	number, allocation := 0, ""
	if attempt != nil {
		number, allocation = attempt.Number, attempt.Allocation
	}
	return logFields(i.ID, number, i.Spec, allocation)
}

// LogFields are Item.LogFields for the worker of an allocation.
func (e Envelope) LogFields(allocation string) []any {
	return logFields(e.Item, e.Attempt.Number(), e.Spec, allocation)
}

func logFields(item string, attempt int, spec Spec, allocation string) []any {
	trace := TraceID(item)
	return []any{
		"item", item, "attempt", attempt, "queue", spec.Queue, "repository", RedactURL(spec.Repository),
		"alloc", allocation, "trace_id", hex.EncodeToString(trace[:]),
	}
}
