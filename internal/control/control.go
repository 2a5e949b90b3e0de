// Package control holds what the server and its clients say to each other: the
// plain data of the API, known to the orchestrator that answers and to the API
// that carries it.
package control

import (
	"time"

	"drover/internal/work"
)

// Submission is one item to be stored.
type Submission struct {
	// ID is made by the client (work.NewID), so that a repeated request names
	// the same item.
	ID   string    `json:"id"`
	Spec work.Spec `json:"spec"`
	// Key names the submission where the client makes no id: the item's id comes
	// from it, and a repeated submission is known by it.
	Key string `json:"key,omitempty"`
}

// Submitted is what became of a stream of submissions.
type Submitted struct {
	Stored   int `json:"stored"`
	Repeated int `json:"repeated"` // were stored already
}

// Detail is an item and how far its running attempt has come, if one runs.
type Detail struct {
	Item     work.Item      `json:"item"`
	Progress *work.Progress `json:"progress,omitempty"`
}

// Logs is an attempt's output: the end of it that was kept, or, while the
// attempt runs, its end at the moment.
type Logs struct {
	Attempt    work.AttemptID `json:"attempt"`
	Stdout     []string       `json:"stdout"`
	Stderr     []string       `json:"stderr"`
	Events     []string       `json:"events,omitempty"` // Nomad's task events
	CapturedAt time.Time      `json:"captured_at,omitzero"`
	Live       bool           `json:"live,omitempty"`
	Missing    string         `json:"missing,omitempty"` // why there is no output, when there is none
	// End is how the attempt ended; nil while it goes on.
	End *End `json:"end,omitempty"`
}

// End is how an attempt ended.
type End struct {
	State        work.AttemptState `json:"state"`
	Reason       work.Reason       `json:"reason"`
	Detail       string            `json:"detail"`
	ExitCode     *int              `json:"exit_code,omitempty"` // of the agent, or of the container where only that is known
	Signal       int               `json:"signal,omitempty"`
	MemoryMB     int               `json:"memory_mb"` // limit
	PeakMemoryMB int               `json:"peak_memory_mb,omitempty"`
}

// Status is how the cluster of servers stands, as its leader sees it.
type Status struct {
	Leader      string             `json:"leader"`  // name of the server that leads
	Address     string             `json:"address"` // where its API answers
	Version     string             `json:"version"`
	Items       map[work.State]int `json:"items"`
	InFlight    int                `json:"in_flight"` // attempts dispatched and not ended
	MaxInFlight int                `json:"max_in_flight"`
	// NotReady says why items are not taken at the moment; empty if they are.
	NotReady []string `json:"not_ready,omitempty"`
	// NotDispatching says why items are taken and none is dispatched; empty if they are.
	NotDispatching []string `json:"not_dispatching,omitempty"`
}
