package main

import (
	"fmt"
	"time"

	"drover/internal/work"
)

// Kinds of cases about what agents say, and how long they may be silent.
const (
	kindPhrase       = "done phrase outside of the result"
	kindUnsaid       = "agent that says nothing of its end"
	kindExitStatus   = "success, and an exit status that is not 0"
	kindOrder        = "last words in another order"
	kindSize         = "result of any size"
	kindTurns        = "limit of turns"
	kindLingers      = "agent that hangs after its last word"
	kindSilence      = "silent agent"
	kindTwoNames     = "conversation that the agent renames"
	kindModelLimit   = "limit of a model, in words"
	kindNoReset      = "limit without a stated reset"
	kindHopeless     = "limit at which waiting does not help"
	kindCodexLimit   = "limit of Codex"
	kindEnvironment  = "environment of agents and tests"
	kindNoChange     = "nothing to change"
	kindDidNothing   = "nothing changed, and nothing said"
	fallbackWait     = 15 * time.Minute // of a limit that states no reset
	claude, codexCLI = work.AgentClaudeCode, work.AgentCodex
)

// What agents of these rows print.
const (
	saysInit    = `echo '{"type":"system","subtype":"init","session_id":"s1"}'` + "\n"
	saysDone    = `echo '{"type":"result","subtype":"success","is_error":false,"result":"Done."}'` + "\n"
	saysEmpty   = `echo '{"type":"result","subtype":"success","is_error":false,"result":""}'` + "\n"
	saysFailed  = `echo '{"type":"result","subtype":"error_during_execution","is_error":true,"errors":["it broke"]}'` + "\n"
	turnDone    = `echo '{"type":"turn.completed","usage":{"input_tokens":7,"output_tokens":5}}'` + "\n"
	turnFailed  = `echo '{"type":"turn.failed","error":{"message":"it broke"}}'` + "\n"
	threadBegun = `echo '{"type":"thread.started","thread_id":"t1"}'` + "\n"
	counted     = `n=$(($(cat "$HOME/n" 2>/dev/null || echo 0) + 1)); echo $n >"$HOME/n"` + "\n"
)

var (
	onlyOnce  = fields{"retry": fields{"max_retries": 0}}
	untilDone = fields{"loop": fields{"mode": work.LoopUntil}}
)

// agentRows are about the last words of agents, limits of models, silence and what agents see.
func agentRows() []row {
	var rows []row
	for _, some := range [][]row{
		phraseRows(), unsaidRows(), exitRows(), orderRows(), sizeRows(), turnRows(), lingerRows(), silenceRows(), renamedRows(),
		modelLimitRows(), codexLimitRows(), environmentRows(), nothingRows(),
	} {
		rows = append(rows, some...)
	}
	return rows
}

// worked is the outcome of an agent that commits once and is done.
func worked() outcome {
	return outcome{
		State: work.StateCompleted, Reasons: reasons(work.ReasonCompleted), Commits: []string{"one"}, Files: files{"work.txt": "one\n"}, PR: work.PRCreated,
	}
}

// ended is the outcome of an agent that commits once and fails for good.
func ended(reason work.Reason, sentence string) outcome {
	return outcome{
		State: work.StateFailed, Reasons: reasons(reason), Commits: []string{"one"}, Files: files{"work.txt": "one\n"}, Sentence: sentence,
	}
}

// limited is the outcome of an agent that commits once and is told to wait, for so long or until.
func limited(about time.Duration, until time.Time) outcome {
	o := ended(work.ReasonRateLimited, "told to wait")
	o.State, o.WaitAbout, o.WaitUntil = work.StateQueued, about, until
	o.PR = work.PRPending
	return o
}

// costing adds what an agent's lines count.
func (o outcome) costing(in, out int64, usd float64) outcome {
	o.Tokens, o.CostUSD = work.Tokens{In: in, Out: out}, usd
	return o
}

// says is a row whose agent commits once, then prints something.
func says(id, kind, agentKind, script string, spec fields, right outcome) row {
	return row{ID: id, Kind: kind, Agent: agent{Kind: agentKind, Script: "commit one\n" + script}, Spec: spec, Right: right}
}

