package work

import (
	"errors"
	"fmt"
	"time"
)

// The times that make a lock hold under partition; docs/locks.md has the argument.
const (
	// LockDelay is how long the paths of a holder whose session is gone are kept
	// from the next one, counted from when that is first seen.
	LockDelay = 30 * time.Second
	// PushTrust is how long a push may go on after a question to Consul, asked
	// before or during it, that proved the session.
	PushTrust = 10 * time.Second
)

// MaxHeldPaths bounds what one attempt holds.
const MaxHeldPaths = 4 * MaxPaths

// ErrLocked says that another attempt holds a path. It comes with a *LockedError.
var ErrLocked = errors.New("held by another attempt")

// Lock is what one attempt holds of one repository.
type Lock struct {
	Repository string     `json:"repository"` // its RepositoryKey
	Item       string     `json:"item"`
	Attempt    AttemptID  `json:"attempt"`
	Session    string     `json:"session"`
	Paths      []HeldPath `json:"paths"`
	// Lost says that the session is gone: the paths are free after LockDelay.
	Lost bool `json:"lost,omitempty"`
}

// HeldPath is a path, in its normal form, and since when it is held.
type HeldPath struct {
	Path  string    `json:"path"`
	Since time.Time `json:"since"`
}

// PathSet returns the paths. Of a lock that can't be read it is the whole
// repository.
func (l Lock) PathSet() PathSet {
	texts := make([]string, len(l.Paths))
	for i, p := range l.Paths {
		texts[i] = p.Path
	}
	return trusted(texts)
}

// Refusal returns why the paths can't be had beside the lock, nil if they can.
func (l Lock) Refusal(paths PathSet) *LockedError {
	for _, held := range l.Paths {
		if path, found := paths.Overlap(trusted([]string{held.Path})); found {
			return &LockedError{Path: path, Held: held, Holder: l}
		}
	}
	return nil
}

// LockedError is an ErrLocked that names the holder.
type LockedError struct {
	Path   string   `json:"path"` // that was asked for
	Held   HeldPath `json:"held"` // that overlaps it
	Holder Lock     `json:"holder"`
}

func (e *LockedError) Error() string {
	text := fmt.Sprintf("path %s is held by item %s, attempt %d, since %s", e.Path, e.Holder.Item, e.Holder.Attempt.Number(), e.Held.Since.UTC().Format(time.RFC3339))
	if e.Held.Path != e.Path {
		text += ", as " + e.Held.Path
	}
	if e.Holder.Lost {
		text += fmt.Sprintf("; that attempt's session is gone, and its paths are free after at most %s", LockDelay)
	}
	return text
}

// Unwrap makes errors.Is(err, ErrLocked) hold.
func (e *LockedError) Unwrap() error { return ErrLocked }
