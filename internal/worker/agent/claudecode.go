package agent

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"drover/internal/work"
)

// claudeCode is Claude Code in its print mode. The command line is the one of
// its CLI reference (code.claude.com/docs/en/cli-reference), the lines are the
// SDK messages of its Agent SDK reference (code.claude.com/docs/en/agent-sdk/typescript),
// and what tokens and cost count is said on its page on cost tracking. The
// rate_limit_event is not on these pages; its shape comes from reports in
// anthropics/claude-code's issues (78476 and others).
type claudeCode struct{}

// Command asks no permissions of its own program: there is nobody to give them,
// and the container is the boundary.
func (claudeCode) Command(o Options) []string {
	args := append(o.program("claude", "--dangerously-skip-permissions"), "-p", "--output-format", "stream-json", "--verbose")
	if o.Conversation != "" {
		args = append(args, "--resume", o.Conversation)
	}
	if o.CostLeftUSD > 0 {
		args = append(args, "--max-budget-usd", strconv.FormatFloat(o.CostLeftUSD, 'f', 4, 64))
	}
	return args
}

func (claudeCode) Variables() []string { return []string{"ANTHROPIC_", "CLAUDE_CODE_"} }

func (claudeCode) State() []string { return []string{".claude/projects"} }

// Status: it exits with 1 whatever failed.
func (claudeCode) Status(code int) int { return failed(code) }

func (claudeCode) Reader() func(string) []Event {
	return (&claudeReader{counted: map[string]work.Tokens{}}).line
}

// claudeLine has of every message what is read here.
type claudeLine struct {
	Type      string `json:"type"`
	Subtype   string `json:"subtype"`
	SessionID string `json:"session_id"`

	Message struct { // assistant
		ID      string        `json:"id"`
		Content []claudeBlock `json:"content"`
		Usage   claudeUsage   `json:"usage"`
	} `json:"message"`
	Error string `json:"error"` // assistant: rate_limit and others

	IsError      bool        `json:"is_error"` // result
	Result       string      `json:"result"`
	Errors       []string    `json:"errors"`
	TotalCostUSD float64     `json:"total_cost_usd"` // of this run
	Usage        claudeUsage `json:"usage"`          // of this run

	RateLimitInfo struct { // rate_limit_event
		Status   string `json:"status"`
		ResetsAt int64  `json:"resetsAt"` // seconds since 1970
	} `json:"rate_limit_info"`
}

type claudeBlock struct {
	Type  string         `json:"type"`
	Name  string         `json:"name"`
	Input map[string]any `json:"input"`
}

type claudeUsage struct {
	Input         int64 `json:"input_tokens"` // without what the cache was read or written for
	CacheCreation int64 `json:"cache_creation_input_tokens"`
	CacheRead     int64 `json:"cache_read_input_tokens"`
	Output        int64 `json:"output_tokens"`
}

func (u claudeUsage) tokens() work.Tokens {
	return work.Tokens{In: u.Input + u.CacheCreation + u.CacheRead, Out: u.Output}
}

// claudeReader reads the lines of one run.
type claudeReader struct {
	session string
	used    work.Tokens
	counted map[string]work.Tokens // of each message by its id: every line of it repeats them
	limited bool
	resets  time.Time
}

func (r *claudeReader) line(text string) []Event {
	var l claudeLine
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &l) != nil {
		return nil
	}
	var events []Event
	if l.SessionID != "" && l.SessionID != r.session {
		r.session = l.SessionID
		events = append(events, Event{Type: EventSession, ID: l.SessionID})
	}
	switch l.Type {
	case "assistant":
		return append(events, r.assistant(l)...)
	case "rate_limit_event":
		if l.RateLimitInfo.Status == "rejected" {
			r.limited, r.resets = true, time.Unix(l.RateLimitInfo.ResetsAt, 0).UTC()
		}
	case "result":
		return append(events, r.result(l)...)
	}
	return events
}

func (r *claudeReader) assistant(l claudeLine) []Event {
	r.limited = l.Error == "rate_limit" || r.limited && l.Error != ""
	var events []Event
	for _, block := range l.Message.Content {
		if block.Type == "tool_use" && block.Name != "" {
			events = append(events, Event{Type: EventTool, Name: block.Name, Detail: toolDetail(block.Input)})
		}
	}
	before, now := r.counted[l.Message.ID], l.Message.Usage.tokens()
	now = work.Tokens{In: max(before.In, now.In), Out: max(before.Out, now.Out)}
	r.counted[l.Message.ID] = now
	r.used = work.Tokens{In: r.used.In + now.In - before.In, Out: r.used.Out + now.Out - before.Out}
	return append(events, Event{Type: EventTokens, Tokens: r.used})
}

// legacyLimit is how versions before the rate_limit_event named the reset.
var legacyLimit = regexp.MustCompile(`usage limit reached\|(\d+)`)

func (r *claudeReader) result(l claudeLine) []Event {
	var events []Event
	if used := l.Usage.tokens(); used != (work.Tokens{}) {
		events = append(events, Event{Type: EventTokens, Tokens: used, Last: true})
	}
	events = append(events, Event{Type: EventCost, USD: l.TotalCostUSD, Last: true})
	if !l.IsError && l.Subtype == "success" {
		return append(events, Event{Type: EventMessage, Message: l.Result, Last: true})
	}
	failure := Event{Type: EventError, Code: CodeFailed, Final: true, Message: l.Result, Last: true}
	if failure.Message == "" {
		failure.Message = strings.Join(append([]string{l.Subtype}, l.Errors...), ": ")
	}
	if match := legacyLimit.FindStringSubmatch(l.Result); match != nil {
		seconds, _ := strconv.ParseInt(match[1], 10, 64) // digits; too many of them: no reset named
		r.limited, r.resets = true, time.Unix(seconds, 0).UTC()
	}
	switch {
	case l.Subtype == "error_max_budget_usd":
		failure.Code = CodeBudget
	case r.limited:
		failure.Code, failure.RetryAt = CodeRateLimited, r.resets
	}
	return append(events, failure)
}

// toolDetail is what a tool works on, as far as people care.
func toolDetail(input map[string]any) string {
	for _, name := range []string{"file_path", "notebook_path", "path", "command", "pattern", "url", "query", "description"} {
		if value, ok := input[name].(string); ok && value != "" {
			line, _, _ := strings.Cut(value, "\n")
			return line
		}
	}
	if len(input) == 0 {
		return ""
	}
	return fmt.Sprintf("%d arguments", len(input))
}
