package contract

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

var parseCases = []nomadCase{
	{name: "shipped file with its variables", test: func(t *nomadTest) {
		job := t.parse(t.JobFile, t.Variables+"\nmemory = 64\njob_id = \"renamed\"\nenv = { A = \"b\" }\n")
		task := job.TaskGroups[0].Tasks[0]
		same(t, "id", *job.ID, "renamed")
		same(t, "type", *job.Type, "batch")
		same(t, "driver", task.Driver, t.Driver)
		same(t, "memory", *task.Resources.MemoryMB, 64)
		same(t, "kill timeout", *task.KillTimeout, 20*time.Second)
		same(t, "env", task.Env["A"], "b")
		same(t, "consul address", task.Env["CONSUL_HTTP_ADDR"], "${attr.unique.network.ip-address}:8500")
		same(t, "restart attempts", *job.TaskGroups[0].RestartPolicy.Attempts, 0)
		same(t, "reschedule attempts", *job.TaskGroups[0].ReschedulePolicy.Attempts, 0)
		same(t, "replace", *job.TaskGroups[0].Disconnect.Replace, false)
		same(t, "optional meta", strings.Join(job.ParameterizedJob.MetaOptional, " "), "item attempt traceparent")
		same(t, "payload file", task.DispatchPayload.File, "item.json")
		same(t, "template changes", *task.Templates[0].ChangeMode, "noop")
	}},
	{name: "links are written out for Nomad's UI", test: func(t *nomadTest) {
		job := t.parse(t.JobFile, t.Variables+"\nlinks = { Items = \"https://consul.example.com/ui\", Help = \"https://example.com\" }\n")
		var links []string
		for _, link := range job.UI.Links {
			links = append(links, link.Label+" "+link.URL)
		}
		same(t, "links", strings.Join(links, ", "), "Help https://example.com, Items https://consul.example.com/ui")
		same(t, "links of none", len(t.parse(t.JobFile, t.Variables).UI.Links), 0)
	}},
	{name: "cores replace cpu", test: func(t *nomadTest) {
		withCores := t.parse(t.JobFile, t.Variables+"\ncores = 1\n").TaskGroups[0].Tasks[0].Resources
		same(t, "cores", *withCores.Cores, 1)
		withCPU := t.parse(t.JobFile, t.Variables+"\ncores = 0\ncpu = 123\n").TaskGroups[0].Tasks[0].Resources
		same(t, "cpu", *withCPU.CPU, 123)
		if withCPU.Cores != nil && *withCPU.Cores != 0 {
			t.Errorf("cores: got %d, want none", *withCPU.Cores)
		}
	}},
	{name: "runtime references stay", test: func(t *nomadTest) {
		job := t.parse(`job "a" {
			group "g" {
				task "t" {
					driver = "x"
					config {
						command = "${NOMAD_TASK_DIR}/run"
						list    = ["${node.unique.name}", upper("b")]
					}
					env { HOME_DIR = "${meta.a}-${env["HOME"]}" }
					template {
						destination = "local/x"
						data        = <<EOT
{{ env "X" }} $${literal} ${attr.cpu.arch}
EOT
					}
				}
			}
		}`, "")
		task := job.TaskGroups[0].Tasks[0]
		same(t, "config", task.Config["command"].(string), "${NOMAD_TASK_DIR}/run")
		same(t, "list", task.Config["list"].([]any)[0].(string), "${node.unique.name}")
		same(t, "function", task.Config["list"].([]any)[1].(string), "B")
		same(t, "env", task.Env["HOME_DIR"], `${meta.a}-${env["HOME"]}`)
		same(t, "heredoc", *task.Templates[0].EmbeddedTmpl, "{{ env \"X\" }} ${literal} ${attr.cpu.arch}\n")
	}},
	{name: "unknown block has a position", test: func(t *nomadTest) {
		err := t.parseError("job \"a\" {\n  grupp \"g\" {}\n}", "")
		t.refused(err, http.StatusBadRequest, "input.hcl:2,3-8")
	}},
	{name: "unknown attribute has a position", test: func(t *nomadTest) {
		err := t.parseError("job \"a\" {\n  group \"g\" {\n    cuont = 2\n  }\n}", "")
		t.refused(err, http.StatusBadRequest, "input.hcl:3,5-10")
	}},
	{name: "unset variable", test: func(t *nomadTest) {
		err := t.parseError(`variable "v" {}
			job "a" { meta = { k = var.v } }`, "")
		t.refused(err, http.StatusBadRequest, "Unset variable")
	}},
	{name: "undeclared variable is ignored", test: func(t *nomadTest) {
		t.check(t.parseError(`job "a" {}`, "nothing = 1\n"))
	}},
	{name: "syntax error", test: func(t *nomadTest) {
		t.refused(t.parseError(`job "a" {`, ""), http.StatusBadRequest, "input.hcl:1")
	}},
}

