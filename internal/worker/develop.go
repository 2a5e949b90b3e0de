package worker

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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
	errSilent     = errors.New("the agent prints nothing")
	errStill      = errors.New("the agent prints nothing and uses no CPU time")
	errLingers    = errors.New("the agent's run is over, and its process is not")
)

// lingerGrace is how long an agent may run on that has said how its run ended, and
// nothing more since. Claude Code and Codex end within a second or two.
const lingerGrace = 15 * time.Second

// maxWords bounds what a result keeps of an agent's own words, in bytes.
const maxWords = 2 << 10

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
		return ending{reason: work.ReasonStartFailed, noRetry: true, detail: fmt.Sprintf("this worker knows no agent %q", d.spec.Agent)}
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
		cut := run.cutAtTurns()
		if !again || end.reason != work.ReasonCompleted && !cut || end.noChange {
			return end
		}
		if end.done {
			end.detail = fmt.Sprintf("the agent said that its task is done, in iteration %d", d.journal.progress().Iteration)
			return end
		}
		if d.idle.after(d.state(ctx), strings.Join(run.tools, "\n")) >= idleLimit {
			end.reason = work.ReasonStuck
			end.detail = idleDetail
			return end
		}
		if cut {
			d.conversation = d.journal.progress().Conversation
		}
	}
}

// iterate runs the agent once. A conversation that can't be resumed, because its
// state is not here, is begun afresh.
func (d *development) iterate(ctx context.Context, iteration int) (ending, outcome) {
	run := d.run(ctx, iteration)
	resumed := d.conversation != nil
	d.conversation = nil
	d.settleConversation(ctx, run)
	if resumed && run.unresumed(ctx) {
		d.log.Warn("the agent's conversation could not be resumed: beginning a new one", "exit", run.exit, "error", run.failure.Message)
		d.journal.forgetConversation()
		run = d.run(ctx, iteration)
	}
	return d.ending(context.Cause(ctx), run), run
}

// outcome is what one run of the agent came to.
type outcome struct {
	err      error // it could not be started
	exit     process.Exit
	status   int         // exit status in the terms of docs/agent-protocol.md
	said     agent.Said  // of its end, last
	inTime   bool        // it said that all is well before anybody stopped it
	lingered bool        // and was ended long after it had said how its run ended
	failure  agent.Event // the last error it told of
	words    string      // its last message
	isDone   bool        // it told so by an event
	noChange bool        // as above
	tools    []string    // its calls
	before   int         // of these, in the iterations that have ended
	kills    int         // for memory

	conversation string // that it is, as far as its state tells
	renamed      string // what it called that later
}

// says reports whether a line of its last message holds nothing but a phrase.
func (o outcome) says(phrase string) bool {
	return slices.ContainsFunc(strings.Split(o.words, "\n"), func(line string) bool { return strings.TrimSpace(line) == phrase })
}

// why is its last message without a phrase that is for the worker, as much of it as is kept.
func (o outcome) why(phrase string) string {
	lines := slices.DeleteFunc(strings.Split(o.words, "\n"), func(line string) bool { return strings.TrimSpace(line) == phrase })
	return shortened(strings.TrimSpace(strings.Join(lines, "\n")))
}

// shortened cuts an agent's words to what is kept of them.
func shortened(words string) string {
	if len(words) <= maxWords {
		return words
	}
	return strings.ToValidUTF8(words[:maxWords], "") + "…"
}

// cutAtTurns reports whether it stopped at a limit of turns of its own.
func (o outcome) cutAtTurns() bool {
	return o.said == agent.SaidFailed && o.failure.Code == agent.CodeMaxTurns
}

// ended reports whether it ended by itself, or because the worker stopped it: not
// because somebody else killed it.
func (o outcome) ended(cause error) bool { return cause != nil || o.lingered || !o.exit.Killed() }

