package orchestrator_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"

	"drover/internal/control"
	"drover/internal/devcluster/nomadd"
	"drover/internal/orchestrator"
	"drover/internal/testkit"
	"drover/internal/work"
	"drover/jobs"
	"drover/nomad"
)

// wantExplained waits until an item is explained with each of the texts, among
// what is said of it and what a person can do.
func (c *cluster) wantExplained(s *server, id string, texts ...string) control.Explanation {
	c.t.Helper()
	var e control.Explanation
	testkit.Eventually(c.t, patience, func() error {
		var err error
		if e, err = s.Explain(c.t.Context(), id); err != nil {
			return err
		}
		said := strings.Join(append(slices.Clone(e.Facts), e.Next...), "\n")
		for _, text := range texts {
			if !strings.Contains(said, text) {
				return fmt.Errorf("item is %s; no %q in\n%s", e.State, text, said)
			}
		}
		return nil
	})
	for _, sentence := range e.Facts {
		if !strings.HasSuffix(sentence, ".") && !strings.Contains(sentence, "can't be reached") || strings.Contains(sentence, "%!") || strings.Contains(sentence, "  ") {
			c.t.Errorf("no sentence: %q", sentence)
		}
	}
	return e
}

// gated is a task that goes on until the test says so, or it is told to end.
func gated(end chan struct{}) func(*run) nomadd.Exit {
	return func(r *run) nomadd.Exit {
		select {
		case <-end:
			r.report(work.ReasonCompleted)
			return nomadd.Exit{}
		case sig := <-r.signals:
			return nomadd.Exit{Code: 143, Signal: int(sig)}
		}
	}
}

func TestExplainsWhatAQueuedItemWaitsFor(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	c := newCluster(t, gated(end))
	s := c.start(faults{})
	one, rate := 1, 0.01
	set := func(queue string, settings work.QueueSettings) {
		t.Helper()
		if _, err := s.SetQueue(t.Context(), queue, control.QueueChange{Set: settings}); err != nil {
			t.Fatal(err)
		}
	}
	in := func(queue string) func(*work.Spec) { return func(spec *work.Spec) { spec.Queue = queue } }

	later := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	id := c.submit(s, 1, func(spec *work.Spec) { spec.NotBefore = later })[0]
	c.wantExplained(s, id, "It was not to start before "+later.Format(time.RFC3339), "It fails if it is not dispatched by ")

	set("narrow", work.QueueSettings{MaxInFlight: &one})
	c.await(c.submit(s, 1, in("narrow"))[0], inState(work.StateInProgress))
	id = c.submit(s, 1, in("narrow"))[0]
	c.wantExplained(s, id, "Queue narrow is at its limit: 1 of 1 attempts are in flight.", "raise it")
	last := c.submit(s, 1, in("narrow"), func(spec *work.Spec) { spec.Priority = new(int) })[0]
	c.wantExplained(s, last, "It waits for its turn: 1 items of its queue and repository come first.")

	set("slow", work.QueueSettings{Rate: &rate})
	c.await(c.submit(s, 1, in("slow"))[0], inState(work.StateInProgress))
	id = c.submit(s, 1, in("slow"))[0]
	c.wantExplained(s, id, "Queue slow dispatches 0.01 a minute, the next at ", "raise it")

	set("stopped", work.QueueSettings{MaxInFlight: &one})
	if _, err := s.MoveQueue(t.Context(), "stopped", control.QueueTransition{State: work.QueuePaused, By: "anna"}); err != nil {
		t.Fatal(err)
	}
	id = c.submit(s, 1, in("stopped"))[0]
	c.wantExplained(s, id, "Queue stopped is paused since ", " by anna.", "drover queue resume")

	first := c.submit(s, 1)[0]
	id = c.submit(s, 1, func(spec *work.Spec) { spec.DependsOn = []string{first} })[0]
	c.await(first, inState(work.StateInProgress))
	c.wantExplained(s, id, "Item "+first+", on which it depends, is in_progress.", "drover explain")

	if _, err := s.TripBreaker(t.Context(), control.Trip{Repository: "https://git.example.org/broken/one.git", Why: "it is being moved", By: "anna"}); err != nil {
		t.Fatal(err)
	}
	id = c.submit(s, 1, func(spec *work.Spec) { spec.Repository = "https://git.example.org/broken/one.git" })[0]
	c.wantExplained(s, id, "it is being moved", "drover breaker reset")

	paths := func(spec *work.Spec) {
		spec.Repository, spec.Paths = "https://git.example.org/paths/one.git", []string{"src/"}
	}
	holder := c.submit(s, 1, paths)[0]
	c.await(holder, inState(work.StateInProgress))
	id = c.submit(s, 1, paths)[0]
	c.wantExplained(s, id, "Src: held by item "+holder+" attempt 1 since ", "see whether it hangs")

	close(end)
}

