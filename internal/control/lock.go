package control

import "drover/internal/work"

// LockRelease asks for the end of what an attempt has locked.
type LockRelease struct {
	ID string `json:"id"` // of the item or the attempt that holds it, or the beginning of one
	By string `json:"by,omitempty"`
}

// ReleasedLocks is what a LockRelease came to.
type ReleasedLocks struct {
	Locks []work.Lock `json:"locks"`
	Means string      `json:"means"` // to whoever held them; sentences
}
