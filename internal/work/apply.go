package work

import (
	"fmt"
	"time"
)

// Event is something that happened to an item.
type Event interface{ event() }

// Assigned says that the item's next attempt is about to be dispatched.
type Assigned struct{}

// Dispatched says that Nomad has the attempt's child job.
type Dispatched struct {
	Attempt AttemptID
	Child   string
	Adopted bool
}

// Waiting says what an attempt that has not started waits for.
type Waiting struct {
	Attempt AttemptID
	For     string
}

// Started says that the attempt's container runs.
type Started struct {
	Attempt    AttemptID
	Allocation string
	Node       string
	At         time.Time
}

// Ended says that the attempt is over.
type Ended struct {
	Attempt AttemptID
	Ending  Ending
}

// LateResult is a result of an attempt that had ended already.
type LateResult struct{ Result Result }

// Cancelled says that a person wants no more of the item.
type Cancelled struct{ By By }

// Expired says that the item waited in the queue longer than it may.
type Expired struct{}

// DependencyEnded says that an item which was to complete first has not.
type DependencyEnded struct {
	ID    string
	State State // in which it ended; empty if it is gone
}

func (Assigned) event()        {}
func (Dispatched) event()      {}
func (Waiting) event()         {}
func (Started) event()         {}
func (Ended) event()           {}
func (LateResult) event()      {}
func (Cancelled) event()       {}
func (Expired) event()         {}
func (DependencyEnded) event() {}

// Ending is how an attempt ended, as far as it is known.
type Ending struct {
	Allocation string // whose end it is, as Nomad saw it; empty where it was not seen there
	Node       string // of that allocation
	Session    string // whose loss the end was inferred from: void once the claim has another
	Reason     Reason
	Detail     string // a sentence; never empty
	ExitCode   *int
	Signal     int
	OOMKilled  bool
	Events     []string // Nomad's task events
	Result     *Result  // the worker's own report, if there is one
	Finished   *Result  // work that only lacks its pull request
	Iteration  int      // reached, over all attempts
	Tokens     Tokens   // spent, over all attempts
	CostUSD    float64  // spent, over all attempts
	Commit     string   // last pushed
	RetryAt    time.Time
	NoRetry    bool   // a person wants no retry
	Requeue    bool   // a person wants the item queued again at once, no retry spent
	Witnessed  int    // of the attempts that were requeued in a row, this one among them: how many ended while others on their nodes went on
	Key        string // of the order that ended it, if it had one

	Conversation *Conversation // the agent's latest, nil if it has none
}

// Apply returns item as it is after event. The argument is left as it was.
//
// It returns a *TransitionError when the item's state does not allow the event,
// and ErrStaleAttempt when the event is about another attempt than the current
// one; then nothing is to be stored.
func Apply(item Item, event Event, policy RetryPolicy, now time.Time) (Item, error) {
	next := item.clone()
	next.UpdatedAt = now
	var err error
	switch e := event.(type) {
	case Assigned:
		err = next.assign(now)
	case Dispatched:
		err = next.dispatched(e, now)
	case Waiting:
		err = next.waiting(e)
	case Started:
		err = next.started(e, now)
	case Ended:
		err = next.ended(e, policy, now)
	case LateResult:
		err = next.late(e)
	case Cancelled:
		err = next.cancel(e, policy, now)
	case Expired:
		err = next.move(StateFailed, fmt.Sprintf("not dispatched within %s", next.Spec.Limits.QueueTimeout), "", now)
	case DependencyEnded:
		err = next.dependencyEnded(e, now)
	case Suspected:
		err = next.suspected(e, now)
	case Heard:
		err = next.heard(e)
	case PublishAsked:
		err = next.publishAsked(now)
	case Publishing:
		err = next.publish(now)
	case CleaningUp:
		err = next.cleanUp(e, now)
	case RefsRemoved:
		err = next.refsRemoved(now)
	default:
		err = next.order(event, now)
	}
	if err != nil {
		return item, fmt.Errorf("item %s: %w", item.ID, err)
	}
	if _, removed := event.(RefsRemoved); removed || len(next.Attempts) > 0 && next.Current().Kind() == KindCleanup && next.State == item.State {
		next.UpdatedAt = item.UpdatedAt // retention counts from the end of the item
	}
	return next, nil
}

