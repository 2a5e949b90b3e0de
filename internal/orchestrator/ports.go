package orchestrator

import (
	"context"
	"io"
	"time"

	"drover/internal/work"
)

// Store reads what is kept in Consul. Every method may be called again after an
// error, and returns work.ErrUnavailable when Consul can't answer.
type Store interface {
	Items(ctx context.Context) ([]work.Item, error)
	Queues(ctx context.Context) ([]work.QueueRecord, error)
	Breakers(ctx context.Context) ([]work.Breaker, error)
	Claims(ctx context.Context) ([]work.Claim, error)
	// Claim returns an attempt's claim and its index, 0 if there is none.
	Claim(ctx context.Context, a work.AttemptID) (work.Claim, uint64, error)
	// Sessions returns the ids of all sessions that live, by a consistent read: an
	// error rather than a part of them.
	Sessions(ctx context.Context) (map[string]bool, error)
	// Progresses returns how far all attempts have come whose progress is stored.
	Progresses(ctx context.Context) ([]work.Progress, error)
	// Progress, Result and Logs return nil where there is none.
	Progress(ctx context.Context, a work.AttemptID) (*work.Progress, error)
	Result(ctx context.Context, a work.AttemptID) (*work.Result, error)
	Logs(ctx context.Context, a work.AttemptID) (*work.KeptLogs, error)
	// Results, Heartbeats and Locks block until there is something else than at index.
	Results(ctx context.Context, index uint64) ([]work.Result, uint64, error)
	Heartbeats(ctx context.Context, index uint64) ([]work.Heartbeat, uint64, error)
	Locks(ctx context.Context, index uint64) ([]work.Lock, uint64, error)
	Tokens(ctx context.Context) ([]work.Token, error)
	// Token returns one, or work.ErrNotFound.
	Token(ctx context.Context, id string) (work.Token, error)
	// FreeLost removes the locks of ended attempts whose session has been gone for
	// work.LockDelay. The lock of another may be taken back by its worker.
	FreeLost(ctx context.Context) error
	// BreakLock ends the session of a lock's holder; idempotent.
	BreakLock(ctx context.Context, lock work.Lock) error
	// EndSession ends an ended attempt's session: what it still holds is free after
	// work.LockDelay; idempotent.
	EndSession(ctx context.Context, claim work.Claim) error
}

// Ledger takes the leader's writes.
type Ledger interface {
	// Commit stores all changes or none. It returns work.ErrFenced when another
	// server leads, work.ErrConflict when a claim changed meanwhile,
	// work.ErrInvalid when the changes can never be stored, and
	// work.ErrUnknownOutcome when the term ended first.
	Commit(ctx context.Context, changes ...work.Change) error
}

// Cluster is Nomad: the only thing that starts or ends a container.
type Cluster interface {
	// Dispatch starts an attempt; idempotent by the attempt's id, and never to be
	// called twice at a time for one attempt. work.ErrInvalid is final, other
	// errors are not.
	Dispatch(ctx context.Context, e work.Envelope) (child string, err error)
	// Children returns all children, and the index from which Watch goes on.
	Children(ctx context.Context) ([]work.Child, uint64, error)
	// Child returns one, or work.ErrNotFound.
	Child(ctx context.Context, id string) (work.Child, error)
	// Deregistered reports whether somebody removed a child that Child does not find.
	Deregistered(ctx context.Context, child string) (bool, error)
	// Payload returns what a child was dispatched with, or work.ErrNotFound.
	Payload(ctx context.Context, child string) ([]byte, error)
	// Watch calls seen, one call at a time, until the stream ends; it always
	// returns an error.
	Watch(ctx context.Context, index uint64, seen func(work.Allocation)) error
	// Logs returns the last bytes of a stream, stdout or stderr.
	Logs(ctx context.Context, allocation, stream string, bytes int) ([]byte, error)
	Follow(ctx context.Context, allocation, stream string, bytes int, w io.Writer) error
	// Stop ends a child; with purge it is removed too. Idempotent.
	Stop(ctx context.Context, child string, purge bool) error
	// MemoryMB returns what a running allocation uses, 0 where Nomad does not say.
	MemoryMB(ctx context.Context, allocation string) (int, error)
	// Check returns work.ErrUnavailable unless Nomad answers and has a leader.
	Check(ctx context.Context) error
	// RemoveIdleRunners removes worker jobs of unusual resources that were
	// registered before the time given and have no child left.
	RemoveIdleRunners(ctx context.Context, before time.Time) error
}
