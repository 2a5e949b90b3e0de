package agent_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/internal/work"
	"drover/internal/worker/agent"
)

func TestEveryKindOfAgentHasAnAdapter(t *testing.T) {
	for _, kind := range work.Agents() {
		if agent.For(kind) == nil {
			t.Errorf("%s has none", kind)
		}
	}
	if agent.For("none such") != nil {
		t.Error("an unknown kind has one")
	}
}

func TestCommandLines(t *testing.T) {
	own, resumed := agent.Options{}, agent.Options{Program: []string{"x", "--model", "y"}, Conversation: "id-1", CostLeftUSD: 1.5}
	for _, c := range []struct {
		kind    string
		options agent.Options
		want    string
	}{
		{work.AgentPlain, own, ""},
		{work.AgentPlain, resumed, "x --model y"},
		{work.AgentClaudeCode, own, "claude --dangerously-skip-permissions -p --output-format stream-json --verbose"},
		{work.AgentClaudeCode, resumed, "x --model y -p --output-format stream-json --verbose --resume id-1 --max-budget-usd 1.5000"},
		{work.AgentCodex, own, "codex -c sandbox_mode=danger-full-access exec --json -"},
		{work.AgentCodex, resumed, "x --model y exec --json resume id-1 -"},
	} {
		if got := strings.Join(agent.For(c.kind).Command(c.options), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.kind, got, c.want)
		}
	}
}

func TestExitStatus(t *testing.T) {
	for kind, want := range map[string]map[agent.Said][]int{
		work.AgentPlain:      {agent.SaidNothing: {0, 1, 2, 3, 7}, agent.SaidWell: {0, 1, 2, 3, 7}, agent.SaidFailed: {0, 1, 2, 3, 7}},
		work.AgentClaudeCode: {agent.SaidNothing: {3, 3, 3, 3, 3}, agent.SaidWell: {0, 0, 0, 0, 0}, agent.SaidFailed: {3, 3, 3, 3, 3}},
		work.AgentCodex:      {agent.SaidNothing: {3, 3, 3, 3, 3}, agent.SaidWell: {0, 0, 0, 0, 0}, agent.SaidFailed: {3, 3, 3, 3, 3}},
	} {
		for said, want := range want {
			for i, code := range []int{0, 1, 2, 3, 7} {
				if got := agent.For(kind).Status(code, said); got != want[i] {
					t.Errorf("%s: status of %d after it said %q is %d, want %d", kind, code, said, got, want[i])
				}
			}
		}
	}
}

// read returns the events of a transcript, one a line.
func read(t *testing.T, kind, name string) []string {
	t.Helper()
	file, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var events []string
	line := agent.For(kind).Reader()
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		for _, e := range line(scanner.Text()) {
			events = append(events, describe(e))
		}
	}
	return events
}

func describe(e agent.Event) string {
	text := e.Type
	switch e.Type {
	case agent.EventTool:
		text += " " + e.Name + " " + e.Detail
	case agent.EventTokens:
		text += fmt.Sprintf(" %d/%d", e.In, e.Out)
		if e.Conversation {
			text += " of the conversation"
		}
	case agent.EventCost:
		text += fmt.Sprint(" ", e.USD)
	case agent.EventSession:
		text += " " + e.ID
	case agent.EventMessage:
		text += fmt.Sprintf(" %q", e.Message)
	case agent.EventError:
		text += fmt.Sprintf(" %s: %s", e.Code, e.Message)
		if !e.RetryAt.IsZero() {
			text += " until " + e.RetryAt.Format(time.RFC3339)
		}
	}
	if e.Final {
		text += ", final"
	}
	if e.Last {
		text += ", last"
	}
	return text
}