// records is a row whose agent commits once, then prints a recording and exits.
func records(id, kind, agentKind, recording string, exit int, spec fields, right outcome) row {
	return row{ID: id, Kind: kind, Agent: agent{Kind: agentKind, Script: "commit one", Recording: recording, Exit: exit}, Spec: spec, Right: right}
}

func phraseRows() []row {
	twice := worked()
	twice.Commits, twice.Files = []string{"1", "2"}, files{"work.txt": "1\n2\n"}
	return []row{
		records("A1", kindPhrase, claude, "claude/result-empty-done-in-assistant.jsonl", 0, untilDone, worked().costing(3, 13, 0.01)),
		own(says("A1 tool", kindPhrase, claude, `echo '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"<done/>"}]}}'
			echo '{"type":"assistant","message":{"id":"m1","content":[{"type":"tool_use","name":"Bash","input":{"command":"ls"}}]}}'
			`+saysEmpty, untilDone, worked())),
		own(says("A1 blocks", kindPhrase, claude, `printf '%s\n' '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"All of it.\n<done/>"},{"type":"text","text":"Good bye."}]}}'
			`+saysEmpty, untilDone, worked())),
		own(row{ID: "A1 subagent", Kind: kindPhrase, Spec: untilDone, Right: twice, Agent: agent{Kind: claude, Script: counted + `commit $n
			echo '{"type":"assistant","parent_tool_use_id":"t1","message":{"id":"m1","content":[{"type":"text","text":"<done/>"}]}}'
			[ $n = 1 ] || echo '{"type":"assistant","message":{"id":"m2","content":[{"type":"text","text":"<done/>"}]}}'
			` + saysEmpty}}),
	}
}

func unsaidRows() []row {
	const unsaid = "did not say how its run ended"
	return []row{
		records("A3", kindUnsaid, claude, "claude/no-result-exit0.jsonl", 0, onlyOnce, ended(work.ReasonAgentError, unsaid).costing(3, 13, 0)),
		records("A3 codex", kindUnsaid, codexCLI, "codex/silent-exit0.jsonl", 0, onlyOnce, ended(work.ReasonAgentError, unsaid)),
		own(says("A3 cut", kindUnsaid, claude, `printf '{"type":"result","subtype":"success","is_error":false,"result":"Do'`, onlyOnce, ended(work.ReasonAgentError, unsaid))),
		own(says("A3 turn", kindUnsaid, codexCLI, threadBegun+`echo '{"type":"item.completed","item":{"type":"agent_message","text":"ok"}}'`, onlyOnce, ended(work.ReasonAgentError, unsaid))),
		own(says("A3 plain", kindUnsaid, work.AgentPlain, "", onlyOnce, worked())),
	}
}

func exitRows() []row {
	return []row{
		records("A4", kindExitStatus, claude, "claude/success-result-exit1.jsonl", 1, onlyOnce, worked().costing(3, 13, 0.1)),
		own(says("A4 abort", kindExitStatus, claude, saysDone+"kill -ABRT $$", onlyOnce, worked())),
		own(says("A4 codex", kindExitStatus, codexCLI, threadBegun+turnDone+"exit 1", onlyOnce, worked().costing(7, 5, 0))),
		own(says("A4 nothing", kindExitStatus, claude, "exit 1", onlyOnce, ended(work.ReasonAgentError, "exit code 1"))),
	}
}

func orderRows() []row {
	return []row{
		records("A8", kindOrder, claude, "claude/error-then-success.jsonl", 0, onlyOnce, worked().costing(3, 13, 0.2)),
		records("A8 mid-line", kindOrder, claude, "claude/limit-event-mid-line.jsonl", 0, onlyOnce, worked().costing(0, 0, 0.1)),
		records("A8 retried", kindOrder, codexCLI, "codex/retried-then-fine.jsonl", 0, onlyOnce, worked().costing(2000, 120, 0)),
		own(says("A8 codex", kindOrder, codexCLI, turnFailed+turnDone, onlyOnce, worked().costing(7, 5, 0))),
		own(says("A8 reverse", kindOrder, claude, saysDone+saysFailed, onlyOnce, ended(work.ReasonAgentError, "it broke"))),
		own(says("A8 busy", kindOrder, claude, `echo '{"type":"system","subtype":"api_retry","attempt":1,"retry_delay_ms":600,"error_status":529,"error":"overloaded"}'
			echo '{"type":"assistant","message":{"id":"m1","content":[]}}'
			exit 1`, onlyOnce, ended(work.ReasonAgentError, "exit code 1"))),
	}
}

