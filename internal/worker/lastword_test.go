package worker_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"drover/internal/work"
)

// What a Claude Code or a Codex of these tests says.
const (
	claudeBegins  = `printf '%s\n' '{"type":"system","subtype":"init","session_id":"s1"}'; `
	claudeSays    = `printf '%s\n' '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"All done.\n<done/>"}]}}'; `
	claudeDone    = `printf '%s\n' '{"type":"result","subtype":"success","is_error":false,"result":"Done.","total_cost_usd":0.5}'; `
	claudeSilent  = `printf '%s\n' '{"type":"result","subtype":"success","is_error":false,"result":"","total_cost_usd":0.5}'; `
	claudeFails   = `printf '%s\n' '{"type":"result","subtype":"error_during_execution","is_error":true,"errors":["it broke"],"total_cost_usd":0.5}'; `
	claudeTurns   = `printf '%s\n' '{"type":"result","subtype":"error_max_turns","is_error":false,"num_turns":101,"session_id":"s1","total_cost_usd":0.5}'; `
	codexBegins   = `printf '%s\n' '{"type":"thread.started","thread_id":"t1"}'; `
	codexSays     = `printf '%s\n' '{"type":"item.completed","item":{"id":"i","type":"agent_message","text":"ok"}}'; `
	codexDone     = `printf '%s\n' '{"type":"turn.completed","usage":{"input_tokens":20,"output_tokens":2}}'; `
	codexFails    = `printf '%s\n' '{"type":"turn.failed","error":{"message":"it broke"}}'; `
	codexCapacity = `printf '%s\n' '{"type":"turn.failed","error":{"message":"Selected model is at capacity. Please try a different model."}}'; `
	codexQuota    = `printf '%s\n' '{"type":"turn.failed","error":{"message":"Quota exceeded. Check your plan and billing details."}}'; `
	codexBudget   = `printf '%s\n' '{"type":"turn.failed","error":{"message":"shared rollout token budget exhausted"}}'; `
)

func TestAgentsLastWordCounts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind, script string
		reason       work.Reason
		says         string
	}{
		"claude: success, exit 1":              {work.AgentClaudeCode, claudeDone + `exit 1`, work.ReasonCompleted, "1 commits"},
		"claude: success, aborted at its exit": {work.AgentClaudeCode, claudeDone + `kill -ABRT $$`, work.ReasonCompleted, "1 commits"},
		"claude: success, then killed":         {work.AgentClaudeCode, claudeDone + `kill -KILL $$`, work.ReasonCrashed, "signal 9"},
		"claude: error, then success":          {work.AgentClaudeCode, claudeFails + claudeSays + claudeDone, work.ReasonCompleted, "1 commits"},
		"claude: success, then error":          {work.AgentClaudeCode, claudeDone + claudeFails, work.ReasonAgentError, "it broke"},
		"claude: error, exit 0":                {work.AgentClaudeCode, claudeFails, work.ReasonAgentError, "it broke"},
		"claude: no result":                    {work.AgentClaudeCode, claudeBegins + claudeSays, work.ReasonAgentError, "did not say how its run ended"},
		"claude: nothing at all":               {work.AgentClaudeCode, ``, work.ReasonAgentError, "did not say how its run ended"},
		"claude: a result that is cut":         {work.AgentClaudeCode, claudeDone[:len(claudeDone)-10] + `'`, work.ReasonAgentError, "did not say how its run ended"},
		"claude: turns used up":                {work.AgentClaudeCode, claudeTurns, work.ReasonMaxIterations, "limit of turns, after 101"},
		"codex: completed, exit 1":             {work.AgentCodex, codexDone + `exit 1`, work.ReasonCompleted, "1 commits"},
		"codex: failed, then completed":        {work.AgentCodex, codexFails + codexSays + codexDone, work.ReasonCompleted, "1 commits"},
		"codex: no end of its turn":            {work.AgentCodex, codexBegins + codexSays, work.ReasonAgentError, "did not say how its run ended"},
		"codex: nothing at all":                {work.AgentCodex, ``, work.ReasonAgentError, "did not say how its run ended"},
		"codex: at capacity, exit 0":           {work.AgentCodex, codexCapacity, work.ReasonRateLimited, "at capacity"},
		"codex: budget of its own":             {work.AgentCodex, codexBudget, work.ReasonBudgetExceeded, "rollout token budget"},
		"codex: quota":                         {work.AgentCodex, codexQuota, work.ReasonAgentError, "Quota exceeded"},
		"plain: says nothing, exit 0":          {work.AgentPlain, ``, work.ReasonCompleted, "1 commits"},
		"plain: a quota":                       {work.AgentPlain, `echo '{"type":"error","code":"quota_exceeded","message":"no credits"}'; exit 3`, work.ReasonAgentError, "no credits"},
		"plain: a reset in 1970":               {work.AgentPlain, `echo '{"type":"error","code":"rate_limited","retry_at":"1970-01-01T00:00:00Z"}'; exit 3`, work.ReasonRateLimited, "told to wait"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newAgentBench(t, c.kind, "commit one; "+c.script)
			r := b.result()
			if r.Reason != c.reason || !strings.Contains(r.Detail, c.says) {
				t.Errorf("%s: %s; want %s and %q\n%s", r.Reason, r.Detail, c.reason, c.says, b.out)
			}
			if want := strings.Contains(name, "quota"); r.NoRetry != want {
				t.Errorf("no retry: %v, want %v", r.NoRetry, want)
			}
			if r.Reason == work.ReasonRateLimited && !r.RetryAt.IsZero() {
				t.Errorf("retry at %s, want no time", r.RetryAt)
			}
			if runs := len(b.runs()); runs != 1 {
				t.Errorf("%d runs, want 1", runs)
			}
			b.wantLog("one")
		})
	}
}

