package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"drover/internal/work"
	"drover/internal/worker/agent"
	"drover/internal/worker/gitrepo"
	"drover/internal/worker/process"
	"drover/internal/worker/pullrequest"
	"drover/internal/worker/testrun"
)

// ending is why an attempt ends.
type ending struct {
	reason  work.Reason
	detail  string
	exit    process.Exit
	retryAt time.Time
	noRetry bool // another attempt would end the same

	// What an agent that completed says besides.
	done     bool   // the whole task is done
	noChange bool   // there is nothing to change
	words    string // why there is not
}

// attempt does the work and returns its result. ctx ends when the worker is to
// stop, hold when the attempt is not the worker's any more; in both cases there
// is an error and no result.
func (w *worker) attempt(ctx, hold context.Context) (work.Result, error) {
	limit, over := w.envelope.Spec.Limits.Timeout.Std(), errTimeout
	if budget := w.envelope.Spec.Budget.Time; budget > 0 && !w.envelope.Resume.PublishOnly {
		if left := (budget - w.envelope.Resume.Spent).Std(); left < limit {
			limit, over = left, errTimeSpent
		}
	}
	limited, cancel := context.WithTimeoutCause(ctx, limit, over)
	defer cancel()
	if len(w.envelope.Resume.Cleanup) > 0 {
		return w.removeRefs(limited, hold)
	}
	switch end, err := w.lockDeclared(limited); {
	case err != nil:
		return work.Result{}, err
	case end != nil:
		return w.result(*end), nil
	}
	if err := w.open(limited); err != nil {
		if ctx.Err() != nil {
			return work.Result{}, context.Cause(ctx)
		}
		return w.result(prepareEnding(err, limit)), nil
	}
	if w.envelope.Resume.PublishOnly {
		return w.publishOnly(hold)
	}
	if done, ok := w.finished(); ok {
		return w.publish(hold, done)
	}
	end := w.develop(limited, hold)
	if err := context.Cause(ctx); err != nil {
		w.abandon(hold)
		return work.Result{}, err
	}
	commit, err := w.deliver(hold, &end)
	if err != nil {
		return work.Result{}, err
	}
	test := work.TestOutcome{Status: work.TestSkipped, Detail: "the agent did not complete"}
	if end.reason == work.ReasonCompleted {
		test = w.test(limited)
	}
	if err := context.Cause(ctx); err != nil {
		w.abandon(hold)
		return work.Result{}, err
	}
	w.journal.phase(work.PhasePublish)
	result, err := w.conclude(hold, end, commit, test)
	if err == nil {
		w.unlock(hold) // before the result: once that is known, the session is ended
	}
	switch {
	case err != nil:
		return result, err
	case result.Reason == work.ReasonNoChange:
		w.forgetState(hold)
		return result, context.Cause(hold)
	case result.Reason != work.ReasonCompleted:
		w.keepState(hold, result.Reason)
		return result, nil
	}
	return w.publish(hold, result)
}

func prepareEnding(err error, limit time.Duration) ending {
	switch {
	case errors.Is(err, errTimeSpent):
		return ending{reason: work.ReasonBudgetExceeded, detail: err.Error()}
	case errors.Is(err, errTimeout):
		return ending{reason: work.ReasonTimeout, detail: fmt.Sprintf("not prepared within %s: %v", limit, err)}
	case errors.Is(err, gitrepo.ErrAuth):
		return ending{reason: work.ReasonGitAuthFailed, detail: err.Error()}
	}
	return ending{
		reason: work.ReasonStartFailed, detail: "the repository could not be prepared: " + err.Error(), noRetry: errors.Is(err, gitrepo.ErrUnsupported) || errors.Is(err, gitrepo.ErrUnfit),
	}
}

