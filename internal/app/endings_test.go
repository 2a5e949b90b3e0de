package app_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"

	"drover/consul"
	"drover/internal/app"
	"drover/internal/config"
	"drover/internal/control"
	"drover/internal/telemetry"
	"drover/internal/testkit"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

const (
	// imageVariable names the worker's image with the demo's agent in it.
	imageVariable = "DROVER_TEST_IMAGE"
	defaultImage  = "drover-worker-demo:dev"
	demoAgent     = "drover-demo-agent"
	// firstCommit is what the first attempt of most rows commits before its end.
	firstCommit = "first attempt"
	// greeting is the first line that such an attempt prints.
	greeting = "the first attempt begins"
)

// ending is a row of the table of reasons: an item, what becomes of its first
// attempt, and what that does to the item.
type ending struct {
	name string
	// first is what the agent does in attempt 1, in sh, once it has made a commit.
	// Later attempts, and this one if it goes on, finish the task.
	first string
	spec  work.Spec // Command is the demo's agent with first, unless it is given
	// act is done to the first attempt once its commit is pushed.
	act func(s *stage, id string) error

	reason  work.Reason
	says    string // part of the attempt's sentence
	attempt work.AttemptState
	exit    int // code; absent if it is noExit
	signal  int

	item     work.State
	attempts int
	retries  int
	requeues int // in a row, at its end
	memoryMB int // of the item at its end, where that is not what it began with

	pushed []string // subjects on the item's branch at its end
	logs   string   // part of the kept output of the first attempt
	purged bool     // someone removed all that Nomad knew
	also   func(s *stage, item work.Item) error
}

const noExit = -1

// lastWord is how long Nomad may take to tell of an end that drover knows of.
const lastWord = 20 * time.Second

// long keeps an agent busy for longer than any test takes.
const long = "sleep 600"

