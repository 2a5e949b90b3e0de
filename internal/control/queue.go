package control

import (
	"time"

	"drover/internal/work"
)

// Queue is how a queue stands.
type Queue struct {
	Name     string             `json:"name"`
	State    work.QueueState    `json:"state"`
	By       string             `json:"by,omitempty"` // who set the state
	Since    time.Time          `json:"since,omitzero"`
	Declared bool               `json:"declared"` // by the server's configuration
	Settings work.QueueSettings `json:"settings"` // that count: the configuration's, with the stored ones in their place
	Stored   work.QueueSettings `json:"stored"`   // by operators
	Queued   int                `json:"queued"`
	InFlight int                `json:"in_flight"`
	Oldest   time.Time          `json:"oldest,omitzero"` // submission of the oldest item that is queued
	Slow     work.Slowdown      `json:"slow,omitzero"`   // the last limit of a model or forge that the queue waited or waits for
	Tokens   int64              `json:"tokens_last_hour"`
	CostUSD  float64            `json:"cost_usd_last_hour"`
	Waits    []Wait             `json:"waits,omitempty"` // what keeps it from dispatching now
}

// QueueChange changes what is stored of a queue, and makes the queue where there is none.
type QueueChange struct {
	Set   work.QueueSettings `json:"set,omitzero"`
	Unset []string           `json:"unset,omitempty"` // fields, as work.QueueFields names them: the configuration's count again
}

// QueueTransition sets the state of a queue.
type QueueTransition struct {
	State work.QueueState `json:"state"`
	By    string          `json:"by,omitempty"`
}

// Trip opens a breaker.
type Trip struct {
	Repository string        `json:"repository"`    // URL, or host/path
	For        work.Duration `json:"for,omitempty"` // until one attempt passes; until it is reset if zero
	Why        string        `json:"why,omitempty"`
	By         string        `json:"by,omitempty"`
}
