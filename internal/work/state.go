package work

import "slices"

// State is where an item stands.
type State string

// The states of an item. Completed, failed, stuck and cancelled are terminal.
const (
	// StateQueued waits to be dispatched, at the earliest at NotBefore.
	StateQueued State = "queued"
	// StateAssigned has an attempt that is being dispatched or placed.
	StateAssigned State = "assigned"
	// StateInProgress has an attempt whose container runs.
	StateInProgress State = "in_progress"
	// StateCompleted ended with proven work.
	StateCompleted State = "completed"
	// StateFailed ended without, and no attempt is left.
	StateFailed State = "failed"
	// StateStuck ended because the agent gave up: a person must look.
	StateStuck State = "stuck"
	// StateCancelled was ended by a person.
	StateCancelled State = "cancelled"
)

// States lists every State.
func States() []State {
	return []State{StateQueued, StateAssigned, StateInProgress, StateCompleted, StateFailed, StateStuck, StateCancelled}
}

// Terminal reports whether nothing but a person's retry can move an item on from s.
func (s State) Terminal() bool { return len(itemTransitions[s]) == 0 }

// AttemptState is where an attempt stands.
type AttemptState string

// The states of an attempt. All but starting and running are terminal.
const (
	// AttemptStarting is dispatched or about to be; its container has not started.
	AttemptStarting AttemptState = "starting"
	// AttemptRunning has a running container.
	AttemptRunning AttemptState = "running"
	// AttemptCompleted ended with a result that proves the work.
	AttemptCompleted AttemptState = "completed"
	// AttemptFailed ended by its own doing.
	AttemptFailed AttemptState = "failed"
	// AttemptStuck ended because the agent gave up.
	AttemptStuck AttemptState = "stuck"
	// AttemptKilled was ended from outside.
	AttemptKilled AttemptState = "killed"
)

// AttemptStates lists every AttemptState.
func AttemptStates() []AttemptState {
	return []AttemptState{AttemptStarting, AttemptRunning, AttemptCompleted, AttemptFailed, AttemptStuck, AttemptKilled}
}

// Terminal reports whether the attempt has ended.
func (s AttemptState) Terminal() bool { return len(attemptTransitions[s]) == 0 }

// itemTransitions is the whole life of an item: from each state, where it may go
// by itself. What a person may do to one that ended is in reopened.
var itemTransitions = map[State][]State{
	StateQueued:     {StateAssigned, StateCancelled, StateFailed},
	StateAssigned:   {StateInProgress, StateQueued, StateCompleted, StateFailed, StateStuck, StateCancelled},
	StateInProgress: {StateQueued, StateCompleted, StateFailed, StateStuck, StateCancelled},
	StateCompleted:  nil,
	StateFailed:     nil,
	StateStuck:      nil,
	StateCancelled:  nil,
}

// reopened are the ends from which a person may have an item tried again. Work
// that completed is never undone: it has its pull request.
var reopened = []State{StateFailed, StateStuck, StateCancelled}

// attemptTransitions is the whole life of an attempt. A fast attempt can end
// before anyone saw it run, so starting leads to every end.
var attemptTransitions = map[AttemptState][]AttemptState{
	AttemptStarting:  {AttemptRunning, AttemptCompleted, AttemptFailed, AttemptStuck, AttemptKilled},
	AttemptRunning:   {AttemptCompleted, AttemptFailed, AttemptStuck, AttemptKilled},
	AttemptCompleted: nil,
	AttemptFailed:    nil,
	AttemptStuck:     nil,
	AttemptKilled:    nil,
}

// CheckTransition returns a *TransitionError unless from leads to to.
func CheckTransition(from, to State) error {
	if slices.Contains(itemTransitions[from], to) {
		return nil
	}
	return &TransitionError{What: "item", From: string(from), To: string(to)}
}

// CheckReopen returns a *TransitionError unless a person may have an item in the
// state from queued again.
func CheckReopen(from State) error {
	if slices.Contains(reopened, from) {
		return nil
	}
	return &TransitionError{What: "item", From: string(from), To: string(StateQueued)}
}

// CheckAttemptTransition returns a *TransitionError unless from leads to to.
func CheckAttemptTransition(from, to AttemptState) error {
	if slices.Contains(attemptTransitions[from], to) {
		return nil
	}
	return &TransitionError{What: "attempt", From: string(from), To: string(to)}
}
