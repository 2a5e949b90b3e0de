package contract

import (
	"net/http"
	"strings"

	"github.com/hashicorp/nomad/api"
)

var schedulingCases = []nomadCase{
	{name: "evaluation of what is placed", test: func(t *nomadTest) {
		job := t.job("exit", "0")
		answer := t.register(job)
		eval := t.awaitEval(answer.EvalID, "complete")
		same(t, "trigger", eval.TriggeredBy, "job-register")
		same(t, "failures", len(eval.FailedTGAllocs), 0)
		t.awaitAlloc(*job.ID, "complete")
		allocs, _, err := t.Client.Evaluations().Allocations(answer.EvalID, t.read())
		t.check(err)
		same(t, "allocations", len(allocs), 1)
	}},
	{name: "what is too big waits in a blocked evaluation", test: func(t *nomadTest) {
		job := t.job("exit", "0")
		job.TaskGroups[0].Tasks[0].Resources.MemoryMB = new(1 << 24)
		answer := t.register(job)
		eval := t.awaitEval(answer.EvalID, "complete")
		metric := eval.FailedTGAllocs["worker"]
		if metric == nil {
			t.Fatal("no failure of the group is told")
		}
		same(t, "nodes exhausted", metric.NodesExhausted, 1)
		same(t, "memory exhausted", metric.DimensionExhausted["memory"], 1)
		same(t, "queued", eval.QueuedAllocations["worker"], 1)
		blocked := t.awaitEval(eval.BlockedEval, "blocked")
		same(t, "trigger", blocked.TriggeredBy, "queued-allocs")
		same(t, "previous", blocked.PreviousEval, eval.ID)
		same(t, "memory exhausted", blocked.FailedTGAllocs["worker"].DimensionExhausted["memory"], 1)
		same(t, "allocations", len(t.allocs(*job.ID)), 0)
		t.awaitJob(*job.ID, "pending")
		summary, _, err := t.Client.Jobs().Summary(*job.ID, t.read())
		t.check(err)
		same(t, "queued in the summary", summary.Summary["worker"].Queued, 1)
		_, _, err = t.Client.Jobs().Deregister(*job.ID, false, t.write())
		t.check(err)
		t.awaitEval(blocked.ID, "canceled")
	}},
	{name: "room that is given back is used", test: func(t *nomadTest) {
		half := t.nodeMemory()*2/3 - 100
		first, second := t.job("sleep"), t.job("exit", "0")
		first.TaskGroups[0].Tasks[0].Resources.MemoryMB = new(half)
		second.TaskGroups[0].Tasks[0].Resources.MemoryMB = new(half)
		t.register(first)
		t.awaitAlloc(*first.ID, "running")
		answer := t.register(second)
		t.awaitEval(t.awaitEval(answer.EvalID, "complete").BlockedEval, "blocked")
		_, _, err := t.Client.Jobs().Deregister(*first.ID, false, t.write())
		t.check(err)
		t.awaitAlloc(*second.ID, "complete")
	}},
	{name: "unknown driver finds no node", test: func(t *nomadTest) {
		job := t.job("exit", "0")
		job.TaskGroups[0].Tasks[0].Driver = "no_such_driver"
		answer := t.register(job)
		metric := t.awaitEval(answer.EvalID, "complete").FailedTGAllocs["worker"]
		if metric == nil {
			t.Fatal("no failure of the group is told")
		}
		same(t, "filtered", metric.ConstraintFiltered["missing drivers"], 1)
	}},
	{name: "the node", test: func(t *nomadTest) {
		nodes, _, err := t.Client.Nodes().List(t.read())
		t.check(err)
		same(t, "nodes", len(nodes), 1)
		same(t, "status", nodes[0].Status, "ready")
		same(t, "driver", nodes[0].Drivers[t.Driver].Healthy, true)
		node, _, err := t.Client.Nodes().Info(nodes[0].ID, t.read())
		t.check(err)
		if node.NodeResources.Memory.MemoryMB <= 0 || node.NodeResources.Cpu.CpuShares <= 0 {
			t.Errorf("node offers %+v", node.NodeResources)
		}
		if node.Attributes["unique.network.ip-address"] == "" {
			t.Error("node has no address")
		}
		job := t.job("sleep")
		t.register(job)
		alloc := t.awaitAlloc(*job.ID, "running")
		allocs, _, err := t.Client.Nodes().Allocations(node.ID, t.read())
		t.check(err)
		found := false
		for _, a := range allocs {
			found = found || a.ID == alloc.ID
		}
		same(t, "allocation listed", found, true)
	}},
	{name: "agent and status", test: func(t *nomadTest) {
		self, err := t.Client.Agent().Self()
		t.check(err)
		version, _ := self.Config["Version"].(map[string]any)
		same(t, "version", version["Version"].(string), "2.0.5")
		leader, err := t.Client.Status().Leader()
		t.check(err)
		if leader == "" {
			t.Error("no leader")
		}
		regions, err := t.Client.Regions().List()
		t.check(err)
		same(t, "regions", strings.Join(regions, " "), "global")
		health, err := t.Client.Agent().Health()
		t.check(err)
		same(t, "server", health.Server.Ok, true)
		members, err := t.Client.Agent().Members()
		t.check(err)
		same(t, "members", len(members.Members), 1)
	}},
	{name: "namespaces", test: func(t *nomadTest) {
		name := t.prefix + "-ns"
		_, err := t.Client.Namespaces().Register(&api.Namespace{Name: name}, t.write())
		t.check(err)
		job := t.parameterized("exit", "0")
		job.Namespace = &name
		_, _, err = t.Client.Jobs().Register(job, t.write())
		t.check(err)
		t.Cleanup(func() {
			if _, _, err := t.Client.Jobs().Deregister(*job.ID, true, &api.WriteOptions{Namespace: name}); err != nil {
				t.Errorf("purge %s: %v", *job.ID, err)
			}
		})
		there, _, err := t.Client.Jobs().List(&api.QueryOptions{Namespace: name})
		t.check(err)
		same(t, "jobs there", len(there), 1)
		_, _, err = t.Client.Jobs().Info(*job.ID, t.read())
		t.refused(err, http.StatusNotFound, "job not found")
		all, _, err := t.Client.Jobs().List(&api.QueryOptions{Namespace: "*", Prefix: *job.ID})
		t.check(err)
		same(t, "jobs anywhere", len(all), 1)
	}},
}

