package worker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"drover/internal/work"
	"drover/internal/worker/agent"
	"drover/internal/worker/gitrepo"
	"drover/internal/worker/process"
)

// idleLimit is after how many iterations in a row that changed nothing, and
// called the same tools, an agent is stuck whatever it says.
const idleLimit = 3

var idleDetail = fmt.Sprintf("%d iterations in a row changed no file, made no commit and called the same tools", idleLimit)

// Why the worker itself stops an agent.
var (
	errIterations = errors.New("the iteration limit is reached")
	errBudget     = errors.New("the budget is used up")
	errIdle       = errors.New("the agent makes no progress")
)

// develop runs the agent, and pushes each commit as it is made.
func (w *worker) develop(ctx, hold context.Context) ending {
	ctx, endSpan := w.span(ctx, "agent", attribute.String("drover.agent", w.envelope.Spec.Agent))
	defer endSpan(nil)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w.journal.phase(work.PhaseAgent)

	watching, stopWatching := context.WithCancel(trace.ContextWithSpan(hold, trace.SpanFromContext(ctx)))
	defer stopWatching()
	ended := make(chan struct{})
	var pushes sync.WaitGroup
	pushes.Go(func() { w.pushCommits(watching, ended, stop) })
	defer func() {
		if ctx.Err() != nil {
			stopWatching() // there is no time to finish a push that is under way
		}
		close(ended)
		pushes.Wait()
	}()

	socket, stopLocks := w.serveLocks(hold)
	defer stopLocks()
	d := &development{
		worker: w, socket: socket, stop: stop, grace: w.grace(hold), spec: w.envelope.Spec,
		adapter: agent.For(w.envelope.Spec.Agent), conversation: w.envelope.Resume.Conversation,
	}
	if d.adapter == nil {
		return ending{reason: work.ReasonStartFailed, detail: fmt.Sprintf("this worker knows no agent %q", d.spec.Agent)}
	}
	d.restoreState(ctx)
	return d.loop(ctx)
}

// development is the agent's part of an attempt: one run of it, or as many as it
// takes until it says that it is done.
type development struct {
	*worker
	socket       string // for locks
	stop         context.CancelCauseFunc
	grace        func() time.Duration
	spec         work.Spec
	adapter      agent.Adapter
	conversation *work.Conversation // to go on with; nil begins a new one
	idle         idleness
}

func (d *development) loop(ctx context.Context) ending {
	again := d.spec.Loop.Mode == work.LoopUntil
	if again {
		d.idle.state = d.state(ctx)
	}
	for {
		iteration := d.journal.progress().Iteration + 1
		if over := d.journal.over(); over != "" {
			return ending{reason: work.ReasonBudgetExceeded, detail: over}
		}
		if !d.journal.iteration(iteration) {
			return ending{reason: work.ReasonMaxIterations, detail: fmt.Sprintf("the item's limit of %d iterations is used up", d.spec.Limits.MaxIterations)}
		}
		end, run := d.iterate(ctx, iteration)
		if !again || end.reason != work.ReasonCompleted {
			return end
		}
		if run.done(d.spec.Loop.DonePhrase) {
			end.detail = fmt.Sprintf("the agent said that its task is done, in iteration %d", d.journal.progress().Iteration)
			return end
		}
		if d.idle.after(d.state(ctx), strings.Join(run.tools, "\n")) >= idleLimit {
			end.reason = work.ReasonStuck
			end.detail = idleDetail
			return end
		}
	}
}

// iterate runs the agent once. A conversation that can't be resumed, because its
// state is not here, is begun afresh.
func (d *development) iterate(ctx context.Context, iteration int) (ending, outcome) {
	run := d.run(ctx, iteration)
	resumed := d.conversation != nil
	d.conversation = nil
	if resumed && run.unresumed(ctx) {
		d.log.Warn("the agent's conversation could not be resumed: beginning a new one", "exit", run.exit, "error", run.failure.Message)
		d.journal.forgetConversation()
		run = d.run(ctx, iteration)
	}
	return d.ending(context.Cause(ctx), run), run
}

