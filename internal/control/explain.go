package control

import (
	"time"

	"drover/internal/work"
)

// WaitKind is what kind of thing an item waits for.
type WaitKind string

// What a queued item can wait for. An item that nothing holds back waits for its turn.
const (
	WaitNomad       WaitKind = "nomad"        // Nomad to answer
	WaitTime        WaitKind = "not_before"   // its own earliest start, or the pause before a retry
	WaitDependency  WaitKind = "dependency"   // an item that is to complete first
	WaitPaused      WaitKind = "queue_paused" // an operator
	WaitQueueLimit  WaitKind = "queue_limit"  // an attempt of its queue to end
	WaitServerLimit WaitKind = "server_limit" // an attempt of any queue to end
	WaitRate        WaitKind = "rate"         // the queue's dispatches per minute
	WaitBudget      WaitKind = "budget"       // the queue's tokens or cost per hour
	WaitRateLimited WaitKind = "rate_limited" // the limit of a model or a forge that slows the queue down
	WaitBreaker     WaitKind = "breaker"      // the breaker of its repository
	WaitPaths       WaitKind = "paths"        // paths that somebody else has
	WaitTurn        WaitKind = "turn"         // those before it
)

// WaitKinds lists every WaitKind.
func WaitKinds() []WaitKind {
	return []WaitKind{
		WaitTime, WaitDependency, WaitPaused, WaitQueueLimit, WaitServerLimit, WaitRate, WaitBudget,
		WaitRateLimited, WaitBreaker, WaitPaths, WaitTurn, WaitNomad,
	}
}

// Wait is one thing that an item waits for. Kind and Sentence are always there,
// the rest as far as it is known and of use.
type Wait struct {
	Kind     WaitKind  `json:"kind"`
	Sentence string    `json:"sentence"`
	Until    time.Time `json:"until,omitzero"` // when it ends by itself
	Since    time.Time `json:"since,omitzero"`
	Item     string    `json:"item,omitempty"`    // the dependency, or whose attempt has the paths
	Attempt  int       `json:"attempt,omitempty"` // which has the paths; 0 for an item that waits for them and comes first
	Paths    []string  `json:"paths,omitempty"`   // that are had by another
	Ahead    int       `json:"ahead,omitempty"`   // items of the same queue and repository that come first
}

// Explanation says why an item is where it is. Waits is empty unless the item is queued.
type Explanation struct {
	Item  string     `json:"item"`
	State work.State `json:"state"`
	Why   string     `json:"why"` // a sentence: of the first wait, or of the item's last transition
	Waits []Wait     `json:"waits,omitempty"`
	Facts []string   `json:"facts"`          // sentences about how it stands at the moment
	Next  []string   `json:"next,omitempty"` // what a person can do
}
