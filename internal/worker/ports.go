package worker

import (
	"context"

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
	// Beat shows that the attempt is alive, with a text for people.
	// It returns work.ErrSessionLost when the hold is gone; every other error may pass.
	Beat(ctx context.Context, text string) error
	// SaveProgress stores how far the attempt has come.
	SaveProgress(ctx context.Context, p work.Progress) error
	// Report stores the result. It returns work.ErrConflict when there is
	// another allocation's; work.ErrUnavailable or work.ErrUnknownOutcome may pass.
	Report(ctx context.Context, r work.Result) error
	// Release gives the hold up. The claim itself stays: the attempt is not to
	// be claimed again.
	Release(ctx context.Context) error
}