func endings() []ending {
	gaveUp, retried := []string{firstCommit}, []string{firstCommit, "Step 1 of 1"}
	none := 0
	startOnce := &work.RetryOverride{MaxRequeues: &none}
	return []ending{
		{
			name: "completed", reason: work.ReasonCompleted, says: "the agent completed its task", attempt: work.AttemptCompleted,
			item: work.StateCompleted, attempts: 1, pushed: retried,
		},
		{
			name: "stuck: exit 1", first: "exit 1", reason: work.ReasonStuck, says: "exit code 1", attempt: work.AttemptStuck, exit: 1,
			item: work.StateStuck, attempts: 1, pushed: gaveUp,
		},
		{
			name: "max_iterations: exit 2", first: "exit 2", reason: work.ReasonMaxIterations, says: "exit code 2",
			attempt: work.AttemptFailed, exit: 2, item: work.StateFailed, attempts: 1, pushed: gaveUp,
		},
		{
			name: "max_iterations: the agent goes on past the limit", first: `echo '{"type":"iteration","n":2}'; ` + long,
			spec: work.Spec{Limits: work.Limits{MaxIterations: 1}}, reason: work.ReasonMaxIterations, says: "iteration 1, the item's limit",
			attempt: work.AttemptFailed, exit: 143, signal: int(syscall.SIGTERM), item: work.StateFailed, attempts: 1, pushed: gaveUp,
		},
		{
			name: "crashed at the iteration limit", first: `echo '{"type":"iteration","n":1}'; kill -KILL $$`,
			spec: work.Spec{Limits: work.Limits{MaxIterations: 1}}, reason: work.ReasonCrashed, says: "signal 9",
			attempt: work.AttemptKilled, exit: 137, signal: int(syscall.SIGKILL), item: work.StateFailed, attempts: 1, pushed: gaveUp,
		},
		{
			name: "agent_error: exit 3", first: "exit 3", reason: work.ReasonAgentError, says: "exit code 3",
			attempt: work.AttemptFailed, exit: 3, item: work.StateCompleted, attempts: 2, retries: 1, pushed: retried,
		},
		{
			name: "agent_error: exit 4, no retries left", first: "exit 4", spec: work.Spec{Retry: &work.RetryOverride{MaxRetries: &none}},
			reason: work.ReasonAgentError, says: "exit code 4", attempt: work.AttemptFailed, exit: 4,
			item: work.StateFailed, attempts: 1, pushed: gaveUp,
		},
		{
			name: "agent_error: limit of processes", spec: work.Spec{Resources: work.Resources{PIDs: 48}},
			first:  `(i=0; while [ $i -lt 60 ]; do sleep 60 & i=$((i+1)); done) || exit 3`,
			reason: work.ReasonAgentError, says: "exit code 3", attempt: work.AttemptFailed, exit: 3,
			item: work.StateCompleted, attempts: 2, retries: 1, pushed: retried, logs: "fork",
		},
		{
			// The agent waits until its commit is pushed: where git runs as it is killed, the kernel at
			// times kills once more, and takes the worker.
			name: "oom_killed: the agent", reason: work.ReasonOOMKilled, says: "out of memory at the limit of 128 MB",
			spec: work.Spec{
				Command: []string{demoAgent}, Task: "commits=2 delay=2s memory=130",
				Resources: work.Resources{MemoryMB: 128, MemoryMaxMB: 256},
			},
			attempt: work.AttemptKilled, exit: 137, signal: int(syscall.SIGKILL), item: work.StateCompleted, attempts: 2, retries: 1,
			memoryMB: 192, pushed: []string{"Step 1 of 2", "Step 2 of 2"}, logs: "I take up 130 MiB",
			also: func(_ *stage, item work.Item) error {
				if a := item.Attempts[0]; !a.OOMKilled || a.Result == nil || a.Result.PeakMemoryMB < 100 {
					return fmt.Errorf("out of memory %v, result %+v", a.OOMKilled, a.Result)
				}
				return nil
			},
		},
		{
			name: "completed: a child of the agent ran out of memory", first: "head -c 400M /dev/zero | tail",
			spec:   work.Spec{Resources: work.Resources{MemoryMB: 128}},
			reason: work.ReasonCompleted, says: "the agent completed its task", attempt: work.AttemptCompleted,
			item: work.StateCompleted, attempts: 1, pushed: retried,
			also: func(s *stage, item work.Item) error {
				if kills := item.Attempts[0].Result.OOMKills; kills != 1 {
					return fmt.Errorf("%d kills for memory noted", kills)
				}
				if said := s.said(item.Attempts[0]); said.oomKilled != "true" || said.exitCode != "0" {
					return fmt.Errorf("Nomad said oom_killed %q, exit code %q", said.oomKilled, said.exitCode)
				}
				return nil
			},
		},
		{
			name: "crashed: SIGKILL of the agent", first: "kill -KILL $$", reason: work.ReasonCrashed, says: "signal 9",
			attempt: work.AttemptKilled, exit: 137, signal: int(syscall.SIGKILL), item: work.StateCompleted, attempts: 2, retries: 1, pushed: retried,
		},
		{
			name: "crashed: SIGKILL of the container", first: long, act: (*stage).killContainer, reason: work.ReasonCrashed, says: "SIGKILL",
			attempt: work.AttemptKilled, exit: 137, signal: int(syscall.SIGKILL), item: work.StateCompleted, attempts: 2, retries: 1, pushed: retried,
		},
		{
			name: "unreachable: the worker is stopped in its tracks", first: long, act: (*stage).freezeWorker,
			spec:   work.Spec{Limits: work.Limits{HeartbeatTTL: work.MinHeartbeatTTL}},
			reason: work.ReasonUnreachable, says: "Nomad says that its container on node", attempt: work.AttemptKilled, exit: noExit,
			item: work.StateCompleted, attempts: 2, requeues: 1, pushed: retried,
		},
		{
			name: "silent", first: long, spec: work.Spec{Limits: work.Limits{IdleTimeout: work.Duration(6 * time.Second)}},
			reason: work.ReasonSilent, says: "used no CPU time for 6s", attempt: work.AttemptKilled, exit: 143, signal: int(syscall.SIGTERM),
			item: work.StateCompleted, attempts: 2, retries: 1, pushed: retried,
		},
		{
			name: "timeout", first: long, spec: work.Spec{Limits: work.Limits{Timeout: work.Duration(10 * time.Second)}},
			reason: work.ReasonTimeout, says: "after 10s", attempt: work.AttemptKilled, exit: 143, signal: int(syscall.SIGTERM),
			item: work.StateCompleted, attempts: 2, retries: 1, pushed: retried,
		},
		{
			name: "killed_by_operator: nomad job stop", first: long, act: func(s *stage, id string) error { return s.stopJob(id, false) },
			reason: work.ReasonKilledByOperator, says: "stopped by hand", attempt: work.AttemptKilled, exit: 1,
			item: work.StateCompleted, attempts: 2, retries: 1, pushed: retried,
		},
		{
			name: "killed_by_operator: nomad job stop -purge", first: long, act: func(s *stage, id string) error { return s.stopJob(id, true) },
			reason: work.ReasonKilledByOperator, says: "removed by hand", attempt: work.AttemptKilled, exit: noExit,
			item: work.StateCompleted, attempts: 2, retries: 1, pushed: retried, purged: true,
		},
		{
			name: "cancelled", first: long, act: (*stage).cancel, reason: work.ReasonCancelled, says: "cancelled by",
			attempt: work.AttemptKilled, exit: noExit, item: work.StateCancelled, attempts: 1, pushed: gaveUp,
		},
		{
			name: "budget_exceeded", first: `echo '{"type":"tokens","in":900,"out":200}'; ` + long,
			spec: work.Spec{Budget: work.Budget{Tokens: 1000}}, reason: work.ReasonBudgetExceeded, says: "the agent was stopped",
			attempt: work.AttemptFailed, exit: 143, signal: int(syscall.SIGTERM), item: work.StateFailed, attempts: 1, pushed: gaveUp,
		},
		{
			name:   "rate_limited",
			first:  `echo "{\"type\":\"error\",\"code\":\"rate_limited\",\"retry_at\":\"$(date -u -d '+5 seconds' +%FT%TZ)\"}"; exit 3`,
			reason: work.ReasonRateLimited, says: "told to wait", attempt: work.AttemptFailed, exit: 3,
			item: work.StateCompleted, attempts: 2, pushed: retried,
			also: func(_ *stage, item work.Item) error {
				if reset := item.Attempts[0].Result.RetryAt; item.Attempts[1].CreatedAt.Before(reset) {
					return fmt.Errorf("attempt 2 began at %s, the limit was reset at %s", item.Attempts[1].CreatedAt, reset)
				}
				return nil
			},
		},
		{
			name: "start_failed: no such image", spec: work.Spec{Image: "127.0.0.1:1/drover-no-such-image:1", Retry: startOnce},
			reason: work.ReasonStartFailed, says: "drover-no-such-image", attempt: work.AttemptFailed, exit: noExit,
			item: work.StateStuck, attempts: 1, requeues: 1,
		},
		{
			name: "start_failed: no such command", spec: work.Spec{Command: []string{"drover-no-such-agent"}},
			reason: work.ReasonStartFailed, says: "drover-no-such-agent", attempt: work.AttemptFailed,
			item: work.StateFailed, attempts: 1, logs: "drover-no-such-agent",
		},
		{
			name: "start_failed: no room in time", reason: work.ReasonStartFailed, says: "memory exhausted on 1 of 1 nodes",
			spec: work.Spec{
				Resources: work.Resources{MemoryMB: 4_000_000}, Limits: work.Limits{StartTimeout: work.Duration(5 * time.Second)},
				Retry: startOnce,
			},
			attempt: work.AttemptFailed, exit: noExit, item: work.StateStuck, attempts: 1, requeues: 1,
		},
		{
			name: "git_auth_failed", reason: work.ReasonGitAuthFailed, says: "refused", attempt: work.AttemptFailed,
			item: work.StateFailed, attempts: 1, logs: "git_auth_failed",
		},
	}
}

