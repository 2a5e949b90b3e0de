package agent

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"

	"drover/internal/work"
)

// codex is Codex in its non-interactive mode. Command line and lines are those
// of docs/exec.md in openai/codex, with the event and item types of its pull
// request 4525. It states no cost.
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

// Status: it exits with 1 whatever failed.
func (codex) Status(code int) int { return failed(code) }

func (codex) Reader() func(string) []Event { return (&codexReader{now: time.Now}).line }

type codexLine struct {
	Type     string    `json:"type"`
	ThreadID string    `json:"thread_id"`
	Item     codexItem `json:"item"`
	Usage    struct {
		Input  int64 `json:"input_tokens"` // cached ones are among them
		Output int64 `json:"output_tokens"`
	} `json:"usage"`
	Message string `json:"message"` // error
	Error   struct {
		Message string `json:"message"`
	} `json:"error"` // turn.failed
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
	now  func() time.Time
	seen string // id of the last tool call: it has several lines
}

func (r *codexReader) line(text string) []Event {
	var l codexLine
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &l) != nil {
		return nil
	}
	switch l.Type {
	case "thread.started":
		if l.ThreadID != "" {
			return []Event{{Type: EventSession, ID: l.ThreadID}}
		}
	case "item.started", "item.completed":
		return r.item(l)
	case "turn.completed":
		// the thread's total, also where the run has resumed it
		return []Event{{Type: EventTokens, Tokens: work.Tokens{In: l.Usage.Input, Out: l.Usage.Output}, Conversation: true, Last: true}}
	case "turn.failed":
		return []Event{r.failure(l.Error.Message, true)}
	case "error": // also of a lost connection that is tried again
		return []Event{r.failure(l.Message, false)}
	}
	return nil
}

func (r *codexReader) item(l codexLine) []Event {
	i := l.Item
	if i.Type == "" {
		i.Type = i.ItemType
	}
	tool := Event{Type: EventTool}
	switch i.Type {
	case "agent_message", "assistant_message":
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

func (r *codexReader) failure(message string, final bool) Event {
	e := Event{Type: EventError, Code: CodeFailed, Final: final, Message: message}
	lower := strings.ToLower(message)
	if strings.Contains(lower, "usage limit") || strings.Contains(lower, "429 too many requests") || strings.Contains(lower, "rate limit") {
		e.Code, e.RetryAt = CodeRateLimited, r.reset(message)
	}
	return e
}

var (
	limitWait  = regexp.MustCompile(`try again in ([0-9a-z ]+)`)
	limitPart  = regexp.MustCompile(`(\d+) (day|hour|minute|second)`)
	limitTime  = regexp.MustCompile(`try again at ([^.]+)`)
	limitUnits = map[string]time.Duration{"day": 24 * time.Hour, "hour": time.Hour, "minute": time.Minute, "second": time.Second}
	ordinal    = regexp.MustCompile(`(\d)(?:st|nd|rd|th)\b`)
)

// reset reads when a limit resets from its message, which has had two forms over
// time: "try again in 2 days 17 hours 14 minutes", and "try again at" a time in
// the machine's zone, with the day where it is not today. Zero if it has neither.
func (r *codexReader) reset(message string) time.Time {
	now := r.now()
	if match := limitWait.FindStringSubmatch(message); match != nil {
		var wait time.Duration
		for _, part := range limitPart.FindAllStringSubmatch(match[1], -1) {
			n, _ := strconv.Atoi(part[1]) // digits
			wait += time.Duration(n) * limitUnits[part[2]]
		}
		if wait > 0 {
			return now.Add(wait).UTC().Truncate(time.Second)
		}
	}
	match := limitTime.FindStringSubmatch(message)
	if match == nil {
		return time.Time{}
	}
	text := ordinal.ReplaceAllString(strings.TrimSpace(match[1]), "$1")
	for _, layout := range []string{"Jan 2, 2006 3:04 PM", "Jan 2, 2006, 3:04 PM"} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at.UTC()
		}
	}
	clock, err := time.Parse("3:04 PM", text)
	if err != nil {
		return time.Time{}
	}
	at := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), 0, 0, now.Location())
	if at.Before(now) {
		at = at.AddDate(0, 0, 1)
	}
	return at.UTC()
}
