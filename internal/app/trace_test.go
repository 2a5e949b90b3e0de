package app_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drover/internal/testkit"
	"drover/internal/testkit/otlptest"
	"drover/internal/work"
)

// twice is an agent that fails in its first attempt. It commits the trace
// context that it was given.
const twice = `echo "$TRACEPARENT" >trace-$DROVER_ATTEMPT; git add -A; git commit -qm "attempt $DROVER_ATTEMPT"; [ "$DROVER_ATTEMPT" != 1 ] || exit 3`

// TestTraceOfARetriedItem has a command line, a server and two workers, each a
// process of its own, send the spans of one item to one receiver, over HTTP and
// over gRPC.
func TestTraceOfARetriedItem(t *testing.T) {
	for protocol, open := range map[string]func(testing.TB) *otlptest.Receiver{"http": otlptest.New, "grpc": otlptest.NewGRPC} {
		t.Run(protocol, func(t *testing.T) { traceOfARetriedItem(t, open(t)) })
	}
}

func traceOfARetriedItem(t *testing.T, receiver *otlptest.Receiver) {
	s := newSpine(t)
	var forWorkers []string
	for name, value := range receiver.Env() {
		forWorkers, s.env = append(forWorkers, fmt.Sprintf("%s = %q", name, value)), append(s.env, name+"="+value)
	}
	s.worker += "\n  env = { " + strings.Join(forWorkers, ", ") + " }"
	s.writeConfig()
	s.start()
	s.reachable()
	id := s.submitByCommand(receiver, "--test", "true", "--", "sh", "-c", twice)
	item := s.await(id)
	if item.State != work.StateCompleted || len(item.Attempts) != 2 {
		t.Fatalf("item is %s after %d attempts: %s", item.State, len(item.Attempts), item.Why)
	}

	trace := work.TraceID(id)
	traceID := hex.EncodeToString(trace[:])
	var spans []otlptest.Span
	testkit.Eventually(t, patience, func() error {
		spans = receiver.Spans(traceID)
		return hasShape(spans)
	})
	if err := nested(spans); err != nil {
		t.Errorf("%v\n%s", err, drawn(spans))
	}
	if err := gapless(spans); err != nil {
		t.Errorf("%v\n%s", err, drawn(spans))
	}
	for n, parent := range iterationsOf(spans) {
		got := s.file(item.Branch, fmt.Sprintf("trace-%d", n+1))
		if want := "00-" + traceID + "-" + parent + "-01"; got != want {
			t.Errorf("the agent of attempt %d was given the trace context %s, want %s", n+1, got, want)
		}
	}
}

// TestNothingIsTracedUnlessAskedFor also has the agent be given no trace context.
func TestNothingIsTracedUnlessAskedFor(t *testing.T) {
	s := newSpine(t)
	s.start()
	ids := s.submitSpecs([]work.Spec{{Task: "x", Command: []string{"sh", "-c", `echo "[$TRACEPARENT]" >trace; git add -A; git commit -qm x`}}})
	item := s.await(ids[0])
	if got := s.file(item.Branch, "trace"); got != "[]" {
		t.Errorf("the agent was given the trace context %s", got)
	}
}