// move takes an item on to another state. key is that of the order which had it
// moved, if one had.
func (i *Item) move(to State, cause, key string, now time.Time) error {
	if err := CheckTransition(i.State, to); err != nil {
		return err
	}
	i.set(to, cause, key, now)
	return nil
}

// set is the only place where an item's state changes.
func (i *Item) set(to State, cause, key string, now time.Time) {
	i.History = append(i.History, Transition{At: now, From: i.State, To: to, Cause: cause, Key: key})
	i.State, i.Why = to, cause
}

// current returns the attempt an event is about, if it is the current one and open.
func (i *Item) current(id AttemptID) (*Attempt, error) {
	a := i.Current()
	if a == nil || a.ID != id || a.State.Terminal() {
		return nil, fmt.Errorf("attempt %s: %w", id, ErrStaleAttempt)
	}
	return a, nil
}

func (i *Item) assign(now time.Time) error {
	id := i.NextAttempt()
	if err := i.move(StateAssigned, fmt.Sprintf("attempt %d is being dispatched", id.Number()), "", now); err != nil {
		return err
	}
	i.NotBefore, i.RefsRemovedAt = time.Time{}, time.Time{}
	i.Attempts = append(i.Attempts, Attempt{
		ID: id, Number: id.Number(), State: AttemptStarting, CreatedAt: now, MemoryMB: i.MemoryMB,
	})
	return nil
}

func (i *Item) dispatched(e Dispatched, now time.Time) error {
	a, err := i.current(e.Attempt)
	if err != nil {
		return err
	}
	if a.Child != "" && a.Child != e.Child {
		return fmt.Errorf("attempt %s already runs as %s: %w", e.Attempt, a.Child, ErrConflict)
	}
	a.Child, a.DispatchedAt, a.Adopted = e.Child, now, e.Adopted
	if a.Aside() {
		return nil
	}
	i.Why = fmt.Sprintf("attempt %d waits for its container", a.Number)
	return nil
}

func (i *Item) waiting(e Waiting) error {
	a, err := i.current(e.Attempt)
	if err == nil && !a.Aside() {
		i.Why = e.For
	}
	return err
}

func (i *Item) started(e Started, now time.Time) error {
	a, err := i.current(e.Attempt)
	if err != nil {
		return err
	}
	if err := CheckAttemptTransition(a.State, AttemptRunning); err != nil {
		return err
	}
	if a.Aside() {
		a.State, a.Allocation, a.Node, a.StartedAt = AttemptRunning, e.Allocation, e.Node, e.At
		return nil
	}
	if err := i.move(StateInProgress, fmt.Sprintf("attempt %d runs on %s", a.Number, e.Node), "", now); err != nil {
		return err
	}
	a.State, a.Allocation, a.Node, a.StartedAt = AttemptRunning, e.Allocation, e.Node, e.At
	return nil
}

func (i *Item) ended(e Ended, policy RetryPolicy, now time.Time) error {
	a, err := i.current(e.Attempt)
	if err != nil {
		return err
	}
	end := e.Ending
	switch a.Kind() {
	case KindPublish:
		return i.published(a, end, policy, now)
	case KindCleanup:
		return a.end(end, now)
	}
	decision := policy.Next(*i, end, now)
	if err := a.end(end, now); err != nil {
		return err
	}
	tokens, cost := i.Tokens, i.CostUSD
	i.keep(end)
	a.Tokens, a.CostUSD = Tokens{In: i.Tokens.In - tokens.In, Out: i.Tokens.Out - tokens.Out}, i.CostUSD-cost
	if decision.State == StateQueued {
		i.NotBefore, i.MemoryMB = decision.NotBefore, decision.MemoryMB
	}
	if decision.State == StateQueued || decision.Counter == ActRequeue {
		i.count(decision.Counter)
	}
	if limit := i.Spec.Limits.MaxIterations; decision.Counter == ActRequeue && limit > 0 {
		i.Iteration = min(i.Iteration, limit-1) // the last one was cut off, and is run again
	}
	if decision.State.Terminal() && i.PR.Status == PRPending && (decision.State != StateCompleted || end.Reason == ReasonNoChange) {
		i.PR.Status = PRNone
	}
	i.Reason = end.Reason
	if decision.State == StateCompleted {
		i.planPublish(now)
		decision.Why += i.publishedWhy()
	}
	return i.move(decision.State, fmt.Sprintf("%s: %s; %s", end.Reason, end.Detail, decision.Why), end.Key, now)
}

