package agent

import (
	"strings"
	"time"

	"drover/internal/work"
)

// codex is Codex in its non-interactive mode. Command line and lines are those
// of docs/exec.md in openai/codex, with the event and item types of its pull
// request 4525; limit.go has its sentences on limits. It states no cost.
type codex struct{}

// Command lets it write the whole tree, .git too: the container is the boundary.
func (codex) Command(o Options) []string {
	args := append(o.program("codex", "-c", "sandbox_mode=danger-full-access"), "exec", "--json")
	if o.Conversation != "" {
		args = append(args, "resume", o.Conversation)
	}
	return append(args, "-") // the prompt is on standard input
}

func (codex) Variables() []string { return []string{"OPENAI_", "CODEX_"} }

func (codex) State() []string { return []string{".codex/sessions"} }

// Status: the end of its last turn counts. It exits with 1 whatever failed, or
// with 0.
func (codex) Status(_ int, said Said) int { return spoken(said) }

func (codex) Reader() func(string) []Event { return (&codexReader{now: time.Now}).line }

type codexLine struct {
	Type     string    `json:"type"`
	ThreadID string    `json:"thread_id"`
	Item     codexItem `json:"item"`
	Usage    struct {
		Input  int64 `json:"input_tokens"` // cached ones are among them
		Output int64 `json:"output_tokens"`
	} `json:"usage"`
	codexError            // error
	Error      codexError `json:"error"` // turn.failed
}

// codexError is an error as Codex states it; what the API adds to it is known
// from its usage_limit_reached.
type codexError struct {
	Message         string `json:"message"`
	ResetsAt        int64  `json:"resets_at"` // seconds since 1970
	ResetsInSeconds int64  `json:"resets_in_seconds"`
}

type codexItem struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	ItemType string `json:"item_type"` // its name in the first versions
	Text     string `json:"text"`
	Command  string `json:"command"`
	Server   string `json:"server"`
	Tool     string `json:"tool"`
	Query    string `json:"query"`
	Changes  []struct {
		Path string `json:"path"`
	} `json:"changes"`
}

// codexReader reads the lines of one run.
type codexReader struct {
	now   func() time.Time
	seen  string // id of the last tool call: it has several lines
	erred bool   // and nothing was heard since
}

func (r *codexReader) line(text string) []Event {
	var l codexLine
	if !strings.HasPrefix(text, "{") || !decode(text, &l) {
		return nil
	}
	var events []Event
	switch l.Type {
	case "error": // also of a lost connection that is tried again
		r.erred = true
		return []Event{r.failure(l.codexError, false)}
	case "turn.failed":
		return []Event{r.failure(l.Error, true)}
	case "thread.started":
		if l.ThreadID != "" {
			return []Event{{Type: EventSession, ID: l.ThreadID}}
		}
	case "item.started", "item.completed":
		events = r.item(l)
	case "turn.completed":
		// the thread's total, also where the run has resumed it
		events = []Event{
			{Type: EventTokens, Tokens: work.Tokens{In: l.Usage.Input, Out: l.Usage.Output}, Conversation: true, Last: true},
			{Type: EventEnd, Last: true},
		}
	}
	if r.erred && len(events) > 0 {
		r.erred = false
		return append([]Event{{Type: EventRecovered}}, events...)
	}
	return events
}

func (r *codexReader) item(l codexLine) []Event {
	i := l.Item
	if i.Type == "" {
		i.Type = i.ItemType
	}
	tool := Event{Type: EventTool}
	switch i.Type {
	case "agent_message", "assistant_message":
		if i.Text == "" {
			return nil
		}
		return []Event{{Type: EventMessage, Message: i.Text}}
	case "command_execution":
		tool.Name, tool.Detail = "shell", i.Command
	case "file_change":
		tool.Name = "edit"
		if len(i.Changes) > 0 {
			tool.Detail = i.Changes[0].Path
		}
	case "mcp_tool_call":
		tool.Name = i.Server + "." + i.Tool
	case "web_search":
		tool.Name, tool.Detail = "web_search", i.Query
	default:
		return nil
	}
	if i.ID == r.seen && i.ID != "" {
		return nil
	}
	r.seen = i.ID
	tool.Detail, _, _ = strings.Cut(tool.Detail, "\n")
	return []Event{tool}
}

func (r *codexReader) failure(said codexError, final bool) Event {
	e := Event{Type: EventError, Code: CodeFailed, Final: final, Message: said.Message}
	switch {
	case codexBudget.MatchString(e.Message):
		e.Code = CodeBudget
	case hopeless.MatchString(e.Message):
		e.Code = CodeQuota
	case codexLimits.MatchString(e.Message) || said.ResetsAt > 0 || said.ResetsInSeconds > 0:
		e.Code, e.RetryAt = CodeRateLimited, r.reset(said)
	}
	return e
}

// reset is when a limit resets, zero where Codex does not say.
func (r *codexReader) reset(said codexError) time.Time {
	if at := resetOf(said.ResetsAt); !at.IsZero() {
		return at
	}
	if said.ResetsInSeconds > 0 {
		seconds := min(said.ResetsInSeconds, int64(maxWait/time.Second))
		return r.now().Add(time.Duration(seconds) * time.Second).UTC().Truncate(time.Second)
	}
	return reset(said.Message, r.now())
}