func (t *nomadTest) parse(text, variables string) *api.Job {
	t.Helper()
	job, err := t.Client.Jobs().ParseHCLOpts(&api.JobsParseRequest{JobHCL: text, Variables: variables, Canonicalize: true})
	t.check(err)
	return job
}

func (t *nomadTest) parseError(text, variables string) error {
	t.Helper()
	_, err := t.Client.Jobs().ParseHCLOpts(&api.JobsParseRequest{JobHCL: text, Variables: variables})
	return err
}

// refused checks the status code and a part of the text of an error.
func (t *nomadTest) refused(err error, code int, text string) {
	t.Helper()
	response, ok := errors.AsType[api.UnexpectedResponseError](err)
	if !ok {
		t.Fatalf("got error %v, want a response of %d with %q", err, code, text)
	}
	same(t, "status code", response.StatusCode(), code)
	if !strings.Contains(response.Body(), text) {
		t.Errorf("got body %q, want one with %q", response.Body(), text)
	}
}

var registerCases = []nomadCase{
	{name: "parameterized job runs nothing", test: func(t *nomadTest) {
		job := t.parameterized("exit", "0")
		answer := t.register(job)
		same(t, "evaluation", answer.EvalID, "")
		read, _, err := t.Client.Jobs().Info(*job.ID, t.read())
		t.check(err)
		same(t, "status", *read.Status, "running")
		same(t, "version", *read.Version, 0)
		same(t, "allocations", len(t.allocs(*job.ID)), 0)
	}},
	{name: "same again is the same version", test: func(t *nomadTest) {
		job := t.parameterized("exit", "0")
		first := t.register(job)
		second := t.register(job)
		if second.JobModifyIndex < first.JobModifyIndex {
			t.Errorf("job modify index went from %d to %d", first.JobModifyIndex, second.JobModifyIndex)
		}
		same(t, "versions", t.versions(*job.ID), 1)
	}},
	{name: "a change is a new version", test: func(t *nomadTest) {
		job := t.parameterized("exit", "0")
		t.register(job)
		job.Meta = map[string]string{"changed": "yes"}
		t.register(job)
		same(t, "versions", t.versions(*job.ID), 2)
	}},
	{name: "enforced index", test: func(t *nomadTest) {
		job := t.parameterized("exit", "0")
		first, _, err := t.Client.Jobs().EnforceRegister(job, 0, t.write())
		t.check(err)
		t.purgeAfter(*job.ID)
		_, _, err = t.Client.Jobs().EnforceRegister(job, 0, t.write())
		t.refused(err, http.StatusInternalServerError, "Enforcing job modify index 0: job already exists")
		_, _, err = t.Client.Jobs().EnforceRegister(job, first.JobModifyIndex, t.write())
		t.check(err)
	}},
	{name: "list by prefix, with meta when asked", test: func(t *nomadTest) {
		job := t.parameterized("exit", "0")
		job.Meta = map[string]string{"k": "v"}
		t.register(job)
		t.register(t.parameterized("exit", "0"))
		list, meta, err := t.Client.Jobs().List(&api.QueryOptions{Prefix: *job.ID})
		t.check(err)
		same(t, "jobs", len(list), 1)
		same(t, "parameterized", list[0].ParameterizedJob, true)
		same(t, "meta", len(list[0].Meta), 0)
		if meta.LastIndex == 0 {
			t.Error("the list carries no index")
		}
		list, _, err = t.Client.Jobs().ListOptions(&api.JobListOptions{Fields: &api.JobListFields{Meta: true}}, &api.QueryOptions{Prefix: *job.ID})
		t.check(err)
		same(t, "meta", list[0].Meta["k"], "v")
	}},
	{name: "unknown job", test: func(t *nomadTest) {
		_, _, err := t.Client.Jobs().Info(t.prefix+"/nothing", t.read())
		t.refused(err, http.StatusNotFound, "job not found")
	}},
	{name: "invalid job", test: func(t *nomadTest) {
		job := t.job("exit", "0")
		job.TaskGroups = nil
		_, _, err := t.Client.Jobs().Register(job, t.write())
		t.refused(err, http.StatusInternalServerError, "Missing job task groups")
	}},
	{name: "unknown namespace", test: func(t *nomadTest) {
		job := t.job("exit", "0")
		job.Namespace = new("nowhere")
		_, _, err := t.Client.Jobs().Register(job, t.write())
		t.refused(err, http.StatusInternalServerError, "is in nonexistent namespace")
	}},
	{name: "deregister of an unknown job is no error", test: func(t *nomadTest) {
		eval, _, err := t.Client.Jobs().Deregister(t.prefix+"-nothing", false, t.write())
		t.check(err)
		same(t, "evaluation", eval, "")
	}},
	{name: "stop keeps the job, purge forgets it", test: func(t *nomadTest) {
		job := t.parameterized("exit", "0")
		t.register(job)
		_, _, err := t.Client.Jobs().Deregister(*job.ID, false, t.write())
		t.check(err)
		read, _, err := t.Client.Jobs().Info(*job.ID, t.read())
		t.check(err)
		same(t, "stop", *read.Stop, true)
		same(t, "status", *read.Status, "dead")
		_, _, err = t.Client.Jobs().Deregister(*job.ID, true, t.write())
		t.check(err)
		_, _, err = t.Client.Jobs().Info(*job.ID, t.read())
		t.refused(err, http.StatusNotFound, "job not found")
	}},
	{name: "blocking read of a list", test: func(t *nomadTest) {
		job := t.parameterized("exit", "0")
		t.register(job)
		_, meta, err := t.Client.Jobs().List(&api.QueryOptions{Prefix: t.prefix})
		t.check(err)
		woken := make(chan uint64, 1)
		go func() {
			query := t.read()
			query.WaitIndex, query.WaitTime = meta.LastIndex, nomadPatience
			_, next, err := t.Client.Jobs().List(query)
			if err != nil {
				woken <- 0
				return
			}
			woken <- next.LastIndex
		}()
		t.register(t.parameterized("exit", "0"))
		if index := <-woken; index <= meta.LastIndex {
			t.Errorf("blocking list came back with index %d, not over %d", index, meta.LastIndex)
		}
	}},
}

