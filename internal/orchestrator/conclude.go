package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/internal/work"
)

// claimTries bounds how often an attempt's end is stored anew because its worker
// claimed it in the same moment. A worker takes its attempt back once a second at
// most, so a few tries are enough.
const claimTries = 3

// endingOf is the end a worker reported.
func endingOf(r work.Result) work.Ending {
	code := r.ExitCode
	end := work.Ending{
		Reason: r.Reason, Detail: r.Detail, ExitCode: &code, Signal: r.Signal, OOMKilled: r.Reason == work.ReasonOOMKilled,
		Result: &r, Iteration: r.Iteration, Tokens: r.Tokens, Commit: r.RemoteCommit, RetryAt: r.RetryAt,
		CostUSD: r.CostUSD, Conversation: r.Conversation,
	}
	if r.Reason.AttemptState() == work.AttemptCompleted && !r.Proven() {
		end.Reason = work.ReasonCrashed
		end.Detail = fmt.Sprintf("reported commit %q as its work, but saw the remote branch at %q", r.Commit, r.RemoteCommit)
	}
	return end
}

// conclude ends an attempt, then cleans up after it. A result that the worker
// has stored counts more than what its death looked like from outside.
func (o *Orchestrator) conclude(ctx context.Context, e *entry, a work.AttemptID, end work.Ending) {
	if err := o.lockedEnd(ctx, e, a, end); err != nil {
		o.complain("end of attempt not stored", a, err)
		return
	}
	o.cleanup(ctx, e, a)
}

func (o *Orchestrator) lockedEnd(ctx context.Context, e *entry, a work.AttemptID, end work.Ending) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	return o.end(ctx, e, a, end)
}

// end stores an attempt's end. The caller has e locked. An attempt that is not
// the current one, or has ended, stays as it is.
func (o *Orchestrator) end(ctx context.Context, e *entry, a work.AttemptID, end work.Ending) error {
	current := e.item.Load().Current()
	if current == nil || current.ID != a || current.State.Terminal() {
		return nil
	}
	end, err := o.evidence(ctx, a, end)
	if err != nil {
		return err
	}
	end.Witnessed = o.witnessed(e.item.Load(), end)
	for try := 1; ; try++ {
		claim, index, err := o.store.Claim(ctx, a)
		if err != nil {
			return err
		}
		if end.Result == nil && end.Allocation != "" && claim.Allocation != "" && claim.Allocation != end.Allocation {
			return nil // a twin's end: another allocation runs the attempt
		}
		if end.Session != "" && end.Result == nil && claim.Session != end.Session {
			return nil // its worker has taken the attempt back meanwhile
		}
		end := end
		if index == 0 && end.Result == nil {
			end = end.Unclaimed()
		}
		end = o.withLastWords(ctx, end)
		claim.Ended, claim.EndedAt = true, time.Now().UTC()
		along := []work.Change{{CloseClaim: &work.CloseClaim{Claim: claim, Index: index}}}
		if end.Result != nil {
			along = append(along, work.Change{ConsumeResult: a})
		}
		var event work.Event = work.Ended{Attempt: a, Ending: end}
		if end.Reason == work.ReasonCancelled {
			event = work.Cancelled{By: work.By{Who: end.Detail, Key: end.Key}}
		}
		err = o.apply(ctx, e, event, along...)
		if err == nil || try == claimTries || !errors.Is(err, work.ErrConflict) {
			return err
		}
	}
}

// evidence adds to an end what the worker left: its result, or else how far it had come.
func (o *Orchestrator) evidence(ctx context.Context, a work.AttemptID, end work.Ending) (work.Ending, error) {
	if end.Result == nil && end.Reason != work.ReasonCancelled {
		result, err := o.store.Result(ctx, a)
		if err != nil {
			return end, err
		}
		if result != nil {
			reported := endingOf(*result)
			reported.Events, reported.NoRetry, reported.Requeue, reported.Key = end.Events, end.NoRetry, end.Requeue, end.Key
			return reported, nil
		}
	}
	if end.Result != nil {
		return end, nil
	}
	progress, err := o.store.Progress(ctx, a)
	if err != nil || progress == nil {
		return end, err
	}
	end.Iteration, end.Tokens, end.Commit = progress.Iteration, progress.Tokens, progress.Commit
	end.CostUSD, end.Conversation, end.Finished = progress.CostUSD, progress.Conversation, progress.Finished
	return end, nil
}

// cleanup removes what an ended attempt left behind: its session, and its child,
// once the logs are kept. A worker that ended by itself has given its locks up;
// of another nobody knows whether its last push is over, so those are free after
// the lock delay.
//
// Whoever comes while it is under way has it done once more: what made them come
// may have happened after it looked.
func (o *Orchestrator) cleanup(ctx context.Context, e *entry, a work.AttemptID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, busy := o.cleaning[a]; busy {
		o.cleaning[a] = true
		return
	}
	for again := true; again && ctx.Err() == nil; again = o.cleaning[a] {
		o.cleaning[a] = false
		o.mu.Unlock()
		o.cleanOnce(ctx, e, a)
		o.mu.Lock()
	}
	delete(o.cleaning, a)
}

func (o *Orchestrator) cleanOnce(ctx context.Context, e *entry, a work.AttemptID) {
	attempt := e.item.Load().Attempt(a.Number())
	if attempt == nil || !attempt.State.Terminal() {
		return
	}
	child, childErr := o.childOf(ctx, *attempt)
	if childErr != nil || !child.Running() || time.Since(attempt.EndedAt) > leaveGrace {
		if err := o.endSession(ctx, a); err != nil {
			o.complain("session of ended attempt not destroyed", a, err)
			if !child.Running() {
				return // its child is what has this tried again
			}
		}
	}
	if child != nil {
		childErr = o.removeChild(ctx, *attempt, *child)
	}
	o.complain("child of ended attempt not removed", a, childErr)
}

func (o *Orchestrator) endSession(ctx context.Context, a work.AttemptID) error {
	claim, _, err := o.store.Claim(ctx, a)
	if err != nil {
		return err
	}
	return o.store.EndSession(ctx, claim)
}

// leaveGrace is how long a worker that is stopped keeps its session, without which
// it is fenced: with it, it still pushes what its agent has committed, and gives its
// locks up. It is over what Nomad's clients allow between SIGTERM and SIGKILL.
const leaveGrace = 40 * time.Second

// childOf returns an attempt's child, nil if there is none.
func (o *Orchestrator) childOf(ctx context.Context, attempt work.Attempt) (*work.Child, error) {
	if attempt.Child == "" {
		return nil, nil
	}
	child, err := o.cluster.Child(ctx, attempt.Child)
	switch {
	case errors.Is(err, work.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &child, nil
}

// exitGrace is how long a worker that has reported may take to exit by itself.
const exitGrace = 30 * time.Second

// removeChild stops an attempt's child if it runs, and removes it once it has
// ended and its output is kept. The end of what it stops brings it back here.
func (o *Orchestrator) removeChild(ctx context.Context, attempt work.Attempt, child work.Child) error {
	running, settling := child.Running(), false
	for _, a := range child.Allocations {
		settling = settling || a.Ended() && !a.Settled()
	}
	if settling {
		return nil // its last output and status are about to come
	}
	if running && attempt.Result != nil && time.Since(attempt.EndedAt) < exitGrace {
		return nil
	}
	if err := o.keepLogs(ctx, attempt.ID, child); err != nil {
		return err
	}
	if running && child.Stopped {
		return nil
	}
	return o.cluster.Stop(ctx, child.ID, !running)
}
