package work_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"drover/internal/work"
)

func TestFaultyPromptIsRefusedWhenItIsSubmitted(t *testing.T) {
	for _, prompt := range []string{
		"{{.Nope}}", "{{if .LastReason}}{{.Nope}}{{end}}", `{{if eq .Item "never"}}{{.Nope}}{{end}}`, "{{.Labels.other}}", "{{.Task.X}}",
		"{{range 1000000000}}{{end}}", `{{printf "%1000000000d" 1}}`, `{{define "x"}}{{end}}`, "{{with .Task}}{{.}}{{end}}", "{{", strings.Repeat("x", work.MaxPromptBytes+1),
	} {
		s := spec()
		s.Labels = map[string]string{"team": "web"}
		s.Prompt = prompt
		if err := s.Validate(); !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), "prompt: ") {
			t.Errorf("%.60s: %v", prompt, err)
		}
	}
}

func TestPromptIsBounded(t *testing.T) {
	s := spec()
	s.Task, s.Prompt = strings.Repeat("x", work.MaxTaskBytes), strings.Repeat("{{.Task}}", 1000)
	if err := s.Validate(); !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), "more than") {
		t.Fatalf("%.200v", err)
	}
	s.Prompt = "{{.Task}}{{.Task}}"
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestPromptNamesWhatIsKnown(t *testing.T) {
	s := spec()
	s.Labels = map[string]string{"team": "web"}
	s.Prompt = `{{if and .LastReason (ne .Attempt 1)}}{{.Item}} {{.Labels.team}} {{index .Labels "team"}}{{else if .Base}}x{{else}}{{.Task}}{{end}}`
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	e := work.Envelope{Item: itemID, Attempt: itemID + ".2", Spec: s, Resume: work.Resume{LastReason: work.ReasonCrashed}}
	if got, err := e.Prompt(1); err != nil || got != itemID+" web web" {
		t.Fatalf("%q %v", got, err)
	}
}

func TestDefaultPromptIsTheTask(t *testing.T) {
	s := spec().WithDefaults(work.NewDefaults())
	e := work.Envelope{Item: itemID, Attempt: itemID + ".1", Spec: s}
	if got, err := e.Prompt(1); err != nil || got != s.Task+"\n\nCommit your work on the branch that is checked out.\n" {
		t.Fatalf("%q %v", got, err)
	}
	e.Spec.Agent = work.AgentCodex
	if got, err := e.Prompt(1); err != nil || !strings.HasPrefix(got, s.Task+"\n\nCommit your work on the branch") || !strings.HasSuffix(got, " "+work.NoChangePhrase+"\n") {
		t.Fatalf("%q %v", got, err)
	}
	e.Spec.Loop.Mode = work.LoopUntil
	if got, err := e.Prompt(1); err != nil || !strings.HasPrefix(got, s.Task+"\n\n") || !strings.HasSuffix(got, " "+work.DefaultDonePhrase+"\n") {
		t.Fatalf("%q %v", got, err)
	}
}

func TestDefaultCommandIsForAgentsOfItsKind(t *testing.T) {
	d := work.NewDefaults()
	d.Command = []string{"my-agent"}
	for agent, want := range map[string]int{"": 1, work.AgentPlain: 1, work.AgentCodex: 0} {
		s := spec()
		s.Agent, s.Command = agent, nil
		if got := s.WithDefaults(d); len(got.Command) != want {
			t.Errorf("%q: command %q", agent, got.Command)
		}
	}
	d.Agent = work.AgentCodex
	if got := (work.Spec{}).WithDefaults(d); got.Agent != work.AgentCodex || len(got.Command) != 1 || got.Loop.Mode != work.LoopOnce {
		t.Errorf("%+v", got)
	}
}

func TestAgentFaultsAreNamed(t *testing.T) {
	s := spec()
	s.Agent, s.Loop, s.Budget = "gpt", work.Loop{Mode: "forever", DonePhrase: "a\nb"}, work.Budget{Tokens: -1}
	err := s.Validate()
	for _, part := range []string{`agent "gpt": use one of plain, claude-code, codex`, `loop.mode "forever"`, "done_phrase", "budget"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not name %s", err, part)
		}
	}
}

// TestConversationFollowsAnAttemptThatWasCutOff: and no other.
func TestConversationFollowsAnAttemptThatWasCutOff(t *testing.T) {
	for _, reason := range work.Reasons() {
		if reason == work.ReasonCompleted || reason == work.ReasonCancelled {
			continue
		}
		policy := work.DefaultRetryPolicy().With(&work.RetryOverride{Actions: map[work.Reason]work.Action{reason: work.ActRequeue}})
		first := itemID + ".1"
		item := apply(t, work.NewItem(itemID, spec(), now), work.Assigned{}, work.Dispatched{Attempt: work.AttemptID(first), Child: "c"})
		item, err := work.Apply(item, work.Ended{Attempt: work.AttemptID(first), Ending: work.Ending{
			Reason: reason, Detail: "x", CostUSD: 0.5, Conversation: &work.Conversation{ID: "abc"},
		}}, policy, now.Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		item = apply(t, item, work.Assigned{})
		resume := item.Envelope("p")
		if got := resume.Resume.Conversation != nil; got != reason.CutOff() || resume.Resume.CostUSD != 0.5 {
			t.Errorf("%s: resume %+v", reason, resume.Resume)
		}
	}
}

func TestReportedCostAndConversationAreKept(t *testing.T) {
	first := work.AttemptID(itemID + ".1")
	item := apply(t, work.NewItem(itemID, spec(), now), work.Assigned{}, work.Dispatched{Attempt: first, Child: "c"})
	result := work.Result{Attempt: first, Reason: work.ReasonCrashed, CostUSD: 2, Conversation: &work.Conversation{ID: "abc"}}
	item = apply(t, item, work.Ended{Attempt: first, Ending: work.Ending{Reason: work.ReasonCrashed, Detail: "x", Result: &result}})
	if item.CostUSD != 2 || item.Conversation == nil || item.Conversation.ID != "abc" {
		t.Fatalf("%+v", item)
	}
}
