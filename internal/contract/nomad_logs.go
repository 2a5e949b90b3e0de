package contract

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

var logCases = []nomadCase{
	{name: "whole log of an ended task", test: func(t *nomadTest) {
		alloc := t.ended("lines", "3", "0")
		t.sameLog(alloc, "stdout", "out 0\nout 1\nout 2\n")
		t.sameLog(alloc, "stderr", "err 0\nerr 1\nerr 2\n")
	}},
	{name: "end of a log in bytes", test: func(t *nomadTest) {
		alloc := t.ended("lines", "30", "0")
		t.awaitLine(alloc, "out 29")
		same(t, "last 7 bytes", t.tail(alloc, "end", 7), "out 29\n")
		whole := t.tail(alloc, "end", 1<<20)
		same(t, "more than there is", whole, t.readLogs(alloc.ID, url.Values{"type": {"stdout"}}))
	}},
	{name: "no offset from the end is the whole newest file", test: func(t *nomadTest) {
		alloc := t.ended("lines", "3", "0")
		t.awaitLine(alloc, "out 2")
		same(t, "from the end", t.tail(alloc, "end", 0), "out 0\nout 1\nout 2\n")
	}},
	{name: "log from an offset", test: func(t *nomadTest) {
		alloc := t.ended("lines", "3", "0")
		t.awaitLine(alloc, "out 2")
		same(t, "from byte 6", t.tail(alloc, "start", 6), "out 1\nout 2\n")
	}},
	{name: "framed log through the client library", test: func(t *nomadTest) {
		alloc := t.ended("lines", "2", "0")
		t.awaitLine(alloc, "out 1")
		frames, errs := t.Client.AllocFS().Logs(alloc, false, "worker", "stdout", "start", 0, nil, t.read())
		var text strings.Builder
		for frames != nil {
			select {
			case frame, open := <-frames:
				if !open {
					frames = nil
					continue
				}
				text.Write(frame.Data)
			case err := <-errs:
				t.check(err)
			}
		}
		same(t, "stdout", text.String(), "out 0\nout 1\n")
	}},
	{name: "following a running task", test: func(t *nomadTest) {
		job := t.job("trickle")
		t.register(job)
		alloc := t.awaitAlloc(*job.ID, "running")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		body, err := t.openLogs(ctx, alloc.ID, url.Values{"type": {"stdout"}, "follow": {"true"}})
		t.check(err)
		defer body.Close()
		seen := ""
		for !strings.Contains(seen, "tick 5\n") {
			chunk := make([]byte, 64)
			n, err := body.Read(chunk)
			seen += string(chunk[:n])
			t.check(err)
		}
		if !strings.HasPrefix(seen, "tick 0\ntick 1\n") {
			t.Errorf("the log begins with %q", seen)
		}
	}},
	{name: "no log before the start", test: func(t *nomadTest) {
		job := t.job("exit", "0")
		task := job.TaskGroups[0].Tasks[0]
		if t.Driver == "docker" {
			task.Config["image"] = "drover-no-such-image:1"
		} else {
			task.Config["command"] = "/no/such/command"
		}
		t.register(job)
		alloc := t.awaitAlloc(*job.ID, "failed")
		_, err := t.openLogs(t.Context(), alloc.ID, url.Values{"type": {"stdout"}})
		t.refused(err, http.StatusNotFound, `task "worker" not started yet. No logs available`)
	}},
	{name: "log of an unknown task", test: func(t *nomadTest) {
		alloc := t.ended("exit", "0")
		_, err := t.openLogs(t.Context(), alloc.ID, url.Values{"type": {"stdout"}, "task": {"nobody"}})
		t.refused(err, http.StatusBadRequest, `unknown task name "nobody"`)
	}},
	{name: "log of an unknown allocation", test: func(t *nomadTest) {
		_, err := t.openLogs(t.Context(), "11111111-2222-3333-4444-555555555555", url.Values{"type": {"stdout"}})
		t.refused(err, http.StatusNotFound, "nknown allocation")
	}},
	{name: "garbage collection takes jobs, allocations and logs", test: func(t *nomadTest) {
		alloc := t.ended("lines", "1", "0")
		t.awaitJob(alloc.JobID, "dead")
		t.eventually("everything of the job to be gone", func() bool {
			t.check(t.Client.System().GarbageCollect())
			_, _, jobErr := t.Client.Jobs().Info(alloc.JobID, t.read())
			_, _, allocErr := t.Client.Allocations().Info(alloc.ID, t.read())
			_, logErr := t.openLogs(t.Context(), alloc.ID, url.Values{"type": {"stdout"}})
			return jobErr != nil && allocErr != nil && logErr != nil
		})
	}},
	{name: "usage of a running task", test: func(t *nomadTest) {
		job := t.job("sleep")
		t.register(job)
		alloc := t.awaitAlloc(*job.ID, "running")
		t.eventually("a measure of memory", func() bool {
			usage, err := t.Client.Allocations().Stats(alloc, t.read())
			if err != nil || usage.Tasks["worker"] == nil {
				return false
			}
			memory := usage.Tasks["worker"].ResourceUsage.MemoryStats
			return memory.RSS > 0 || memory.Usage > 0
		})
	}},
}

// ended runs testtask to a successful end.
func (t *nomadTest) ended(args ...string) *api.Allocation {
	t.Helper()
	job := t.job(args...)
	t.register(job)
	return t.awaitAlloc(*job.ID, "complete")
}

// openLogs asks for a plain log of the worker's.
func (t *nomadTest) openLogs(ctx context.Context, alloc string, query url.Values) (io.ReadCloser, error) {
	options := (&api.QueryOptions{Params: map[string]string{"task": "worker", "plain": "true"}}).WithContext(ctx)
	for k := range query {
		options.Params[k] = query.Get(k)
	}
	return t.Client.Raw().Response("/v1/client/fs/logs/"+alloc, options)
}

func (t *nomadTest) readLogs(alloc string, query url.Values) string {
	t.Helper()
	body, err := t.openLogs(t.Context(), alloc, query)
	t.check(err)
	defer body.Close()
	data, err := io.ReadAll(body)
	t.check(err)
	return string(data)
}

func (t *nomadTest) tail(alloc *api.Allocation, origin string, offset int) string {
	t.Helper()
	return t.readLogs(alloc.ID, url.Values{"type": {"stdout"}, "origin": {origin}, "offset": {strconv.Itoa(offset)}})
}

// sameLog waits for a log to be the wanted text: the end of a task can be
// seen before the end of its output.
func (t *nomadTest) sameLog(alloc *api.Allocation, kind, want string) {
	t.Helper()
	got := ""
	defer func() {
		if got != want {
			t.Errorf("log of %s: got %q, want %q", kind, got, want)
		}
	}()
	t.eventually("the whole log", func() bool {
		got = t.readLogs(alloc.ID, url.Values{"type": {kind}})
		return got == want
	})
}

// awaitLine waits for a line in a running task's output.
func (t *nomadTest) awaitLine(alloc *api.Allocation, line string) {
	t.Helper()
	t.eventually("the line "+line, func() bool {
		return strings.Contains(t.readLogs(alloc.ID, url.Values{"type": {"stdout"}}), line+"\n")
	})
}
