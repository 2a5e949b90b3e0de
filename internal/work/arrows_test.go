package work_test

import (
	"os/exec"
	"strings"
	"testing"
)

// arrows says which packages of ours, or of others, must not be reached from
// which, and why.
var arrows = []struct{ from, never, why string }{
	{"drover/internal/work", "drover/", "the domain knows nobody"},
	{"drover/internal/work", "net/http", "the domain does no I/O"},
	{"drover/internal/queue", "drover/nomad", "the queue is pure"},
	{"drover/internal/queue", "drover/consul", "the queue is pure"},
	{"drover/internal/orchestrator", "drover/nomad", "the orchestrator states what it needs, adapters satisfy it"},
	{"drover/internal/orchestrator", "drover/consul", "the orchestrator states what it needs, adapters satisfy it"},
	{"drover/internal/worker", "drover/nomad", "the worker never speaks to Nomad"},
	{"drover/internal/worker", "drover/consul", "the worker states what it needs, the adapter satisfies it"},
	{"drover/nomad", "drover/consul", "adapters do not know each other"},
	{"drover/nomad", "drover/internal/orchestrator", "adapters satisfy ports without importing them"},
	{"drover/consul", "drover/nomad", "adapters do not know each other"},
	{"drover/consul", "drover/internal/orchestrator", "adapters satisfy ports without importing them"},
	{"drover/consul", "drover/internal/worker", "adapters satisfy ports without importing them"},
	{"drover/internal/telemetry", "drover/internal/orchestrator", "observers satisfy ports without importing them"},
	{"drover/internal/telemetry", "drover/internal/worker", "observers satisfy ports without importing them"},
	{"drover/internal/telemetry", "drover/nomad", "connections are instrumented from outside"},
	{"drover/internal/telemetry", "drover/consul", "connections are instrumented from outside"},
	{"drover/internal/report", "net/http", "the report is pure"},
	{"drover/internal/doctor", "drover/internal/orchestrator", "the doctor needs no server"},
	{"drover/cmd/drover", "drover/internal/testkit", "nothing of the tests is shipped"},
	{"drover/cmd/drover", "drover/internal/contract", "nothing of the tests is shipped"},
	{"drover/cmd/drover", "github.com/hashicorp/nomad", "of Nomad only the api module may be used"},
	{"drover/cmd/drover-worker", "drover/internal/orchestrator", "the worker's binary holds nothing of the server"},
	{"drover/cmd/drover-worker", "drover/nomad", "the worker's binary holds nothing of the server"},
}

func TestImportsFollowTheArrows(t *testing.T) {
	deps := map[string][]string{}
	for _, arrow := range arrows {
		if deps[arrow.from] == nil {
			out, err := exec.Command("go", "list", "-deps", arrow.from).Output()
			if err != nil {
				t.Fatalf("list what %s imports: %v", arrow.from, err)
			}
			deps[arrow.from] = strings.Fields(string(out))
		}
		for _, dep := range deps[arrow.from] {
			if dep != arrow.from && !strings.HasPrefix(dep, "github.com/hashicorp/nomad/api") && strings.HasPrefix(dep+"/", strings.TrimSuffix(arrow.never, "/")+"/") {
				t.Errorf("%s reaches %s: %s", arrow.from, dep, arrow.why)
			}
		}
	}
}
