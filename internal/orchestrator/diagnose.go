package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// diagnosis is what is found out about an item, as it grows.
type diagnosis struct {
	*control.Explanation
}

// say adds a sentence about how things stand.
func (d diagnosis) say(format string, args ...any) {
	d.Facts = append(d.Facts, fmt.Sprintf(format, args...))
}

// advise adds what a person can do.
func (d diagnosis) advise(format string, args ...any) {
	d.Next = append(d.Next, fmt.Sprintf(format, args...))
}

// diagnose adds to an explanation what Nomad, Consul and the worker tell of the
// item at the moment. What can't be reached is said, and is no error.
func (o *Orchestrator) diagnose(ctx context.Context, item *work.Item, explanation *control.Explanation) {
	d := diagnosis{explanation}
	now := time.Now()
	if err := o.cluster.Check(ctx); err != nil && !item.State.Terminal() {
		d.say("Nomad can't be reached: nothing is dispatched, and nothing of what runs is seen: %v", err)
		d.advise("See to Nomad; drover goes on by itself once it answers. Attempts that run go on, and report through Consul.")
	}
	switch current := item.Current(); item.State {
	case work.StateQueued:
		d.queued(item, now)
	case work.StateAssigned:
		o.diagnoseStart(ctx, d, item, current, now)
	case work.StateInProgress:
		o.diagnoseRun(ctx, d, item, current, now)
	case work.StateCompleted:
		d.completed(item)
	default:
		d.ended(item)
	}
}

func (d diagnosis) queued(item *work.Item, now time.Time) {
	for _, w := range d.Waits {
		d.say("%s", capital(w.Sentence))
	}
	if a := item.Current(); a != nil {
		d.say("Attempt %d ended %s: %s.", a.Number, a.Reason, strings.TrimSuffix(a.Detail, "."))
	}
	if len(item.Attempts) == 0 {
		d.say("It fails if it is not dispatched by %s.", stamp(later(item.CreatedAt, item.Spec.NotBefore).Add(item.Spec.Limits.QueueTimeout.Std())))
	}
	for _, w := range d.Waits {
		if advice := waitAdvice[w.Kind]; advice != "" {
			d.advise("%s", advice)
		}
	}
}

// waitAdvice is what a person can do about what an item waits for.
var waitAdvice = map[control.WaitKind]string{
	control.WaitNomad:       "See to Nomad; the item is kept, and drover goes on by itself once it answers.",
	control.WaitDependency:  "See to the item it depends on: drover explain tells why that is where it is.",
	control.WaitPaused:      "drover queue resume lets the queue run again.",
	control.WaitQueueLimit:  "The queue's max_in_flight bounds it: raise it, or wait for an attempt to end.",
	control.WaitServerLimit: "orchestrator.max_in_flight bounds all queues together: raise it, or wait for an attempt to end.",
	control.WaitRate:        "The queue's rate bounds it: raise it, or wait.",
	control.WaitBudget:      "The queue's budget of the hour is spent: raise it, or wait for the hour to pass.",
	control.WaitBreaker:     "Find out what makes the repository's attempts fail (drover list, drover logs); drover breaker reset lets them run again.",
	control.WaitPaths:       "Another item has the paths that it asked for: wait for it, or see whether it hangs (drover explain).",
}

// diagnoseStart is about an attempt whose container does not run yet.
func (o *Orchestrator) diagnoseStart(ctx context.Context, d diagnosis, item *work.Item, a *work.Attempt, now time.Time) {
	if a.Child == "" {
		d.say("Attempt %d is assigned since %s, and Nomad has not taken its dispatch yet: %s.", a.Number, stamp(a.CreatedAt), item.Why)
		return
	}
	gives := a.DispatchedAt.Add(item.Spec.Limits.StartTimeout.Std())
	child, err := o.cluster.Child(ctx, a.Child)
	switch {
	case errors.Is(err, work.ErrNotFound):
		d.say("Nomad has no job %s any more: the next comparison ends the attempt.", a.Child)
		return
	case err != nil:
		d.say("Nomad has its job, %s, since %s; more is not known.", a.Child, stamp(a.DispatchedAt))
		return
	case len(child.Allocations) == 0 && child.Blocked != "":
		d.say("Attempt %d is dispatched since %s, and not placed on a node: %s.", a.Number, stamp(a.DispatchedAt), child.Blocked)
		d.advise("Make room (drover list shows what runs), add nodes, or submit it with less memory and CPU; it asks for %d MB. nomad job status %q shows the same.", item.MemoryMB, a.Child)
	case len(child.Allocations) == 0:
		d.say("Attempt %d is dispatched since %s; Nomad has not decided yet where to place it.", a.Number, stamp(a.DispatchedAt))
	default:
		d.starting(a, child.Allocations[0])
	}
	d.say("Without a running container it is given up at %s, in %s.", stamp(gives), rounded(gives.Sub(now)))
}