// TestPhraseOfAnEmptyResultIsInTheLastMessage: the loop ends with it.
func TestPhraseOfAnEmptyResultIsInTheLastMessage(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentClaudeCode, `commit "$n"; `+claudeSays+claudeSilent)
	b.envelope.Spec.Loop.Mode = work.LoopUntil
	if r := b.result(); r.Reason != work.ReasonCompleted || len(b.runs()) != 1 {
		t.Errorf("%s: %s after %d runs, want completed after 1", r.Reason, r.Detail, len(b.runs()))
	}
}

// TestResultsOfAnySizeAreRead: and what is kept and shown of them is bounded.
func TestResultsOfAnySizeAreRead(t *testing.T) {
	t.Parallel()
	const big = `words=$(head -c 3000000 /dev/zero | tr '\0' x); `
	for name, c := range map[string]struct {
		script string
		reason work.Reason
	}{
		"an error": {`printf '{"type":"result","subtype":"success","is_error":true,"result":"%s","total_cost_usd":2.5}\n' "$words"`, work.ReasonAgentError},
		"success":  {`printf '{"type":"result","subtype":"success","is_error":false,"result":"%s\\n<done/>","total_cost_usd":2.5}\n' "$words"`, work.ReasonCompleted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newAgentBench(t, work.AgentClaudeCode, "commit one; "+big+c.script)
			b.envelope.Spec.Loop.Mode = work.LoopUntil
			r := b.result()
			if r.Reason != c.reason || r.CostUSD != 2.5 || len(b.runs()) != 1 {
				t.Errorf("%s at %v USD after %d runs, want %s at 2.5 USD after 1", r.Reason, r.CostUSD, len(b.runs()), c.reason)
			}
			if most := 3 << 10; len(r.Detail) > most {
				t.Errorf("the detail has %d bytes, more than %d", len(r.Detail), most)
			}
			if shown := len(b.out.String()); shown > 200<<10 {
				t.Errorf("%d bytes are shown of it", shown)
			}
			b.wantLog("one")
		})
	}
}

// together starts the workers of several benches, which mostly wait, and returns what waits for the end of one.
func together(t *testing.T, names []string, open func(name string) *bench) (ended func(name string) *bench) {
	t.Helper()
	benches, waits := map[string]*bench{}, map[string]func() error{}
	for _, name := range names {
		benches[name] = open(name)
		waits[name] = benches[name].start(t.Context())
	}
	return func(name string) *bench {
		if err := waits[name](); err != nil {
			t.Errorf("%s: %v\n%s", name, err, benches[name].out)
		}
		return benches[name]
	}
}

// TestAgentThatHangsAfterItsLastWordIsEnded: as it said. One that goes on is not.
func TestAgentThatHangsAfterItsLastWordIsEnded(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		kind, script string
		reason       work.Reason
	}{
		"claude: success":                               {work.AgentClaudeCode, claudeDone + `sleep 1000`, work.ReasonCompleted},
		"claude: success, deaf to TERM":                 {work.AgentClaudeCode, `trap '' TERM; ` + claudeDone + `while :; do sleep 1; done`, work.ReasonCompleted},
		"claude: an error":                              {work.AgentClaudeCode, claudeFails + `sleep 1000`, work.ReasonAgentError},
		"codex: completed":                              {work.AgentCodex, codexDone + `sleep 1000`, work.ReasonCompleted},
		"codex: at capacity":                            {work.AgentCodex, codexCapacity + `sleep 1000`, work.ReasonRateLimited},
		"claude: an error, then it works on for longer": {work.AgentClaudeCode, claudeFails + claudeSays + `sleep 18; ` + claudeDone, work.ReasonCompleted},
	}
	ended := together(t, slices.Collect(maps.Keys(cases)), func(name string) *bench {
		return newAgentBench(t, cases[name].kind, "commit one; "+cases[name].script)
	})
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := ended(name)
			if r := b.reported(); r.Reason != c.reason {
				t.Errorf("%s: %s; want %s", r.Reason, r.Detail, c.reason)
			}
			b.wantLog("one")
		})
	}
}

