package work

import (
	"fmt"
	"slices"
	"time"
)

// BreakerState is where a repository's breaker stands.
type BreakerState string

// The states of a breaker.
const (
	BreakerClosed   BreakerState = "closed"    // items run
	BreakerOpen     BreakerState = "open"      // items wait
	BreakerHalfOpen BreakerState = "half_open" // one attempt runs, to see whether it is any better
)

// maxOutcomes bounds what a breaker remembers.
const maxOutcomes = 100

// Breaker keeps a repository whose attempts fail from wasting more of them. The
// zero value but for Repository is closed. Its methods return the breaker as it
// is after; the receiver is left as it was.
type Breaker struct {
	Repository string       `json:"repository"` // RepositoryKey
	State      BreakerState `json:"state"`
	Why        string       `json:"why,omitempty"`       // it is open or half open, in a sentence
	By         string       `json:"by,omitempty"`        // the operator who tripped it
	Since      time.Time    `json:"since,omitzero"`      // of the state
	Until      time.Time    `json:"until,omitzero"`      // when one attempt may pass; zero where an operator has to reset it
	Opened     int          `json:"opened,omitempty"`    // times in a row, each with a longer pause
	Trial      AttemptID    `json:"trial,omitempty"`     // that was let through
	Outcomes   []Outcome    `json:"outcomes,omitempty"`  // within the window, while closed
	UpdatedAt  time.Time    `json:"updated_at,omitzero"` // of the record
	Unknown    Unknown      `json:"-"`
}

// Outcome is how an attempt ended, as a breaker counts it.
type Outcome struct {
	At     time.Time `json:"at"`
	Reason Reason    `json:"reason"`
	Weight float64   `json:"weight"` // of a failure; 0 for a success, which counts 1
}

// BreakerPolicy decides when breakers open and close.
type BreakerPolicy struct {
	Weights     map[Reason]float64 // how much a failure counts; reasons that are not in it do not count at all
	Window      Duration           // outcomes that count
	MinCount    float64            // weight of all outcomes in the window below which none opens
	FailureRate float64            // share of failures, by weight, at which one opens; above 0, at most 1
	Pause       Duration           // from opening to the next trial; doubles from trial to trial
	MaxPause    Duration
}

// DefaultBreakerWeights is the table of which reasons count, and how much. An
// attempt that completed counts 1 as a success. What is not in it says nothing
// about the repository: limits of a model, trouble of Nomad or its nodes, what a
// person did, and an item's own budget.
func DefaultBreakerWeights() map[Reason]float64 {
	return map[Reason]float64{
		ReasonGitAuthFailed: 5, // the next item will be refused in the same way
		ReasonAgentError:    1,
		ReasonCrashed:       1,
		ReasonOOMKilled:     1,
		ReasonHeartbeatLost: 1,
		ReasonTimeout:       1,
		ReasonStuck:         1,
		ReasonMaxIterations: 1,
		ReasonNoWork:        1,
		ReasonSilent:        1,
		ReasonPushRefused:   1,
	}
}

// neverCounts are the reasons that no table may have.
var neverCounts = []Reason{
	ReasonCompleted, ReasonRateLimited, ReasonLocked, ReasonNodeLost, ReasonDrained, ReasonPreempted, ReasonKilledByOperator, ReasonCancelled,
	ReasonNoChange, ReasonStartFailed, ReasonFenced, ReasonUnreachable,
}

// DefaultBreakerPolicy opens at four failures of five, for five minutes at first.
func DefaultBreakerPolicy() BreakerPolicy {
	return BreakerPolicy{
		Weights: DefaultBreakerWeights(), Window: Duration(time.Hour), MinCount: 5, FailureRate: 0.8,
		Pause: Duration(5 * time.Minute), MaxPause: Duration(time.Hour),
	}
}

// Validate returns ErrInvalid for a reason that can't count and for numbers out of range.
func (p BreakerPolicy) Validate() error {
	for reason, weight := range p.Weights {
		switch {
		case !slices.Contains(Reasons(), reason):
			return fmt.Errorf("unknown reason %q: %w", reason, ErrInvalid)
		case slices.Contains(neverCounts, reason) && weight != 0:
			return fmt.Errorf("%s never counts against a repository: %w", reason, ErrInvalid)
		case weight < 0:
			return fmt.Errorf("weight %g of %s must not be negative: %w", weight, reason, ErrInvalid)
		}
	}
	switch {
	case p.FailureRate <= 0 || p.FailureRate > 1:
		return fmt.Errorf("failure rate %g: use more than 0 and at most 1: %w", p.FailureRate, ErrInvalid)
	case p.MinCount < 1:
		return fmt.Errorf("minimum count %g: use 1 at least: %w", p.MinCount, ErrInvalid)
	case p.MaxPause < p.Pause:
		return fmt.Errorf("longest pause %s is below the first, %s: %w", p.MaxPause, p.Pause, ErrInvalid)
	}
	return nil
}

// Closed reports whether items run as ever.
func (b Breaker) Closed() bool { return b.State == BreakerClosed || b.State == "" }

