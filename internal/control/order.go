package control

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"drover/internal/work"
)

// Verb is what a person may order about an item.
type Verb string

// The verbs.
const (
	// Cancel ends an item for good, and its attempt if one is under way.
	Cancel Verb = "cancel"
	// Retry has an item that failed, got stuck or was cancelled tried again, its
	// counters anew.
	Retry Verb = "retry"
	// Requeue has an item run again as soon as there is room; an attempt under
	// way ends, no retry spent.
	Requeue Verb = "requeue"
	// Kill ends the attempt under way; the item is retried as the table says.
	Kill Verb = "kill"
	// Prioritize gives an open item another priority.
	Prioritize Verb = "priority"
	// Edit changes the specification of an item on which no attempt acts.
	Edit Verb = "edit"
	// Remove forgets an ended item, and its kept logs.
	Remove Verb = "remove"
)

// Order is what a person orders about one item.
type Order struct {
	Verb Verb   `json:"-"`
	By   string `json:"by,omitempty"` // who orders it, for the record
	// Key names the order: one that was carried out already changes nothing when
	// it is repeated.
	Key string `json:"-"`
	// Match is the ETag that the item must have, so that no change of another is
	// overwritten. Empty is any.
	Match string `json:"-"`

	NoRetry  bool            `json:"no_retry,omitempty"` // Kill: the item fails
	Priority *int            `json:"priority,omitempty"` // Prioritize
	Patch    json.RawMessage `json:"-"`                  // Edit: a JSON merge patch of the specification
	Force    bool            `json:"-"`                  // Remove: an open item is cancelled first
}

// ErrChanged says that an item is not as it was when it was read.
var ErrChanged = errors.New("changed since it was read")

// ETag names the state that an item is in: it differs after every change.
func ETag(item work.Item) string {
	data, err := json.Marshal(item)
	if err != nil {
		return "" // an item holds nothing that JSON can't
	}
	sum := sha256.Sum256(data)
	const enough = 12 // bytes
	return `"` + hex.EncodeToString(sum[:enough]) + `"`
}
