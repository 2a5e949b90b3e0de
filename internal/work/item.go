package work

import (
	"slices"
	"time"
)

// Item is a work item as it is stored: what was asked for, where it stands, and
// what happened to it so far. Only Apply changes one.
type Item struct {
	ID        string    `json:"id"`
	Spec      Spec      `json:"spec"`
	State     State     `json:"state"`
	Reason    Reason    `json:"reason,omitempty"` // why the last attempt ended
	Why       string    `json:"why,omitempty"`    // why the item is where it is, in a sentence
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	NotBefore time.Time `json:"not_before,omitzero"` // earliest next dispatch

	Retries  int `json:"retries,omitempty"`
	Requeues int `json:"requeues,omitempty"` // in a row, since an attempt last ended by the item's own doing
	// StartFailures is of older items, whose exports have it; it has no effect.
	StartFailures int `json:"start_failures,omitempty"`

	MemoryMB  int         `json:"memory_mb"` // of the next attempt
	Branch    string      `json:"branch"`
	Commit    string      `json:"commit,omitempty"` // last seen pushed
	Iteration int         `json:"iteration,omitempty"`
	Tokens    Tokens      `json:"tokens,omitzero"`
	CostUSD   float64     `json:"cost_usd,omitempty"` // as far as the agents stated it
	Test      TestOutcome `json:"test"`
	PR        PullRequest `json:"pull_request"`
	// Conversation is the agent's latest.
	Conversation *Conversation `json:"conversation,omitempty"`
	// Finished is a result of an attempt that died between push and pull
	// request: the next attempt only publishes.
	Finished *Result `json:"finished,omitempty"`
	// PublishAt is when the pull request of completed work is made again,
	// PublishTries how often that has failed since a person last asked for it.
	PublishAt    time.Time `json:"publish_at,omitzero"`
	PublishTries int       `json:"publish_tries,omitempty"`
	// RefsRemovedAt is when what drover kept below refs/drover/ was removed, zero
	// since the item was opened again.
	RefsRemovedAt time.Time `json:"refs_removed_at,omitzero"`

	// Proof is the result that completed the work, once its attempt is summarised.
	Proof *Result `json:"proof,omitempty"`

	Earlier  *Earlier     `json:"earlier,omitempty"`  // attempts and transitions before those below
	Attempts []Attempt    `json:"attempts,omitempty"` // the latest, in the order of their numbers
	History  []Transition `json:"history,omitempty"`  // the latest
	// Warnings are for who submits the item; they are not stored.
	Warnings []string `json:"warnings,omitempty"`
	Unknown  Unknown  `json:"-"`
}

// Attempt is one dispatched run of an item.
type Attempt struct {
	ID           AttemptID    `json:"id"`
	Number       int          `json:"number"`
	Publish      bool         `json:"publish,omitempty"` // it only makes the pull request of completed work
	Cleanup      []string     `json:"cleanup,omitempty"` // ids of items; it only removes their references
	State        AttemptState `json:"state"`
	Reason       Reason       `json:"reason,omitempty"`
	Detail       string       `json:"detail,omitempty"`
	Child        string       `json:"child,omitempty"`      // id of the dispatched Nomad job
	Allocation   string       `json:"allocation,omitempty"` // id
	Node         string       `json:"node,omitempty"`       // name
	CreatedAt    time.Time    `json:"created_at"`
	DispatchedAt time.Time    `json:"dispatched_at,omitzero"`
	StartedAt    time.Time    `json:"started_at,omitzero"`
	EndedAt      time.Time    `json:"ended_at,omitzero"`
	MemoryMB     int          `json:"memory_mb"`
	ExitCode     *int         `json:"exit_code,omitempty"`
	Signal       int          `json:"signal,omitempty"`
	OOMKilled    bool         `json:"oom_killed,omitempty"`
	Events       []string     `json:"events,omitempty"` // Nomad's task events, when it did not complete
	Result       *Result      `json:"result,omitempty"`
	Tokens       Tokens       `json:"tokens,omitzero"` // spent by this attempt, as CostUSD
	CostUSD      float64      `json:"cost_usd,omitempty"`
	LateResult   *Result      `json:"late_result,omitempty"` // came after the end; kept for the record
	Suspicion    *Suspicion   `json:"suspicion,omitempty"`   // that its worker is lost; nil while there is none
	// Adopted says that the child was dispatched by someone else.
	Adopted bool    `json:"adopted,omitempty"`
	Unknown Unknown `json:"-"`
}

// Transition is one line of an item's history.
type Transition struct {
	At    time.Time `json:"at"`
	From  State     `json:"from,omitempty"`
	To    State     `json:"to"`
	Cause string    `json:"cause"`
	Key   string    `json:"key,omitempty"` // of the order that caused it, if it had one
}

