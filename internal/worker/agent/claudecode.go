package agent

import (
	"fmt"
	"net/http"
	"slices"
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

// Status: its last result counts. It exits with 1 whatever failed, and has been
// seen to do so after it had succeeded.
func (claudeCode) Status(_ int, said Said) int { return spoken(said) }

func (claudeCode) Reader() func(string) []Event {
	return (&claudeReader{now: time.Now, counted: map[string]work.Tokens{}}).line
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
	ParentTool  string `json:"parent_tool_use_id"` // assistant: of the subagent that speaks
	Error       string `json:"error"`              // assistant, and system of the subtype api_retry: see claudeWaits
	ErrorStatus int    `json:"error_status"`       // system of the subtype api_retry: HTTP status
	RetryDelay  int64  `json:"retry_delay_ms"`     // as above

	IsError      bool        `json:"is_error"` // result
	APIStatus    int         `json:"api_error_status"`
	NumTurns     int         `json:"num_turns"`
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
	Text  string         `json:"text"`
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
	now     func() time.Time
	session string
	used    work.Tokens
	counted map[string]work.Tokens // of each message by its id: every line of it repeats them
	spoke   string                 // id of the message that spoke last: each of its blocks has a line
	words   string                 // of that message so far
	limited bool
	resets  time.Time
	retries bool // it said that it tries again, and nothing since
}

// claudeWaits reports whether an error of the API passes with time: the names are
// those of the SDK's assistant messages, the status is HTTP's.
func claudeWaits(name string, status int) bool {
	const overloaded = 529
	return name == "rate_limit" || name == "overloaded" || status == http.StatusTooManyRequests || status == overloaded
}

func (r *claudeReader) line(text string) []Event {
	var l claudeLine
	if !strings.HasPrefix(text, "{") {
		return r.plain(text)
	}
	if !decode(text, &l) {
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
	case "system":
		if l.Subtype == "api_retry" && claudeWaits(l.Error, l.ErrorStatus) {
			r.retries = true
			return append(events, Event{Type: EventError, Code: CodeRateLimited, Message: fmt.Sprintf("the API refused: %s (HTTP status %d)", l.Error, l.ErrorStatus),
				RetryAt: r.now().Add(time.Duration(l.RetryDelay) * time.Millisecond).UTC()})
		}
	case "rate_limit_event":
		if l.RateLimitInfo.Status == "rejected" {
			r.limited, r.resets = true, resetOf(l.RateLimitInfo.ResetsAt)
		}
	case "result":
		return append(events, r.result(l)...)
	}
	return events
}

// plain reads what is no message: it says so of a limit that it meets before it
// has begun to write messages.
func (r *claudeReader) plain(text string) []Event {
	if !claudeLimit(text) {
		return nil
	}
	return []Event{{Type: EventError, Code: CodeRateLimited, Message: text, RetryAt: reset(text, r.now())}}
}

func (r *claudeReader) assistant(l claudeLine) []Event {
	if r.limited = claudeWaits(l.Error, 0) || r.limited && l.Error != ""; !r.limited {
		r.resets = time.Time{}
	}
	var events []Event
	if l.Error == "" && r.retries {
		r.retries = false
		events = append(events, Event{Type: EventRecovered})
	}
	var words []string
	for _, block := range l.Message.Content {
		switch {
		case block.Type == "tool_use" && block.Name != "":
			events = append(events, Event{Type: EventTool, Name: block.Name, Detail: toolDetail(block.Input)})
		case block.Type == "text" && block.Text != "":
			words = append(words, block.Text)
		}
	}
	before, now := r.counted[l.Message.ID], l.Message.Usage.tokens()
	now = work.Tokens{In: max(before.In, now.In), Out: max(before.Out, now.Out)}
	r.counted[l.Message.ID] = now
	r.used = work.Tokens{In: r.used.In + now.In - before.In, Out: r.used.Out + now.Out - before.Out}
	if len(words) > 0 && l.ParentTool == "" && l.Error == "" {
		events = append(events, r.says(l.Message.ID, strings.Join(words, "\n")))
	}
	return append(events, Event{Type: EventTokens, Tokens: r.used})
}

// maxJoined bounds the words of a message to which those of its next block are
// added: only its last lines matter.
const maxJoined = 1 << 20

// says puts the words of one message together.
func (r *claudeReader) says(id, words string) Event {
	if id != "" && id == r.spoke && len(r.words) < maxJoined {
		words = r.words + "\n" + words
	}
	r.spoke, r.words = id, words
	return Event{Type: EventMessage, Message: words}
}

func (r *claudeReader) result(l claudeLine) []Event {
	var events []Event
	if used := l.Usage.tokens(); used != (work.Tokens{}) {
		events = append(events, Event{Type: EventTokens, Tokens: used, Last: true})
	}
	events = append(events, Event{Type: EventCost, USD: l.TotalCostUSD, Last: true})
	if !l.IsError && l.Subtype == "success" {
		if l.Result != "" {
			events = append(events, Event{Type: EventMessage, Message: l.Result, Last: true})
		}
		return append(events, Event{Type: EventEnd, Last: true})
	}
	return append(events, r.failure(l))
}

// failure is what a result says that is no success.
func (r *claudeReader) failure(l claudeLine) Event {
	failure := Event{Type: EventError, Code: CodeFailed, Final: true, Message: l.Result, Last: true}
	if failure.Message == "" {
		failure.Message = strings.Join(append([]string{l.Subtype}, l.Errors...), ": ")
	}
	said := slices.ContainsFunc(append(l.Errors, l.Result), claudeLimit)
	stated := r.resets
	if stated.IsZero() && (said || r.limited || claudeWaits("", l.APIStatus)) {
		stated = reset(failure.Message, r.now())
	}
	switch {
	case l.Subtype == "error_max_budget_usd":
		failure.Code = CodeBudget
	case l.Subtype == "error_max_turns":
		failure.Code = CodeMaxTurns
		failure.Message = fmt.Sprintf("it stopped at its limit of turns, after %d", l.NumTurns)
	case stated.IsZero() && !r.limited && !claudeWaits("", l.APIStatus) && hopeless.MatchString(failure.Message):
		failure.Code = CodeQuota
	case r.limited, said, claudeWaits("", l.APIStatus):
		failure.Code, failure.RetryAt = CodeRateLimited, stated
	}
	return failure
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