// finished returns the result of an earlier attempt that only lacks its pull
// request, while the remote branch is where it left it.
func (w *worker) finished() (work.Result, bool) {
	done := w.envelope.Resume.Finished
	if done == nil {
		return work.Result{}, false
	}
	if w.repo.Pushed() != done.RemoteCommit {
		w.log.Warn("the branch has moved since the work was finished: working on", "finished", done.RemoteCommit, "branch", w.repo.Pushed())
		return work.Result{}, false
	}
	return w.again(*done), true
}

// again makes the result of an earlier attempt one of this attempt's.
func (w *worker) again(done work.Result) work.Result {
	done.Attempt, done.Allocation, done.StartedAt = w.envelope.Attempt, w.Allocation, w.began
	return done
}

// publishOnly makes the pull request of work that was completed before, and
// nothing else. People may have gone on with its branch meanwhile.
func (w *worker) publishOnly(hold context.Context) (work.Result, error) {
	done := w.envelope.Resume.Finished
	switch {
	case done == nil:
		return w.result(ending{reason: work.ReasonStartFailed, noRetry: true, detail: "there is no completed work to make a pull request of"}), nil
	case w.repo.Pushed() == "" && done.Changes.Commits > 0:
		return w.result(ending{reason: work.ReasonStartFailed, noRetry: true, detail: fmt.Sprintf("branch %s is not there any more", w.envelope.Branch)}), nil
	}
	return w.publish(hold, w.again(*done))
}

// grace is how long a stopped agent may take: little once the hold is lost.
func (w *worker) grace(hold context.Context) func() time.Duration {
	return func() time.Duration {
		if hold.Err() != nil {
			return fenceGrace
		}
		return stopGrace
	}
}

// test tests what was pushed: whatever else is in the tree is moved out of it before.
func (w *worker) test(ctx context.Context) work.TestOutcome {
	w.journal.phase(work.PhaseTesting)
	ctx, ended := w.span(ctx, "tests")
	defer ended(nil)
	if w.envelope.Spec.Test.Command != "" && w.harvest != nil {
		if err := w.repo.SetAside(ctx, w.harvest); err != nil && ctx.Err() == nil {
			return work.TestOutcome{Status: work.TestError, Detail: w.Redactor.String("the tree could not be made what was pushed: " + err.Error())}
		}
	}
	stdout, flush := w.stream(w.stdout, nil)
	defer flush()
	outcome := testrun.Run(ctx, testrun.Options{
		Test: w.envelope.Spec.Test, Dir: w.tree(), Env: agent.Environment(w.Environ, w.home()), Output: stdout,
		Agent: w.Agent, CountAs: w.CountReports, Alive: w.heart.touch, Redact: w.Redactor.String,
	})
	w.log.Info("tests ended", "status", outcome.Status, "passed", outcome.Passed, "failed", outcome.Failed)
	return outcome
}

// abandon keeps what can be kept of a stopped attempt. With the hold lost that is nothing.
func (w *worker) abandon(hold context.Context) {
	if hold.Err() != nil {
		return
	}
	pushing, cancel := context.WithTimeout(hold, stopPush)
	defer cancel()
	err := w.persistently(pushing, func() error { // first what takes no look at the whole tree
		_, err := w.push(pushing)
		return err
	})
	if err == nil || errors.Is(err, gitrepo.ErrMoved) {
		_, err = w.deliverAll(pushing)
	}
	if err != nil {
		w.log.Error("last push", "error", err)
	}
	w.saveState(pushing)
	saving, cancelSave := context.WithTimeout(hold, stopSave)
	defer cancelSave()
	if err := w.journal.save(saving); err != nil {
		w.log.Warn("progress not stored", "error", err)
	}
}

