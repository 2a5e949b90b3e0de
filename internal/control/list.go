package control

import (
	"time"

	"drover/internal/work"
)

// Filter selects items. Empty fields select everything.
type Filter struct {
	States     []work.State
	Queue      string
	Repository string // a part of the URL
	Reasons    []work.Reason
	Labels     map[string]string // all of them; an empty value is any
	OlderThan  time.Duration     // since the submission
	NewerThan  time.Duration
	IDs        []string
}

// Empty reports whether f selects everything.
func (f Filter) Empty() bool {
	return len(f.States)+len(f.Reasons)+len(f.Labels)+len(f.IDs) == 0 && f.Queue+f.Repository == "" && f.OlderThan+f.NewerThan == 0
}

// Orders of a list.
const (
	SortCreated    = "created"
	SortUpdated    = "updated"
	SortPriority   = "priority"
	SortState      = "state"
	SortQueue      = "queue"
	SortRepository = "repository"
	SortAttempts   = "attempts"
)

// Sorts lists every order of a list.
func Sorts() []string {
	return []string{SortCreated, SortUpdated, SortPriority, SortState, SortQueue, SortRepository, SortAttempts}
}

// Limits of a page.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Query asks for a page of the items that a filter selects.
type Query struct {
	Filter
	Sort   string // one of Sorts; SortCreated if empty
	Asc    bool   // the least first; the greatest if not
	Limit  int    // DefaultPage if zero, MaxPage at most
	Cursor string // where the page before ended
}

// Page is a part of a list. An item that changes its place between two pages can
// be on both, or on none.
type Page struct {
	Items []work.Item `json:"items"`
	Total int         `json:"total"`          // that the filter selects
	Next  string      `json:"next,omitempty"` // cursor of the next page; empty on the last
}

// Event types.
const (
	EventItem    = "item"    // an item was stored or changed
	EventRemoved = "removed" // an item was removed
	// EventResync says that events were missed: read anew what you need.
	EventResync = "resync"
)

// Event is a change of an item.
type Event struct {
	ID       string        `json:"-"` // from which to go on
	Type     string        `json:"type"`
	At       time.Time     `json:"at"`
	Item     string        `json:"item,omitempty"`
	State    work.State    `json:"state,omitempty"`
	Queue    string        `json:"queue,omitempty"`
	Reason   work.Reason   `json:"reason,omitempty"`
	Why      string        `json:"why,omitempty"`
	Attempt  int           `json:"attempt,omitempty"`
	PRStatus work.PRStatus `json:"pull_request,omitempty"`
}

// Import is what became of items that were taken back from a backup.
type Import struct {
	Stored    int `json:"stored"`
	Identical int `json:"identical"` // were there already
}

// Overview is what runs, and how the queues stand.
type Overview struct {
	At      time.Time       `json:"at"`
	Status  Status          `json:"status"`
	Queues  []QueueOverview `json:"queues"`
	Running []Running       `json:"running"`
	Ended   []work.Item     `json:"ended"` // the latest
}

// QueueOverview counts the items of one queue.
type QueueOverview struct {
	Name        string             `json:"name"`
	Items       map[work.State]int `json:"items"`
	Delayed     int                `json:"delayed"` // queued, and not due yet
	MaxInFlight int                `json:"max_in_flight,omitempty"`
}

// Running is an attempt that has not ended.
type Running struct {
	Item       string            `json:"item"`
	Attempt    int               `json:"attempt"`
	State      work.AttemptState `json:"state"`
	Why        string            `json:"why,omitempty"`
	Queue      string            `json:"queue"`
	Repository string            `json:"repository"`
	Task       string            `json:"task"` // its first line
	Node       string            `json:"node,omitempty"`
	Since      time.Time         `json:"since"` // started, or dispatched
	Progress   *work.Progress    `json:"progress,omitempty"`
	Heartbeat  time.Time         `json:"heartbeat,omitzero"` // the last that was seen
	MemoryMB   int               `json:"memory_mb"`          // limit
	UsedMB     int               `json:"used_mb,omitempty"`  // 0 where Nomad does not say
}
