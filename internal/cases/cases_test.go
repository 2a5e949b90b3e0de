package main

import (
	"strings"
	"testing"
	"time"

	"drover/internal/testkit/forgetest"
	"drover/internal/work"
)

func good() (outcome, *seen) {
	ended := time.Now()
	right := outcome{
		State: "queued", Reasons: reasons("crashed", "rate_limited"), Sentence: "told to wait", Commits: []string{"one"}, Files: files{"a": "x", "b": anything, "c": removed},
		Test: tests{Status: "failed", Passed: 2, Failed: 1, Says: "exit"}, Tokens: work.Tokens{In: 1, Out: 2}, CostUSD: 0.5,
		Retries: 1, PR: "created", Draft: true, WaitAbout: time.Hour,
	}
	s := &seen{
		Item: work.Item{
			State: "queued", Attempts: []work.Attempt{{Reason: "crashed"}, {Reason: "rate_limited", Detail: "the agent was told to wait", EndedAt: ended}},
			Test: work.TestOutcome{Status: "failed", Passed: 2, Failed: 1, Detail: "exit code 1"}, Tokens: work.Tokens{In: 1, Out: 2}, CostUSD: 0.5,
			Retries: 1, PR: work.PullRequest{Status: "created"}, NotBefore: ended.Add(time.Hour),
		},
		Commits: []string{"one"}, Files: files{"a": "x", "b": "y", "c": removed}, Pulls: []forgetest.Pull{{Draft: true}},
	}
	return right, s
}

func TestCompare_RightOutcomeHasNoFault(t *testing.T) {
	t.Parallel()
	right, s := good()
	if faults := right.compare(s); faults != nil {
		t.Errorf("faults = %q, want none", faults)
	}
}

func TestCompare_EveryDifferenceIsAFault(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*seen){
		"state":                   func(s *seen) { s.Item.State = "failed" },
		"reasons":                 func(s *seen) { s.Item.Attempts[0].Reason = "timeout" },
		"sentence":                func(s *seen) { s.Item.Attempts[1].Detail = "" },
		"the branch":              func(s *seen) { s.Commits = append(s.Commits, "two") },
		"the file a":              func(s *seen) { s.Files["a"] = "z" },
		"the file b":              func(s *seen) { delete(s.Files, "b") },
		"the file c":              func(s *seen) { s.Files["c"] = "z" },
		"the file d":              func(s *seen) { s.Files["d"] = "" },
		"test status":             func(s *seen) { s.Item.Test.Status = "passed" },
		"passed tests":            func(s *seen) { s.Item.Test.Passed = 3 },
		"failed tests":            func(s *seen) { s.Item.Test.Failed = 0 },
		"what the tests say":      func(s *seen) { s.Item.Test.Detail = "" },
		"tokens":                  func(s *seen) { s.Item.Tokens.Out = 0 },
		"cost":                    func(s *seen) { s.Item.CostUSD = 0 },
		"retries":                 func(s *seen) { s.Item.Retries = 2 },
		"requeues":                func(s *seen) { s.Item.Requeues = 1 },
		"the wait":                func(s *seen) { s.Item.NotBefore = s.Item.NotBefore.Add(time.Hour) },
		"pull request's status":   func(s *seen) { s.Item.PR.Status = "failed" },
		"pull request's error":    func(s *seen) { s.Item.PR.Error = "no" },
		"number of pull requests": func(s *seen) { s.Pulls = nil },
		"a draft":                 func(s *seen) { s.Pulls[0].Draft = false },
		"refused":                 func(s *seen) { s.Refusal = "no" },
	} {
		right, s := good()
		change(s)
		if faults := right.compare(s); len(faults) != 1 || !strings.Contains(faults[0], name) {
			t.Errorf("%s: faults = %q, want one about it", name, faults)
		}
	}
}

func TestCompare_Refusal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		right  outcome
		seen   seen
		faults int
	}{
		"as it should": {outcome{Refused: "base"}, seen{Refusal: "base x is no branch"}, 0},
		"another":      {outcome{Refused: "base"}, seen{Refusal: "task is missing"}, 1},
		"none":         {outcome{Refused: "base"}, seen{}, 1},
		"accepted":     {outcome{}, seen{}, 0},
	} {
		if faults := c.right.compare(&c.seen); len(faults) != c.faults {
			t.Errorf("%s: faults = %q, want %d", name, faults, c.faults)
		}
	}
}

func TestTable_KindNeedsMembersOfOurOwn(t *testing.T) {
	t.Parallel()
	given, ours := row{ID: "1", Kind: "k"}, row{ID: "2", Kind: "k", Own: true}
	third, fourth := row{ID: "3", Kind: "k", Own: true}, row{ID: "4", Kind: "k"}
	for name, c := range map[string]struct {
		rows   []row
		faults int
	}{
		"enough":       {[]row{given, ours, third}, 0},
		"too few":      {[]row{ours, third}, 1},
		"too few ours": {[]row{given, fourth, ours}, 1},
		"an id twice":  {[]row{given, ours, third, ours}, 1},
	} {
		if got := faults(c.rows); len(got) != c.faults {
			t.Errorf("%s: faults = %q, want %d", name, got, c.faults)
		}
	}
}

func TestTable_IsSound(t *testing.T) {
	t.Parallel()
	if got := faults(table()); got != nil {
		t.Errorf("faults = %q, want none", got)
	}
}