// outcome is what one run of the agent came to.
type outcome struct {
	err     error // it could not be started
	exit    process.Exit
	status  int         // exit status in the terms of docs/agent-protocol.md
	failure agent.Event // the last error it told of
	said    string      // its last message
	isDone  bool        // it told so by an event
	tools   []string    // its calls
	before  int         // of these, in the iterations that have ended
	kills   int         // for memory
}

// done reports whether the agent said that its task is done.
func (o outcome) done(phrase string) bool {
	return o.isDone || slices.ContainsFunc(strings.Split(o.said, "\n"), func(line string) bool { return strings.TrimSpace(line) == phrase })
}

// unresumed reports whether a run that was to go on with a conversation failed
// before it did anything, of its own accord.
func (o outcome) unresumed(ctx context.Context) bool {
	return ctx.Err() == nil && o.err == nil && o.exit.Signal == 0 && !o.exit.Killed() && o.status != agent.ExitComplete &&
		len(o.tools) == 0 && o.failure.Code != agent.CodeRateLimited && o.failure.Code != agent.CodeBudget
}

func (d *development) run(ctx context.Context, iteration int) (o outcome) {
	prompt, err := d.envelope.Prompt(iteration)
	if err != nil {
		o.err = fmt.Errorf("its prompt: %w", err)
		return o
	}
	ctx, ended := d.span(ctx, "iteration", attribute.Int("drover.iteration", iteration), attribute.Bool("drover.resumed", d.conversation != nil))
	defer func() { ended(o.failed(ctx)) }()
	before := d.kills()
	d.journal.startRun()
	read := d.adapter.Reader()
	stdout, flush := d.stream(d.stdout, func(line string) {
		for _, e := range read(line) {
			d.heed(ctx, e, &o)
		}
	})
	stderr, flushErrors := d.stream(d.stderr, func(string) {})
	run := d.runOf(ctx, prompt, iteration)
	run.Stdout, run.Stderr = stdout, stderr
	o.exit, o.err = run.Start(ctx)
	flush()
	flushErrors()
	o.kills = d.kills() - before
	o.status = d.adapter.Status(o.exit.Code)
	if o.failure.Final && o.status == agent.ExitComplete {
		o.status = agent.ExitError
	}
	d.log.Info("agent ended", "iteration", iteration, "exit", o.exit)
	return o
}

func (d *development) runOf(ctx context.Context, prompt string, iteration int) agent.Run {
	options := agent.Options{Program: d.spec.Command, CostLeftUSD: d.journal.costLeft()}
	if d.conversation != nil {
		options.Conversation = d.conversation.ID
	}
	run := d.agentRun(d.adapter)
	run.Prompt, run.Options, run.Iteration, run.Grace = prompt, options, iteration-1, d.grace
	run.Environ, run.LockSocket = d.environ(ctx), d.socket
	return run
}

// agentRun is how everything runs that runs as the agent does.
func (w *worker) agentRun(adapter agent.Adapter) agent.Run {
	return agent.Run{
		Envelope: w.envelope, Adapter: adapter, Tree: w.tree(), Home: w.home(), TaskFile: filepath.Join(w.Dir, "task.txt"),
		Environ: w.Environ, Starter: w.Agent, Alive: w.heart.touch,
	}
}

// heed takes note of what the agent says, and stops it where it goes too far.
func (d *development) heed(ctx context.Context, e agent.Event, o *outcome) {
	switch e.Type {
	case agent.EventTool:
		o.tools = append(o.tools, e.Name+" "+e.Detail)
		d.journal.tool(e)
	case agent.EventTokens:
		d.journal.tokens(e)
	case agent.EventCost:
		d.journal.cost(e.USD)
	case agent.EventSession:
		d.journal.conversation(e.ID)
	case agent.EventMessage:
		o.said = e.Message
	case agent.EventDone:
		o.isDone = true
	case agent.EventIteration:
		if !d.journal.iteration(e.N) {
			d.stop(errIterations)
		} else if d.spec.Loop.Mode != work.LoopUntil && d.idle.after(d.state(ctx), strings.Join(o.tools[o.before:], "\n")) >= idleLimit {
			d.stop(errIdle) // it loops by itself, and is watched from here
		}
		o.before = len(o.tools)
	case agent.EventError:
		o.failure = e
	}
	if !e.Last && d.journal.over() != "" {
		d.stop(errBudget)
	}
}

