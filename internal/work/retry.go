package work

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"
)

// Action is what happens to an item when an attempt ends for some reason.
type Action string

// The actions a row of the retry table can name.
const (
	ActComplete Action = "complete" // the item is completed
	ActStuck    Action = "stuck"    // the item is stuck: a person must look
	ActFail     Action = "fail"     // the item is failed
	ActCancel   Action = "cancel"   // the item is cancelled
	ActRetry    Action = "retry"    // queued again after the backoff; spends a retry
	ActRequeue  Action = "requeue"  // queued again after the requeue backoff; spends no retry, and never fails the item
	ActWait     Action = "wait"     // queued again at the stated time, as when a limit resets; spends nothing
)

// Actions lists every Action.
func Actions() []Action {
	return []Action{ActComplete, ActStuck, ActFail, ActCancel, ActRetry, ActRequeue, ActWait}
}

// actRestart is what start failures had before they shared ActRequeue with the
// other infrastructure endings. Stored overrides and configurations may name it.
const actRestart = "restart"

// ParseAction returns the action of that name, or of that former name. It does
// not check that there is one.
func ParseAction(name string) Action {
	if name == actRestart {
		return ActRequeue
	}
	return Action(name)
}

// UnmarshalText makes stored overrides with former names readable.
func (a *Action) UnmarshalText(text []byte) error {
	*a = ParseAction(string(text))
	return nil
}

// DefaultActions is the table of what each reason does to its item.
func DefaultActions() map[Reason]Action {
	return map[Reason]Action{
		ReasonCompleted:        ActComplete,
		ReasonStuck:            ActStuck,
		ReasonMaxIterations:    ActFail,
		ReasonAgentError:       ActRetry,
		ReasonOOMKilled:        ActRetry,
		ReasonCrashed:          ActRetry,
		ReasonHeartbeatLost:    ActRetry,
		ReasonTimeout:          ActRetry,
		ReasonKilledByOperator: ActRetry,
		ReasonNodeLost:         ActRequeue,
		ReasonDrained:          ActRequeue,
		ReasonPreempted:        ActRequeue,
		ReasonStartFailed:      ActRequeue,
		ReasonGitAuthFailed:    ActFail,
		ReasonRateLimited:      ActWait,
		ReasonLocked:           ActWait,
		ReasonBudgetExceeded:   ActFail,
		ReasonCancelled:        ActCancel,
		ReasonNoChange:         ActComplete,
		ReasonNoWork:           ActRetry, // once: see noWorkRetries
		ReasonSilent:           ActRetry,
		ReasonPushRefused:      ActFail,
		ReasonFenced:           ActRequeue,
		ReasonUnreachable:      ActRequeue,
	}
}

// RetryPolicy decides what happens to an item after an attempt.
type RetryPolicy struct {
	Actions        map[Reason]Action
	Backoff        []Duration // wait before retry 1, 2, …; the last repeats
	RequeueBackoff []Duration // wait before requeue 1, 2, … in a row; the last repeats
	RateLimitWait  Duration   // wait when a rate limit names no reset
	MaxRetries     int
	MaxRequeues    int     // requeues in a row, each beside attempts that went on, after which the item is stuck
	Jitter         float64 // at most this share is added to a wait, 0 to 1
	MemoryGrowth   float64 // factor for memory after an OOM, where the item allows
}

// Bounds of the requeue backoff: it doubles from the first to the last.
const (
	firstRequeueWait = 10 * time.Second
	lastRequeueWait  = 10 * time.Minute
)

// DefaultRetryPolicy returns the policy of the design: three retries after 1, 5
// and 30 minutes; requeues after 10 s, doubled up to 10 minutes.
func DefaultRetryPolicy() RetryPolicy {
	minutes := func(m ...int) (out []Duration) {
		for _, v := range m {
			out = append(out, Duration(time.Duration(v)*time.Minute))
		}
		return out
	}
	requeue := []Duration{Duration(firstRequeueWait)}
	for wait := 2 * firstRequeueWait; wait < lastRequeueWait; wait *= 2 {
		requeue = append(requeue, Duration(wait))
	}
	return RetryPolicy{
		Actions:        DefaultActions(),
		Backoff:        minutes(1, 5, 30),
		RequeueBackoff: append(requeue, Duration(lastRequeueWait)),
		RateLimitWait:  Duration(15 * time.Minute),
		MaxRetries:     3,
		MaxRequeues:    10,
		Jitter:         0.2,
		MemoryGrowth:   1.5,
	}
}