func sizeRows() []row {
	words := func(n int) string { return fmt.Sprintf("words=$(head -c %d /dev/zero | tr '\\0' x)\n", n) }
	const fails = `printf '{"type":"result","subtype":"success","is_error":true,"result":"%s","total_cost_usd":2.5}\n' "$words"`
	const done = `printf '{"type":"result","subtype":"success","is_error":false,"result":"%s\\n<done/>","total_cost_usd":2.5}\n' "$words"`
	return []row{
		says("A9", kindSize, claude, words(70_000)+fails, onlyOnce, ended(work.ReasonAgentError, "xxx").costing(0, 0, 2.5)),
		says("A9 success", kindSize, claude, words(70_000)+done, untilDone, worked().costing(0, 0, 2.5)),
		own(says("A9 large", kindSize, claude, words(8_000_000)+done, untilDone, worked().costing(0, 0, 2.5))),
		own(says("A9 codex", kindSize, codexCLI, words(300_000)+`printf '{"type":"item.completed","item":{"type":"agent_message","text":"%s\\n<done/>"}}\n' "$words"
			`+turnDone, untilDone, worked().costing(7, 5, 0))),
	}
}

func turnRows() []row {
	again := worked()
	again.Reasons, again.Retries, again.CostUSD, again.Tokens = reasons(work.ReasonMaxIterations, work.ReasonCompleted), 1, 1.5, work.Tokens{In: 30, Out: 15}
	looped := worked().costing(30, 15, 1.5)
	const resumes = `case "$*" in *"--resume s1"*) ` + "\n" + saysInit + `echo '{"type":"result","subtype":"success","is_error":false,"result":"<done/>"}'
		exit 0;; esac
		commit one
		cat "$CASES/claude/max-turns.jsonl"`
	return []row{
		records("A10", kindTurns, claude, "claude/max-turns.jsonl", 0, nil, ended(work.ReasonMaxIterations, "limit of turns, after 101").costing(30, 15, 1.5)),
		own(row{ID: "A10 retry", Kind: kindTurns, Right: again, Agent: agent{Kind: claude, Script: resumes},
			Spec: fields{"retry": fields{"actions": fields{"max_iterations": "retry"}}}}),
		own(row{ID: "A10 loop", Kind: kindTurns, Right: looped, Agent: agent{Kind: claude, Script: resumes}, Spec: untilDone}),
	}
}

func lingerRows() []row {
	return []row{
		says("A13", kindLingers, claude, saysDone+"sleep 600", onlyOnce, worked()),
		own(says("A13 codex", kindLingers, codexCLI, turnDone+"sleep 600", onlyOnce, worked().costing(7, 5, 0))),
		own(says("A13 deaf", kindLingers, claude, "trap '' TERM\n"+saysDone+"while :; do sleep 1; done", onlyOnce, worked())),
		own(says("A13 error", kindLingers, claude, saysFailed+"sleep 600", onlyOnce, ended(work.ReasonAgentError, "it broke"))),
		own(says("A13 goes on", kindLingers, claude, saysFailed+`echo '{"type":"assistant","message":{"id":"m1","content":[{"type":"tool_use","name":"Bash","input":{"command":"make"}}]}}'
			sleep 18
			`+saysDone, onlyOnce, worked())),
	}
}

