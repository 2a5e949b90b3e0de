package worker_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/internal/work"
)

// newAgentBench returns the bench of an item whose agent is of a kind; the script
// stands for the agent's program and sees its flags as "$*".
func newAgentBench(t *testing.T, kind, script string) *bench {
	t.Helper()
	b := newBench(t, "")
	b.envelope.Spec.Agent = kind
	b.program(script)
	return b
}

func (b *bench) program(script string) {
	b.t.Helper()
	dir, err := filepath.Abs(filepath.Join("agent", "testdata"))
	if err != nil {
		b.t.Fatal(err)
	}
	told := `say() { cat "` + dir + `/$1"; }; cat >"$HOME/prompt"; echo "$*" >>"$HOME/runs"; n=$(($(wc -l <"$HOME/runs")))` + "\n"
	b.envelope.Spec.Command = []string{"sh", "-c", "set -eu\n" + functions + told + script, "agent"}
}

// kept returns what the agent left in its home.
func (b *bench) kept(name string) string {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, "work", "home", name))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

// runs returns the flags of each of the agent's runs.
func (b *bench) runs() []string {
	b.t.Helper()
	return strings.Split(strings.TrimSuffix(b.kept("runs"), "\n"), "\n")
}

func TestEachKindOfAgentIsUnderstood(t *testing.T) {
	t.Parallel()
	for kind, c := range map[string]struct {
		transcript, flags, session, tool string
		tokens                           work.Tokens
		cost                             float64
	}{
		work.AgentClaudeCode: {"claude-code.jsonl", "-p --output-format stream-json --verbose", "5b1c8a52-0001", "Edit internal/x.go", work.Tokens{In: 2230, Out: 15}, 0.0425},
		work.AgentCodex:      {"codex.jsonl", "exec --json -", "0199-0001", "web_search flags", work.Tokens{In: 2000, Out: 120}, 0},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := newAgentBench(t, kind, `commit one; say `+c.transcript)
			b.envelope.Resume = work.Resume{Iteration: 2, Tokens: work.Tokens{In: 1000, Out: 100}, CostUSD: 1}
			r := b.result()
			if r.Reason != work.ReasonCompleted || !r.Proven() || r.Iteration != 3 {
				t.Errorf("result %+v", r)
			}
			if want := (work.Tokens{In: 1000 + c.tokens.In, Out: 100 + c.tokens.Out}); r.Tokens != want || r.CostUSD != 1+c.cost {
				t.Errorf("tokens %+v, cost %v; want %+v and %v", r.Tokens, r.CostUSD, want, 1+c.cost)
			}
			if r.Conversation == nil || r.Conversation.ID != c.session {
				t.Errorf("conversation %+v", r.Conversation)
			}
			if runs := b.runs(); len(runs) != 1 || runs[0] != c.flags {
				t.Errorf("runs %q", runs)
			}
			prompt := b.kept("prompt")
			for _, want := range []string{b.envelope.Spec.Task, "Commit your work on the branch", work.NoChangePhrase} {
				if !strings.Contains(prompt, want) {
					t.Errorf("prompt %q lacks %q", prompt, want)
				}
			}
			b.wantLog("one")
		})
	}
}

func TestAgentSeesTheCredentialsOfItsKindAlone(t *testing.T) {
	t.Parallel()
	all := []string{"AGENT_X=agent-x", "ANTHROPIC_API_KEY=anthropic-key", "CLAUDE_CODE_OAUTH_TOKEN=claude-token", "OPENAI_API_KEY=openai-key", "CODEX_API_KEY=codex-key"}
	for kind, sees := range map[string][]string{
		work.AgentPlain: {"AGENT_X"}, work.AgentClaudeCode: {"AGENT_X", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"}, work.AgentCodex: {"AGENT_X", "OPENAI_API_KEY", "CODEX_API_KEY"},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := newAgentBench(t, kind, `commit one; env >"$HOME/env"; cat "$HOME/env"; case "$*" in *stream-json*) say claude-code.jsonl;; *) say codex.jsonl;; esac`)
			b.environ = append(b.environ, all...)
			b.envelope.Spec.Test.Command = `env >"$HOME/test-env"`
			b.result()
			for _, pair := range all {
				name, value, _ := strings.Cut(pair, "=")
				if got := strings.Contains(b.kept("env"), pair+"\n"); got != slices.Contains(sees, name) {
					t.Errorf("sees %s: %v", name, got)
				}
				if name != "AGENT_X" && (strings.Contains(b.kept("test-env"), pair) || strings.Contains(b.out.String(), value)) {
					t.Errorf("%s is seen by the tests, or in the log", name)
				}
			}
		})
	}
}