// RetryOverride changes parts of a RetryPolicy; nil and empty fields change nothing.
type RetryOverride struct {
	Actions        map[Reason]Action `json:"actions,omitempty"`
	Backoff        []Duration        `json:"backoff,omitempty"`
	RequeueBackoff []Duration        `json:"requeue_backoff,omitempty"`
	MaxRetries     *int              `json:"max_retries,omitempty"`
	MaxRequeues    *int              `json:"max_requeues,omitempty"`
	// StartBackoff and MaxStartFailures are read, and have no effect: older items
	// have them, from when start failures had rules of their own.
	StartBackoff     []Duration `json:"start_backoff,omitempty"`
	MaxStartFailures *int       `json:"max_start_failures,omitempty"`
}

// overridable are the actions a person may choose; the rest follow from the
// reason alone (completed work cannot be declared, nor a cancellation undone).
var overridable = []Action{ActStuck, ActFail, ActRetry, ActRequeue, ActWait}

// Validate returns ErrInvalid for an unknown reason or action, or a negative count.
func (o RetryOverride) Validate() error {
	for reason, action := range o.Actions {
		switch {
		case !slices.Contains(Reasons(), reason):
			return fmt.Errorf("unknown reason %q: %w", reason, ErrInvalid)
		case reason == ReasonCompleted || reason == ReasonNoChange || reason == ReasonCancelled:
			return fmt.Errorf("the action of %s is fixed: %w", reason, ErrInvalid)
		case !slices.Contains(overridable, action):
			return fmt.Errorf("action %q of %s: use one of %s: %w", action, reason, join(overridable), ErrInvalid)
		}
	}
	for _, n := range []*int{o.MaxRetries, o.MaxRequeues, o.MaxStartFailures} {
		if n != nil && *n < 0 {
			return fmt.Errorf("a maximum of %d must not be negative: %w", *n, ErrInvalid)
		}
	}
	return nil
}

// With returns the policy with o's fields in place of its own. A nil o changes nothing.
func (p RetryPolicy) With(o *RetryOverride) RetryPolicy {
	if o == nil {
		return p
	}
	actions := make(map[Reason]Action, len(p.Actions))
	for reason, action := range p.Actions {
		actions[reason] = or(o.Actions[reason], action)
	}
	p.Actions = actions
	if len(o.Backoff) > 0 {
		p.Backoff = o.Backoff
	}
	if len(o.RequeueBackoff) > 0 {
		p.RequeueBackoff = o.RequeueBackoff
	}
	set := func(to *int, from *int) {
		if from != nil {
			*to = *from
		}
	}
	set(&p.MaxRetries, o.MaxRetries)
	set(&p.MaxRequeues, o.MaxRequeues)
	return p
}

// Decision is what the policy makes of an ended attempt.
type Decision struct {
	State     State     // where the item goes
	NotBefore time.Time // earliest next dispatch, when State is queued
	Counter   Action    // which counter goes up: retry, requeue, or none if empty
	MemoryMB  int       // memory of the next attempt, when State is queued
	Why       string    // the sentence people read
}

// Next decides what happens to item after its current attempt ended so. It is
// a pure function: the same arguments always give the same decision.
func (p RetryPolicy) Next(item Item, end Ending, now time.Time) Decision {
	action := p.Actions[end.Reason]
	if end.Result != nil && end.Result.NoRetry {
		return Decision{State: StateFailed, Why: "another attempt would end the same"}
	}
	if end.NoRetry && action != ActComplete && action != ActCancel {
		return Decision{State: StateFailed, Why: "no retry was wanted"}
	}
	if end.Requeue && action != ActComplete && action != ActCancel {
		return Decision{State: StateQueued, NotBefore: now, MemoryMB: item.MemoryMB, Why: "requeued at once, no retry spent"}
	}
	switch action {
	case ActComplete:
		why := "the work is done and pushed"
		if end.Reason == ReasonNoChange {
			why = "there is nothing to push, and no pull request"
		}
		return Decision{State: StateCompleted, Why: why}
	case ActStuck:
		return Decision{State: StateStuck, Why: "the agent gave up: a person must look"}
	case ActCancel:
		return Decision{State: StateCancelled, Why: "cancelled"}
	case ActFail:
		return Decision{State: StateFailed, Why: fmt.Sprintf("%s is not retried", end.Reason)}
	case ActRequeue:
		return p.requeue(item, end, now)
	}
	if limit := item.Spec.Limits.MaxIterations; limit > 0 && max(item.Iteration, end.Iteration) >= limit {
		if end.Finished == nil {
			return Decision{State: StateFailed, Why: fmt.Sprintf("the iteration limit %d is reached", limit)}
		}
	}
	return p.again(item, action, end, now)
}

