// Package agent runs a coding agent and understands what it says about its
// work. docs/agent-protocol.md describes both for those who write agents.
package agent

import (
	"encoding/json"
	"strings"
	"time"

	"drover/internal/work"
)

// The types of an Event.
const (
	EventTool      = "tool"
	EventIteration = "iteration"
	EventTokens    = "tokens"
	EventError     = "error"
)

// CodeRateLimited is the code of an error event that asks to wait.
const CodeRateLimited = "rate_limited"

// Event is a line of the agent's standard output that means something.
type Event struct {
	Type string `json:"type"`

	Name   string `json:"name"`   // tool: its name
	Detail string `json:"detail"` // tool: what it works on

	N int `json:"n"` // iteration: which begins, counted over all attempts

	work.Tokens // tokens: used by this run so far

	Code    string    `json:"code"`     // error
	Message string    `json:"message"`  // error
	RetryAt time.Time `json:"retry_at"` // error: when a limit resets
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
	case EventError:
		return e, e.Code != ""
	}
	return Event{}, false
}