// drained is the row that ends every other attempt on its node as well.
var drained = ending{
	name: "drained: nomad node drain", first: long, act: (*stage).drain, reason: work.ReasonDrained, says: "was drained",
	attempt: work.AttemptKilled, exit: 1, item: work.StateCompleted, attempts: 2, requeues: 1,
	pushed: []string{firstCommit, "Step 1 of 1"},
}

// TestEndingsInContainers runs the table of reasons in containers of the embedded Nomad.
func TestEndingsInContainers(t *testing.T) {
	image, engine := workerImage(t)
	s := newStage(t, embeddedNomad(t), image, engine)
	s.play(endings())
}

// TestEndingsOnNomad runs it on a real Nomad, and drains its node.
func TestEndingsOnNomad(t *testing.T) {
	image, engine := workerImage(t)
	s := newStage(t, testkit.Nomad(t).Address(), image, engine)
	s.play(endings())
	s.play([]ending{drained})
}

// workerImage returns the name of the worker's image and the engine that has it.
func workerImage(t *testing.T) (string, *client.Client) {
	t.Helper()
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	name := cmp.Or(os.Getenv(imageVariable), defaultImage)
	if _, err := engine.ImageInspect(t.Context(), name); err != nil {
		testkit.SkipWithout(t, "docker", fmt.Sprintf("image %s (make image builds it): %v", name, err))
	}
	return name, engine
}