// NewItem returns a queued item. spec must be valid and have its defaults.
func NewItem(id string, spec Spec, now time.Time) Item {
	pr := PRPending
	if spec.PR.Provider == ProviderNone {
		pr = PRNone
	}
	return Item{
		ID: id, Spec: spec, State: StateQueued, Why: "waits for its turn",
		CreatedAt: now, UpdatedAt: now, NotBefore: spec.NotBefore,
		MemoryMB: spec.Resources.MemoryMB, Branch: Branch(id),
		Test: TestOutcome{Status: TestSkipped}, PR: PullRequest{Status: pr},
		History: []Transition{{At: now, To: StateQueued, Cause: "submitted"}},
	}
}

// StartWith has the item's first attempt get more memory than was asked for,
// where the item allows: what the repository's items were seen to need.
func (i *Item) StartWith(memoryMB int) {
	if ceiling := i.Spec.Resources.MemoryMaxMB; memoryMB > i.MemoryMB && ceiling > i.MemoryMB {
		i.MemoryMB = min(memoryMB, ceiling)
	}
}

// OutgrewMB returns the memory that an item's attempts came to need in MiB, 0
// unless an OOM had it grow.
func (i *Item) OutgrewMB() int {
	if i.endedWith(ReasonOOMKilled) > 0 {
		return i.MemoryMB
	}
	return 0
}

// endedWith counts the item's ended attempts with a reason.
func (i *Item) endedWith(reason Reason) int {
	n := 0
	if i.Earlier != nil {
		n = i.Earlier.Reasons[reason]
	}
	for _, a := range i.Attempts {
		if a.Reason == reason {
			n++
		}
	}
	return n
}

// Since returns when the item came into its state.
func (i *Item) Since() time.Time {
	if n := len(i.History); n > 0 {
		return i.History[n-1].At
	}
	return i.CreatedAt
}

// Current returns the item's latest attempt, nil before the first. It is not to be changed.
func (i *Item) Current() *Attempt {
	if len(i.Attempts) == 0 {
		return nil
	}
	return &i.Attempts[len(i.Attempts)-1]
}

// CurrentID returns the id of the latest attempt, empty before the first.
func (i *Item) CurrentID() AttemptID {
	if a := i.Current(); a != nil {
		return a.ID
	}
	return ""
}

// NextAttempt returns the id the item's next attempt will have.
func (i *Item) NextAttempt() AttemptID { return NewAttemptID(i.ID, i.AttemptCount()+1) }

// Attempt returns the attempt of that number, nil if there is none or it is
// summarised.
func (i *Item) Attempt(number int) *Attempt {
	at := number - 1 - i.summarised()
	if at < 0 || at >= len(i.Attempts) {
		return nil
	}
	return &i.Attempts[at]
}

// Envelope returns what the current attempt's worker needs to know.
func (i *Item) Envelope(kvPrefix string) Envelope {
	e := Envelope{
		Item: i.ID, Attempt: i.CurrentID(), Spec: i.Spec, Branch: i.Branch, KVPrefix: kvPrefix, Format: StoredFormat,
		Resume: Resume{Iteration: i.Iteration, Tokens: i.Tokens, CostUSD: i.CostUSD, Finished: i.Finished},
	}
	e.Spec.Resources.MemoryMB = i.MemoryMB
	e.Resume.Spent = i.spent()
	if i.IsPublishing() {
		e.Resume.Finished, e.Resume.PublishOnly = i.completedResult(), true
		return e
	}
	if i.IsCleaning() {
		e.Resume = Resume{Cleanup: i.Current().Cleanup}
		return e
	}
	if last := i.lastWork(); last != nil {
		e.Resume.LastReason, e.Resume.LastDetail = last.Reason, last.Detail
		if last.Reason.CutOff() {
			e.Resume.Conversation = i.Conversation
		}
	}
	return e
}

// lastWork returns the attempt before the current one that worked on the item, nil
// if there is none.
func (i *Item) lastWork() *Attempt {
	for n := len(i.Attempts) - 2; n >= 0; n-- {
		if !i.Attempts[n].Aside() {
			return &i.Attempts[n]
		}
	}
	return nil
}

// spent is the wall clock of the attempts that have worked on the item and ended.
func (i *Item) spent() (d Duration) {
	if i.Earlier != nil {
		d = i.Earlier.Ran
	}
	for at := range i.Attempts {
		d += i.Attempts[at].ran()
	}
	return d
}

// clone returns a copy whose attempts and history can be changed.
func (i Item) clone() Item {
	i.Attempts = slices.Clone(i.Attempts)
	i.History = slices.Clone(i.History)
	return i
}
