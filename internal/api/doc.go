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
	"time"

	"drover/internal/control"
	"drover/internal/report"
	"drover/internal/work"
)

// Service is what the API needs from the leader. Client satisfies it too.
type Service interface {
	Queues
	Breakers
	Locks

	// Submit validates the items and stores all of them or none. An item whose
	// id is stored already is returned as it is, so a call may be repeated.
	// It returns work.ErrInvalid, work.ErrNoLeader and work.ErrUnavailable.
	Submit(ctx context.Context, items []control.Submission) ([]work.Item, error)
	// Check returns the items that Submit would store, and stores none.
	Check(ctx context.Context, items []control.Submission) ([]work.Item, error)
	// SubmitStream is Submit for any number of items, as control.ReadSubmissions
	// reads them from lines.
	SubmitStream(ctx context.Context, lines io.Reader) (control.Submitted, error)
	// Items returns a page of the items that q selects.
	// It returns work.ErrInvalid.
	Items(ctx context.Context, q control.Query) (control.Page, error)
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
	// Order carries out what a person orders about an item, known by its id or a
	// unique prefix of it, and returns the item.
	// It returns work.ErrNotFound, work.ErrInvalid, work.ErrConflict and
	// work.ErrIllegalTransition when its state does not allow it, and
	// control.ErrChanged when it is not the item that was meant.
	Order(ctx context.Context, id string, order control.Order) (work.Item, error)
	// RetryPR has the pull request of a completed item made again.
	// It returns what Order returns.
	RetryPR(ctx context.Context, id string) (work.Item, error)
	// Events sends every change after the event of an id until ctx ends or send
	// fails; it always returns an error. Without an id, or where changes were
	// missed, it begins with an event "resync": read what you need after that.
	Events(ctx context.Context, after string, send func(control.Event) error) error
	// Export sends the items that f selects, the oldest first.
	Export(ctx context.Context, f control.Filter, send func(work.Item) error) error
	// Import stores items as Export sent them; dry only checks that it could.
	// It returns work.ErrInvalid, and work.ErrConflict for an item that is stored
	// and not the same; then nothing was stored.
	Import(ctx context.Context, items []work.Item, dry bool) (control.Import, error)
	// ExportLogs sends the kept output of the attempts of the items that f selects.
	ExportLogs(ctx context.Context, f control.Filter, send func(work.KeptLogs) error) error
	// ImportLogs stores kept output as ExportLogs sent it, of items that are stored.
	// What an attempt has kept stays.
	// It returns work.ErrInvalid, and work.ErrNotFound for an attempt of no stored item;
	// then nothing was stored.
	ImportLogs(ctx context.Context, kept []work.KeptLogs) (control.Import, error)
	// Overview returns what runs, and how the queues stand.
	Overview(ctx context.Context) (control.Overview, error)
	// Tokens returns the clients' tokens, without their hashes.
	Tokens(ctx context.Context) ([]work.Token, error)
	// CreateToken makes a token; its text is told this once.
	// It returns work.ErrInvalid.
	CreateToken(ctx context.Context, r control.TokenRequest) (control.NewToken, error)
	// RevokeToken removes a token. It returns work.ErrNotFound.
	RevokeToken(ctx context.Context, id string) (work.Token, error)
	// Explain says why an item is where it is, and what a person can do.
	// It returns what Item returns.
	Explain(ctx context.Context, id string) (control.Explanation, error)
	// Report says how the items ended that did so since a time.
	Report(ctx context.Context, since time.Time) (report.Report, error)
	// Status returns how the servers stand.
	Status(ctx context.Context) (control.Status, error)
}