// stage is a server whose workers are containers, and what watches it from outside.
type stage struct {
	*spine
	engine *client.Client
	consul *consulapi.Client
	locked *gittest.Server // refuses the workers' credentials
	nomad  *nomadapi.Client
	record *record
}

func newStage(t *testing.T, nomad, image string, engine *client.Client) *stage {
	t.Helper()
	s := &stage{spine: newSurroundings(t, servers{consul: newConsul(t), nomad: nomad}), engine: engine}
	s.worker = fmt.Sprintf("driver = %q\n  image = %q\n  network_mode = %q\n  agent_env = [%q]", "docker", image, "host", "MODEL_*")
	s.command = demoAgent
	s.writeConfig()
	s.consul, s.nomad = testkit.ConsulClient(t, s.spine.consul), s.nomadClient()
	s.locked = gittest.New(t, gittest.Options{Username: "drover", Password: "not " + gitToken})
	if err := s.locked.CreateRepo(repository, map[string]string{"README.md": "a bank\n"}); err != nil {
		t.Fatal(err)
	}
	s.record = recordNomad(t, s.nomad)
	s.serve()
	return s
}

// serve runs a server in this process, for as long as the test runs.
func (s *stage) serve() {
	s.t.Helper()
	cfg, err := config.Load(func(string) string { return "" }, s.config)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	log := &lockedBuffer{}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		logs, err := telemetry.NewLogs(telemetry.LogOptions{Output: log, Level: "debug"})
		if err != nil {
			done <- err
			return
		}
		done <- app.Run(ctx, app.Options{Config: cfg, Logs: logs})
	}()
	s.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
		if s.t.Failed() {
			s.t.Logf("server:\n%s", log)
		}
	})
}

// play submits an item for each row, so that all run together, and checks them
// in turn. Then Nomad removes all that it may, and the output must still be there.
// It logs the table for docs/verified-on-nomad.md.
func (s *stage) play(rows []ending) {
	specs := make([]work.Spec, len(rows))
	for i, row := range rows {
		specs[i] = row.specification(s)
	}
	ids := s.submitSpecs(specs)
	kept := map[string]control.Logs{}
	var table []string
	for i, row := range rows {
		s.t.Run(row.name, func(t *testing.T) {
			s := s.within(t)
			if row.act != nil {
				s.awaitPushed(ids[i])
				if err := row.act(s, ids[i]); err != nil {
					t.Fatal(err)
				}
			}
			item := s.await(ids[i])
			if !row.purged {
				testkit.Eventually(t, lastWord, func() error { return s.said(item.Attempts[0]).err })
			}
			for _, fault := range row.faults(s, item) {
				t.Error(fault)
			}
			testkit.Eventually(t, patience, func() error { return s.nothingHeld(item) })
			kept[item.ID] = s.keptLogs(row, item)
			table = append(table, row.line(s, item))
		})
	}
	if err := s.nomad.System().GarbageCollect(); err != nil {
		s.t.Fatal(err)
	}
	for id, before := range kept {
		after, err := s.client.Logs(s.t.Context(), id, 1)
		if err != nil || !slices.Equal(before.Stdout, after.Stdout) || !slices.Equal(before.Stderr, after.Stderr) {
			s.t.Errorf("logs of %s after Nomad's garbage collection: %+v, %v; were %+v", id, after, err, before)
		}
	}
	s.t.Logf("\n%s", strings.Join(table, "\n"))
}