// noWorkRetries is how often an item is retried whose agent did nothing and said nothing.
const noWorkRetries = 1

// again decides about an item that may be queued once more.
func (p RetryPolicy) again(item Item, action Action, end Ending, now time.Time) Decision {
	d := Decision{State: StateQueued, Counter: action, NotBefore: now, MemoryMB: p.memory(item, end.Reason)}
	attempt := item.CurrentID()
	switch action {
	case ActRetry:
		if end.Reason == ReasonNoWork && item.endedWith(ReasonNoWork) >= noWorkRetries {
			return Decision{State: StateFailed, Why: "the agent did nothing twice"}
		}
		if item.Retries >= p.MaxRetries {
			return Decision{State: StateFailed, Why: fmt.Sprintf("all %d retries are used up", p.MaxRetries)}
		}
		wait := p.jittered(nth(p.Backoff, item.Retries), attempt)
		d.NotBefore = now.Add(wait)
		d.Why = fmt.Sprintf("retry %d of %d after a backoff of %s", item.Retries+1, p.MaxRetries, wait.Round(time.Second))
	case ActWait:
		d.Counter = ""
		switch {
		case end.RetryAt.IsZero():
			d.NotBefore = now.Add(p.jittered(p.RateLimitWait.Std(), attempt))
		case end.RetryAt.After(now):
			d.NotBefore = end.RetryAt
		default: // reset while the attempt ended; a pause keeps a wrong clock from spinning
			d.NotBefore = now.Add(p.jittered(nth(p.Backoff, 0), attempt))
		}
		d.Why = fmt.Sprintf("waits until %s, no retry spent", d.NotBefore.UTC().Format(time.RFC3339))
	default:
		return Decision{State: StateFailed, Why: fmt.Sprintf("no rule for %s", end.Reason)}
	}
	return d
}

// requeue decides about an item whose attempt ended by no fault of its own. It
// never fails the item. But an agent that starves its node looks like a node that
// fails: a person must look once the budget is gone, or once it happened again and
// again while other attempts on the same nodes went on.
func (p RetryPolicy) requeue(item Item, end Ending, now time.Time) Decision {
	row := item.Requeues + 1
	if gone := item.budgetGone(end, now); gone != "" {
		return Decision{State: StateStuck, Counter: ActRequeue, Why: gone + ": a person must look"}
	}
	if row >= p.MaxRequeues && end.Witnessed >= p.MaxRequeues {
		return Decision{State: StateStuck, Counter: ActRequeue, Why: fmt.Sprintf("%d attempts in a row ended like this while others on the same nodes went on: a person must look", row)}
	}
	wait := p.jittered(nth(p.RequeueBackoff, item.Requeues), item.CurrentID())
	return Decision{
		State: StateQueued, Counter: ActRequeue, NotBefore: now.Add(wait), MemoryMB: p.memory(item, end.Reason),
		Why: fmt.Sprintf("requeued after a backoff of %s (%d in a row), no retry spent", wait.Round(time.Second), row),
	}
}

// memory returns the memory of the next attempt: grown after an OOM up to the
// item's ceiling, unchanged otherwise.
func (p RetryPolicy) memory(item Item, reason Reason) int {
	memory, ceiling := item.MemoryMB, item.Spec.Resources.MemoryMaxMB
	if reason != ReasonOOMKilled || ceiling <= memory {
		return memory
	}
	return min(int(float64(memory)*p.MemoryGrowth), ceiling)
}

// jittered adds up to Jitter to wait. The share comes from the attempt's id,
// so that items that died together come back apart, and a decision made twice
// is the same decision.
func (p RetryPolicy) jittered(wait time.Duration, attempt AttemptID) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(attempt))
	share := float64(h.Sum64()%1024) / 1024
	return wait + time.Duration(float64(wait)*p.Jitter*share)
}

func nth(waits []Duration, n int) time.Duration {
	if len(waits) == 0 {
		return 0
	}
	return waits[min(n, len(waits)-1)].Std()
}

func join[S ~string](values []S) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return strings.Join(out, ", ")
}
