package work

import "time"

// KeptLogs is the end of an attempt's output, captured before its job was removed.
type KeptLogs struct {
	Attempt    AttemptID `json:"attempt"`
	Stdout     []string  `json:"stdout"`
	Stderr     []string  `json:"stderr"`
	Events     []string  `json:"events,omitempty"` // Nomad's task events
	CapturedAt time.Time `json:"captured_at"`
	// Missing says why there is no output, when there is none.
	Missing string `json:"missing,omitempty"`
}

// Change is one write of the leader. Of its fields one is set.
type Change struct {
	PutItem       *Item
	DeleteItem    string      // id; its kept logs go with it
	PutEnvelope   *Envelope   // too large for a payload
	ConsumeResult AttemptID   // remove a result that has been applied
	CloseClaim    *CloseClaim // an attempt has ended
	PutLogs       *KeptLogs
	Forget        AttemptID // remove an ended attempt's claim, envelope and progress
	PutQueue      *QueueRecord
	DeleteQueue   string // name
	PutBreaker    *Breaker
	DeleteBreaker string // repository, as RepositoryKey has it
	PutToken      *Token
	DeleteToken   string // id
}

// CloseClaim marks an attempt's claim as ended, so that an allocation which
// starts late does nothing. Index is the claim's index when it was read, 0 if
// there was none; should a worker claim in between, the write is refused with
// ErrConflict.
type CloseClaim struct {
	Claim Claim
	Index uint64
}

// Heartbeat is the state of one worker's TTL check.
type Heartbeat struct {
	Attempt  AttemptID
	Critical bool      // no heartbeat came for its TTL
	Silent   bool      // the worker lives, and its agent says nothing
	Output   string    // of a heartbeat; Consul may be minutes late with it
	At       time.Time // when the worker registered the check last, by its clock; zero if it did not say
}

// Archived is an item that was removed from the store, with its kept output. An
// archive holds one a line.
type Archived struct {
	Item Item       `json:"item"`
	Logs []KeptLogs `json:"logs,omitempty"`
}