func TestAgentsOwnErrorsSayTheReason(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind, script string
		reason       work.Reason
		says         string
		resets       time.Time
	}{
		"claude limit":           {work.AgentClaudeCode, `say claude-code-limit.jsonl; exit 1`, work.ReasonRateLimited, "hit your limit", time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)},
		"claude fails, status 0": {work.AgentClaudeCode, `say claude-code-limit.jsonl`, work.ReasonRateLimited, "hit your limit", time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)},
		"claude budget":          {work.AgentClaudeCode, `say claude-code-budget.jsonl; exit 1`, work.ReasonBudgetExceeded, "Exceeded USD budget", time.Time{}},
		"claude status 1":        {work.AgentClaudeCode, `exit 1`, work.ReasonAgentError, "exit code 1", time.Time{}},
		"codex limit":            {work.AgentCodex, `say codex-limit.jsonl; exit 1`, work.ReasonRateLimited, "usage limit", time.Now().Add(65*time.Hour + 14*time.Minute)},
		"codex status 2":         {work.AgentCodex, `exit 2`, work.ReasonAgentError, "exit code 2", time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newAgentBench(t, c.kind, "commit one; "+c.script)
			r := b.result()
			if r.Reason != c.reason || !strings.Contains(r.Detail, c.says) {
				t.Errorf("%s: %s; want %s and %q", r.Reason, r.Detail, c.reason, c.says)
			}
			if r.RetryAt.Sub(c.resets).Abs() > 5*time.Minute {
				t.Errorf("retry at %s, want %s", r.RetryAt, c.resets)
			}
			b.wantLog("one")
		})
	}
}

func TestBudgetStopsTheAgentAndKeepsItsCommits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		budget work.Budget
		says   string
	}{
		"tokens": {work.Budget{Tokens: 1500}, "1600 tokens are used, the item's budget is 1500"},
		"cost":   {work.Budget{CostUSD: 1.2}, "1.25 USD are spent, the item's budget is 1.20 USD"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newAgentBench(t, work.AgentPlain, `commit one; echo '{"type":"cost","usd":0.25}'; echo '{"type":"tokens","in":500,"out":100}'; sleep 60; commit never`)
			b.envelope.Resume = work.Resume{Iteration: 1, Tokens: work.Tokens{In: 900, Out: 100}, CostUSD: 1}
			b.envelope.Spec.Budget = c.budget
			r := b.result()
			if r.Reason != work.ReasonBudgetExceeded || !strings.Contains(r.Detail, c.says) {
				t.Errorf("%s: %s; want %q", r.Reason, r.Detail, c.says)
			}
			b.wantLog("one")
			if r.RemoteCommit != b.git.Head(repo, b.envelope.Branch) {
				t.Errorf("result %+v", r)
			}
		})
	}
}

func TestUsedUpBudgetStartsNoAgent(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentPlain, `commit never`)
	b.envelope.Resume = work.Resume{Tokens: work.Tokens{In: 100, Out: 1}}
	b.envelope.Spec.Budget.Tokens = 100
	if r := b.result(); r.Reason != work.ReasonBudgetExceeded || r.Changes.Commits != 0 {
		t.Errorf("result %+v", r)
	}
	b.wantLog()
}