// file returns the text of a file on a branch.
func (s *spine) file(branch, path string) string {
	s.t.Helper()
	text, err := s.git.File(repository, branch, path)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

// reachable waits until a server leads.
func (s *spine) reachable() {
	s.t.Helper()
	testkit.Eventually(s.t, patience, func() error {
		_, err := s.client.Status(s.t.Context())
		return err
	})
}

// submitByCommand runs drover submit and returns the item's id.
func (s *spine) submitByCommand(receiver *otlptest.Receiver, args ...string) string {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(s.bin, "drover"), append([]string{"submit", "-o", "json", "--repo", s.git.URL(repository), "--task", "x"}, args...)...)
	cmd.Env = append(os.Environ(), "DROVER_ADDR=http://"+s.address, "DROVER_TOKEN="+spineToken)
	for name, value := range receiver.Env() {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.Output()
	var items []work.Item
	if err == nil {
		err = json.Unmarshal(out, &items)
	}
	if err != nil || len(items) != 1 {
		s.t.Fatalf("drover submit: %v\n%s", err, out)
	}
	return items[0].ID
}

// parents is the whole shape of a trace: each span's parent, and who sends it.
var parents = map[string]struct{ parent, service string }{
	"item": {"", "drover"}, "submit": {"item", "drover-cli"}, "queued": {"item", "drover"}, "attempt": {"item", "drover"},
	"dispatch": {"attempt", "drover"}, "placement": {"attempt", "drover"}, "run": {"attempt", "drover"},
	"boot": {"run", "drover"}, "report": {"run", "drover"},
	"claim": {"run", "drover-worker"}, "clone": {"run", "drover-worker"}, "agent": {"run", "drover-worker"}, "deliver": {"run", "drover-worker"},
	"tests": {"run", "drover-worker"}, "pull_request": {"run", "drover-worker"},
	"iteration": {"agent", "drover-worker"}, "push": {"", "drover-worker"}, // of agent or deliver
}

// hasShape checks which spans there are, and how often.
func hasShape(spans []otlptest.Span) error {
	count := map[string]int{}
	for _, s := range spans {
		count[s.Name]++
	}
	for name, want := range map[string]int{
		"item": 1, "submit": 1, "queued": 2, "attempt": 2, "dispatch": 2, "placement": 2, "run": 2, "boot": 2, "report": 2,
		"claim": 2, "clone": 2, "agent": 2, "iteration": 2, "deliver": 2, "tests": 1, "pull_request": 1,
	} {
		if count[name] != want {
			return fmt.Errorf("%d spans %s, want %d\n%s", count[name], name, want, drawn(spans))
		}
	}
	if count["push"] < 2 {
		return fmt.Errorf("%d pushes\n%s", count["push"], drawn(spans))
	}
	return nil
}

// nested checks that each span has the parent it should have, in another process
// where it should be, and lies within it.
func nested(spans []otlptest.Span) error {
	byID := map[string]otlptest.Span{}
	for _, s := range spans {
		byID[s.ID] = s
	}
	for _, s := range spans {
		want, known := parents[s.Name]
		if !known || s.Service != want.service {
			return fmt.Errorf("span %s of %s is not expected", s.Name, s.Service)
		}
		if s.Name == "item" {
			continue
		}
		parent, ok := byID[s.Parent]
		if !ok || want.parent != "" && parent.Name != want.parent || s.Name == "push" && parent.Name != "agent" && parent.Name != "deliver" {
			return fmt.Errorf("span %s has the parent %q", s.Name, parent.Name)
		}
		if s.Start < parent.Start || s.End > parent.End || s.End < s.Start {
			return fmt.Errorf("span %s is not within %s", s.Name, parent.Name)
		}
	}
	return nil
}

// gapless checks that the phases of the item and of each attempt follow upon one
// another without a gap: each begins when the one before it ends. Within a run
// the worker tells what it does in the order it does it.
func gapless(spans []otlptest.Span) error {
	for _, parent := range spans {
		var phases []otlptest.Span
		for _, s := range spans {
			if s.Parent == parent.ID && slices.Contains([]string{"queued", "attempt", "dispatch", "placement", "run"}, s.Name) {
				phases = append(phases, s)
			}
		}
		for i := 1; i < len(phases); i++ {
			if phases[i].Start != phases[i-1].End {
				return fmt.Errorf("between %s and %s of %s there is a gap", phases[i-1].Name, phases[i].Name, parent.Name)
			}
		}
		if n := len(phases); n > 0 && phases[n-1].End != parent.End {
			return fmt.Errorf("%s ends after its last phase, %s", parent.Name, phases[n-1].Name)
		}
		if parent.Name == "run" {
			if err := inOrder(spans, parent); err != nil {
				return err
			}
		}
	}
	return nil
}

func inOrder(spans []otlptest.Span, run otlptest.Span) error {
	var names []string
	var last otlptest.Span
	for _, s := range spans {
		if s.Parent != run.ID {
			continue
		}
		if s.Start < last.End {
			return fmt.Errorf("%s begins before %s is over", s.Name, last.Name)
		}
		names, last = append(names, s.Name), s
	}
	got := strings.Join(names, " ")
	if got != "boot claim clone agent deliver report" && got != "boot claim clone agent deliver tests pull_request report" {
		return fmt.Errorf("a run is made of: %s", got)
	}
	first := spans[slices.IndexFunc(spans, func(s otlptest.Span) bool { return s.Parent == run.ID })]
	if first.Start != run.Start || last.End != run.End {
		return fmt.Errorf("a run is longer than its parts")
	}
	return nil
}

// iterationsOf returns the ids of the spans of the agent's iterations.
func iterationsOf(spans []otlptest.Span) (ids []string) {
	for _, s := range spans {
		if s.Name == "iteration" {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func drawn(spans []otlptest.Span) string {
	var b strings.Builder
	for _, s := range spans {
		fmt.Fprintf(&b, "%-14s %-14s %s below %-16s %6d to %6d ms\n", s.Service, s.Name, s.ID, s.Parent, (s.Start-spans[0].Start)/1e6, (s.End-spans[0].Start)/1e6)
	}
	return b.String()
}