// deliver pushes all work that the agent has left, and returns the newest commit.
// Work that can't be delivered changes how the attempt ends.
func (w *worker) deliver(hold context.Context, end *ending) (commit string, err error) {
	hold, ended := w.span(hold, "deliver")
	defer ended(nil)
	commit, err = w.deliverAll(hold)
	if lost := context.Cause(hold); lost != nil {
		return "", lost
	}
	if fault := w.harvestFault(); fault != "" {
		end.fail(work.ReasonAgentError, fault)
	}
	if err != nil {
		reason := work.ReasonCrashed
		switch {
		case errors.Is(err, gitrepo.ErrAuth):
			reason = work.ReasonGitAuthFailed
		case errors.Is(err, gitrepo.ErrTree):
			reason = work.ReasonAgentError
		case errors.Is(err, gitrepo.ErrBranch) && end.reason == work.ReasonPushRefused:
			return commit, nil // it says so
		case errors.Is(err, gitrepo.ErrRefused), errors.Is(err, gitrepo.ErrDeclined):
			reason = work.ReasonPushRefused
		}
		end.fail(reason, "its last commits could not be pushed: "+err.Error())
	}
	return commit, nil
}

// fail adds what went wrong after the agent had ended. An agent that did not complete keeps its reason.
func (e *ending) fail(reason work.Reason, detail string) {
	if e.reason == work.ReasonCompleted {
		e.reason = reason
	}
	e.detail += "; " + detail
}

// harvestFault says what of the agent's tree makes the attempt fail, empty if nothing does.
func (w *worker) harvestFault() string {
	switch h := w.harvest; {
	case h == nil:
		return ""
	case h.Fault != "":
		return h.Fault
	case h.Uncommitted > 0 && w.envelope.Spec.Uncommitted == work.UncommittedFail:
		return fmt.Sprintf("the agent left %d files uncommitted, and the item wants its agent to commit", h.Uncommitted)
	}
	return ""
}

// deliverAll commits and pushes what is in the agent's tree.
func (w *worker) deliverAll(ctx context.Context) (commit string, err error) {
	push := func(ctx context.Context) (string, error) { return w.repo.Deliver(ctx, w.harvest) }
	if w.harvest == nil {
		w.harvest, err = w.gather(ctx)
	}
	if err != nil {
		w.log.Warn("the agent's tree could not be looked at", "error", err)
		w.harvest.Tree.Note("the tree could not be looked at: " + err.Error())
		if w.harvest.Fault == "" {
			push = w.repo.Push
		}
	}
	err = w.persistently(ctx, func() (err error) {
		commit, err = w.pushBy(ctx, push)
		return err
	})
	return commit, err
}

func (w *worker) gather(ctx context.Context) (*gitrepo.Harvest, error) {
	w.pushing.Lock()
	defer w.pushing.Unlock()
	return w.repo.Harvest(ctx, w.envelope.Spec.Uncommitted)
}

// conclude reads the remote branch back, and returns the result so far. Work that is
// not on the remote is not completed.
func (w *worker) conclude(hold context.Context, end ending, commit string, test work.TestOutcome) (work.Result, error) {
	result := w.result(end)
	result.Commit, result.Start, result.Test = commit, w.repo.Start(), test
	err := w.prove(hold, &result)
	if err == nil && !result.Proven() {
		err = fmt.Errorf("the remote branch is at %q, not at %s", result.RemoteCommit, commit)
	}
	if err == nil {
		w.judge(end, &result)
	}
	switch {
	case result.Reason != work.ReasonCompleted:
	case err != nil:
		result.Reason, result.Detail = work.ReasonCrashed, w.Redactor.String(end.detail+", but that is not proven: "+err.Error())
	default:
		result.Detail = fmt.Sprintf("%s: %d commits on %s, tests %s", end.detail, result.Changes.Commits, result.Branch, test.Status)
	}
	if w.harvest != nil {
		result.Tree = w.harvest.Tree.Redacted(w.Redactor.String)
	}
	if about := result.Tree.String(); about != "" {
		result.Detail += "; " + about
	}
	return result, context.Cause(hold)
}

