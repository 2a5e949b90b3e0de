package nomadd_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/nomad/api"

	"drover/internal/contract"
	"drover/internal/devcluster/nomadd"
	"drover/internal/testkit"
)

// fakeTask is a driver whose tasks run in this process for a given time.
type fakeTask struct{ runs time.Duration }

func (f *fakeTask) Start(context.Context, *nomadd.Task) (nomadd.Process, error) {
	return &fakeProcess{timer: time.NewTimer(f.runs), killed: make(chan struct{})}, nil
}

func (*fakeTask) Layout(host nomadd.Layout) nomadd.Layout { return host }

func (*fakeTask) Close() error { return nil }

type fakeProcess struct {
	timer  *time.Timer
	killed chan struct{}
	once   sync.Once
}

func (p *fakeProcess) Wait() nomadd.Exit {
	select {
	case <-p.timer.C:
		return nomadd.Exit{}
	case <-p.killed:
		return nomadd.Exit{Code: 137, Signal: 9}
	}
}

func (p *fakeProcess) Signal(syscall.Signal) error {
	p.once.Do(func() { close(p.killed) })
	return nil
}

func (*fakeProcess) Usage(context.Context) (nomadd.Usage, error) { return nomadd.Usage{}, nil }

// inMemory answers requests without a socket.
type inMemory struct{ handler http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = io.NopCloser(http.NoBody)
	}
	answer := httptest.NewRecorder()
	m.handler.ServeHTTP(answer, r)
	return answer.Result(), nil
}

// TestDriverOfATestRunsInSimulatedTime runs an hour's task in no time.
func TestDriverOfATestRunsInSimulatedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := nomadd.New(nomadd.Options{DataDir: t.TempDir(), Drivers: map[string]nomadd.Driver{"fake": &fakeTask{time.Hour}}})
		if err != nil {
			t.Fatal(err)
		}
		client, err := api.NewClient(&api.Config{Address: "http://nomad", HttpClient: &http.Client{Transport: inMemory{server}}})
		if err != nil {
			t.Fatal(err)
		}
		job := batch("fake", map[string]any{})
		if _, _, err := client.Jobs().Register(job, nil); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"running", "complete"} {
			synctest.Wait()
			allocs, _, err := client.Jobs().Allocations(*job.ID, true, nil)
			if err != nil || len(allocs) != 1 || allocs[0].ClientStatus != want {
				t.Fatalf("allocations %+v, error %v, want one that is %s", allocs, err, want)
			}
			time.Sleep(2 * time.Hour)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
}

func batch(driver string, config map[string]any) *api.Job {
	task := api.NewTask("worker", driver)
	task.Config = config
	task.Resources = &api.Resources{CPU: new(50), MemoryMB: new(32)}
	group := api.NewTaskGroup("worker", 1).AddTask(task)
	group.RestartPolicy = &api.RestartPolicy{Attempts: new(0), Mode: new("fail")}
	return api.NewBatchJob("job", "job", "global", 50).AddDatacenter("*").AddTaskGroup(group)
}

// TestCloseEndsTheTasks closes the server over a task that heeds no signal.
func TestCloseEndsTheTasks(t *testing.T) {
	client, server := start(t)
	binary := contract.BuildTestTask(t)
	runTo(t, client, batch("raw_exec", map[string]any{"command": binary, "args": []string{"stubborn"}}), "running")
	if n := processesOf(binary); n != 1 {
		t.Fatalf("%d processes of the task, want 1", n)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if n := processesOf(binary); n != 0 {
		t.Errorf("%d processes of the task are left", n)
	}
}

// processesOf counts the processes that run a binary.
func processesOf(binary string) int {
	count := 0
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == binary {
			count++
		}
	}
	return count
}

// TestRawExecReportsMemoryKills is about what Nomad's own raw_exec can't do.
func TestRawExecReportsMemoryKills(t *testing.T) {
	if syscall.Getuid() != 0 {
		t.Skip("control groups need root")
	}
	client, server := start(t)
	alloc := runTo(t, client, batch("raw_exec", map[string]any{"command": contract.BuildTestTask(t), "args": []string{"eat", "100"}}), "failed")
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	for _, e := range alloc.TaskStates["worker"].Events {
		if e.Type == "Terminated" && e.Details["oom_killed"] == "true" && e.Details["exit_code"] == "137" {
			return
		}
	}
	t.Errorf("no memory kill among the events of %+v", alloc.TaskStates["worker"])
}

func start(t *testing.T) (*api.Client, *nomadd.Server) {
	t.Helper()
	server, err := nomadd.New(nomadd.Options{DataDir: t.TempDir(), Drivers: map[string]nomadd.Driver{"raw_exec": &nomadd.RawExec{}}})
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(server)
	t.Cleanup(listener.Close)
	client, err := api.NewClient(&api.Config{Address: listener.URL})
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func runTo(t *testing.T, client *api.Client, job *api.Job, status string) *api.Allocation {
	t.Helper()
	if _, _, err := client.Jobs().Register(job, nil); err != nil {
		t.Fatal(err)
	}
	var alloc *api.Allocation
	testkit.Eventually(t, 20*time.Second, func() error {
		allocs, _, err := client.Jobs().Allocations(*job.ID, true, nil)
		if err != nil || len(allocs) == 0 || allocs[0].ClientStatus != status {
			return fmt.Errorf("allocations %+v, error %v, want one that is %s", allocs, err, status)
		}
		alloc, _, err = client.Allocations().Info(allocs[0].ID, nil)
		return err
	})
	return alloc
}
