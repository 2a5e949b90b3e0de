package work

import (
	"fmt"
	"slices"
	"time"
)

// publishBackoff is the wait before the pull request of completed work is made
// again, after the first failure, the second, and so on. After the last, a
// person must ask for it.
var publishBackoff = []time.Duration{5 * time.Minute, 15 * time.Minute, time.Hour, 4 * time.Hour, 12 * time.Hour}

// PublishAsked says that a person wants the pull request of completed work to be
// made again, now.
type PublishAsked struct{}

// Publishing says that an attempt is about to be dispatched that only makes the
// pull request of completed work. The item stays completed whatever comes of it.
type Publishing struct{}

func (PublishAsked) event() {}
func (Publishing) event()   {}

// IsPublishing reports whether an attempt is under way that only makes the pull request.
func (i *Item) IsPublishing() bool {
	a := i.Current()
	return a != nil && a.Publish && !a.State.Terminal()
}

// PublishDue reports whether the pull request is to be made again by now.
func (i *Item) PublishDue(now time.Time) bool {
	return i.State == StateCompleted && !i.PublishAt.IsZero() && !i.PublishAt.After(now) && !i.IsPublishing()
}

// unpublished returns ErrConflict unless the item is completed and lacks its pull request.
func (i *Item) unpublished() error {
	switch {
	case i.State != StateCompleted:
		return fmt.Errorf("it is %s, a pull request comes with completed work: %w", i.State, ErrConflict)
	case i.IsPublishing():
		return fmt.Errorf("its pull request is being made, as attempt %d: %w", i.Current().Number, ErrConflict)
	case i.PR.Status == PRCreated:
		return fmt.Errorf("its pull request is made already: %s: %w", or(i.PR.URL, i.PR.Title), ErrConflict)
	case i.PR.Status == PRNone:
		return fmt.Errorf("it has no pull request to make: %w", ErrConflict)
	}
	return nil
}

func (i *Item) publishAsked(now time.Time) error {
	if err := i.unpublished(); err != nil {
		return err
	}
	i.PR.Status, i.PublishAt, i.PublishTries = PRPending, now, 0
	i.Why = "the work is done and pushed; its pull request is made again, as somebody asked"
	return nil
}

func (i *Item) publish(now time.Time) error {
	if err := i.unpublished(); err != nil {
		return err
	}
	id := i.NextAttempt()
	i.PR.Status, i.PublishAt = PRPending, time.Time{}
	i.Attempts = append(i.Attempts, Attempt{
		ID: id, Number: id.Number(), Publish: true, State: AttemptStarting, CreatedAt: now, MemoryMB: i.MemoryMB,
	})
	return nil
}

// published takes the end of an attempt that only made the pull request.
func (i *Item) published(a *Attempt, end Ending, policy RetryPolicy, now time.Time) error {
	if err := a.end(end, now); err != nil {
		return err
	}
	if policy.Actions[end.Reason] == ActRequeue && !end.NoRetry && (end.Result == nil || !end.Result.NoRetry) {
		wait := policy.jittered(nth(policy.RequeueBackoff, i.publishRow(policy)-1), a.ID)
		i.PublishAt = now.Add(wait)
		why := fmt.Sprintf("the work is done and pushed; its pull request is made again after a backoff of %s: %s: %s", wait.Round(time.Second), end.Reason, end.Detail)
		i.Why = cut(why, maxDetailBytes)
		return nil
	}
	if r := end.Result; r != nil && end.Reason == ReasonCompleted {
		i.PR = r.PR
	} else {
		i.PR.Status, i.PR.Error = PRFailed, cut(fmt.Sprintf("%s: %s", end.Reason, end.Detail), maxPRErrorBytes)
	}
	i.PublishTries++
	i.planPublish(now)
	i.Why = cut("the work is done and pushed"+i.publishedWhy(), maxDetailBytes)
	return nil
}

// publishRow counts the latest attempts in a row that only made the pull request and
// ended by no fault of their own.
func (i *Item) publishRow(policy RetryPolicy) (row int) {
	for _, a := range slices.Backward(i.Attempts) {
		if !a.Publish || policy.Actions[a.Reason] != ActRequeue {
			break
		}
		row++
	}
	return row
}

// planPublish says when the pull request is made again, if it failed and may be.
func (i *Item) planPublish(now time.Time) {
	i.PublishAt = time.Time{}
	if i.PR.Status == PRFailed && i.PublishTries < len(publishBackoff) {
		i.PublishAt = now.Add(publishBackoff[i.PublishTries])
	}
}

// publishedWhy is what a completed item says about a pull request that is not there.
func (i *Item) publishedWhy() string {
	if i.PR.Status != PRFailed {
		return ""
	}
	return ", but its pull request failed: " + i.PR.Error
}

// completedResult is the result of the attempt that completed the work.
func (i *Item) completedResult() *Result {
	for _, a := range slices.Backward(i.Attempts) {
		if a.completedWork() {
			return a.Result
		}
	}
	return i.Proof
}
