package worker

import (
	"context"
	"time"

	"drover/internal/work"
)

// Store is where attempts are claimed.
type Store interface {
	// Envelope returns an envelope that did not fit a dispatch payload.
	// It returns work.ErrNotFound and work.ErrUnavailable.
	Envelope(ctx context.Context, attempt work.AttemptID) (work.Envelope, error)
	// Claim binds the envelope's attempt to one allocation. A failed claim
	// leaves nothing behind.
	// It returns work.ErrClaimed when another allocation has the attempt, or it
	// has ended; work.ErrUnavailable or work.ErrUnknownOutcome may pass.
	Claim(ctx context.Context, envelope work.Envelope, allocation string) (Claim, error)
}

// Claim is the hold on an attempt. It ends when it is released, or not beaten
// for the attempt's heartbeat TTL. Its methods may be called concurrently, and
// each may be repeated.
type Claim interface {
	// Beat shows that the worker is alive, with a text for people; silent says that its
	// agent gives no sign of life.
	// It returns work.ErrSessionLost when the hold is gone; every other error may pass.
	Beat(ctx context.Context, text string, silent bool) error
	// Regain returns nil when the hold is there, or was made anew because no other
	// can have worked on the attempt, or had its paths, since it was lost.
	// It returns work.ErrAttemptLost when that can never be; every other error may pass.
	Regain(ctx context.Context) error
	// SaveProgress stores how far the attempt has come.
	SaveProgress(ctx context.Context, p work.Progress) error
	// Report stores the result. It returns work.ErrConflict when there is
	// another allocation's; work.ErrUnavailable or work.ErrUnknownOutcome may pass.
	Report(ctx context.Context, r work.Result) error
	// Confirm proves that the hold was there at some moment after the call began.
	// It returns work.ErrSessionLost when it is gone; every other error may pass.
	Confirm(ctx context.Context) error
	// Lock takes paths of the item's repository beside those that are held, all or
	// none, and waits for them for at most patience; waiting is called with why, every
	// few seconds at least.
	// It returns a *work.LockedError when another attempt has one of them still,
	// work.ErrSessionLost, and work.ErrInvalid when they are too many. After any
	// other error they may be held.
	Lock(ctx context.Context, paths work.PathSet, patience time.Duration, waiting func(error)) (work.Lock, error)
	// Unlock gives up what is held below the paths, at once.
	// It returns work.ErrNotFound when nothing is, and work.ErrSessionLost.
	Unlock(ctx context.Context, paths work.PathSet) error
	UnlockAll(ctx context.Context) error
	// Locks returns what is held in the repository, by whomever.
	Locks(ctx context.Context) ([]work.Lock, error)
	// Release gives the hold up; locks are free after work.LockDelay. The claim itself stays: the attempt is not to
	// be claimed again.
	Release(ctx context.Context) error
}
