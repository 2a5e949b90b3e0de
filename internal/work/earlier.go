package work

import (
	"maps"
	"time"
)

// Bounds of what an item keeps of its life in full. Older attempts and
// transitions are summarised in Earlier, the oldest first.
const (
	maxAttempts      = 40
	maxAttemptsBytes = 64 << 10
	minAttempts      = 2 // the current one, and the one it goes on from
	maxHistory       = 200
	maxHistoryBytes  = 32 << 10
	minHistory       = 10
)

// Earlier sums up the attempts and transitions of an item that are not kept in
// full any more.
type Earlier struct {
	Attempts    int            `json:"attempts,omitempty"` // their numbers are 1 to this
	Reasons     map[Reason]int `json:"reasons,omitempty"`  // why they ended
	Began       time.Time      `json:"began,omitzero"`     // the first of them
	Ended       time.Time      `json:"ended,omitzero"`     // the last of them
	Ran         Duration       `json:"ran,omitempty"`      // wall clock of those that worked on the item
	Tokens      Tokens         `json:"tokens,omitzero"`    // spent by them, as CostUSD
	CostUSD     float64        `json:"cost_usd,omitempty"`
	LateResults int            `json:"late_results,omitempty"` // that came once they were summarised
	Transitions int            `json:"transitions,omitempty"`
	Unknown     Unknown        `json:"-"`
}

// AttemptCount returns how many attempts the item has had, with those that are summarised.
func (i *Item) AttemptCount() int { return i.summarised() + len(i.Attempts) }

// Summarised reports whether the attempt of that number is summarised.
func (i *Item) Summarised(number int) bool { return number >= 1 && number <= i.summarised() }

func (i *Item) summarised() int {
	if i.Earlier == nil {
		return 0
	}
	return i.Earlier.Attempts
}

// TransitionCount returns how many transitions the item has had, with those that are summarised.
func (i *Item) TransitionCount() int {
	if i.Earlier == nil {
		return len(i.History)
	}
	return i.Earlier.Transitions + len(i.History)
}

// Bound returns the item with its texts cut and its oldest attempts and
// transitions summarised as far as it takes to stay below MaxItemBytes. Apply
// does it to what it changes.
func (i Item) Bound() Item {
	next := i.clone()
	next.PR, next.Test, next.Why = next.PR.bounded(), next.Test.bounded(), cut(next.Why, maxDetailBytes)
	next.Finished, next.Proof, next.Conversation = next.Finished.ofAttempt(), next.Proof.ofAttempt(), next.Conversation.bounded()
	for at := range next.Attempts {
		a := &next.Attempts[at]
		a.Detail, a.Events = cut(a.Detail, maxDetailBytes), cutEvents(a.Events)
		a.Result, a.LateResult = a.Result.ofAttempt(), a.LateResult.ofAttempt()
	}
	for at := range next.History {
		next.History[at].Cause = cut(next.History[at].Cause, maxCauseBytes)
	}
	next.summarise()
	return next
}

// summarise moves the oldest attempts and transitions into Earlier until the
// rest is within its bounds.
func (i *Item) summarise() {
	attempts, history := 0, 0
	for at := range i.Attempts {
		attempts += i.Attempts[at].storedBytes()
	}
	for _, t := range i.History {
		history += t.storedBytes()
	}
	over := i.StoredBytes() - MaxItemBytes
	for len(i.Attempts) > minAttempts && (len(i.Attempts) > maxAttempts || attempts > maxAttemptsBytes || over > 0) {
		size := i.Attempts[0].storedBytes()
		attempts, over = attempts-size, over-size
		i.foldAttempt()
	}
	for len(i.History) > minHistory && (len(i.History) > maxHistory || history > maxHistoryBytes || over > 0) {
		size := i.History[0].storedBytes()
		history, over = history-size, over-size
		i.earlier().Transitions++
		i.History = i.History[1:]
	}
	if over > 0 {
		i.squeeze()
	}
}

// squeeze makes room in an item whose specification alone takes more than is
// accepted now: an older version stored it.
func (i *Item) squeeze() {
	const least = 512
	i.PR.Body, i.Test.Detail, i.Why = "", cutFront(i.Test.Detail, least), cut(i.Why, least)
	for at := range i.Attempts {
		a := &i.Attempts[at]
		a.Detail, a.Events, a.LateResult = cut(a.Detail, least), nil, nil
		if a.Result != nil {
			r := *a.Result
			r.Detail, r.Test.Detail = cut(r.Detail, least), cutFront(r.Test.Detail, least)
			a.Result = &r
		}
	}
}

// earlier returns the sums, to be changed: the item's own, made if there are none.
func (i *Item) earlier() *Earlier {
	sums := Earlier{}
	if i.Earlier != nil {
		sums = *i.Earlier
	}
	sums.Reasons = maps.Clone(sums.Reasons)
	if sums.Reasons == nil {
		sums.Reasons = map[Reason]int{}
	}
	i.Earlier = &sums
	return i.Earlier
}

func (i *Item) foldAttempt() {
	a, sums := i.Attempts[0], i.earlier()
	sums.Attempts++
	sums.Reasons[a.Reason]++
	if sums.Began.IsZero() {
		sums.Began = a.CreatedAt
	}
	sums.Ended = a.EndedAt
	sums.Ran += a.ran()
	sums.Tokens.In, sums.Tokens.Out, sums.CostUSD = sums.Tokens.In+a.Tokens.In, sums.Tokens.Out+a.Tokens.Out, sums.CostUSD+a.CostUSD
	if a.completedWork() {
		i.Proof = a.Result
	}
	i.Attempts = i.Attempts[1:]
}

// ran is the wall clock of an attempt that has worked on the item and ended.
func (a *Attempt) ran() Duration {
	if a.Aside() || a.StartedAt.IsZero() || !a.EndedAt.After(a.StartedAt) {
		return 0
	}
	return Duration(a.EndedAt.Sub(a.StartedAt))
}

// completedWork reports whether the attempt's result is the proof of the item's work.
func (a *Attempt) completedWork() bool {
	return !a.Aside() && a.Result != nil && a.Result.Reason == ReasonCompleted
}