// starting is about an allocation that has a node and no running task.
func (d diagnosis) starting(a *work.Attempt, alloc work.Allocation) {
	switch {
	case alloc.Ended():
		d.say("Its container on node %s has ended: %s. That is being noted.", alloc.Node, alloc.Ending().Detail)
	case alloc.Running():
		d.say("Its container runs on node %s since a moment ago.", alloc.Node)
	case len(alloc.Task.Events) == 0:
		d.say("Attempt %d is placed on node %s (allocation %s), which has not begun to start it.", a.Number, alloc.Node, short(alloc.ID))
		d.advise("nomad node status and the client's log on %s tell why.", alloc.Node)
	default:
		last := alloc.Task.Events[len(alloc.Task.Events)-1]
		d.say("Attempt %d is being started on node %s (allocation %s): %s, since %s.", a.Number, alloc.Node, short(alloc.ID), eventText(last), stamp(last.At))
		if last.MissesVariable() {
			d.advise(work.AdviseVariable)
			return
		}
		d.advise("A big image takes its time at first; nomad alloc status %s shows how it goes.", short(alloc.ID))
	}
}

func eventText(e work.TaskEvent) string {
	if e.Message == "" {
		return e.Type
	}
	return e.Type + ": " + e.Message
}

// diagnoseRun is about an attempt whose container runs.
func (o *Orchestrator) diagnoseRun(ctx context.Context, d diagnosis, item *work.Item, a *work.Attempt, now time.Time) {
	limits := item.Spec.Limits
	d.say("Attempt %d runs on node %s since %s, %s (allocation %s).", a.Number, a.Node, stamp(a.StartedAt), rounded(now.Sub(a.StartedAt)), short(a.Allocation))
	progress, err := o.store.Progress(ctx, a.ID)
	switch {
	case err != nil:
		d.say("Consul can't be reached, so how far it is is not known: %v", err)
		d.advise("See to Consul. A worker that can't reach it pushes nothing while its agent goes on, and takes its attempt back. An attempt that it can't take back is run again; no retry is spent.")
	case progress == nil:
		d.say("Its worker has not said how far it is yet.")
		o.diagnoseUnclaimed(ctx, d, a, now)
	default:
		tool := ""
		if progress.LastTool != "" {
			tool = ", last at " + progress.LastTool
		}
		d.say("It is %s, in iteration %d of %d%s.", doing(progress.Phase), progress.Iteration, limits.MaxIterations, tool)
	}
	o.diagnoseLife(d, item, a, progress, now)
	d.say("Its time is up at %s.", stamp(a.StartedAt.Add(limits.Timeout.Std())))
}

// claimPatience is how long a container runs before it is told that its worker has
// not claimed the attempt.
const claimPatience = 5 * time.Second

// diagnoseUnclaimed is about a worker that does not reach Consul: it says so on its
// standard error.
func (o *Orchestrator) diagnoseUnclaimed(ctx context.Context, d diagnosis, a *work.Attempt, now time.Time) {
	if now.Sub(a.StartedAt) < claimPatience {
		return
	}
	if _, index, err := o.store.Claim(ctx, a.ID); err != nil || index != 0 {
		return
	}
	said := ""
	if line := o.lastLine(ctx, a.Allocation); line != "" {
		said = " It said last: " + line
	}
	d.say("Its worker has not claimed the attempt in Consul, so it may not reach Consul from node %s.%s", a.Node, said)
	d.advise("drover doctor checks the way from the nodes to Consul.")
}

// diagnoseLife is about whether an attempt's worker and agent live.
func (o *Orchestrator) diagnoseLife(d diagnosis, item *work.Item, a *work.Attempt, progress *work.Progress, now time.Time) {
	last, check := o.lastSign(a, progress), o.beatOf(a.ID)
	d.say("The last sign of life of its worker came %s ago, from %s.", rounded(now.Sub(last.at)), last.from)
	switch suspicion := a.Suspicion; {
	case suspicion != nil:
		until := suspicion.Since.Add(item.LostAfter(o.cfg.LostAfter))
		d.say("Its Consul session is gone since %s. Its worker may take the attempt back; if it does not until %s, the attempt ends as %s and no retry is spent.", stamp(suspicion.Since), stamp(until), work.ReasonUnreachable)
		d.advise("drover doctor checks the way from the nodes to Consul.")
	case check.Silent:
		d.say("Its worker lives, and its agent says nothing: %s.", strings.TrimSuffix(check.Output, "."))
		d.advise("drover logs %s --follow shows whether the agent hangs.", item.ID)
	}
}

// doing is what a worker does in a phase.
func doing(phase work.Phase) string {
	switch phase {
	case work.PhaseLocking:
		return "waiting for the paths that it locks"
	case work.PhasePreparing:
		return "preparing the repository"
	case work.PhaseAgent:
		return "running its agent"
	case work.PhaseTesting:
		return "testing"
	case work.PhasePublish:
		return "publishing its work"
	case work.PhaseCleanup:
		return "removing references of ended items"
	}
	return string(phase)
}