// TestRunThatStopsAtItsTurnsIsGoneOnWith: in a loop at once, and else by the next attempt.
func TestRunThatStopsAtItsTurnsIsGoneOnWith(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentClaudeCode, claudeBegins+`commit "$n"; if [ "$n" -lt 2 ]; then `+claudeTurns+`exit 1; fi; `+claudeSays+claudeSilent)
	b.envelope.Spec.Loop.Mode = work.LoopUntil
	r := b.result()
	if r.Reason != work.ReasonCompleted || r.Iteration != 2 {
		t.Errorf("%s: %s, iteration %d; want completed in 2", r.Reason, r.Detail, r.Iteration)
	}
	if runs := b.runs(); len(runs) != 2 || strings.Contains(runs[0], "--resume") || !strings.Contains(runs[1], "--resume s1") {
		t.Errorf("runs %q, want the second to resume s1", runs)
	}

	once := newAgentBench(t, work.AgentClaudeCode, claudeBegins+`mkdir -p "$HOME/.claude/projects/x"; echo said >"$HOME/.claude/projects/x/s1.jsonl"; commit one; `+claudeTurns)
	first := once.result()
	if first.Reason != work.ReasonMaxIterations || first.Conversation == nil || first.Conversation.ID != "s1" {
		t.Fatalf("%s: %s, conversation %+v; want max_iterations and s1", first.Reason, first.Detail, first.Conversation)
	}
	once.envelope.Resume = work.Resume{LastReason: first.Reason, Conversation: first.Conversation}
	once.nextAttempt("")
	once.program(claudeBegins + `cat "$HOME/.claude/projects/x/s1.jsonl" >said; git add -A; case "$*" in *"--resume s1"*) commit two;; esac; ` + claudeDone)
	if second := once.result(); second.Reason != work.ReasonCompleted || once.file("said") != "said\n" {
		t.Errorf("%s: %s, said %q", second.Reason, second.Detail, once.file("said"))
	}
	once.wantLog("one", "two")
}

// TestConversationWithStateIsKept: an agent may call a conversation that it goes on with by another name, and keep nothing under that.
func TestConversationWithStateIsKept(t *testing.T) {
	t.Parallel()
	keeps := func(kind, id string) string {
		if kind == work.AgentCodex {
			return fmt.Sprintf(`mkdir -p "$HOME/.codex/sessions/2026/11"; echo x >"$HOME/.codex/sessions/2026/11/rollout-2026-%s.jsonl"; `, id)
		}
		return fmt.Sprintf(`mkdir -p "$HOME/.claude/projects/p"; echo x >"$HOME/.claude/projects/p/%s.jsonl"; `, id)
	}
	names := func(kind, id string) string {
		if kind == work.AgentCodex {
			return fmt.Sprintf(`printf '%%s\n' '{"type":"thread.started","thread_id":"%s"}'; `, id)
		}
		return fmt.Sprintf(`printf '%%s\n' '{"type":"system","subtype":"init","session_id":"%s"}'; `, id)
	}
	for _, kind := range []string{work.AgentClaudeCode, work.AgentCodex} {
		for name, c := range map[string]struct {
			resumed, script, want string
		}{
			"the new one has no state":           {"disk-1", keeps(kind, "disk-1") + names(kind, "tag-2"), "disk-1"},
			"the new one has some":               {"disk-1", keeps(kind, "disk-1") + names(kind, "tag-2") + keeps(kind, "tag-2"), "tag-2"},
			"neither has":                        {"disk-1", names(kind, "tag-2"), "tag-2"},
			"it changes its mind back":           {"disk-1", keeps(kind, "tag-2") + names(kind, "tag-2") + names(kind, "disk-1"), "disk-1"},
			"a new run calls itself by a second": {"", names(kind, "disk-1") + keeps(kind, "disk-1") + names(kind, "tag-2"), "disk-1"},
		} {
			t.Run(kind+": "+name, func(t *testing.T) {
				t.Parallel()
				b := newAgentBench(t, kind, c.script+"commit one; kill -KILL $$")
				if c.resumed != "" {
					b.envelope.Resume = work.Resume{LastReason: work.ReasonCrashed, Conversation: &work.Conversation{ID: c.resumed}}
				}
				r := b.result()
				if r.Reason != work.ReasonCrashed || r.Conversation == nil || r.Conversation.ID != c.want {
					t.Errorf("%s, conversation %+v; want crashed and %s", r.Reason, r.Conversation, c.want)
				}
			})
		}
	}
}