func TestTranscripts(t *testing.T) {
	for name, c := range map[string]struct {
		kind string
		want []string
	}{
		"claude-code.jsonl": {work.AgentClaudeCode, []string{
			"session 5b1c8a52-0001",
			`message "I look first."`,
			"tokens 1110/5",
			"tool Bash git log",
			"tokens 1110/5", // the same message has one usage
			"tool Edit internal/x.go",
			"tokens 2230/12",
			`message "I look first.\nAnd so on."`, // again the first message: subagents speak between
			"tokens 2230/12",
			"tokens 2230/15, last",
			"cost 0.0425, last",
			`message "The flag is there.\n<done/>", last`,
			"end, last",
		}},
		"claude-code-limit.jsonl": {work.AgentClaudeCode, []string{
			"session 5b1c8a52-0002",
			"tokens 0/0",
			"cost 0, last",
			"error rate_limited: You've hit your limit until 2030-01-02T03:04:05Z, final, last",
		}},
		"claude-code-legacy-limit.jsonl": {work.AgentClaudeCode, []string{
			"session 5b1c8a52-0003",
			"cost 0, last",
			"error rate_limited: Claude AI usage limit reached|1893553445 until 2030-01-02T03:04:05Z, final, last",
		}},
		"claude-code-budget.jsonl": {work.AgentClaudeCode, []string{
			"session 5b1c8a52-0004",
			"tokens 30/15, last",
			"cost 1.02, last",
			"error budget_exceeded: error_max_budget_usd: Exceeded USD budget (1), final, last",
		}},
		"codex.jsonl": {work.AgentCodex, []string{
			"session 0199-0001",
			"tool shell bash -lc 'git log'",
			"tool edit internal/x.go",
			"tool docs.search ",
			"tool web_search flags",
			"error failed: Reconnecting... 1/5",
			"recovered",
			`message "The flag is there.\n<done/>"`,
			"tokens 2000/120 of the conversation, last",
			"end, last",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := read(t, c.kind, name); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestCodexLimitTranscript(t *testing.T) {
	events := read(t, work.AgentCodex, "codex-limit.jsonl")
	if len(events) != 3 || !strings.Contains(events[2], "error rate_limited: You've hit your usage limit") || !strings.HasSuffix(events[2], ", final") {
		t.Fatalf("events %q", events)
	}
}

// lines returns the events of lines, described.
func lines(kind string, text ...string) []string {
	line := agent.For(kind).Reader()
	var events []string
	for _, l := range text {
		for _, e := range line(l) {
			events = append(events, describe(e))
		}
	}
	return events
}

// TestClaudeCodesLastWord has the orders in which results, messages and errors come.
func TestClaudeCodesLastWord(t *testing.T) {
	const (
		speaks   = `{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"All done.\n<done/>"}]}}`
		subagent = `{"type":"assistant","parent_tool_use_id":"t1","message":{"id":"m2","content":[{"type":"text","text":"I am another."}]}}`
		calls    = `{"type":"assistant","message":{"id":"m1","content":[{"type":"tool_use","name":"Edit","input":{"path":"a"}}]}}`
		silent   = `{"type":"result","subtype":"success","is_error":false,"result":""}`
		said     = `{"type":"result","subtype":"success","is_error":false,"result":"Done."}`
		failed   = `{"type":"result","subtype":"error_during_execution","is_error":true,"errors":["a task was stopped"]}`
		retries  = `{"type":"system","subtype":"api_retry","attempt":1,"retry_delay_ms":600,"error_status":529,"error":"overloaded"}`
	)
	for name, c := range map[string]struct{ lines, want []string }{
		"an empty result leaves the last message": {[]string{speaks, silent}, []string{`message "All done.\n<done/>"`, "tokens 0/0", "cost 0, last", "end, last"}},
		"a result replaces it":                    {[]string{speaks, said}, []string{`message "All done.\n<done/>"`, "tokens 0/0", "cost 0, last", `message "Done.", last`, "end, last"}},
		"a subagent's message is not its own":     {[]string{speaks, subagent, silent}, []string{`message "All done.\n<done/>"`, "tokens 0/0", "tokens 0/0", "cost 0, last", "end, last"}},
		"a tool call says nothing":                {[]string{speaks, calls, silent}, []string{`message "All done.\n<done/>"`, "tokens 0/0", "tool Edit a", "tokens 0/0", "cost 0, last", "end, last"}},
		"an error, then success":                  {[]string{failed, said}, []string{"cost 0, last", "error failed: error_during_execution: a task was stopped, final, last", "cost 0, last", `message "Done.", last`, "end, last"}},
		"success, then an error":                  {[]string{said, failed}, []string{"cost 0, last", `message "Done.", last`, "end, last", "cost 0, last", "error failed: error_during_execution: a task was stopped, final, last"}},
		"it recovers from a busy server":          {[]string{retries, calls}, []string{"error rate_limited: the API refused: overloaded (HTTP status 529)", "recovered", "tool Edit a", "tokens 0/0"}},
		"a field of an unknown type": {[]string{`{"type":"result","subtype":"success","is_error":false,"result":{"a":1},"errors":"none"}`},
			[]string{"cost 0, last", "end, last"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := lines(work.AgentClaudeCode, c.lines...)
			for i, event := range got {
				got[i], _, _ = strings.Cut(event, " until ") // the clock's
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// TestLinesCutAnywhereAreHarmless: a line may be cut at the bound, or have another in its middle.
func TestLinesCutAnywhereAreHarmless(t *testing.T) {
	for kind, name := range map[string]string{work.AgentClaudeCode: "claude-code.jsonl", work.AgentCodex: "codex.jsonl"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			for cut := range len(line) - 2 { // without its last bracket, and its line end
				if events := agent.For(kind).Reader()(line[:cut]); len(events) > 0 {
					t.Errorf("%s: %q gives %v", name, line[:cut], events)
				}
			}
		}
	}
}
