package work

import (
	"errors"
	"fmt"
)

// Sentinel errors for every decision a caller takes. Adapters translate into
// these at their border.
var (
	// ErrNotFound says that what was asked for does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that a compare-and-set lost against another writer.
	ErrConflict = errors.New("changed by another writer")
	// ErrFenced says that the writer no longer leads; nothing was written.
	ErrFenced = errors.New("not the leader any more")
	// ErrNoLeader says that no server leads at the moment.
	ErrNoLeader = errors.New("no leader")
	// ErrSessionLost says that Consul no longer knows the session.
	ErrSessionLost = errors.New("session lost")
	// ErrAttemptLost says that a worker that lost its session can never take
	// its attempt back.
	ErrAttemptLost = errors.New("the attempt can't be taken back")
	// ErrClaimed says that another allocation already runs the attempt, or
	// that the attempt has ended.
	ErrClaimed = errors.New("attempt is claimed by another allocation or has ended")
	// ErrPayloadTooLarge says that a dispatch payload exceeds MaxPayloadBytes.
	ErrPayloadTooLarge = errors.New("dispatch payload too large")
	// ErrUnknownOutcome says that a call may or may not have taken effect:
	// look before repeating it.
	ErrUnknownOutcome = errors.New("outcome unknown")
	// ErrUnavailable says that Nomad or Consul could not be reached or was
	// not able to answer; nothing is known to have changed.
	ErrUnavailable = errors.New("unavailable")
	// ErrIllegalTransition says that a state does not lead to another.
	ErrIllegalTransition = errors.New("illegal transition")
	// ErrStaleAttempt says that an event names an attempt that is not the
	// item's current one.
	ErrStaleAttempt = errors.New("not the current attempt")
	// ErrFormat says that what is stored was written by a newer version.
	ErrFormat = errors.New("stored in a format that this version does not know")
	// ErrInvalid marks input that can never be accepted as it stands.
	ErrInvalid = errors.New("invalid")
)

// TransitionError is an ErrIllegalTransition that names both states.
type TransitionError struct {
	What     string // "item" or "attempt"
	From, To string
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("illegal transition of %s from %s to %s", e.What, e.From, e.To)
}

// Unwrap makes errors.Is(err, ErrIllegalTransition) hold.
func (e *TransitionError) Unwrap() error { return ErrIllegalTransition }