// unresumed reports whether a run that was to go on with a conversation failed
// before it did anything, of its own accord.
func (o outcome) unresumed(ctx context.Context) bool {
	understood := []string{agent.CodeRateLimited, agent.CodeBudget, agent.CodeQuota, agent.CodeMaxTurns}
	return ctx.Err() == nil && o.err == nil && o.exit.Signal == 0 && !o.exit.Killed() && o.status != agent.ExitComplete &&
		len(o.tools) == 0 && !slices.Contains(understood, o.failure.Code)
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
	running, over := context.WithCancelCause(ctx)
	defer over(nil)
	linger := time.AfterFunc(lingerGrace, func() { over(errLingers) })
	linger.Stop()
	defer linger.Stop()
	var vigil vigil
	read := d.adapter.Reader()
	stdout, flush := d.stream(d.stdout, func(line string) {
		for _, e := range read(line) {
			d.heed(ctx, e, &o)
			switch {
			case e.Type == agent.EventEnd || e.Final:
				linger.Reset(lingerGrace)
			case !e.Last:
				linger.Stop() // it goes on
			}
		}
	})
	stderr, flushErrors := d.stream(d.stderr, nil)
	run := d.runOf(ctx, prompt, iteration)
	run.Stdout, run.Stderr, run.Busy = vigil.watched(stdout), vigil.watched(stderr), func() { vigil.busy.Store(true) }
	o.conversation = run.Options.Conversation
	var watch sync.WaitGroup
	watch.Go(func() {
		vigil.keep(running, d.spec.Limits.SilenceTimeout.Std(), d.spec.Limits.IdleTimeout.Std(), d.stop)
	})
	o.exit, o.err = run.Start(running)
	o.lingered = errors.Is(context.Cause(running), errLingers)
	over(nil)
	watch.Wait()
	flush()
	flushErrors()
	o.kills = d.kills() - before
	o.status = d.adapter.Status(o.exit.Code, o.said)
	d.log.Info("agent ended", "iteration", iteration, "exit", o.exit, "said", o.said)
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
		d.converse(e.ID, o)
	case agent.EventMessage:
		o.words = e.Message
	case agent.EventDone:
		o.isDone = true
	case agent.EventNoChange:
		o.noChange, o.words = true, e.Message
	case agent.EventEnd:
		o.said, o.inTime, o.failure = agent.SaidWell, ctx.Err() == nil, agent.Event{}
	case agent.EventRecovered:
		o.failure = agent.Event{}
	case agent.EventIteration:
		if !d.journal.iteration(e.N) {
			d.stop(errIterations)
		} else if d.spec.Loop.Mode != work.LoopUntil && d.idle.after(d.state(ctx), strings.Join(o.tools[o.before:], "\n")) >= idleLimit {
			d.stop(errIdle) // it loops by itself, and is watched from here
		}
		o.before = len(o.tools)
	case agent.EventError:
		o.failure = e
		o.failure.Message = shortened(e.Message)
		if e.Final {
			o.said, o.inTime = agent.SaidFailed, false
		}
	}
	if !e.Last && d.journal.over() != "" {
		d.stop(errBudget)
	}
}

// neverStarts reports whether the image itself keeps the agent from being started:
// another attempt would find the same. The launcher passes errors on as texts.
func neverStarts(err error) bool {
	return slices.ContainsFunc([]syscall.Errno{syscall.ENOENT, syscall.EACCES, syscall.ENOEXEC}, func(e syscall.Errno) bool {
		return strings.Contains(err.Error(), e.Error())
	}) || errors.Is(err, exec.ErrNotFound)
}

