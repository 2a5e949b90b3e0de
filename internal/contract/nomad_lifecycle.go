package contract

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

var lifecycleCases = []nomadCase{
	{name: "exit 0", test: func(t *nomadTest) {
		job := t.job("exit", "0")
		t.register(job)
		alloc := t.awaitAlloc(*job.ID, "complete")
		same(t, "description", alloc.ClientDescription, "All tasks have completed")
		same(t, "desired status", alloc.DesiredStatus, "run")
		same(t, "events", kinds(alloc), "Received, Task Setup, Started, Terminated")
		ended := t.eventOf(alloc, "Terminated")
		same(t, "exit code", ended.Details["exit_code"], "0")
		same(t, "oom_killed", ended.Details["oom_killed"], "false")
		state := alloc.TaskStates["worker"]
		same(t, "task state", state.State, "dead")
		same(t, "failed", state.Failed, false)
		if state.StartedAt.IsZero() || state.FinishedAt.Before(state.StartedAt) {
			t.Errorf("started at %v, finished at %v", state.StartedAt, state.FinishedAt)
		}
		t.awaitJob(*job.ID, "dead")
	}},
	{name: "exit 1", test: func(t *nomadTest) {
		job := t.job("exit", "1")
		t.register(job)
		alloc := t.awaitAlloc(*job.ID, "failed")
		same(t, "description", alloc.ClientDescription, "Failed tasks")
		same(t, "events", kinds(alloc), "Received, Task Setup, Started, Terminated, Not Restarting")
		same(t, "exit code", t.eventOf(alloc, "Terminated").Details["exit_code"], "1")
		last := t.eventOf(alloc, "Not Restarting")
		same(t, "restart reason", last.Details["restart_reason"], "Policy allows no restarts")
		same(t, "fails task", last.Details["fails_task"], "true")
		same(t, "failed", alloc.TaskStates["worker"].Failed, true)
		t.awaitJob(*job.ID, "dead")
		same(t, "allocations", len(t.allocs(*job.ID)), 1)
	}},
	{name: "killed by a signal", test: func(t *nomadTest) {
		job := t.job("kill")
		t.register(job)
		alloc := t.awaitAlloc(*job.ID, "failed")
		ended := t.eventOf(alloc, "Terminated")
		same(t, "exit code", ended.Details["exit_code"], "137")
		if t.Driver == "raw_exec" {
			same(t, "signal", ended.Details["signal"], "9")
			same(t, "display", ended.DisplayMessage, "Exit Code: 137, Signal: 9")
		}
		t.eventOf(alloc, "Not Restarting")
	}},
	{name: "too much memory", driver: "docker", test: func(t *nomadTest) {
		job := t.job("feed", "100")
		t.register(job)
		alloc := t.awaitAlloc(*job.ID, "failed")
		ended := t.eventOf(alloc, "Terminated")
		same(t, "oom_killed", ended.Details["oom_killed"], "true")
		same(t, "exit code", ended.Details["exit_code"], "137")
		same(t, "signal", ended.Details["signal"], "0")
		same(t, "exit message", ended.Details["exit_message"], "OOM Killed")
		same(t, "display", ended.DisplayMessage, `Exit Code: 137, Exit Message: "OOM Killed"`)
	}},
	{name: "exit message", driver: "docker", test: func(t *nomadTest) {
		job := t.job("exit", "3")
		t.register(job)
		ended := t.eventOf(t.awaitAlloc(*job.ID, "failed"), "Terminated")
		same(t, "exit message", ended.Details["exit_message"], "Docker container exited with non-zero exit code: 3")
	}},
	{name: "limits of the shipped file", driver: "docker", test: func(t *nomadTest) {
		alloc := t.runFile("limits", "memory = 64\npids = 77\n")
		t.sameLog(alloc, "stdout", "memory 67108864\npids 77\nroot read-only\n/tmp writable\n/local writable\ncapabilities 00000000000000e0\nno new privileges 1\n")
	}},
	{name: "the shipped file's port", test: func(t *nomadTest) {
		alloc := t.runFile("env NOMAD_PORT_health NOMAD_HOST_PORT_health NOMAD_ADDR_health NOMAD_HOST_ADDR_health", "memory = 64\n")
		ports := alloc.AllocatedResources.Shared.Ports
		if len(ports) != 1 || ports[0].Label != "health" || ports[0].Value < 20000 || ports[0].Value > 32000 {
			t.Fatalf("ports %+v", ports)
		}
		port, address := strconv.Itoa(ports[0].Value), net.JoinHostPort(ports[0].HostIP, strconv.Itoa(ports[0].Value))
		t.sameLog(alloc, "stdout", fmt.Sprintf("NOMAD_PORT_health=%s\nNOMAD_HOST_PORT_health=%s\nNOMAD_ADDR_health=%s\nNOMAD_HOST_ADDR_health=%s\n", port, port, address, address))
	}},
	{name: "the shipped file's port reaches the task", test: func(t *nomadTest) {
		child := t.startFile("serve NOMAD_PORT_health", "memory = 64\n")
		port := t.awaitAlloc(child, "running").AllocatedResources.Shared.Ports[0]
		t.eventually("hello", func() bool {
			conn, err := net.Dial("tcp", net.JoinHostPort(port.HostIP, strconv.Itoa(port.Value)))
			if err != nil {
				return false
			}
			defer conn.Close()
			said, err := io.ReadAll(conn)
			return err == nil && string(said) == "hello\n"
		})
		t.awaitAlloc(child, "complete")
	}},
	{name: "command that isn't there", test: func(t *nomadTest) {
		job := t.job("exit", "0")
		task := job.TaskGroups[0].Tasks[0]
		if t.Driver == "docker" {
			task.Config["image"] = "drover-no-such-image:1"
		} else {
			task.Config["command"] = "/no/such/command"
		}
		t.register(job)
		alloc := t.awaitAlloc(*job.ID, "failed")
		if t.eventOf(alloc, "Driver Failure").Details["driver_error"] == "" {
			t.Error("the failure has no text")
		}
		same(t, "fails task", t.eventOf(alloc, "Not Restarting").Details["fails_task"], "true")
		same(t, "started", alloc.TaskStates["worker"].StartedAt.IsZero(), true)
	}},
	{name: "deregister ends the task by its signal", test: func(t *nomadTest) {
		job := t.job("sleep")
		t.register(job)
		t.awaitLine(t.awaitAlloc(*job.ID, "running"), "sleeping")
		eval, _, err := t.Client.Jobs().Deregister(*job.ID, false, t.write())
		t.check(err)
		if eval == "" {
			t.Error("no evaluation")
		}
		alloc := t.awaitAlloc(*job.ID, "complete")
		same(t, "desired status", alloc.DesiredStatus, "stop")
		same(t, "desired description", alloc.DesiredDescription, "alloc not needed due to job update")
		same(t, "events", kinds(alloc), "Received, Task Setup, Started, Killing, Terminated, Killed")
		same(t, "kill timeout", t.eventOf(alloc, "Killing").Details["kill_timeout"], "2s")
		same(t, "killing", t.eventOf(alloc, "Killing").DisplayMessage, "Sent interrupt. Waiting 2s before force killing")
		same(t, "exit code", t.eventOf(alloc, "Terminated").Details["exit_code"], "0")
		same(t, "killed", t.eventOf(alloc, "Killed").DisplayMessage, "Task successfully killed")
		same(t, "failed", alloc.TaskStates["worker"].Failed, false)
		t.awaitJob(*job.ID, "dead")
	}},
	{name: "a deaf task is killed after its timeout", test: func(t *nomadTest) {
		job := t.job("stubborn")
		t.register(job)
		t.awaitLine(t.awaitAlloc(*job.ID, "running"), "ignoring")
		_, _, err := t.Client.Jobs().Deregister(*job.ID, false, t.write())
		t.check(err)
		alloc := t.awaitAlloc(*job.ID, "complete")
		same(t, "exit code", t.eventOf(alloc, "Terminated").Details["exit_code"], "137")
		same(t, "failed", alloc.TaskStates["worker"].Failed, false)
	}},
	{name: "purge forgets job and allocation at once, and soon the logs", test: func(t *nomadTest) {
		job := t.job("sleep")
		t.register(job)
		id := t.awaitAlloc(*job.ID, "running").ID
		_, _, err := t.Client.Jobs().Deregister(*job.ID, true, t.write())
		t.check(err)
		_, _, err = t.Client.Allocations().Info(id, t.read())
		t.refused(err, http.StatusNotFound, "alloc not found")
		t.eventually("the logs to be gone", func() bool {
			body, err := t.openLogs(t.Context(), id, url.Values{"type": {"stdout"}})
			if err == nil {
				_ = body.Close()
			}
			return err != nil
		})
		same(t, "allocations", len(t.allocs(*job.ID)), 0)
	}},
	{name: "stopping an allocation places another", test: func(t *nomadTest) {
		job := t.job("sleep")
		t.register(job)
		first := t.awaitAlloc(*job.ID, "running")
		_, err := t.Client.Allocations().Stop(first, t.read())
		t.check(err)
		var second *api.AllocationListStub
		t.eventually("a running replacement", func() bool {
			for _, a := range t.allocs(*job.ID) {
				if a.ID != first.ID && a.ClientStatus == "running" {
					second = a
				}
			}
			return second != nil
		})
		replacement, _, err := t.Client.Allocations().Info(second.ID, t.read())
		t.check(err)
		same(t, "previous allocation", replacement.PreviousAllocation, first.ID)
		t.eventually("the first to be complete", func() bool {
			alloc, _, err := t.Client.Allocations().Info(first.ID, t.read())
			return err == nil && alloc.ClientStatus == "complete" && alloc.DesiredStatus == "stop"
		})
	}},
	{name: "environment of the task", test: func(t *nomadTest) {
		parent := t.parameterized("env", "NOMAD_ALLOC_ID", "NOMAD_JOB_ID", "NOMAD_JOB_PARENT_ID", "NOMAD_META_item", "NOMAD_META_ATTEMPT",
			"NOMAD_META_traceparent", "NOMAD_TASK_NAME", "NOMAD_GROUP_NAME", "NOMAD_MEMORY_LIMIT", "NOMAD_NAMESPACE", "NOMAD_DC", "OWN")
		parent.TaskGroups[0].Tasks[0].Env = map[string]string{"OWN": "${NOMAD_TASK_NAME} on ${node.datacenter} ${unknown.x}"}
		t.register(parent)
		child := t.dispatch(parent, "", "").DispatchedJobID
		alloc := t.awaitAlloc(child, "complete")
		t.sameLog(alloc, "stdout", strings.Join([]string{
			"NOMAD_ALLOC_ID=" + alloc.ID, "NOMAD_JOB_ID=" + child, "NOMAD_JOB_PARENT_ID=" + *parent.ID, "NOMAD_META_item=i1", "NOMAD_META_ATTEMPT=1",
			"NOMAD_META_traceparent=", "NOMAD_TASK_NAME=worker", "NOMAD_GROUP_NAME=worker", "NOMAD_MEMORY_LIMIT=32", "NOMAD_NAMESPACE=default",
			"NOMAD_DC=dc1", "OWN=worker on dc1 ${unknown.x}", "",
		}, "\n"))
	}},
	{name: "shipped file runs", test: func(t *nomadTest) {
		job := t.parse(t.JobFile, t.Variables+"\nmemory = 64\ncores = 0\ncpu = 50\nenv = { TESTTASK = \"env CONSUL_HTTP_ADDR\" }\njob_id = \""+t.prefix+"-file\"\n")
		t.register(job)
		alloc := t.awaitAlloc(t.dispatch(job, "{}", "").DispatchedJobID, "complete")
		t.eventually("a line of output", func() bool { return t.readLogs(alloc.ID, url.Values{"type": {"stdout"}}) != "" })
		out := t.readLogs(alloc.ID, url.Values{"type": {"stdout"}})
		if !strings.HasPrefix(out, "CONSUL_HTTP_ADDR=") || strings.Contains(out, "$") || !strings.HasSuffix(out, ":8500\n") {
			t.Errorf("the Consul address of the node is not in %q", out)
		}
	}},
}

func kinds(alloc *api.Allocation) string {
	var out []string
	for _, e := range alloc.TaskStates["worker"].Events {
		if e.Type != "Driver" {
			out = append(out, e.Type)
		}
	}
	return strings.Join(out, ", ")
}

func (t *nomadTest) awaitJob(id, status string) {
	t.Helper()
	t.eventually("job "+id+" to be "+status, func() bool {
		job, _, err := t.Client.Jobs().Info(id, t.read())
		return err == nil && *job.Status == status
	})
}
