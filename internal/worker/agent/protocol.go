// Package agent runs a coding agent and understands what it says about its
// work. docs/agent-protocol.md describes both for those who write agents.
package agent

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"drover/internal/work"
)

// The types of an Event.
const (
	EventTool      = "tool"
	EventIteration = "iteration"
	EventTokens    = "tokens"
	EventCost      = "cost"
	EventSession   = "session"
	EventDone      = "done"
	EventNoChange  = "no_change"
	EventError     = "error"

	// From adapters alone.
	EventMessage   = "message"
	EventRecovered = "recovered" // the errors so far are over
	EventEnd       = "end"       // the run has come to its end, and well
)

// The codes of error events that are more than text.
const (
	CodeRateLimited = "rate_limited"    // wait
	CodeQuota       = "quota_exceeded"  // an account has nothing left, and waiting changes nothing
	CodeBudget      = "budget_exceeded" // the agent kept to a budget by itself
	CodeMaxTurns    = "max_turns"       // it stopped at a limit of its own, and could go on
	CodeFailed      = "failed"          // an adapter knows no better
)

// Event is a line of the agent's standard output that means something.
type Event struct {
	Type string `json:"type"`

	Name   string `json:"name"`   // tool: its name
	Detail string `json:"detail"` // tool: what it works on

	N int `json:"n"` // iteration: which begins, counted over all attempts

	work.Tokens // tokens: used by this run so far

	// Conversation: the tokens are those of the whole conversation so far.
	Conversation bool `json:"-"`

	USD float64 `json:"usd"` // cost: of this run so far

	ID string `json:"id"` // session: of the agent's conversation

	Code    string    `json:"code"`     // error
	Message string    `json:"message"`  // error; no_change: why; message: the latest that the agent said
	RetryAt time.Time `json:"retry_at"` // error: when a limit resets

	// Final: the run has failed, whatever its exit status, unless it says otherwise later.
	Final bool `json:"-"`

	// Last: the run ends with this event anyway, so there is nothing to stop.
	Last bool `json:"-"`
}

// Parse reads a line. Most lines are for people: they give no event, and
// neither does anything malformed.
func Parse(line string) (Event, bool) {
	if !strings.HasPrefix(line, "{") {
		return Event{}, false
	}
	var e Event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		return Event{}, false
	}
	switch e.Type {
	case EventTool:
		return e, e.Name != ""
	case EventIteration:
		return e, e.N > 0
	case EventTokens:
		return e, e.In >= 0 && e.Out >= 0
	case EventCost:
		return e, e.USD >= 0
	case EventSession:
		return e, e.ID != ""
	case EventDone, EventNoChange:
		return e, true
	case EventError:
		return e, e.Code != ""
	}
	return Event{}, false
}

// decode reads the fields that v knows of a line, and reports whether the line is
// JSON. A field of another type than the known one is left out: a new version of
// an agent takes no more from a line than that.
func decode(line string, v any) bool {
	err := json.Unmarshal([]byte(line), v)
	var mismatch *json.UnmarshalTypeError
	return err == nil || errors.As(err, &mismatch)
}

// Said is what an agent last said about the end of its run.
type Said string

// What an agent can say of its end.
const (
	SaidNothing Said = ""
	SaidWell    Said = "well"
	SaidFailed  Said = "failed"
)
