package telemetry_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/telemetry"
	"drover/internal/testkit"
	"drover/internal/testkit/otlptest"
	"drover/internal/work"
)

const patience = 30 * time.Second

func openTraces(t *testing.T, endpoint string) *telemetry.Traces {
	t.Helper()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
	traces, err := telemetry.OpenTraces(t.Context(), func(name string) string { return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}[name] }, "test", "1", hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return traces
}

// lives returns an item's states from its submission to its completion, after a retry.
func lives(t *testing.T, now time.Time) (states []work.Item) {
	t.Helper()
	item := work.NewItem(work.NewID(now), work.Spec{Repository: "https://u:secret-word@git.example.org/a.git", Task: "x"}.WithDefaults(work.NewDefaults()), now)
	states = append(states, item)
	policy := work.DefaultRetryPolicy()
	policy.Backoff = []work.Duration{0}
	apply := func(event work.Event) {
		next, err := work.Apply(item, event, policy, now)
		if err != nil {
			t.Fatal(err)
		}
		item = next
		states = append(states, item)
		now = now.Add(10 * time.Millisecond)
	}
	for _, reason := range []work.Reason{work.ReasonCrashed, work.ReasonCompleted} {
		apply(work.Assigned{})
		a := item.CurrentID()
		apply(work.Dispatched{Attempt: a, Child: "c"})
		apply(work.Started{Attempt: a, Allocation: "a", Node: "n", At: now})
		end := work.Ending{Reason: reason, Detail: "as the test says"}
		if reason == work.ReasonCompleted {
			end.Result = &work.Result{Attempt: a, Reason: reason, Detail: "done", StartedAt: now.Add(-time.Millisecond), EndedAt: now}
		}
		apply(work.Ended{Attempt: a, Ending: end})
	}
	return states
}

func traceOf(item work.Item) string {
	id := work.TraceID(item.ID)
	return hex.EncodeToString(id[:])
}

// TestLeaderThatDiesLosesNoSpan has each transition stored by a leader that dies
// before it sends a single span, and another take over.
func TestLeaderThatDiesLosesNoSpan(t *testing.T) {
	receiver := otlptest.New(t)
	states := lives(t, time.Now().Add(-time.Second))
	item := states[len(states)-1]
	for i := range states[1:] {
		next := openTraces(t, receiver.URL)
		next.Loaded([]*work.Item{&states[i+1]})
		if err := next.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	afterDeaths := receiver.Spans(traceOf(item))

	other := otlptest.New(t)
	one := openTraces(t, other.URL)
	for i := range states[1:] {
		one.Applied(&states[i], &states[i+1])
	}
	if err := one.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	undisturbed := other.Spans(traceOf(item))
	if len(undisturbed) != 2*5+1+2 || fmt.Sprint(undisturbed) != fmt.Sprint(afterDeaths) {
		t.Errorf("one leader sends\n%v\nand those that die\n%v", undisturbed, afterDeaths)
	}
	for _, s := range undisturbed {
		if s.Attributes["drover.repository"] == "" || containsSecret(s) {
			t.Errorf("span %s has the attributes %v", s.Name, s.Attributes)
		}
	}
}

func containsSecret(s otlptest.Span) bool {
	for _, value := range s.Attributes {
		if len(value) > 0 && work.RedactURL(value) != value {
			return true
		}
	}
	return false
}

func TestAnUnreachableCollectorIsNobodysTrouble(t *testing.T) {
	traces := openTraces(t, "http://127.0.0.1:1")
	states := lives(t, time.Now())
	traces.Applied(&states[0], &states[1])
	testkit.Eventually(t, patience, func() error { return traces.Close(t.Context()) })
}

func TestTracesAreOffAndOnByTheStandardVariables(t *testing.T) {
	for name, c := range map[string]struct {
		env map[string]string
		on  bool
		bad bool
	}{
		"nothing":               {env: nil},
		"an endpoint":           {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, on: true},
		"an endpoint of traces": {env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, on: true},
		"otlp":                  {env: map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, on: true},
		"grpc":                  {env: map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, on: true},
		"none":                  {env: map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}},
		"disabled":              {env: map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}},
		"other exporter":        {env: map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, bad: true},
		"other protocol":        {env: map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, bad: true},
	} {
		traces, err := telemetry.OpenTraces(t.Context(), func(name string) string { return c.env[name] }, "test", "1", hclog.NewNullLogger())
		if errors.Is(err, work.ErrInvalid) != c.bad || err == nil && traces.Enabled() != c.on {
			t.Errorf("%s: %+v, %v", name, traces, err)
		}
		if err == nil {
			_ = traces.Close(t.Context()) // no collector is there
		}
	}
}