func silenceRows() []row {
	const stirs = `i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.9`
	limits := func(limits fields) fields {
		return fields{"retry": fields{"max_retries": 0}, "limits": limits}
	}
	return []row{
		says("A14", kindSilence, work.AgentPlain, "for t in $(seq 25); do "+stirs+"; done", limits(fields{"heartbeat_ttl": "10s"}), worked()),
		own(says("A14 waits", kindSilence, claude, "sleep 25\n"+saysDone, limits(fields{"heartbeat_ttl": "10s"}), worked())),
		own(says("A14 limit", kindSilence, work.AgentPlain, "while :; do "+stirs+"; done", limits(fields{"silence_timeout": "8s"}), ended(work.ReasonSilent, "printed nothing for 8s"))),
		own(says("A14 idle", kindSilence, work.AgentPlain, "sleep 600", limits(fields{"idle_timeout": "5s"}), ended(work.ReasonSilent, "no CPU time for 5s"))),
	}
}

// renamedRows resume the conversation disk-1, and are told of another.
func renamedRows() []row {
	script := func(names, keeps string, wanted string) string {
		return `keep() { ` + keeps + `; }
			case $DROVER_ATTEMPT in
			1) ` + fmt.Sprintf(names, "disk-1") + `; keep disk-1; kill -KILL $$;;
			2) ` + fmt.Sprintf(names, "tag-2") + `; ` + wanted + `; kill -KILL $$;;
			esac
			`
	}
	const (
		claudeNames = `echo '{"type":"system","subtype":"init","session_id":"%s"}'`
		claudeKeeps = `mkdir -p "$HOME/.claude/projects/p"; echo x >"$HOME/.claude/projects/p/$1.jsonl"`
		codexNames  = `echo '{"type":"thread.started","thread_id":"%s"}'`
		codexKeeps  = `mkdir -p "$HOME/.codex/sessions/2026"; echo x >"$HOME/.codex/sessions/2026/rollout-$1.jsonl"`
		resumed     = `case "$*" in *%s*) commit one;; *) exit 4;; esac` + "\n"
	)
	right := worked()
	right.Reasons, right.Retries = reasons(work.ReasonCrashed, work.ReasonCrashed, work.ReasonCompleted), 2
	codexRight := right
	codexRight.Tokens = work.Tokens{In: 7, Out: 5}
	return []row{
		{ID: "A15", Kind: kindTwoNames, Right: right, Agent: agent{Kind: claude, Script: script(claudeNames, claudeKeeps, ":") + fmt.Sprintf(resumed, "disk-1") + saysDone}},
		own(row{ID: "A15 codex", Kind: kindTwoNames, Right: codexRight, Agent: agent{Kind: codexCLI, Script: script(codexNames, codexKeeps, ":") + fmt.Sprintf(resumed, "disk-1") + turnDone}}),
		own(row{ID: "A15 kept", Kind: kindTwoNames, Right: right, Agent: agent{Kind: claude, Script: script(claudeNames, claudeKeeps, "keep tag-2") + fmt.Sprintf(resumed, "tag-2") + saysDone}}),
	}
}