// within returns the stage for a test of its own.
func (s *stage) within(t *testing.T) *stage {
	inner, spine := *s, *s.spine
	spine.t = t
	inner.spine = &spine
	return &inner
}

// specification is the specification of the row's item.
func (row ending) specification(s *stage) work.Spec {
	spec := row.spec
	spec.Task = cmp.Or(spec.Task, "commits=1 delay=10ms")
	spec.Limits.HeartbeatTTL = cmp.Or(spec.Limits.HeartbeatTTL, work.DefaultHeartbeatTTL)
	if row.reason == work.ReasonGitAuthFailed {
		spec.Repository = s.locked.URL(repository)
	}
	if len(spec.Command) == 0 {
		script := fmt.Sprintf(`if [ "$DROVER_ATTEMPT" = 1 ]; then
	echo %s
	git commit --quiet --allow-empty --message %q
	%s
fi
exec %s`, greeting, firstCommit, cmp.Or(row.first, ":"), demoAgent)
		spec.Command = []string{"sh", "-c", script}
	}
	return spec
}

// faults compares an item that has ended with its row.
func (row ending) faults(s *stage, item work.Item) []error {
	var faults []error
	check := func(what string, got, want any) {
		if got != want {
			faults = append(faults, fmt.Errorf("%s: %v, want %v", what, got, want))
		}
	}
	first := item.Attempts[0]
	check("reason", first.Reason, row.reason)
	check("state of the attempt", first.State, row.attempt)
	if !strings.Contains(first.Detail, row.says) {
		faults = append(faults, fmt.Errorf("sentence %q does not say %q", first.Detail, row.says))
	}
	code := noExit
	if first.ExitCode != nil {
		code = *first.ExitCode
	}
	check("exit code", code, row.exit)
	check("signal", first.Signal, row.signal)
	check("state of the item", item.State, row.item)
	check("attempts", len(item.Attempts), row.attempts)
	check("retries", item.Retries, row.retries)
	check("requeues", item.Requeues, row.requeues)
	if row.memoryMB != 0 {
		check("memory", item.MemoryMB, row.memoryMB)
	}
	if row.item == work.StateCompleted {
		check("pull request", item.PR.Status, work.PRCreated)
	}
	check("branch", strings.Join(s.pushed(item.ID), ", "), strings.Join(row.pushed, ", "))
	if row.also != nil && len(faults) == 0 {
		faults = append(faults, row.also(s, item))
	}
	return slices.DeleteFunc(faults, func(err error) bool { return err == nil })
}

// pushed returns the subjects of the commits on an item's branch.
func (s *stage) pushed(id string) []string {
	log := s.git.Log(repository, work.Branch(id))
	return log[min(1, len(log)):]
}

func (s *stage) awaitPushed(id string) {
	s.t.Helper()
	testkit.Eventually(s.t, patience, func() error {
		if pushed := s.pushed(id); !slices.Equal(pushed, []string{firstCommit}) {
			item, err := s.item(id)
			return fmt.Errorf("pushed %q; item %s: %s; %v", pushed, item.State, item.Why, err)
		}
		return nil
	})
}

