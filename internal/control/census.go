package control

import (
	"time"

	"drover/internal/work"
)

// Census is how many items the leader has, and how long they have been where
// they are.
type Census struct {
	Groups      []Group
	InFlight    int // attempts dispatched and not ended
	MaxInFlight int
	Breakers    map[work.BreakerState]int // of repositories
	// HeartbeatAge is the time since the last sign of life of the running attempt that has been silent longest.
	HeartbeatAge time.Duration
}

// Group are the items of one queue that are in one state.
type Group struct {
	Queue  string
	State  work.State
	Items  int
	Oldest time.Duration // in this state; zero for one that is terminal
}