func (a *Attempt) end(end Ending, now time.Time) error {
	to := end.Reason.AttemptState()
	if err := CheckAttemptTransition(a.State, to); err != nil {
		return err
	}
	a.State, a.Reason, a.Detail, a.EndedAt = to, end.Reason, end.Detail, now
	a.Node, a.Suspicion = or(a.Node, end.Node), nil
	a.ExitCode, a.Signal, a.OOMKilled = end.ExitCode, end.Signal, end.OOMKilled
	a.Events, a.Result = end.Events, end.Result
	if r := end.Result; r != nil && a.Allocation == "" {
		a.Allocation, a.StartedAt = r.Allocation, r.StartedAt
	}
	return nil
}

// keep takes over what the attempt achieved, so that the next one goes on from it.
func (i *Item) keep(end Ending) {
	i.Iteration = max(i.Iteration, end.Iteration)
	i.Tokens = Tokens{In: max(i.Tokens.In, end.Tokens.In), Out: max(i.Tokens.Out, end.Tokens.Out)}
	i.CostUSD = max(i.CostUSD, end.CostUSD)
	i.Conversation = or(end.Conversation, i.Conversation)
	i.Commit = or(end.Commit, i.Commit)
	if end.Finished != nil {
		i.Finished = end.Finished
	}
	if r := end.Result; r != nil {
		i.Iteration = max(i.Iteration, r.Iteration)
		i.Tokens = Tokens{In: max(i.Tokens.In, r.Tokens.In), Out: max(i.Tokens.Out, r.Tokens.Out)}
		i.CostUSD = max(i.CostUSD, r.CostUSD)
		i.Conversation = or(r.Conversation, i.Conversation)
		i.Commit = or(r.RemoteCommit, i.Commit)
		i.Test = r.Test
		if r.Reason == ReasonCompleted {
			i.PR, i.Finished = r.PR, nil
		}
	}
}

func (i *Item) count(counter Action) {
	switch counter {
	case ActRequeue:
		i.Requeues++
		return
	case ActRetry:
		i.Retries++
	}
	i.Requeues = 0 // only those in a row count
}

// late keeps a result that came too late. It moves nothing.
func (i *Item) late(e LateResult) error {
	a := i.Attempt(e.Result.Attempt.Number())
	if a == nil || a.ID != e.Result.Attempt {
		return fmt.Errorf("attempt %s: %w", e.Result.Attempt, ErrNotFound)
	}
	if !a.State.Terminal() {
		return fmt.Errorf("attempt %s is still %s: %w", a.ID, a.State, ErrConflict)
	}
	result := e.Result
	a.LateResult = &result
	return nil
}

// cancel ends the item, and its attempt if one is under way.
func (i *Item) cancel(e Cancelled, policy RetryPolicy, now time.Time) error {
	detail := "cancelled by " + e.By.String()
	if a := i.Current(); a != nil && !a.State.Terminal() {
		return i.ended(Ended{Attempt: a.ID, Ending: Ending{Reason: ReasonCancelled, Detail: detail, Key: e.By.Key}}, policy, now)
	}
	if i.PR.Status == PRPending {
		i.PR.Status = PRNone
	}
	i.Reason = ReasonCancelled
	return i.move(StateCancelled, detail, e.By.Key, now)
}

// dependencyEnded ends an item that can never run: cancelled if the other was,
// failed otherwise.
func (i *Item) dependencyEnded(e DependencyEnded, now time.Time) error {
	to, how := StateFailed, "is "+string(e.State)
	switch e.State {
	case StateCancelled:
		to = StateCancelled
	case "":
		how = "is gone"
	}
	if i.PR.Status == PRPending {
		i.PR.Status = PRNone
	}
	if to == StateCancelled {
		i.Reason = ReasonCancelled
	}
	return i.move(to, fmt.Sprintf("item %s, which it depends on, %s", e.ID, how), "", now)
}
