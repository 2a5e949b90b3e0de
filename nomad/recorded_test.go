package nomad

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"

	"drover/internal/work"
)

// TestRecordedAllocations reads allocations as Nomad 2.0.5 listed them, one for
// each way a task of the docker driver was made to end there. None left a
// result, so drover decides from Nomad's words alone, and those hold traps: 137
// without an OOM, an OOM beside exit code 0, "complete" for what was killed,
// timed out or evicted.
func TestRecordedAllocations(t *testing.T) {
	for name, want := range map[string]struct {
		reason work.Reason
		says   string
	}{
		"exit0":         {work.ReasonCrashed, "left no result"},
		"exit3":         {work.ReasonCrashed, "code 3"},
		"sigkill":       {work.ReasonCrashed, "no word of memory"},
		"oom":           {work.ReasonOOMKilled, "out of memory"},
		"oom-of-child":  {work.ReasonCrashed, "had killed a process of it"},
		"stopped":       {work.ReasonKilledByOperator, "by hand"},
		"alloc-stopped": {work.ReasonDrained, "moved"},
		"timed-out":     {work.ReasonTimeout, "max_run_duration"},
		"no-image":      {work.ReasonStartFailed, "Failed to pull"},
		"preempted":     {work.ReasonPreempted, "higher priority"},
		"lost":          {work.ReasonNodeLost, "node is down"},
		"lost-kept":     {work.ReasonNodeLost, "node is down"},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var stub api.AllocationListStub
			if err := json.Unmarshal(data, &stub); err != nil {
				t.Fatal(err)
			}
			a := fromStub(&stub)
			if !a.Ended() {
				t.Fatal("not seen as ended")
			}
			if end := a.Ending(); end.Reason != want.reason || !strings.Contains(end.Detail, want.says) || len(end.Events) == 0 {
				t.Fatalf("%s: %s; events %v", end.Reason, end.Detail, end.Events)
			}
		})
	}
}