func TestWorkThatIsDoneWhenItsCostIsKnownIsDone(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentClaudeCode, `commit one; say claude-code.jsonl`)
	b.envelope.Spec.Budget.CostUSD = 0.04
	b.envelope.Resume.CostUSD = 0.01
	r := b.result()
	if r.Reason != work.ReasonCompleted || !strings.HasSuffix(b.runs()[0], "--max-budget-usd 0.0300") {
		t.Errorf("result %+v of %q", r, b.runs())
	}
}

func TestAgentIsRunAgainUntilItIsDone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ kind, script string }{
		"plain": {work.AgentPlain, `commit "$n"; [ "$DROVER_ITERATION" = $((n - 1)) ]
			echo '{"type":"tokens","in":10,"out":5}'; [ "$n" -lt 3 ] || echo '{"type":"done"}'`},
		"claude code": {work.AgentClaudeCode, `commit "$n"
			[ "$n" -ge 3 ] || printf '%s\n' '{"type":"result","subtype":"success","result":"I will say <done/> when it is","usage":{"input_tokens":10,"output_tokens":5}}'
			[ "$n" -lt 3 ] || printf '%s\n' '{"type":"result","subtype":"success","result":"There.\n<done/>","usage":{"input_tokens":10,"output_tokens":5}}'
			grep -qx '.*<done/>' "$HOME/prompt"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newAgentBench(t, c.kind, c.script)
			b.envelope.Spec.Loop.Mode = work.LoopUntil
			r := b.result()
			if r.Reason != work.ReasonCompleted || !strings.Contains(r.Detail, "in iteration 3") || r.Iteration != 3 {
				t.Errorf("result %+v\n%s", r, b.out)
			}
			if r.Tokens != (work.Tokens{In: 30, Out: 15}) {
				t.Errorf("tokens %+v", r.Tokens)
			}
			b.wantLog("1", "2", "3")
		})
	}
}

func TestLoopEndsWithoutAnAgentThatIsDone(t *testing.T) {
	t.Parallel()
	const tool = `echo '{"type":"tool","name":"Read","detail":"x.go"}'; `
	for name, c := range map[string]struct {
		script string
		reason work.Reason
		says   string
		runs   int
	}{
		"at the limit":        {`commit "$n"`, work.ReasonMaxIterations, "limit of 5 iterations", 5},
		"idle":                {`[ "$n" -gt 1 ] || commit one; ` + tool, work.ReasonStuck, "3 iterations in a row changed no file", 4},
		"idle with new ideas": {`echo '{"type":"tool","name":"Read","detail":"'$n'.go"}'`, work.ReasonMaxIterations, "limit of 5", 5},
		"files change":        {tool + `echo "$n" >>README.md`, work.ReasonMaxIterations, "limit of 5", 5},
		"it fails":            {`commit "$n"; [ "$n" -lt 2 ] || exit 4`, work.ReasonAgentError, "exit code 4", 2},
		"it gives up":         {`commit "$n"; [ "$n" -lt 2 ] || exit 1`, work.ReasonStuck, "exit code 1", 2},
		"over its budget":     {`commit "$n"; echo '{"type":"tokens","in":40}'; sleep 0`, work.ReasonBudgetExceeded, "budget is 100", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newAgentBench(t, work.AgentPlain, c.script)
			b.envelope.Spec.Loop.Mode = work.LoopUntil
			b.envelope.Spec.Limits.MaxIterations = 5
			b.envelope.Spec.Budget.Tokens = 100
			r := b.result()
			if r.Reason != c.reason || !strings.Contains(r.Detail, c.says) {
				t.Errorf("%s: %s; want %s and %q", r.Reason, r.Detail, c.reason, c.says)
			}
			if runs := len(b.runs()); runs != c.runs {
				t.Errorf("%d runs, want %d", runs, c.runs)
			}
		})
	}
}

func TestPromptTellsARetryWhatWentWrong(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentCodex, `commit one`)
	b.envelope.Attempt = work.NewAttemptID(b.envelope.Item, 2)
	b.envelope.Resume = work.Resume{LastReason: work.ReasonTimeout, LastDetail: "stopped after 2h", LastLog: "waiting for a lock"}
	b.result()
	prompt := b.kept("prompt")
	for _, want := range []string{b.envelope.Spec.Task, "This is attempt 2. The one before ended with timeout: stopped after 2h.", "waiting for a lock", b.envelope.Branch} {
		if !strings.Contains(prompt, want) {
			t.Errorf("prompt %q lacks %q", prompt, want)
		}
	}
}

func TestItemsOwnPromptIsUsed(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentPlain, `commit one`)
	b.envelope.Spec.Prompt = "{{.Labels.team}}: {{.Task}} ({{.Iteration}}/{{.MaxIterations}})"
	b.envelope.Spec.Labels = map[string]string{"team": "web"}
	b.result()
	if prompt := b.kept("prompt"); prompt != "web: "+b.envelope.Spec.Task+" (1/20)" {
		t.Errorf("prompt %q", prompt)
	}
	b.nextAttempt("")
	b.envelope.Spec.Prompt = "{{.Nothing}}"
	if r := b.result(); r.Reason != work.ReasonStartFailed || !strings.Contains(r.Detail, ".Nothing") {
		t.Errorf("%s: %s", r.Reason, r.Detail)
	}
}

// TestAgentThatLoopsByItselfIsStuckWhenNothingChanges: iterations that it names itself are watched from outside.
func TestAgentThatLoopsByItselfIsStuckWhenNothingChanges(t *testing.T) {
	t.Parallel()
	loop := `for n in 1 2 3 4 5 6 7 8; do echo "{\"type\":\"iteration\",\"n\":$n}"; echo '{"type":"tool","name":"Read"}'; `
	for name, c := range map[string]struct {
		script string
		reason work.Reason
	}{
		"nothing changes":    {loop + `sleep 0.1; done; sleep 60`, work.ReasonStuck},
		"files change":       {loop + `echo $n >x; sleep 0.2; done; commit one`, work.ReasonCompleted},
		"other tools called": {loop + `echo "{\"type\":\"tool\",\"name\":\"Bash$n\"}"; sleep 0.2; done; commit one`, work.ReasonCompleted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, c.script)
			if r := b.result(); r.Reason != c.reason || r.Reason == work.ReasonStuck && !strings.Contains(r.Detail, "3 iterations in a row") {
				t.Errorf("%s: %s", r.Reason, r.Detail)
			}
		})
	}
}

func TestBudgetOfTimeIsForAllAttempts(t *testing.T) {
	t.Parallel()
	b := newBench(t, `commit one; while :; do sleep 0.1; echo working; done`)
	b.envelope.Spec.Budget.Time = work.Duration(time.Hour)
	b.envelope.Resume.Spent = work.Duration(time.Hour - 3*time.Second)
	if r := b.result(); r.Reason != work.ReasonBudgetExceeded || !strings.Contains(r.Detail, "budget of 1h") {
		t.Errorf("%s: %s", r.Reason, r.Detail)
	}
	b.wantLog("one")
	b.nextAttempt(`commit never`)
	b.envelope.Resume.Spent = work.Duration(time.Hour)
	if r := b.result(); r.Reason != work.ReasonBudgetExceeded || !strings.Contains(r.Detail, "budget of time is used up") {
		t.Errorf("without any left: %s: %s", r.Reason, r.Detail)
	}
}

func TestConversationIsResumed(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentCodex, `commit one; say codex.jsonl`)
	b.envelope.Resume = work.Resume{
		LastReason: work.ReasonNodeLost, Tokens: work.Tokens{In: 1500, Out: 100},
		Conversation: &work.Conversation{ID: "0199-0001", Before: work.Tokens{In: 500, Out: 50}},
	}
	r := b.result()
	if runs := b.runs(); len(runs) != 1 || runs[0] != "exec --json resume 0199-0001 -" {
		t.Errorf("runs %q", runs)
	}
	// it counts from the conversation's beginning
	if r.Reason != work.ReasonCompleted || r.Tokens != (work.Tokens{In: 2500, Out: 170}) || *r.Conversation != *b.envelope.Resume.Conversation {
		t.Errorf("result %+v, conversation %+v", r, r.Conversation)
	}
}

// TestConversationIsCarriedOver: the next attempt, in another container, has what the agent knew of it, and no
// credentials; a completed item leaves nothing of it behind.
func TestConversationIsCarriedOver(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentClaudeCode, `
		dir="$HOME/.claude/projects/x"; mkdir -p "$dir"
		echo "what I said to $AGENT_API_KEY" >"$dir/s.jsonl"
		echo secret >"$HOME/.claude/.credentials.json"; echo secret >"$dir/credentials.json"; ln -s /etc/passwd "$dir/link"
		say claude-code.jsonl; commit one; kill -KILL $$`)
	first := b.result()
	ref := "refs/drover/" + b.envelope.Item + "/agent-state"
	if first.Reason != work.ReasonCrashed || first.Conversation == nil || !slices.Contains(b.git.Refs(repo), ref) {
		t.Fatalf("result %+v, refs %q\n%s", first, b.git.Refs(repo), b.out)
	}
	b.envelope.Resume = work.Resume{LastReason: first.Reason, Conversation: first.Conversation}
	again := `
		cat "$HOME/.claude/projects/x/s.jsonl" >said; git add -A
		[ -z "$(find "$HOME" -name '*credentials*' -o -name link)" ]
		case "$*" in *"--resume 5b1c8a52-0001"*) ;; *) exit 1;; esac
		say claude-code.jsonl; commit more
	`
	b.nextAttempt("")
	b.program(again + "kill -KILL $$")
	if r := b.result(); r.Reason != work.ReasonCrashed || b.file("said") != "what I said to [redacted]\n" {
		t.Errorf("result %+v, said %q\n%s", r, b.file("said"), b.out)
	}
	b.nextAttempt("")
	b.program(again)
	if r := b.result(); r.Reason != work.ReasonCompleted || slices.Contains(b.git.Refs(repo), ref) {
		t.Errorf("result %+v, refs %q\n%s", r, b.git.Refs(repo), b.out)
	}
}

// TestConversationThatCannotBeKeptHarmsNothing: it is too large, or the remote takes no such ref.
func TestConversationThatCannotBeKeptHarmsNothing(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentPlain, `
		mkdir -p "$HOME/.agent-state"; head -c 40000000 /dev/urandom >"$HOME/.agent-state/big"
		echo '{"type":"session","id":"mine"}'; commit one; kill -KILL $$`)
	if r := b.result(); r.Reason != work.ReasonCrashed || !strings.Contains(b.out.String(), "too large to be kept") {
		t.Errorf("result %+v\n%s", r, b.out)
	}
	b.wantLog("one")
}

func TestConversationThatIsGoneIsBegunAfresh(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentClaudeCode, `
		case "$*" in *--resume*) echo "No conversation found" >&2; exit 1;; esac
		commit one; say claude-code.jsonl`)
	b.envelope.Resume = work.Resume{LastReason: work.ReasonCrashed, Conversation: &work.Conversation{ID: "gone"}}
	r := b.result()
	if runs := b.runs(); len(runs) != 2 || !strings.Contains(runs[0], "--resume gone") || strings.Contains(runs[1], "--resume") {
		t.Errorf("runs %q", runs)
	}
	if r.Reason != work.ReasonCompleted || r.Iteration != 1 || r.Conversation == nil || r.Conversation.ID != "5b1c8a52-0001" {
		t.Errorf("result %+v, conversation %+v", r, r.Conversation)
	}
}

func TestFailureInTheMiddleOfAConversationIsNotHidden(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentPlain, `[ "$DROVER_SESSION" = here ]; echo '{"type":"tool","name":"Edit"}'; commit one; exit 5`)
	b.envelope.Resume = work.Resume{LastReason: work.ReasonCrashed, Conversation: &work.Conversation{ID: "here"}}
	if r := b.result(); r.Reason != work.ReasonAgentError || len(b.runs()) != 1 {
		t.Errorf("result %+v of %q", r, b.runs())
	}
	b.wantLog("one")
}