// ending says why the agent ended. What was done to it comes before how it took
// it, unless it had said by then that it is done.
func (d *development) ending(cause error, o outcome) ending {
	end := ending{exit: o.exit}
	limits := d.spec.Limits
	switch {
	case o.err != nil:
		return ending{reason: work.ReasonStartFailed, noRetry: neverStarts(o.err), detail: "the agent could not be started: " + o.err.Error()}
	case o.inTime && o.ended(cause) && (cause == nil || d.finishes(o)):
		return d.completed(o)
	case errors.Is(cause, gitrepo.ErrBranch):
		end.reason, end.detail = work.ReasonPushRefused, "the agent was stopped: "+cause.Error()
	case errors.Is(cause, errTimeSpent):
		end.reason, end.detail = work.ReasonBudgetExceeded, fmt.Sprintf("the agent was stopped: the item's budget of %s is used up", d.spec.Budget.Time)
	case errors.Is(cause, errIdle):
		end.reason, end.detail = work.ReasonStuck, "the agent was stopped: "+idleDetail
	case errors.Is(cause, errSilent):
		end.reason, end.detail = work.ReasonSilent, fmt.Sprintf("the agent was stopped: it printed nothing for %s (limits.silence_timeout)", limits.SilenceTimeout)
	case errors.Is(cause, errStill):
		end.reason, end.detail = work.ReasonSilent, fmt.Sprintf("the agent was stopped: it printed nothing and used no CPU time for %s (limits.idle_timeout)", limits.IdleTimeout)
	case errors.Is(cause, errTimeout):
		end.reason, end.detail = work.ReasonTimeout, fmt.Sprintf("the agent was stopped after %s, the attempt's limit", limits.Timeout)
	case errors.Is(cause, errIterations):
		end.reason, end.detail = work.ReasonMaxIterations, fmt.Sprintf("the agent was stopped after iteration %d, the item's limit", limits.MaxIterations)
	case errors.Is(cause, errBudget):
		end.reason, end.detail = work.ReasonBudgetExceeded, "the agent was stopped: "+d.journal.over()
	case o.exit.Killed() && o.kills > 0:
		end.reason, end.detail = work.ReasonOOMKilled, fmt.Sprintf("the kernel killed the agent: out of memory at the limit of %d MB", d.spec.Resources.MemoryMB)
	case o.exit.Signal != 0 && o.said != agent.SaidFailed:
		end.reason, end.detail = work.ReasonCrashed, "the agent was killed by "+o.exit.String()
	case o.status == agent.ExitComplete:
		return d.completed(o)
	case o.status == agent.ExitStuck:
		end.reason, end.detail = work.ReasonStuck, "the agent is stuck (exit code 1)"
	case o.status == agent.ExitMaxIterations:
		end.reason, end.detail = work.ReasonMaxIterations, "the agent used up its iterations (exit code 2)"
	default:
		end = d.failed(o)
	}
	if o.failure.Message != "" {
		end.detail += ": " + o.failure.Message
	}
	return end
}

// finishes reports whether a good end of this run is that of the agent's part.
func (d *development) finishes(o outcome) bool {
	end := d.completed(o)
	return d.spec.Loop.Mode != work.LoopUntil || end.done || end.noChange
}

// completed is the ending of an agent that came to a good end. Whether it changed
// anything is known once its work is delivered.
func (d *development) completed(o outcome) ending {
	end := ending{reason: work.ReasonCompleted, detail: "the agent completed its task", exit: o.exit}
	end.done = o.isDone || o.says(d.spec.Loop.DonePhrase)
	if end.noChange = o.noChange || o.says(work.NoChangePhrase); end.noChange {
		end.words = o.why(work.NoChangePhrase)
	}
	return end
}

// failed is the ending of an agent that says, or whose exit status says, that it failed.
func (d *development) failed(o outcome) ending {
	end := ending{exit: o.exit}
	switch o.failure.Code {
	case agent.CodeRateLimited:
		end.reason, end.detail = work.ReasonRateLimited, "the agent was told to wait"
		if o.failure.RetryAt.Unix() > 0 { // a reset at 0 is how some say that they know none
			end.retryAt = o.failure.RetryAt
		}
	case agent.CodeBudget:
		end.reason, end.detail = work.ReasonBudgetExceeded, "the agent stopped at its budget"
	case agent.CodeMaxTurns:
		end.reason, end.detail = work.ReasonMaxIterations, "the agent could go on"
	case agent.CodeQuota:
		end.reason, end.detail, end.noRetry = work.ReasonAgentError, "the model's account has nothing left, and waiting does not help", true
	default:
		end.reason, end.detail = work.ReasonAgentError, "the agent failed with "+o.exit.String()
		if o.said == agent.SaidNothing && d.spec.Agent != work.AgentPlain {
			end.detail += " and did not say how its run ended"
		}
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