func TestExplainsBudgetLimitsAndBackoff(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	c := newCluster(t, func(r *run) nomadd.Exit {
		switch r.envelope.Spec.Task {
		case "spend":
			r.report(work.ReasonCompleted, func(result *work.Result) { result.Tokens = work.Tokens{In: 100, Out: 20} })
			return nomadd.Exit{}
		case "limit":
			r.report(work.ReasonRateLimited, func(result *work.Result) {
				result.Detail, result.RetryAt = "429 from the model", time.Now().Add(time.Hour)
			})
			return nomadd.Exit{Code: 3}
		case "fail":
			r.report(work.ReasonAgentError, func(result *work.Result) { result.Detail = "the agent failed with exit code 3" })
			return nomadd.Exit{Code: 3}
		}
		return gated(end)(r)
	})
	s := c.start(faults{})
	defer close(end)
	tokens := int64(100)
	if _, err := s.SetQueue(t.Context(), "thrifty", control.QueueChange{Set: work.QueueSettings{TokensPerHour: &tokens}}); err != nil {
		t.Fatal(err)
	}
	task := func(text string) func(*work.Spec) { return func(spec *work.Spec) { spec.Task = text } }
	in := func(queue string) func(*work.Spec) { return func(spec *work.Spec) { spec.Queue = queue } }
	c.await(c.submit(s, 1, in("thrifty"), task("spend"))[0], inState(work.StateCompleted))
	id := c.submit(s, 1, in("thrifty"))[0]
	c.wantExplained(s, id, "Queue thrifty used 120 tokens and 0.00 USD in the last hour, its budget is 100 tokens; it goes on at ", "wait for the hour to pass")

	hour := []work.Duration{work.Duration(time.Hour)}
	id = c.submit(s, 1, task("fail"), func(spec *work.Spec) { spec.Retry = &work.RetryOverride{Backoff: hour} })[0]
	item := c.await(id, func(item work.Item) error {
		if len(item.Attempts) != 1 || item.State != work.StateQueued {
			return fmt.Errorf("%s after %d attempts", item.State, len(item.Attempts))
		}
		return nil
	})
	c.wantExplained(s, id, "it waits until "+item.NotBefore.UTC().Format(time.RFC3339), "Attempt 1 ended agent_error: the agent failed with exit code 3.")

	limited := c.submit(s, 1, task("limit"), in("patient"))[0]
	c.await(limited, func(item work.Item) error {
		if len(item.Attempts) != 1 || item.State != work.StateQueued {
			return fmt.Errorf("%s after %d attempts", item.State, len(item.Attempts))
		}
		return nil
	})
	id = c.submit(s, 1, in("patient"))[0]
	c.wantExplained(s, id, "Queue patient waits until ", "attempt 1 of item "+limited+" hit a limit: 429 from the model")
}

func TestExplainsTheLimitOfAllQueues(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	c := newCluster(t, gated(end))
	s := c.start(faults{})
	defer close(end)
	for _, id := range c.submit(s, maxInFlight) {
		c.await(id, inState(work.StateInProgress))
	}
	c.wantExplained(s, c.submit(s, 1)[0], fmt.Sprintf("%d of %d attempts are in flight over all queues.", maxInFlight, maxInFlight), "orchestrator.max_in_flight")
}

// maxInFlight is the harness's.
const maxInFlight = 20

func TestExplainsWhatKeepsAContainerFromRunning(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	c := newCluster(t, gated(end))
	s := c.start(faults{})
	defer close(end)

	id := c.submit(s, 1, func(spec *work.Spec) { spec.Resources.MemoryMB = 70000 })[0]
	c.wantExplained(s, id, "Attempt 1 is dispatched since ", "Nomad can't place it: memory exhausted on 1 of 1 nodes", "Without a running container it is given up at ", "it asks for 70000 MB")

	pulled := make(chan struct{})
	c.tasks.pull(pulled)
	id = c.submit(s, 1)[0]
	c.wantExplained(s, id, "Attempt 1 is being started on node ", "(allocation ", "): Driver: Downloading image, since ", "nomad alloc status")
	close(pulled)
	c.await(id, inState(work.StateInProgress))
}