// keptLogs returns what is kept of the first attempt's output, and checks it.
func (s *stage) keptLogs(row ending, item work.Item) control.Logs {
	s.t.Helper()
	logs, err := s.client.Logs(s.t.Context(), item.ID, 1)
	if err != nil {
		s.t.Fatal(err)
	}
	if row.purged {
		if logs.Missing == "" {
			s.t.Errorf("logs of a purged job: %+v", logs)
		}
		return logs
	}
	want := row.logs
	if want == "" && slices.Contains(row.pushed, firstCommit) {
		want = greeting
	}
	text := strings.Join(append(slices.Clone(logs.Stdout), logs.Stderr...), "\n")
	if !strings.Contains(text, want) || (want != "" && logs.Missing != "") || logs.CapturedAt.IsZero() || logs.Live {
		s.t.Errorf("kept logs %+v, want %q in them", logs, want)
	}
	if len(logs.Events) == 0 && s.record.of(item.Attempts[0].Child) != nil {
		s.t.Error("no task events are kept")
	}
	return logs
}

// nothingHeld says what the item's ended attempts still hold: a session, a
// service with its check, a Nomad job, a container.
func (s *stage) nothingHeld(item work.Item) error {
	keys := consul.NewKeys(s.prefix)
	for _, a := range item.Attempts {
		pair, _, err := s.consul.KV().Get(keys.Claim(a.ID), nil)
		if err != nil {
			return err
		}
		var claim work.Claim
		if pair != nil {
			err = json.Unmarshal(pair.Value, &claim)
		}
		if err != nil || !claim.Ended {
			return fmt.Errorf("attempt %s: claim %+v, %v", a.ID, claim, err)
		}
		if claim.Session != "" {
			if session, _, err := s.consul.Session().Info(claim.Session, nil); err != nil || session != nil {
				return fmt.Errorf("attempt %s: session %+v, %v", a.ID, session, err)
			}
		} else if a.Allocation != "" {
			return fmt.Errorf("attempt %s ran and was never claimed", a.ID)
		}
		if _, _, err := s.nomad.Jobs().Info(a.Child, nil); err == nil || !strings.Contains(err.Error(), "404") {
			return fmt.Errorf("attempt %s: Nomad job %s: %v", a.ID, a.Child, err)
		}
		if ids, err := s.containers(a.Allocation); err != nil || len(ids) > 0 {
			return fmt.Errorf("attempt %s: containers %v, %v", a.ID, ids, err)
		}
	}
	services, _, err := s.consul.Catalog().Service(consul.ServiceWorker, "item-"+item.ID, nil)
	if err != nil || len(services) > 0 {
		return fmt.Errorf("item %s: services %+v, %v", item.ID, services, err)
	}
	return nil
}

// containers returns the ids of an allocation's containers, stopped ones too.
func (s *stage) containers(allocation string) ([]string, error) {
	if allocation == "" {
		return nil, nil
	}
	label := filters.Arg("label", "com.hashicorp.nomad.alloc_id="+allocation)
	found, err := s.engine.ContainerList(s.t.Context(), container.ListOptions{All: true, Filters: filters.NewArgs(label)})
	ids := make([]string, len(found))
	for i, c := range found {
		ids[i] = c.ID
	}
	return ids, err
}

func (s *stage) killContainer(id string) error {
	container, err := s.container(id)
	if err != nil {
		return err
	}
	return s.engine.ContainerKill(s.t.Context(), container, "KILL")
}

// freezeWorker stops every process of the container without a word to anybody.
func (s *stage) freezeWorker(id string) error {
	container, err := s.container(id)
	if err != nil {
		return err
	}
	listed, err := s.engine.ContainerTop(s.t.Context(), container, []string{"-eo", "pid"})
	if err != nil {
		return err
	}
	for _, process := range listed.Processes {
		pid, err := strconv.Atoi(process[0])
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGSTOP)
		}
		if err != nil {
			return fmt.Errorf("stop process %s: %w", process[0], err)
		}
	}
	return nil
}

// container returns the one container of an item's first attempt.
func (s *stage) container(id string) (string, error) {
	item, err := s.item(id)
	if err != nil {
		return "", err
	}
	ids, err := s.containers(item.Attempts[0].Allocation)
	if err != nil || len(ids) != 1 {
		return "", fmt.Errorf("containers %v of %s, not one: %v", ids, item.Attempts[0].Allocation, err)
	}
	return ids[0], nil
}