// completed is about an item that is done, and its pull request.
func (d diagnosis) completed(item *work.Item) {
	d.say("%s", capital(item.Why))
	switch pr := item.PR; pr.Status {
	case work.PRCreated:
		d.say("Its pull request is %s.", pr.URL)
	case work.PRFailed:
		d.say("Its work is on the branch %s, but the pull request could not be made: %s.", item.Branch, strings.TrimSuffix(pr.Error, "."))
		d.advise("Mend what it says, then drover pr retry %s makes it.", item.ID)
	case work.PRPending:
		d.say("Its pull request is still to be made.")
	case work.PRNone:
		d.say("There is no pull request: none was wanted, or nothing was changed.")
	}
	if item.Test.Status == work.TestFailed || item.Test.Status == work.TestTimeout || item.Test.Status == work.TestError {
		d.say("Its tests: %s.", item.Test.Status)
		d.advise("drover show %s tells of the tests.", item.ID)
	}
}

// ended is about an item that came to nothing.
func (d diagnosis) ended(item *work.Item) {
	d.say("%s", capital(item.Why))
	if item.Commit != "" && len(item.Attempts) > 0 {
		d.say("What was done until then is on the branch %s, at %s.", item.Branch, item.Commit)
	}
	advice := endAdvice[item.Reason]
	if item.Reason == "" { // it never ran
		advice = "It waited for longer than its queue_timeout: see whether its queue has room, then drover retry lets it wait anew."
	}
	if advice != "" {
		d.advise("%s", advice)
	}
}

// endAdvice is what a person can do about an item that ended, by the reason of its last attempt.
var endAdvice = map[work.Reason]string{
	work.ReasonStuck:            "The agent gave up: read what it said (drover logs), make the task clearer or smaller, then drover retry.",
	work.ReasonMaxIterations:    "It used up its iterations or turns: make the task smaller, or raise limits.max_iterations or the agent's own limit, then drover retry.",
	work.ReasonAgentError:       "Its agent failed again and again: drover logs tells how; mend the agent or its image, then drover retry.",
	work.ReasonOOMKilled:        "It needs more memory: raise resources.memory_mb, or memory_max_mb for what it may grow to, then drover retry.",
	work.ReasonCrashed:          "Its process died without a result: drover logs and the attempt's task events tell how; then drover retry.",
	work.ReasonHeartbeatLost:    "Its agent hung: drover logs tells at what; then drover retry.",
	work.ReasonTimeout:          "It took longer than limits.timeout: raise that, or make the task smaller, then drover retry.",
	work.ReasonKilledByOperator: "A person ended it; drover retry runs it again.",
	work.ReasonNodeLost:         "Its nodes went away too often: see to them (nomad node status), then drover retry.",
	work.ReasonDrained:          "Its nodes were drained too often: wait for that to end, then drover retry.",
	work.ReasonPreempted:        "Nomad took its room too often: give the worker job a higher priority, or more room, then drover retry.",
	work.ReasonStartFailed:      "No container of it would start: drover doctor checks image, driver and room; then drover retry.",
	work.ReasonGitAuthFailed:    "The git server refused the credentials in the worker's Nomad variable: renew them, then drover retry.",
	work.ReasonRateLimited:      "It was told to wait for too long: see to the limits of the model or the forge, then drover retry.",
	work.ReasonLocked:           "Its paths were held by another attempt for too long: drover locks list says by whose; then drover retry.",
	work.ReasonNoWork:           "Its agent changed nothing and said nothing: read its output (drover logs), check its command and credentials, then drover retry.",
	work.ReasonSilent:           "Its agent printed nothing for too long: drover logs shows the last it did; raise limits.silence_timeout or idle_timeout where that was honest work, then drover retry.",
	work.ReasonPushRefused:      "The git server refuses its commits: the attempt's sentence names the rule; change the task or the server's rule, then drover retry.",
	work.ReasonFenced:           "Its workers lost Consul too often: drover doctor checks the way from the nodes to Consul; then drover retry.",
	work.ReasonUnreachable:      "Its workers did not reach Consul: drover doctor checks the way from the nodes to Consul; then drover retry.",
	work.ReasonBudgetExceeded:   "It used up its budget: look at what it did so far, raise the budget, then drover retry.",
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// rounded is a duration as people say it.
func rounded(d time.Duration) time.Duration { return max(0, d).Round(time.Second) }

func short(id string) string {
	const shown = 8
	return id[:min(shown, len(id))]
}

// capital makes a sentence of a text.
func capital(text string) string {
	if text == "" {
		return ""
	}
	text = strings.ToUpper(text[:1]) + text[1:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
