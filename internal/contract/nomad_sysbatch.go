package contract

import (
	"strings"

	"github.com/hashicorp/nomad/api"
)

// sysbatchCases are about jobs that run once on each of some nodes: the doctor's probe.
var sysbatchCases = []nomadCase{
	{name: "runs once on the node that is named", test: func(t *nomadTest) {
		job := t.sysbatch(t.nodeID(), "exit", "0")
		t.register(job)
		child := t.dispatch(job, "x", "").DispatchedJobID
		alloc := t.awaitAlloc(child, "complete")
		same(t, "node", alloc.NodeID, t.nodeID())
		same(t, "type", *alloc.Job.Type, "sysbatch")
		t.awaitJob(child, "dead")
		same(t, "allocations", len(t.allocs(child)), 1)
	}},
	{name: "a failure is not run again", test: func(t *nomadTest) {
		job := t.sysbatch(t.nodeID(), "exit", "3")
		t.register(job)
		child := t.dispatch(job, "x", "").DispatchedJobID
		t.awaitAlloc(child, "failed")
		t.awaitJob(child, "dead")
		same(t, "allocations", len(t.allocs(child)), 1)
	}},
	{name: "no node that is named", test: func(t *nomadTest) {
		job := t.sysbatch("00000000-0000-0000-0000-000000000000", "exit", "0")
		t.register(job)
		answer := t.dispatch(job, "x", "")
		eval := t.awaitEval(answer.EvalID, "complete")
		same(t, "allocations", len(t.allocs(answer.DispatchedJobID)), 0)
		metric := eval.FailedTGAllocs["worker"]
		if metric == nil {
			t.Fatal("no failure of the group is told")
		}
		same(t, "nodes filtered", metric.NodesFiltered, 1)
		same(t, "queued", eval.QueuedAllocations["worker"], 0)
		same(t, "blocked evaluation", eval.BlockedEval, "")
	}},
	{name: "no room on the node", test: func(t *nomadTest) {
		job := t.sysbatch(t.nodeID(), "exit", "0")
		job.TaskGroups[0].Tasks[0].Resources.MemoryMB = new(1 << 24)
		t.register(job)
		answer := t.dispatch(job, "x", "")
		eval := t.awaitEval(answer.EvalID, "complete")
		metric := eval.FailedTGAllocs["worker"]
		if metric == nil {
			t.Fatal("no failure of the group is told")
		}
		same(t, "memory exhausted", metric.DimensionExhausted["memory"], 1)
		same(t, "queued", eval.QueuedAllocations["worker"], 1)
		same(t, "blocked evaluation", eval.BlockedEval, "")
		same(t, "allocations", len(t.allocs(answer.DispatchedJobID)), 0)
	}},
	{name: "with a reschedule block", test: func(t *nomadTest) {
		job := t.sysbatch(t.nodeID(), "exit", "0")
		job.TaskGroups[0].ReschedulePolicy = &api.ReschedulePolicy{Attempts: new(0), Unlimited: new(false)}
		_, _, err := t.Client.Jobs().Register(job, t.write())
		if err == nil || !strings.Contains(err.Error(), "System or sysbatch jobs should not have a reschedule policy") {
			t.Errorf("register: %v", err)
		}
		t.purgeAfter(*job.ID)
	}},
}

// sysbatch makes a parameterized job that runs on one node.
func (t *nomadTest) sysbatch(node string, args ...string) *api.Job {
	job := t.parameterized(args...)
	job.Type = new(api.JobTypeSysbatch)
	job.TaskGroups[0].ReschedulePolicy = nil
	job.Constraints = append(job.Constraints, api.NewConstraint("${node.unique.id}", "regexp", "^("+node+")$"))
	return job
}

func (t *nomadTest) nodeID() string {
	t.Helper()
	nodes, _, err := t.Client.Nodes().List(t.read())
	t.check(err)
	return nodes[0].ID
}