func (s *stage) stopJob(id string, purge bool) error {
	item, err := s.item(id)
	if err != nil {
		return err
	}
	_, _, err = s.nomad.Jobs().Deregister(item.Attempts[0].Child, purge, nil)
	return err
}

func (s *stage) cancel(id string) error {
	_, err := s.client.Order(s.t.Context(), id, control.Order{Verb: control.Cancel, By: "the test"})
	return err
}

// drain takes the node away until the attempt has ended.
func (s *stage) drain(id string) error {
	nodes, _, err := s.nomad.Nodes().List(nil)
	if err != nil || len(nodes) != 1 {
		return fmt.Errorf("%d nodes, not one: %v", len(nodes), err)
	}
	const now = -1 // no deadline: what runs is stopped at once
	if _, err := s.nomad.Nodes().UpdateDrain(nodes[0].ID, &nomadapi.DrainSpec{Deadline: now}, false, nil); err != nil {
		return err
	}
	testkit.Eventually(s.t, patience, func() error {
		item, err := s.item(id)
		if err == nil && !item.Attempts[0].State.Terminal() {
			err = fmt.Errorf("the attempt is %s", item.Attempts[0].State)
		}
		return err
	})
	_, err = s.nomad.Nodes().UpdateDrain(nodes[0].ID, nil, true, nil)
	return err
}

// said is what Nomad said of an attempt's allocation in the end.
type said struct {
	status, exitCode, oomKilled string
	err                         error // it has not ended
}

func (s *stage) said(a work.Attempt) said {
	alloc := s.record.of(a.Child)
	if alloc == nil {
		return said{status: "never placed", exitCode: "-", oomKilled: "-"}
	}
	n := said{status: alloc.ClientStatus, exitCode: "-", oomKilled: "-"}
	for _, state := range alloc.TaskStates {
		for _, e := range state.Events {
			if e.Type == nomadapi.TaskTerminated {
				n.exitCode, n.oomKilled = e.Details["exit_code"], e.Details["oom_killed"]
			}
		}
	}
	if !alloc.ClientTerminalStatus() && n.exitCode == "-" {
		n.err = fmt.Errorf("allocation %s is %s", alloc.ID, alloc.ClientStatus)
	}
	return n
}

// line is the row as the documentation shows it.
func (row ending) line(s *stage, item work.Item) string {
	n, first := s.said(item.Attempts[0]), item.Attempts[0]
	if row.purged {
		n.status = "gone"
	}
	counters := map[string]int{"retries": item.Retries, "requeues": item.Requeues}
	end := string(item.State)
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		if counters[name] > 0 {
			end += fmt.Sprintf(", %s: %d", name, counters[name])
		}
	}
	sentence := strings.NewReplacer("|", "\\|", "\n", " ").Replace(first.Detail)
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | %s |", row.name, n.status, n.exitCode, n.oomKilled, first.State, first.Reason, end, sentence)
}

// record keeps the last that Nomad said about each allocation, by child.
type record struct {
	mu     sync.Mutex
	allocs map[string]*nomadapi.Allocation
}

// recordNomad follows Nomad's events until the test ends.
func recordNomad(t *testing.T, nomad *nomadapi.Client) *record {
	t.Helper()
	_, meta, err := nomad.Allocations().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	topics := map[nomadapi.Topic][]string{nomadapi.TopicAllocation: {"*"}}
	stream, err := nomad.EventStream().Stream(ctx, topics, meta.LastIndex, &nomadapi.QueryOptions{})
	if err != nil {
		stop()
		t.Fatal(err)
	}
	r, done := &record{allocs: map[string]*nomadapi.Allocation{}}, make(chan struct{})
	go func() {
		defer close(done)
		for events := range stream {
			r.note(events)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return r
}

func (r *record) note(events *nomadapi.Events) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events.Events {
		if alloc, err := e.Allocation(); err == nil && alloc != nil {
			r.allocs[alloc.JobID] = alloc
		}
	}
}

func (r *record) of(child string) *nomadapi.Allocation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.allocs[child]
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