func modelLimitRows() []row {
	result := func(text string) string {
		return `echo '{"type":"result","subtype":"success","is_error":true,"result":"` + text + `"}'`
	}
	at2030 := time.Date(2030, time.January, 2, 3, 4, 0, 0, time.UTC)
	hours := limited(330*time.Minute, time.Time{})
	hours.Also = func(s *seen) []string {
		if at := s.Item.NotBefore; at.Minute() != 0 || at.Second() != 0 {
			return []string{fmt.Sprintf("the item waits until %s, right is a full hour", at)}
		}
		return nil
	}
	return []row{
		{ID: "A5", Kind: kindModelLimit, Right: hours, Agent: agent{Kind: claude,
			// the recorded hour is one that may have just passed
			Script: `commit one; sed "s/1am/$(date -d '+6 hours' +%-I%P)/" "$CASES/claude/limit-text-only.jsonl"`}},
		records("A5 api", kindModelLimit, claude, "claude/api-error-rate-limit.jsonl", 0, nil, limited(fallbackWait, time.Time{})),
		own(says("A5 dated", kindModelLimit, claude, result("You have hit your weekly limit · resets Jan 2, 2030, 3:04am (UTC)"), nil, limited(0, at2030))),
		own(says("A5 epoch", kindModelLimit, claude, result("Claude AI usage limit reached|1893553440"), nil, limited(0, at2030))),
		own(says("A5 before", kindModelLimit, claude, "echo 'Claude AI usage limit reached|1893553440'; exit 1", nil, limited(0, at2030))),
		own(says("A5 overloaded", kindModelLimit, claude, result("API Error: Repeated 529 Overloaded errors"), nil, limited(fallbackWait, time.Time{}))),

		records("A7", kindNoReset, claude, "claude/limit-event-without-reset.jsonl", 0, nil, limited(fallbackWait, time.Time{})),
		own(says("A7 plain", kindNoReset, work.AgentPlain, `echo '{"type":"error","code":"rate_limited","retry_at":"1970-01-01T00:00:00Z","message":"wait"}'; exit 3`, nil, limited(fallbackWait, time.Time{}))),
		own(says("A7 codex", kindNoReset, codexCLI, `echo '{"type":"turn.failed","error":{"message":"You have hit your usage limit. Try again later."}}'`, nil, limited(fallbackWait, time.Time{}))),
		own(says("A7 zero", kindNoReset, claude, `echo '{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":0}}'
			`+result("You have hit your limit"), nil, limited(fallbackWait, time.Time{}))),
	}
}

func codexLimitRows() []row {
	failed := func(text string) string {
		return `echo '{"type":"turn.failed","error":` + text + `}'`
	}
	dated := time.Date(2030, time.June, 11, 0, 27, 0, 0, time.Local)
	at2030 := time.Date(2030, time.January, 2, 3, 4, 0, 0, time.UTC)
	return []row{
		records("A12", kindHopeless, codexCLI, "codex/quota-exceeded.jsonl", 0, nil, ended(work.ReasonAgentError, "Quota exceeded")),
		records("A12 budget", kindHopeless, codexCLI, "codex/rollout-budget.jsonl", 0, nil, ended(work.ReasonBudgetExceeded, "rollout token budget")),
		own(says("A12 claude", kindHopeless, claude, `echo '{"type":"result","subtype":"success","is_error":true,"result":"Credit balance is too low"}'`, nil, ended(work.ReasonAgentError, "Credit balance is too low"))),
		own(says("A12 cap", kindHopeless, codexCLI, failed(`{"message":"You hit your spend cap set in your workspace. Increase your spend cap to continue."}`), nil, ended(work.ReasonAgentError, "spend cap"))),

		records("A12 capacity", kindCodexLimit, codexCLI, "codex/at-capacity-exit0.jsonl", 0, nil, limited(fallbackWait, time.Time{})),
		records("A12 dated", kindCodexLimit, codexCLI, "codex/limit-dated.jsonl", 1, nil, limited(0, dated)),
		own(says("A12 seconds", kindCodexLimit, codexCLI, failed(`{"message":"The usage limit has been reached","resets_in_seconds":7200}`), nil, limited(2*time.Hour, time.Time{}))),
		own(says("A12 epoch", kindCodexLimit, codexCLI, failed(`{"message":"The usage limit has been reached","resets_at":1893553440}`), nil, limited(0, at2030))),
		own(says("A12 demand", kindCodexLimit, codexCLI, failed(`{"message":"exceeded retry limit, last status: 429 Too Many Requests"}`), nil, limited(fallbackWait, time.Time{}))),
	}
}