// Quiet reports whether nothing speaks against the repository, so that its
// breaker needs no record.
func (b Breaker) Quiet() bool {
	return b.Closed() && !slices.ContainsFunc(b.Outcomes, func(o Outcome) bool { return o.Weight > 0 })
}

// Idle reports whether the breaker is closed and counts nothing any more.
func (b Breaker) Idle(policy BreakerPolicy, now time.Time) bool {
	return b.Closed() && !slices.ContainsFunc(b.Outcomes, func(o Outcome) bool { return now.Sub(o.At) <= policy.Window.Std() })
}

// Ended takes note of an attempt's end.
func (b Breaker) Ended(a AttemptID, reason Reason, policy BreakerPolicy, now time.Time) Breaker {
	weight, counts := policy.Weights[reason]
	failed := counts && weight > 0
	switch {
	case b.Closed():
		return b.count(a, reason, failed, policy, now)
	case b.State == BreakerOpen || b.Trial != a:
		return b // it was under way when the breaker opened
	case reason == ReasonCompleted:
		return b.close(now)
	case failed:
		return b.open(fmt.Sprintf("attempt %d of item %s, let through to see, ended %s", a.Number(), a.Item(), reason), policy, now)
	}
	b.Trial, b.UpdatedAt = "", now // it says nothing: another one is let through
	return b
}

// count adds an outcome to a closed breaker, and opens it where there are too many failures.
func (b Breaker) count(a AttemptID, reason Reason, failed bool, policy BreakerPolicy, now time.Time) Breaker {
	b.Outcomes = slices.DeleteFunc(slices.Clone(b.Outcomes), func(o Outcome) bool { return now.Sub(o.At) > policy.Window.Std() })
	if !failed && reason != ReasonCompleted {
		return b
	}
	outcome := Outcome{At: now, Reason: reason}
	if failed {
		outcome.Weight = policy.Weights[reason]
	}
	b.Outcomes = append(b.Outcomes, outcome)
	b.Outcomes = b.Outcomes[max(0, len(b.Outcomes)-maxOutcomes):]
	b.State, b.UpdatedAt = BreakerClosed, now
	var failures, all float64
	number := 0
	for _, o := range b.Outcomes {
		failures += o.Weight
		all += o.Weight
		if o.Weight == 0 {
			all++
		} else {
			number++
		}
	}
	if !failed || all < policy.MinCount || failures/all < policy.FailureRate {
		return b
	}
	return b.open(fmt.Sprintf("%d of the last %d attempts failed, the last one, attempt %d of item %s, with %s",
		number, len(b.Outcomes), a.Number(), a.Item(), reason), policy, now)
}

func (b Breaker) open(why string, policy BreakerPolicy, now time.Time) Breaker {
	pause := policy.Pause.Std()
	for range b.Opened {
		pause = min(2*pause, policy.MaxPause.Std())
	}
	return Breaker{
		Repository: b.Repository, State: BreakerOpen, Why: why, Since: now, Until: now.Add(pause), Opened: b.Opened + 1, UpdatedAt: now,
		Unknown: b.Unknown,
	}
}

func (b Breaker) close(now time.Time) Breaker {
	return Breaker{Repository: b.Repository, State: BreakerClosed, Since: now, UpdatedAt: now, Unknown: b.Unknown}
}

// MayTry reports whether an attempt may pass to see whether it is any better:
// the pause is over, and none is let through yet.
func (b Breaker) MayTry(now time.Time) bool {
	switch b.State {
	case BreakerOpen:
		return !b.Until.IsZero() && !now.Before(b.Until)
	case BreakerHalfOpen:
		return b.Trial == ""
	}
	return false
}

// Try lets an attempt through.
func (b Breaker) Try(a AttemptID, now time.Time) Breaker {
	if b.State != BreakerHalfOpen {
		b.State, b.Since = BreakerHalfOpen, now
	}
	b.Until, b.Trial, b.UpdatedAt = time.Time{}, a, now
	return b
}

// Trip opens the breaker by hand: for a time, after which one attempt passes, or
// until it is reset where the time is zero.
func (b Breaker) Trip(by, why string, pause time.Duration, now time.Time) Breaker {
	tripped := Breaker{
		Repository: b.Repository, State: BreakerOpen, Why: cut(or(why, "tripped by hand"), maxCauseBytes), By: cut(by, maxNameBytes),
		Since: now, Opened: 1, UpdatedAt: now, Unknown: b.Unknown,
	}
	if pause > 0 {
		tripped.Until = now.Add(pause)
	}
	return tripped
}

// Reset closes the breaker by hand, and forgets what it counted.
func (b Breaker) Reset(now time.Time) Breaker { return b.close(now) }

// Sentence says why the repository's items wait. The breaker must not be closed.
func (b Breaker) Sentence() string {
	switch {
	case b.State == BreakerHalfOpen:
		return fmt.Sprintf("the breaker of %s lets one attempt through at a time: %s", b.Repository, b.Why)
	case b.Until.IsZero():
		return fmt.Sprintf("the breaker of %s is open until it is reset: %s", b.Repository, b.Why)
	}
	return fmt.Sprintf("the breaker of %s is open until %s: %s", b.Repository, b.Until.UTC().Format(time.RFC3339), b.Why)
}
