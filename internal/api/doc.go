// Package api is drover's HTTP API and its typed client.
//
// Every server answers every call: the one that leads from its Service, the
// others by forwarding to it. Client has the methods of Service, so that what
// works with one works with the other, and errors cross the wire as the same
// sentinels of package work.
package api

import (
	"context"
	"io"

	"drover/internal/control"
	"drover/internal/work"
)

// Service is what the API needs from the leader. Client satisfies it too.
type Service interface {
	// Submit validates the items and stores all of them or none. An item whose
	// id is stored already is returned as it is, so a call may be repeated.
	// It returns work.ErrInvalid, work.ErrNoLeader and work.ErrUnavailable.
	Submit(ctx context.Context, items []control.Submission) ([]work.Item, error)
	// Items returns the items that f selects, newest first.
	Items(ctx context.Context, f control.Filter) ([]work.Item, error)
	// Item returns an item by its id or a unique prefix of it, and the progress
	// of its running attempt, nil if none runs.
	// It returns work.ErrNotFound, and work.ErrInvalid for an ambiguous prefix.
	Item(ctx context.Context, id string) (work.Item, *work.Progress, error)
	// Logs returns the output of an attempt, the latest for 0.
	// It returns work.ErrNotFound.
	Logs(ctx context.Context, id string, attempt int) (control.Logs, error)
	// Follow writes the output of the running attempt as it comes, until the
	// attempt ends. It may write to both at a time.
	// It returns work.ErrNotFound when none runs.
	Follow(ctx context.Context, id string, stdout, stderr io.Writer) error
	// Cancel ends an item; by says who wants it, for the record.
	// It returns work.ErrNotFound, and work.ErrConflict when the item has ended.
	Cancel(ctx context.Context, id, by string) (work.Item, error)
	// Tokens returns the clients' tokens, without their hashes.
	Tokens(ctx context.Context) ([]work.Token, error)
	// CreateToken makes a token; its text is told this once.
	// It returns work.ErrInvalid.
	CreateToken(ctx context.Context, r control.TokenRequest) (control.NewToken, error)
	// RevokeToken removes a token. It returns work.ErrNotFound.
	RevokeToken(ctx context.Context, id string) (work.Token, error)
	// Status returns how the servers stand.
	Status(ctx context.Context) (control.Status, error)
}
