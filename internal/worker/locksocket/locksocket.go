// Package locksocket is how the agent's processes ask their worker for locks: a
// unix socket in the container, with HTTP and JSON on it. Who may open it may ask;
// the file system decides that.
//
//	POST /v1/lock    {"paths": [...], "wait": "30s"}
//	POST /v1/unlock  {"paths": [...]} or {"all": true}
//	GET  /v1/locks
//
// Each answers with all locks of the item's repository, or with an error.
package locksocket

import (
	"context"
	"errors"
	"time"

	"drover/internal/work"
)

// Variable names the environment variable that tells the agent where the socket is.
const Variable = "DROVER_LOCK_SOCKET"

// Bounds of how long a request waits for paths that others hold.
const (
	DefaultWait = 30 * time.Second
	MaxWait     = 10 * time.Minute
)

// Locker holds the attempt's locks. Its methods may be called concurrently.
type Locker interface {
	// Lock takes paths, all or none. It returns a *work.LockedError when another
	// attempt has one of them still after wait.
	Lock(ctx context.Context, paths work.PathSet, wait time.Duration) error
	// Unlock gives up what is held below the paths.
	// It returns work.ErrNotFound when nothing is.
	Unlock(ctx context.Context, paths work.PathSet) error
	UnlockAll(ctx context.Context) error
	// Locks returns what is held in the repository, by whomever.
	Locks(ctx context.Context) ([]work.Lock, error)
}

// Locks is the answer to every request that went well.
type Locks struct {
	Attempt work.AttemptID `json:"attempt"` // that asked
	Locks   []work.Lock    `json:"locks"`
}

// Own returns what the attempt that asked holds.
func (l Locks) Own() []work.HeldPath {
	for _, lock := range l.Locks {
		if lock.Attempt == l.Attempt {
			return lock.Paths
		}
	}
	return nil
}

// request is the body of lock and unlock.
type request struct {
	Paths []string      `json:"paths,omitempty"`
	All   bool          `json:"all,omitempty"`
	Wait  work.Duration `json:"wait,omitempty"`
}

// failure is the body of an error.
type failure struct {
	Error  string            `json:"error"`
	Code   string            `json:"code"`
	Locked *work.LockedError `json:"locked,omitempty"` // of code locked
}

// errBusy says that too many requests wait at once.
var errBusy = errors.New("too many requests wait for locks already")

// codes are how errors are told apart on the wire; the first that fits counts.
var codes = []struct {
	err    error
	code   string
	status int
}{
	{work.ErrLocked, "locked", 409},
	{work.ErrInvalid, "invalid", 400},
	{work.ErrNotFound, "not_held", 404},
	{work.ErrSessionLost, "session_lost", 410},
	{work.ErrUnknownOutcome, "unknown_outcome", 503},
	{work.ErrUnavailable, "unavailable", 503},
}

func codeOf(err error) (code string, status int) {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code, c.status
		}
	}
	return "unavailable", 503
}