func TestWhatChangesNothingIsToldApart(t *testing.T) {
	t.Parallel()
	const (
		nothing = `printf '%s\n' '{"type":"result","subtype":"success","is_error":false,"result":"The flag is there already,\nwith key agent-secret-key.\n<no-change/>"}'; `
		looked  = `printf '%s\n' '{"type":"result","subtype":"success","is_error":false,"result":"I looked at it."}'; `
		codexNo = `printf '%s\n' '{"type":"item.completed","item":{"id":"i","type":"agent_message","text":"Nothing to do.\n <no-change/> "}}'; `
	)
	for name, c := range map[string]struct {
		kind, script, provider string
		reason                 work.Reason
		says                   string
		commits                int
		pr                     work.PRStatus
	}{
		"claude says so":                     {work.AgentClaudeCode, nothing, "", work.ReasonNoChange, "The flag is there already,\nwith key [redacted].", 0, work.PRNone},
		"codex says so":                      {work.AgentCodex, codexNo + codexDone, "", work.ReasonNoChange, "Nothing to do.", 0, work.PRNone},
		"plain says so":                      {work.AgentPlain, `echo '{"type":"no_change","message":"it is there"}'`, "", work.ReasonNoChange, "it is there", 0, work.PRNone},
		"plain says so without a word":       {work.AgentPlain, `echo '{"type":"no_change"}'`, "", work.ReasonNoChange, "nothing to change", 0, work.PRNone},
		"it says so, and works":              {work.AgentClaudeCode, `commit one; ` + nothing, "", work.ReasonCompleted, "1 commits", 1, work.PRCreated},
		"it says so, and fails":              {work.AgentPlain, `echo '{"type":"no_change"}'; exit 4`, "", work.ReasonAgentError, "exit code 4", 0, work.PRNone},
		"claude does nothing":                {work.AgentClaudeCode, looked, "", work.ReasonNoWork, "changed nothing", 0, work.PRNone},
		"codex does nothing":                 {work.AgentCodex, codexDone, "", work.ReasonNoWork, "changed nothing", 0, work.PRNone},
		"claude says that the task is done":  {work.AgentClaudeCode, claudeSays + claudeSilent, "", work.ReasonCompleted, "0 commits", 0, work.PRCreated},
		"no pull request is wanted":          {work.AgentClaudeCode, looked, work.ProviderNone, work.ReasonCompleted, "0 commits", 0, work.PRNone},
		"plain does nothing":                 {work.AgentPlain, `:`, "", work.ReasonCompleted, "0 commits", 0, work.PRCreated},
		"the phrase in the middle of a line": {work.AgentClaudeCode, strings.ReplaceAll(nothing, `<no-change/>`, `I will not say <no-change/>`), "", work.ReasonNoWork, "changed nothing", 0, work.PRNone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newAgentBench(t, c.kind, c.script)
			if c.provider != "" {
				b.envelope.Spec.PR.Provider = c.provider
			}
			r := b.result()
			if r.Reason != c.reason || !strings.Contains(r.Detail, c.says) || r.Changes.Commits != c.commits {
				t.Errorf("%s: %s, %d commits; want %s, %q and %d", r.Reason, r.Detail, r.Changes.Commits, c.reason, c.says, c.commits)
			}
			if r.Reason == work.ReasonNoChange && !r.Proven() {
				t.Errorf("not proven: %+v", r)
			}
			if r.PR.Status != c.pr && (c.pr == work.PRNone || c.commits > 0) {
				t.Errorf("pull request %s, want %s", r.PR.Status, c.pr)
			}
		})
	}
}

// TestLoopEndsWhenNothingIsToChange: it is not run again.
func TestLoopEndsWhenNothingIsToChange(t *testing.T) {
	t.Parallel()
	b := newAgentBench(t, work.AgentPlain, `echo '{"type":"no_change","message":"it is there"}'`)
	b.envelope.Spec.Loop.Mode = work.LoopUntil
	if r := b.result(); r.Reason != work.ReasonNoChange || len(b.runs()) != 1 {
		t.Errorf("%s: %s after %d runs, want no_change after 1", r.Reason, r.Detail, len(b.runs()))
	}
}