func (t *nomadTest) versions(id string) int {
	t.Helper()
	versions, _, _, err := t.Client.Jobs().Versions(id, false, t.read())
	t.check(err)
	return len(versions)
}

var dispatchCases = []nomadCase{
	{name: "child carries payload, meta and parent", test: func(t *nomadTest) {
		parent := t.parameterized("payload")
		t.register(parent)
		answer := t.dispatch(parent, `{"task":"x"}`, "")
		if !strings.HasPrefix(answer.DispatchedJobID, *parent.ID+"/dispatch-i1.1-") {
			t.Errorf("child's ID is %s", answer.DispatchedJobID)
		}
		if answer.EvalID == "" || answer.JobCreateIndex == 0 || answer.EvalCreateIndex == 0 {
			t.Errorf("incomplete answer %+v", answer)
		}
		alloc := t.awaitAlloc(answer.DispatchedJobID, "complete")
		t.sameLog(alloc, "stdout", `{"task":"x"}`)
		child, _, err := t.Client.Jobs().Info(answer.DispatchedJobID, t.read())
		t.check(err)
		same(t, "parent", *child.ParentID, *parent.ID)
		same(t, "dispatched", child.Dispatched, true)
		same(t, "meta", child.Meta["item"], "i1")
		same(t, "payload", string(child.Payload), `{"task":"x"}`)
	}},
	{name: "idempotency token", test: func(t *nomadTest) {
		parent := t.parameterized("exit", "0")
		t.register(parent)
		first := t.dispatch(parent, "", "token")
		again := t.dispatch(parent, "", "token")
		same(t, "child", again.DispatchedJobID, first.DispatchedJobID)
		same(t, "evaluation of the second", again.EvalID, "")
		same(t, "create index", again.JobCreateIndex, first.JobCreateIndex)
		other := t.dispatch(parent, "", "another")
		if other.DispatchedJobID == first.DispatchedJobID {
			t.Error("another token gave the same child")
		}
		t.awaitAlloc(first.DispatchedJobID, "complete")
		same(t, "child after its end", t.dispatch(parent, "", "token").DispatchedJobID, first.DispatchedJobID)
	}},
	{name: "purge frees the token", test: func(t *nomadTest) {
		parent := t.parameterized("exit", "0")
		t.register(parent)
		first := t.dispatch(parent, "", "token")
		t.awaitAlloc(first.DispatchedJobID, "complete")
		_, _, err := t.Client.Jobs().Deregister(first.DispatchedJobID, true, t.write())
		t.check(err)
		if again := t.dispatch(parent, "", "token"); again.DispatchedJobID == first.DispatchedJobID {
			t.Error("the token outlived its child")
		}
	}},
	{name: "payload at the limit and over it", test: func(t *nomadTest) {
		parent := t.parameterized("exit", "0")
		t.register(parent)
		t.dispatch(parent, strings.Repeat("x", 16384), "")
		err := t.dispatchError(*parent.ID, strings.Repeat("x", 16385), map[string]string{"item": "i", "attempt": "1"}, 0)
		t.refused(err, http.StatusInternalServerError, "Payload exceeds maximum size; 16385 > 16384")
	}},
	{name: "missing meta", test: func(t *nomadTest) {
		parent := t.parameterized("exit", "0")
		t.register(parent)
		err := t.dispatchError(*parent.ID, "", map[string]string{"item": "i"}, 0)
		t.refused(err, http.StatusInternalServerError, "Dispatch did not provide required meta keys: [attempt]")
	}},
	{name: "unknown meta", test: func(t *nomadTest) {
		parent := t.parameterized("exit", "0")
		t.register(parent)
		err := t.dispatchError(*parent.ID, "", map[string]string{"item": "i", "attempt": "1", "more": "x"}, 0)
		t.refused(err, http.StatusInternalServerError, "Dispatch request included unpermitted metadata keys: [more]")
	}},
	{name: "priority", test: func(t *nomadTest) {
		parent := t.parameterized("exit", "0")
		t.register(parent)
		answer, _, err := t.Client.Jobs().DispatchOpts(&api.DispatchOptions{
			JobID: *parent.ID, Meta: map[string]string{"item": "i", "attempt": "1"}, Priority: 70,
		}, t.write())
		t.check(err)
		child, _, err := t.Client.Jobs().Info(answer.DispatchedJobID, t.read())
		t.check(err)
		same(t, "priority", *child.Priority, 70)
		err = t.dispatchError(*parent.ID, "", map[string]string{"item": "i", "attempt": "1"}, 101)
		t.refused(err, http.StatusInternalServerError, "dispatch job priority must be between [1, 100]")
	}},
	{name: "unknown parent", test: func(t *nomadTest) {
		t.refused(t.dispatchError(t.prefix+"-nothing", "", nil, 0), http.StatusInternalServerError, "parameterized job not found")
	}},
	{name: "parent that is none", test: func(t *nomadTest) {
		job := t.job("exit", "0")
		t.register(job)
		t.refused(t.dispatchError(*job.ID, "", nil, 0), http.StatusInternalServerError, "is not a parameterized job")
	}},
	{name: "stopped parent", test: func(t *nomadTest) {
		parent := t.parameterized("exit", "0")
		t.register(parent)
		_, _, err := t.Client.Jobs().Deregister(*parent.ID, false, t.write())
		t.check(err)
		err = t.dispatchError(*parent.ID, "", map[string]string{"item": "i", "attempt": "1"}, 0)
		t.refused(err, http.StatusInternalServerError, `is stopped`)
	}},
	{name: "children are listed by prefix, with their meta", test: func(t *nomadTest) {
		parent := t.parameterized("exit", "0")
		t.register(parent)
		one, two := t.dispatch(parent, "", "1"), t.dispatch(parent, "", "2")
		list, _, err := t.Client.Jobs().ListOptions(&api.JobListOptions{Fields: &api.JobListFields{Meta: true}}, &api.QueryOptions{Prefix: *parent.ID + "/dispatch-"})
		t.check(err)
		var ids []string
		for _, stub := range list {
			ids = append(ids, stub.ID)
			same(t, "parent", stub.ParentID, *parent.ID)
			same(t, "meta", stub.Meta["attempt"], "1")
		}
		want := []string{one.DispatchedJobID, two.DispatchedJobID}
		slices.Sort(ids)
		slices.Sort(want)
		same(t, "children", strings.Join(ids, " "), strings.Join(want, " "))
	}},
	{name: "purged parent leaves its children", test: func(t *nomadTest) {
		parent := t.parameterized("sleep")
		t.register(parent)
		child := t.dispatch(parent, "", "")
		t.awaitAlloc(child.DispatchedJobID, "running")
		_, _, err := t.Client.Jobs().Deregister(*parent.ID, true, t.write())
		t.check(err)
		read, _, err := t.Client.Jobs().Info(child.DispatchedJobID, t.read())
		t.check(err)
		same(t, "status of the child", *read.Status, "running")
	}},
}

func (t *nomadTest) dispatchError(parent, payload string, meta map[string]string, priority int) error {
	_, _, err := t.Client.Jobs().DispatchOpts(&api.DispatchOptions{JobID: parent, Payload: []byte(payload), Meta: meta, Priority: priority}, t.write())
	return err
}