// environmentRows have workers with variables of the operator's.
func environmentRows() []row {
	const config = `
worker {
  env = {
    JAVA_HOME = "/jdk", CARGO_HOME = "/cargo", HTTPS_PROXY = "http://me:pass-of-the-proxy@proxy:3128", NODE_EXTRA_CA_CERTS = "/ca.pem", SSL_CERT_FILE = "/certs.pem",
    AWS_REGION = "here", AWS_SECRET_ACCESS_KEY = "key-of-the-cloud", GOOGLE_CLOUD_PROJECT = "project", GOOGLE_OTHER = "other", SOME_ACCOUNT = "account"
  }
  agent_env = ["AWS_*", "GOOGLE_CLOUD_PROJECT"]
}
`
	sees := func(id, script string, test fields, right outcome) row {
		r := says(id, kindEnvironment, work.AgentPlain, script, fields{"retry": fields{"max_retries": 0}, "test": test}, right)
		r.Config = config
		return r
	}
	tested := worked()
	tested.Test = tests{Status: work.TestPassed}
	return []row{
		sees("A16", `[ "$JAVA_HOME $CARGO_HOME $HTTPS_PROXY $NODE_EXTRA_CA_CERTS $SSL_CERT_FILE" = "/jdk /cargo http://me:pass-of-the-proxy@proxy:3128 /ca.pem /certs.pem" ] || exit 4
			[ "$AWS_REGION $AWS_SECRET_ACCESS_KEY $GOOGLE_CLOUD_PROJECT" = "here key-of-the-cloud project" ] || exit 5; [ -n "$PATH" ] || exit 6`, nil, worked()),
		own(sees("A16 secrets", `[ -z "$GOOGLE_OTHER$SOME_ACCOUNT$DROVER_GIT_TOKEN$DROVER_FORGE_TOKEN$CONSUL_HTTP_ADDR$NOMAD_ALLOC_ID$DROVER_AGENT_ENV" ] || exit 4
			env | grep -E '^(CONSUL|NOMAD|VAULT)_|_GIT_TOKEN|of-the-cases' && exit 5; :`, nil, worked())),
		own(sees("A16 tests", ``, fields{"command": `[ "$JAVA_HOME $HTTPS_PROXY" = "/jdk http://me:pass-of-the-proxy@proxy:3128" ] && [ -z "$AWS_REGION$AWS_SECRET_ACCESS_KEY$SOME_ACCOUNT$DROVER_GIT_TOKEN" ]`}, tested)),
	}
}

func nothingRows() []row {
	nothing := func(sentence string) outcome {
		return outcome{State: work.StateCompleted, Reasons: reasons(work.ReasonNoChange), Sentence: sentence}
	}
	idle := outcome{State: work.StateFailed, Reasons: reasons(work.ReasonNoWork, work.ReasonNoWork), Retries: 1, Sentence: "the agent did nothing twice"}
	idleCodex := idle
	idleCodex.Tokens = work.Tokens{In: 14, Out: 10}
	later := worked()
	later.Reasons, later.Retries = reasons(work.ReasonNoWork, work.ReasonCompleted), 1
	says := func(id, kind, agentKind, script string, right outcome) row {
		return row{ID: id, Kind: kind, Agent: agent{Kind: agentKind, Script: script}, Right: right}
	}
	const looked = `echo '{"type":"result","subtype":"success","is_error":false,"result":"I looked at it."}'` + "\n"
	return []row{
		says("A17", kindNoChange, claude, `printf '%s\n' '{"type":"result","subtype":"success","is_error":false,"result":"The flag is there already.\n<no-change/>"}'`, nothing("The flag is there already.")),
		own(says("A17 codex", kindNoChange, codexCLI, `printf '%s\n' '{"type":"item.completed","item":{"type":"agent_message","text":"It is there.\n<no-change/>"}}'
			`+turnDone, nothing("It is there.").costing(7, 5, 0))),
		own(says("A17 plain", kindNoChange, work.AgentPlain, `echo '{"type":"no_change","message":"it is there"}'`, nothing("it is there"))),
		own(says("A17 worked", kindNoChange, work.AgentPlain, `commit one; echo '{"type":"no_change","message":"it is there"}'`, worked())),

		says("A18", kindDidNothing, claude, looked, idle),
		own(says("A18 codex", kindDidNothing, codexCLI, turnDone, idleCodex)),
		own(says("A18 later", kindDidNothing, claude, "[ $DROVER_ATTEMPT = 1 ] || commit one\n"+looked, later)),
		own(says("A18 plain", kindDidNothing, work.AgentPlain, ":", outcome{State: work.StateCompleted, Reasons: reasons(work.ReasonCompleted)})),
	}
}