// closed is a Nomad whose tasks wait for a variable that they may not read.
type closed struct{ orchestrator.Cluster }

func (c closed) Child(ctx context.Context, id string) (work.Child, error) {
	child, err := c.Cluster.Child(ctx, id)
	for i := range child.Allocations {
		child.Allocations[i].Task.Events = []work.TaskEvent{{Type: "Template", Message: "Missing: nomad.var.get(nomad/jobs/drover-worker@default.global)"}}
	}
	return child, err
}

func TestExplainsThatSecretsMayNotBeRead(t *testing.T) {
	t.Parallel()
	pulled := make(chan struct{})
	c := newCluster(t, succeed)
	c.tasks.pull(pulled)
	defer close(pulled)
	s := c.start(faults{cluster: func(world orchestrator.Cluster) orchestrator.Cluster { return closed{world} }})
	c.wantExplained(s, c.submit(s, 1)[0], "Template: Missing: nomad.var.get(", work.AdviseVariable)
}

func TestExplainsARunningAttempt(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	c := newCluster(t, gated(end))
	s := c.start(faults{})
	defer close(end)
	id := c.submit(s, 1)[0]
	item := c.await(id, inState(work.StateInProgress))
	c.wantExplained(s, id, "Attempt 1 runs on node ", "Its worker has not said how far it is yet.", "The last sign of life of its worker came ", "from Nomad, which started it", "Its time is up at ")

	attempt := item.CurrentID()
	c.put("progress/"+string(attempt), work.Progress{Attempt: attempt, At: time.Now(), Phase: work.PhaseAgent, Iteration: 3, LastTool: "Edit main.go"})
	check := "drover:" + string(attempt) + ":x"
	err := c.consul.Agent().ServiceRegister(&consulapi.AgentServiceRegistration{
		ID: "w", Name: "drover-worker", Check: &consulapi.AgentServiceCheck{CheckID: check, TTL: "60s", Status: consulapi.HealthPassing},
	})
	if err == nil {
		err = c.consul.Agent().UpdateTTL(check, "iteration 3", consulapi.HealthPassing)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.wantExplained(s, id, "It is running its agent, in iteration 3 of 20, last at Edit main.go.", "The last sign of life of its worker came ", "from its progress")
	testkit.Eventually(t, patience, func() error {
		if err := c.consul.Agent().UpdateTTL(check, "iteration 4, "+time.Now().String(), consulapi.HealthPassing); err != nil {
			return err
		}
		e, err := s.Explain(t.Context(), id)
		if err == nil && !strings.Contains(strings.Join(e.Facts, "\n"), "from its heartbeat") {
			err = fmt.Errorf("nothing is said of a heartbeat in\n%s", strings.Join(e.Facts, "\n"))
		}
		return err
	})
	if err := c.consul.Agent().UpdateTTL(check, "silent since 10:00", consulapi.HealthWarning); err != nil {
		t.Fatal(err)
	}
	c.wantExplained(s, id, "Its worker lives, and its agent says nothing: silent since 10:00.", "--follow shows whether the agent hangs")
}

func TestExplainsThatNomadOrConsulIsAway(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	c := newCluster(t, gated(end))
	nomadLine := &testkit.Line{Base: c.transport}
	s := c.start(faults{cluster: func(orchestrator.Cluster) orchestrator.Cluster { return c.nomadOver(nomadLine) }})
	defer close(end)
	running := c.submit(s, 1)[0]
	c.await(running, inState(work.StateInProgress))

	waiting := c.submit(s, 1, func(spec *work.Spec) { spec.NotBefore = time.Now().Add(2 * time.Second) })[0]
	nomadLine.Cut() // before it is due
	c.wantExplained(s, running, "Nomad can't be reached: nothing is dispatched", "Attempts that run go on, and report through Consul.")
	away := c.wantExplained(s, waiting, "Nomad can't be reached", "It waits for Nomad, which does not answer since ")
	if away.State != work.StateQueued || !strings.HasPrefix(away.Why, "it waits for Nomad") {
		t.Errorf("state = %s, why = %q, want queued, and that it waits for Nomad", away.State, away.Why)
	}
	nomadLine.Mend()
	c.await(waiting, inState(work.StateInProgress))

	s.line.Cut()
	e, err := s.Explain(t.Context(), running)
	if err != nil || !strings.Contains(strings.Join(e.Facts, "\n"), "Consul can't be reached, so how far it is is not known") {
		t.Errorf("without Consul: %v\n%s", err, strings.Join(e.Facts, "\n"))
	}
}

// nomadOver is a client whose connection to Nomad is a line of its own.
func (c *cluster) nomadOver(line http.RoundTripper) orchestrator.Cluster {
	c.t.Helper()
	client, err := nomad.Open(nomad.Options{
		Address: c.nomadURL, Transport: line,
		Job: nomad.Job{Source: jobs.Worker, Default: nomad.RunnerOf(work.Spec{}.WithDefaults(defaults()))},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

func TestExplainsHowAnItemEnded(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		pr := work.PullRequest{Status: work.PRCreated, Number: 7, URL: "https://forge.example.org/pull/7"}
		switch r.envelope.Spec.Task {
		case "no pr":
			pr = work.PullRequest{Status: work.PRFailed, Error: "403 from the forge"}
		case "nothing":
			pr = work.PullRequest{Status: work.PRNone}
		case "bad tests":
			r.report(work.ReasonCompleted, func(result *work.Result) { result.Test, result.PR = work.TestOutcome{Status: work.TestFailed}, pr })
			return nomadd.Exit{}
		case "wait":
			return nomadd.Exit{Code: 143, Signal: int(<-r.signals)}
		case "done":
		default:
			r.report(work.Reason(r.envelope.Spec.Task), func(result *work.Result) { result.Detail, result.RemoteCommit = "it ended so", "0a1b2c" })
			return nomadd.Exit{Code: 1}
		}
		r.report(work.ReasonCompleted, func(result *work.Result) { result.PR = pr })
		return nomadd.Exit{}
	})
	s := c.start(faults{})
	none := 0
	give := func(task string) string {
		return c.submit(s, 1, func(spec *work.Spec) {
			spec.Repository = "https://git.example.org/a/" + strings.ReplaceAll(task, " ", "-") + ".git" // a breaker of its own
			if task == string(work.ReasonRateLimited) {
				spec.Queue = "codex" // it slows its queue down
			}
			spec.Task, spec.Retry = task, &work.RetryOverride{MaxRetries: &none, MaxRequeues: &none, Actions: map[work.Reason]work.Action{work.ReasonRateLimited: work.ActFail, work.ReasonLocked: work.ActFail}}
		})[0]
	}
	for task, texts := range map[string][]string{
		"done":      {"Its pull request is https://forge.example.org/pull/7."},
		"no pr":     {"but the pull request could not be made: 403 from the forge.", "drover pr retry"},
		"nothing":   {"There is no pull request"},
		"bad tests": {"Its tests: failed.", "drover show"},
	} {
		id := give(task)
		c.await(id, inState(work.StateCompleted))
		c.wantExplained(s, id, texts...)
	}
	for _, reason := range work.Reasons() {
		if reason == work.ReasonCompleted || reason == work.ReasonNoChange || reason == work.ReasonCancelled {
			continue
		}
		id := give(string(reason))
		item := c.await(id, func(item work.Item) error {
			if !item.State.Terminal() {
				return fmt.Errorf("item of %s is %s: %s", reason, item.State, item.Why)
			}
			return nil
		})
		e := c.wantExplained(s, id, string(reason)[1:]+": it ended so", "is on the branch "+item.Branch)
		if len(e.Next) == 0 {
			t.Errorf("%s: nothing is said of what to do", reason)
		}
	}

	id := give("wait")
	c.await(id, inState(work.StateInProgress))
	if _, err := s.Order(t.Context(), id, control.Order{Verb: control.Cancel, By: "anna"}); err != nil {
		t.Fatal(err)
	}
	c.wantExplained(s, id, "cancelled by anna")

	if _, err := s.MoveQueue(t.Context(), "patient", control.QueueTransition{State: work.QueuePaused}); err != nil {
		t.Fatal(err)
	}
	id = c.submit(s, 1, func(spec *work.Spec) { spec.Queue, spec.Limits.QueueTimeout = "patient", work.Duration(time.Second) })[0]
	c.await(id, inState(work.StateFailed))
	c.wantExplained(s, id, "Not dispatched within 1s.", "longer than its queue_timeout")
}