func (t *nomadTest) awaitEval(id, status string) *api.Evaluation {
	t.Helper()
	var eval *api.Evaluation
	t.eventually("evaluation "+id+" to be "+status, func() bool {
		var err error
		eval, _, err = t.Client.Evaluations().Info(id, t.read())
		return err == nil && eval.Status == status
	})
	return eval
}

func (t *nomadTest) nodeMemory() int {
	t.Helper()
	nodes, _, err := t.Client.Nodes().List(t.read())
	t.check(err)
	node, _, err := t.Client.Nodes().Info(nodes[0].ID, t.read())
	t.check(err)
	return int(node.NodeResources.Memory.MemoryMB)
}

var variableCases = []nomadCase{
	{name: "put, get, list, delete", test: func(t *nomadTest) {
		path := t.prefix + "/one"
		stored, _, err := t.Client.Variables().Create(&api.Variable{Path: path, Items: map[string]string{"a": "1"}}, t.write())
		t.check(err)
		read, _, err := t.Client.Variables().Read(path, t.read())
		t.check(err)
		same(t, "item", read.Items["a"], "1")
		same(t, "index", read.ModifyIndex, stored.ModifyIndex)
		list, _, err := t.Client.Variables().PrefixList(t.prefix+"/one", t.read())
		t.check(err)
		same(t, "listed", len(list), 1)
		_, err = t.Client.Variables().Delete(path, t.write())
		t.check(err)
		_, _, err = t.Client.Variables().Read(path, t.read())
		if err == nil || !strings.Contains(err.Error(), "variable not found") {
			t.Errorf("read of a deleted variable: %v", err)
		}
	}},
	{name: "check and set", test: func(t *nomadTest) {
		path := t.prefix + "/cas"
		first, _, err := t.Client.Variables().CheckedCreate(&api.Variable{Path: path, Items: map[string]string{"a": "1"}}, t.write())
		t.check(err)
		_, _, err = t.Client.Variables().CheckedCreate(&api.Variable{Path: path, Items: map[string]string{"a": "2"}}, t.write())
		if _, conflict := err.(api.ErrCASConflict); !conflict {
			t.Fatalf("second create: %v, want a conflict", err)
		}
		first.Items["a"] = "3"
		_, _, err = t.Client.Variables().CheckedUpdate(first, t.write())
		t.check(err)
		_, _, err = t.Client.Variables().CheckedUpdate(first, t.write())
		if _, conflict := err.(api.ErrCASConflict); !conflict {
			t.Errorf("update of a stale index: %v, want a conflict", err)
		}
	}},
	{name: "empty variable", test: func(t *nomadTest) {
		_, _, err := t.Client.Variables().Create(&api.Variable{Path: t.prefix + "/none", Items: map[string]string{}}, t.write())
		if err == nil || !strings.Contains(err.Error(), "variable missing required Items object") {
			t.Errorf("create of an empty variable: %v", err)
		}
	}},
	{name: "shipped template makes an environment of a variable", test: func(t *nomadTest) {
		path := "nomad/jobs/" + t.prefix + "-secrets"
		odd := "a \"quoted\" <word> #hash $dollar 'single'\nand a second line"
		_, _, err := t.Client.Variables().Create(&api.Variable{Path: path, Items: map[string]string{"PLAIN": "x", "ODD": odd}}, t.write())
		t.check(err)
		t.Cleanup(func() { _, _ = t.Client.Variables().Delete(path, nil) })
		alloc := t.runFile("env PLAIN ODD", "memory = 64\nsecrets_path = \""+path+"\"\n")
		t.sameLog(alloc, "stdout", "PLAIN=x\nODD="+odd+"\n")
	}},
	{name: "shipped template without its variable", test: func(t *nomadTest) {
		alloc := t.runFile("env PLAIN", "secrets_path = \"nomad/jobs/"+t.prefix+"-none\"\n")
		t.sameLog(alloc, "stdout", "PLAIN=\n")
	}},
}

// runFile runs testtask by the shipped specification to a successful end.
func (t *nomadTest) runFile(task, variables string) *api.Allocation {
	t.Helper()
	return t.awaitAlloc(t.startFile(task, variables), "complete")
}

// startFile begins to run testtask by the shipped specification, and returns the child's id.
func (t *nomadTest) startFile(task, variables string) string {
	t.Helper()
	job := t.parse(t.JobFile, t.Variables+"\ncores = 0\ncpu = 50\nenv = { TESTTASK = \""+task+"\" }\n"+variables)
	job.ID, job.Name = new(t.prefix+"-run"), new(t.prefix+"-run")
	t.register(job)
	return t.dispatch(job, "{}", "").DispatchedJobID
}
