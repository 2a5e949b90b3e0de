// Package contract holds the suites that a real server and drover's embedded
// one must both pass: what drover relies on, and nothing else.
package contract

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

// nomadPatience bounds each wait of the Nomad suite.
const nomadPatience = 30 * time.Second

// NomadTarget is a Nomad that the suite runs against.
type NomadTarget struct {
	// Name says which server it is in the suite's last line: embedded or real.
	Name   string
	Client *api.Client
	// Driver is the task driver to test.
	Driver string
	// TaskConfig is the driver's config that runs testtask with arguments.
	TaskConfig func(args ...string) map[string]any
	// JobFile is the specification shipped for the driver, and Variables the
	// values that it needs to run testtask, in the language of variable files.
	JobFile, Variables string
}

// Nomad runs the suite. open is called once; it skips the test itself where
// the target isn't there.
func Nomad(t *testing.T, open func(testing.TB) NomadTarget) {
	suite := &nomadSuite{NomadTarget: open(t), prefix: fmt.Sprintf("contract-%d", time.Now().UnixNano()%1e9)}
	cases := 0
	for _, group := range []struct {
		name  string
		cases []nomadCase
	}{
		{"parse", parseCases}, {"register", registerCases}, {"dispatch", dispatchCases}, {"lifecycle", lifecycleCases},
		{"logs", logCases}, {"events", eventCases}, {"scheduling", schedulingCases}, {"sysbatch", sysbatchCases}, {"variables", variableCases},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.cases {
				if c.driver != "" && c.driver != suite.Driver {
					continue
				}
				cases++
				t.Run(c.name, func(t *testing.T) { c.test(&nomadTest{T: t, nomadSuite: suite}) })
			}
		})
	}
	fmt.Printf("contract nomad server=%s driver=%s cases=%d\n", suite.Name, suite.Driver, cases)
}

type nomadSuite struct {
	NomadTarget
	prefix string
	jobs   atomic.Int64
}

type nomadCase struct {
	name string
	test func(*nomadTest)
	// driver is the only one that the case is about, if any.
	driver string
}

// nomadTest is one case with the helpers that most cases need.
type nomadTest struct {
	*testing.T
	*nomadSuite
}

// BuildTestTask builds the static testtask binary and returns its path.
func BuildTestTask(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "testtask")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "drover/internal/contract/testtask")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build testtask: %v\n%s", err, out)
	}
	return path
}

// check ends the case on an error.
func (t *nomadTest) check(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// read gives query options that end with the test.
func (t *nomadTest) read() *api.QueryOptions {
	return (&api.QueryOptions{}).WithContext(t.Context())
}

func (t *nomadTest) write() *api.WriteOptions {
	return (&api.WriteOptions{}).WithContext(t.Context())
}

// eventually waits until probe holds, looking again every 20 ms.
func (t *nomadTest) eventually(what string, probe func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(nomadPatience)
	for !probe() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited %v in vain for %s", nomadPatience, what)
		}
	}
}

// job makes a batch job of one task that runs testtask.
func (t *nomadTest) job(args ...string) *api.Job {
	task := api.NewTask("worker", t.Driver)
	task.Config = t.TaskConfig(args...)
	task.Resources = &api.Resources{CPU: new(50), MemoryMB: new(32)}
	task.KillTimeout = new(2 * time.Second)
	task.KillSignal = "SIGTERM"
	task.LogConfig = &api.LogConfig{MaxFiles: new(2), MaxFileSizeMB: new(1)}
	group := api.NewTaskGroup("worker", 1).AddTask(task)
	group.RestartPolicy = &api.RestartPolicy{Attempts: new(0), Mode: new("fail")}
	group.ReschedulePolicy = &api.ReschedulePolicy{Attempts: new(0), Unlimited: new(false)}
	group.EphemeralDisk = &api.EphemeralDisk{SizeMB: new(10)}
	id := fmt.Sprintf("%s-%d", t.prefix, t.jobs.Add(1))
	return api.NewBatchJob(id, id, "global", 50).AddDatacenter("*").AddTaskGroup(group)
}

// parameterized makes a job that is run by dispatch.
func (t *nomadTest) parameterized(args ...string) *api.Job {
	job := t.job(args...)
	job.ParameterizedJob = &api.ParameterizedJobConfig{
		Payload: "optional", MetaRequired: []string{"item", "attempt"}, MetaOptional: []string{"traceparent"},
	}
	job.TaskGroups[0].Tasks[0].DispatchPayload = &api.DispatchPayloadConfig{File: "item.json"}
	return job
}

// register registers a job, purged with its children at the end of the case.
func (t *nomadTest) register(job *api.Job) *api.JobRegisterResponse {
	t.Helper()
	answer, _, err := t.Client.Jobs().Register(job, t.write())
	t.check(err)
	t.purgeAfter(*job.ID)
	return answer
}

func (t *nomadTest) purgeAfter(id string) {
	t.Cleanup(func() {
		children, _, err := t.Client.Jobs().List(&api.QueryOptions{Prefix: id})
		if err != nil {
			t.Errorf("list what to purge: %v", err)
		}
		for _, child := range children {
			if _, _, err := t.Client.Jobs().Deregister(child.ID, true, nil); err != nil {
				t.Errorf("purge %s: %v", child.ID, err)
			}
		}
	})
}

// dispatch dispatches a child with the required meta.
func (t *nomadTest) dispatch(parent *api.Job, payload, token string) *api.JobDispatchResponse {
	t.Helper()
	write := t.write()
	write.IdempotencyToken = token
	answer, _, err := t.Client.Jobs().DispatchOpts(&api.DispatchOptions{
		JobID: *parent.ID, Meta: map[string]string{"item": "i1", "attempt": "1"}, Payload: []byte(payload), IdPrefixTemplate: "i1.1",
	}, write)
	t.check(err)
	return answer
}

// allocs lists the allocations of a job, oldest first.
func (t *nomadTest) allocs(job string) []*api.AllocationListStub {
	t.Helper()
	list, _, err := t.Client.Jobs().Allocations(job, true, t.read())
	t.check(err)
	return list
}

// awaitAlloc waits until the only allocation of a job is in a client status.
func (t *nomadTest) awaitAlloc(job, status string) *api.Allocation {
	t.Helper()
	var id, last string
	t.eventually("an allocation of "+job+" to be "+status, func() bool {
		for _, a := range t.allocs(job) {
			id, last = a.ID, a.ClientStatus
			if a.ClientStatus == status {
				return true
			}
			if last == "complete" || last == "failed" || last == "lost" {
				alloc, _, _ := t.Client.Allocations().Info(a.ID, t.read())
				t.Fatalf("allocation is %s, not %s: %s", last, status, eventTexts(alloc))
			}
		}
		return false
	})
	alloc, _, err := t.Client.Allocations().Info(id, t.read())
	t.check(err)
	return alloc
}

func eventTexts(alloc *api.Allocation) (texts []string) {
	if alloc == nil {
		return nil
	}
	for _, state := range alloc.TaskStates {
		for _, e := range state.Events {
			texts = append(texts, e.Type+": "+e.DisplayMessage)
		}
	}
	return texts
}

// eventOf returns the newest event of a type, or ends the case.
func (t *nomadTest) eventOf(alloc *api.Allocation, kind string) *api.TaskEvent {
	t.Helper()
	var found *api.TaskEvent
	for _, e := range alloc.TaskStates["worker"].Events {
		if e.Type == kind {
			found = e
		}
	}
	if found == nil {
		t.Fatalf("no %s event among %q", kind, eventTexts(alloc))
	}
	return found
}

func same[T comparable](t *nomadTest, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
