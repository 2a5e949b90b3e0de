package telemetry

import (
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"drover/internal/work"
)

// Phases of an item and its attempts, and the names of their spans.
//
//	item
//	  submit                          by the client
//	  queued, attempt, queued, attempt, …
//	    dispatch, placement, run      of an attempt
//	      boot                        until the worker claims the attempt
//	      claim, clone, agent, …      by the worker
//	      report                      until the leader has the result
const (
	phaseItem      = "item"
	phaseQueued    = "queued"
	phaseAttempt   = "attempt"
	phaseDispatch  = "dispatch"
	phasePlacement = "placement"
	phaseBoot      = "boot"
	phaseReport    = "report"
)

// plausible is how long before it is stored an item's id may have been made.
const plausible = time.Hour

// phase is a part of an item's life that is over. All of it comes from what is
// stored, so that any leader makes the same of it.
type phase struct {
	name       string
	id, parent trace.SpanID
	start, end time.Time
	failed     string // how it went wrong, if it did
	attributes []attribute.KeyValue
}

// begin is when an item's client made its id, by the id itself.
func begin(item *work.Item) time.Time {
	id, err := ulid.ParseStrict(strings.ToUpper(item.ID))
	if made := ulid.Time(id.Time()); err == nil && made.Before(item.CreatedAt) && made.After(item.CreatedAt.Add(-plausible)) {
		return made
	}
	return item.CreatedAt
}

// phasesOf returns the phases of an item that are over.
func phasesOf(item *work.Item) []phase {
	root := trace.SpanID(work.SpanID(item.ID, phaseItem))
	var phases []phase
	for i, t := range item.History {
		if t.To != work.StateQueued || i+1 == len(item.History) {
			continue
		}
		phases = append(phases, phase{
			name: phaseQueued, id: work.SpanID(item.ID, phaseQueued+strconv.FormatInt(t.At.UnixNano(), 10)), parent: root, start: t.At, end: item.History[i+1].At,
			attributes: []attribute.KeyValue{attribute.String("drover.why", work.RedactSecrets(t.Cause))},
		})
	}
	for i := range item.Attempts {
		phases = append(phases, phasesOfAttempt(&item.Attempts[i], root)...)
	}
	if item.State.Terminal() {
		whole := phase{name: phaseItem, id: root, start: begin(item), end: item.Since(), attributes: []attribute.KeyValue{
			attribute.String("drover.state", string(item.State)), attribute.String("drover.reason", string(item.Reason)),
			attribute.Int("drover.attempts", len(item.Attempts)), attribute.String("drover.pull_request", item.PR.URL),
		}}
		if item.State != work.StateCompleted {
			whole.failed = item.Why
		}
		phases = append(phases, whole)
	}
	return phases
}

// phasesOfAttempt returns the phases of an attempt that has ended, nil of one
// that goes on: when its container began is told by two clocks, and both are
// known at the end.
func phasesOfAttempt(a *work.Attempt, root trace.SpanID) []phase {
	if !a.State.Terminal() {
		return nil
	}
	span := func(name string) trace.SpanID { return work.SpanID(string(a.ID), name) }
	failed := ""
	if a.State != work.AttemptCompleted {
		failed = string(a.Reason) + ": " + a.Detail
	}
	attributes := []attribute.KeyValue{
		attribute.Int("drover.attempt", a.Number), attribute.String("drover.reason", string(a.Reason)),
		attribute.String("nomad.job", a.Child), attribute.String("nomad.alloc", a.Allocation), attribute.String("nomad.node", a.Node),
	}
	phases := []phase{{name: phaseAttempt, id: span(phaseAttempt), parent: root, start: a.CreatedAt, end: a.EndedAt, failed: failed, attributes: attributes}}
	started, result := a.StartedAt, a.Result
	if result != nil && (started.IsZero() || result.StartedAt.Before(started)) {
		started = result.StartedAt
	}
	// What did not come to be ends with the attempt.
	add := func(name string, parent trace.SpanID, from, to time.Time) {
		if from.IsZero() {
			return
		}
		p := phase{name: name, id: span(name), parent: parent, start: from, end: to}
		if to.IsZero() || to.After(a.EndedAt) {
			p.end, p.failed = a.EndedAt, failed
		}
		phases = append(phases, p)
	}
	attempt, run := span(phaseAttempt), span(work.PhaseRun)
	add(phaseDispatch, attempt, a.CreatedAt, a.DispatchedAt)
	add(phasePlacement, attempt, a.DispatchedAt, started)
	if !started.IsZero() {
		phases = append(phases, phase{name: work.PhaseRun, id: run, parent: attempt, start: started, end: a.EndedAt, failed: failed})
	}
	if result != nil {
		add(phaseBoot, run, started, result.StartedAt)
		add(phaseReport, run, result.EndedAt, a.EndedAt)
	}
	return phases
}