// ending says why the agent ended. What was done to it comes before how it took it.
func (d *development) ending(cause error, o outcome) ending {
	end := ending{exit: o.exit}
	limits := d.spec.Limits
	switch {
	case o.err != nil:
		return ending{reason: work.ReasonStartFailed, detail: "the agent could not be started: " + o.err.Error()}
	case errors.Is(cause, gitrepo.ErrBranch):
		end.reason, end.detail = work.ReasonPushRefused, "the agent was stopped: "+cause.Error()
	case errors.Is(cause, errTimeSpent):
		end.reason, end.detail = work.ReasonBudgetExceeded, fmt.Sprintf("the agent was stopped: the item's budget of %s is used up", d.spec.Budget.Time)
	case errors.Is(cause, errIdle):
		end.reason, end.detail = work.ReasonStuck, "the agent was stopped: "+idleDetail
	case errors.Is(cause, errTimeout):
		end.reason, end.detail = work.ReasonTimeout, fmt.Sprintf("the agent was stopped after %s, the attempt's limit", limits.Timeout)
	case errors.Is(cause, errIterations):
		end.reason, end.detail = work.ReasonMaxIterations, fmt.Sprintf("the agent was stopped after iteration %d, the item's limit", limits.MaxIterations)
	case errors.Is(cause, errBudget):
		end.reason, end.detail = work.ReasonBudgetExceeded, "the agent was stopped: "+d.journal.over()
	case o.exit.Killed() && o.kills > 0:
		end.reason, end.detail = work.ReasonOOMKilled, fmt.Sprintf("the kernel killed the agent: out of memory at the limit of %d MB", d.spec.Resources.MemoryMB)
	case o.exit.Signal != 0:
		end.reason, end.detail = work.ReasonCrashed, "the agent was killed by "+o.exit.String()
	case o.status == agent.ExitComplete:
		end.reason, end.detail = work.ReasonCompleted, "the agent completed its task"
	case o.status == agent.ExitStuck:
		end.reason, end.detail = work.ReasonStuck, "the agent is stuck (exit code 1)"
	case o.status == agent.ExitMaxIterations:
		end.reason, end.detail = work.ReasonMaxIterations, "the agent used up its iterations (exit code 2)"
	case o.failure.Code == agent.CodeRateLimited:
		end.reason, end.detail, end.retryAt = work.ReasonRateLimited, "the agent was told to wait", o.failure.RetryAt
	case o.failure.Code == agent.CodeBudget:
		end.reason, end.detail = work.ReasonBudgetExceeded, "the agent stopped at its budget"
	default:
		end.reason, end.detail = work.ReasonAgentError, "the agent failed with "+o.exit.String()
	}
	if o.failure.Message != "" && end.reason != work.ReasonCompleted {
		end.detail += ": " + o.failure.Message
	}
	return end
}

// state changes with every commit and every changed file. It is empty where it
// can't be told.
func (d *development) state(ctx context.Context) string {
	files, err := d.runOf(ctx, "", 1).Fingerprint(ctx)
	if err != nil {
		d.log.Warn("whether the agent changed anything is not known", "error", err)
		return ""
	}
	return d.repo.Mark() + files
}

// idleness counts the iterations in a row that came to nothing in the same way.
type idleness struct {
	state, tools string
	n            int
}

func (i *idleness) after(state, tools string) int {
	switch {
	case state == "" || state != i.state:
		i.n = 0
	case i.n > 0 && tools != i.tools:
		i.n = 1
	default:
		i.n++
	}
	i.state, i.tools = state, tools
	return i.n
}
