package contract

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// streamLine is one line of the event stream as it is on the wire.
type streamLine struct {
	Index  uint64
	Events []struct {
		Topic, Type, Key, Namespace string
		FilterKeys                  []string
		Index                       uint64
		Payload                     map[string]json.RawMessage
	}
}

var eventCases = []nomadCase{
	{name: "first line is a heartbeat", test: func(t *nomadTest) {
		lines := t.stream("0", "Allocation:*")
		if !lines.Scan() || lines.Text() != "{}" {
			t.Errorf("first line is %q", lines.Text())
		}
	}},
	{name: "life of an allocation", test: func(t *nomadTest) {
		index := t.index()
		job := t.job("exit", "3")
		t.register(job)
		t.follow(strconv.FormatUint(index, 10), []string{"Allocation:*"}, func(line streamLine) bool {
			for _, e := range line.Events {
				same(t, "topic", e.Topic, "Allocation")
				var alloc map[string]json.RawMessage
				t.check(json.Unmarshal(e.Payload["Allocation"], &alloc))
				if text(alloc["JobID"]) != *job.ID {
					continue
				}
				if job := string(alloc["Job"]); job != "" && job != "null" {
					t.Errorf("the event carries the job: %s", job)
				}
				same(t, "first filter key", e.FilterKeys[0], *job.ID)
				same(t, "key", e.Key, text(alloc["ID"]))
				same(t, "namespace", e.Namespace, "default")
				if text(alloc["ClientStatus"]) == "failed" {
					same(t, "type", e.Type, "AllocationUpdated")
					var states map[string]*api.TaskState
					t.check(json.Unmarshal(alloc["TaskStates"], &states))
					same(t, "events", kinds(&api.Allocation{TaskStates: states}), "Received, Task Setup, Started, Terminated, Not Restarting")
					return true
				}
			}
			return false
		})
	}},
	{name: "placement is an event of a plan", test: func(t *nomadTest) {
		index := t.index()
		job := t.job("exit", "0")
		t.register(job)
		t.awaitEvent(index, "Allocation", "PlanResult", *job.ID)
	}},
	{name: "registration, evaluation and deregistration", test: func(t *nomadTest) {
		index := t.index()
		job := t.job("exit", "0")
		answer := t.register(job)
		t.awaitEvent(index, "Job", "JobRegistered", *job.ID)
		t.awaitEvent(index, "Evaluation", "JobRegistered", answer.EvalID)
		t.awaitEvent(index, "Evaluation", "EvaluationUpdated", answer.EvalID)
		t.awaitAlloc(*job.ID, "complete")
		_, _, err := t.Client.Jobs().Deregister(*job.ID, true, t.write())
		t.check(err)
		t.awaitEvent(index, "Job", "JobDeregistered", *job.ID)
	}},
	{name: "resuming includes the index", test: func(t *nomadTest) {
		index := t.index()
		job := t.parameterized("exit", "0")
		answer := t.register(job)
		seen := t.awaitEvent(index, "Job", "JobRegistered", *job.ID)
		same(t, "index of the event", seen, answer.JobModifyIndex)
		same(t, "again from that index", t.awaitEvent(seen, "Job", "JobRegistered", *job.ID), seen)
	}},
	{name: "index of 0 replays", test: func(t *nomadTest) {
		job := t.parameterized("exit", "0")
		t.register(job)
		t.awaitEvent(0, "Job", "JobRegistered", *job.ID)
	}},
	{name: "one key of a topic", test: func(t *nomadTest) {
		index := t.index()
		other, job := t.parameterized("exit", "0"), t.parameterized("exit", "0")
		t.register(other)
		t.register(job)
		t.follow(strconv.FormatUint(index, 10), []string{"Job:" + *job.ID}, func(line streamLine) bool {
			for _, e := range line.Events {
				same(t, "key", e.Key, *job.ID)
			}
			return len(line.Events) > 0
		})
	}},
	{name: "bad topic", test: func(t *nomadTest) {
		_, err := t.Client.Raw().Response("/v1/event/stream", &api.QueryOptions{Params: map[string]string{"topic": "Job:a:b"}})
		t.refused(err, http.StatusBadRequest, "Invalid topic query")
	}},
}

func text(raw json.RawMessage) string {
	var s string
	_ = json.Unmarshal(raw, &s)
	return s
}

// index is that of the newest list of jobs.
func (t *nomadTest) index() uint64 {
	t.Helper()
	_, meta, err := t.Client.Jobs().List(t.read())
	t.check(err)
	return meta.LastIndex
}

// stream opens the event stream; it is closed with the case.
func (t *nomadTest) stream(index string, topics ...string) *bufio.Scanner {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), nomadPatience)
	t.Cleanup(cancel)
	// The query of the client library takes one value a name.
	path := "/v1/event/stream?topic=" + strings.Join(topics, "&topic=")
	body, err := t.Client.Raw().Response(path, (&api.QueryOptions{Params: map[string]string{"index": index}}).WithContext(ctx))
	t.check(err)
	t.Cleanup(func() { _ = body.Close() })
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<22)
	return lines
}

// follow reads the stream until done holds for a line.
func (t *nomadTest) follow(index string, topics []string, done func(streamLine) bool) {
	t.Helper()
	lines := t.stream(index, topics...)
	for lines.Scan() {
		var line streamLine
		t.check(json.Unmarshal(lines.Bytes(), &line))
		if done(line) {
			return
		}
	}
	t.Fatalf("the stream ended with %v before the event came", lines.Err())
}

// awaitEvent waits for an event whose key or first filter key is the given
// one, and returns its index.
func (t *nomadTest) awaitEvent(from uint64, topic, kind, key string) uint64 {
	t.Helper()
	var index uint64
	t.follow(strconv.FormatUint(from, 10), []string{topic + ":*"}, func(line streamLine) bool {
		for _, e := range line.Events {
			if e.Type == kind && (e.Key == key || (len(e.FilterKeys) > 0 && e.FilterKeys[0] == key)) {
				index = e.Index
				return true
			}
		}
		return false
	})
	return index
}