// judge tells apart what completed without a change: the agent said that there is
// nothing to change (no_change), or it did nothing (no_work). A plain agent's exit
// status is its word, and an item without a pull request needs no commit. The number
// of commits is known only once the work is delivered.
func (w *worker) judge(end ending, result *work.Result) {
	spec := w.envelope.Spec
	wanted := spec.Agent != work.AgentPlain && spec.PR.Provider != work.ProviderNone
	switch {
	case result.Reason != work.ReasonCompleted || result.Changes.Commits > 0:
	case end.noChange:
		result.Reason, result.Detail = work.ReasonNoChange, "the agent says that there is nothing to change"
		if end.words != "" {
			result.Detail = w.Redactor.String(result.Detail + ": " + end.words)
		}
	case wanted && !end.done:
		result.Reason = work.ReasonNoWork
		result.Detail = "the agent changed nothing, and did not say that there is nothing to change"
	}
}

// prove reads the remote branch back, and counts what the work changed.
func (w *worker) prove(hold context.Context, result *work.Result) error {
	err := w.persistently(hold, func() (err error) {
		result.RemoteCommit, err = w.repo.Remote(hold)
		return err
	})
	if err != nil {
		return err
	}
	result.Changes, err = w.repo.Changes(hold, result.Commit)
	return err
}

// publish makes the pull request of finished work. Before that it stores that the
// work is finished: should the attempt die now, the next one only publishes.
func (w *worker) publish(hold context.Context, result work.Result) (work.Result, error) {
	w.journal.update(true, func(p *work.Progress) {
		p.Phase, p.Commit, p.Finished = work.PhasePublish, result.RemoteCommit, &result
	})
	if err := w.journal.save(hold); err != nil {
		w.log.Warn("finished work not stored", "error", err)
	}
	token := w.env["DROVER_FORGE_TOKEN"]
	if token == "" {
		token = w.env["DROVER_GIT_TOKEN"]
	}
	hold, ended := w.span(hold, "pull_request")
	made := result
	err := w.heart.held(hold, func(ctx context.Context) error {
		made.PR = pullrequest.Make(ctx, pullrequest.Request{
			Item: w.envelope.Item, Spec: w.envelope.Spec, Base: w.repo.Base(), Branch: w.envelope.Branch,
			Attempt: result.Attempt.Number(), Iterations: result.Iteration, Tokens: result.Tokens, CostUSD: result.CostUSD,
			Changes: result.Changes, Test: result.Test, Tree: result.Tree, Token: token, Redact: w.Redactor.String, Alive: w.heart.touch,
			Text: func(ctx context.Context) (string, error) {
				return w.repo.RequestPull(ctx, cmp.Or(w.repo.Pushed(), result.RemoteCommit))
			},
		})
		return context.Cause(ctx)
	})
	if err != nil {
		ended(err)
		return work.Result{}, err
	}
	ended(failure(made.PR.Error))
	w.log.Info("pull request", "status", made.PR.Status, "url", made.PR.URL, "error", made.PR.Error)
	w.forgetState(hold)
	made.EndedAt = time.Now().UTC()
	return made, context.Cause(hold)
}

// result is an attempt's result as far as its ending tells.
func (w *worker) result(end ending) work.Result {
	p := w.journal.progress()
	usage, _ := w.memory.Usage()
	r := work.Result{
		Attempt: w.envelope.Attempt, Allocation: w.Allocation, Reason: end.reason, Detail: w.Redactor.String(end.detail),
		ExitCode: end.exit.Code, Signal: int(end.exit.Signal), RetryAt: end.retryAt, NoRetry: end.noRetry, StartedAt: w.began, EndedAt: time.Now().UTC(),
		Branch: w.envelope.Branch, Iteration: p.Iteration, Tokens: p.Tokens, CostUSD: p.CostUSD, Conversation: p.Conversation, PeakMemoryMB: usage.PeakMB,
		Test: work.TestOutcome{Status: work.TestSkipped}, PR: work.PullRequest{Status: work.PRNone},
	}
	if end.reason != work.ReasonOOMKilled {
		r.OOMKills = w.kills() - w.killsBefore
	}
	return r
}
