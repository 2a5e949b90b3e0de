package main

import (
	"strings"
	"testing"

	"drover/internal/work"
)

var resumed = scene{
	name: "resumed", state: work.StateCompleted, reasons: []work.Reason{work.ReasonCrashed, work.ReasonCompleted},
	commits: 2, test: work.TestPassed, pr: work.PRCreated,
}

func resumedItem() work.Item {
	return work.Item{
		State: work.StateCompleted, Test: work.TestOutcome{Status: work.TestPassed}, PR: work.PullRequest{Status: work.PRCreated},
		Attempts: []work.Attempt{{Reason: work.ReasonCrashed}, {Reason: work.ReasonCompleted}},
	}
}

func TestSceneThatEndedAsItShould(t *testing.T) {
	t.Parallel()
	if faults := resumed.faults(resumedItem(), []string{"Initial commit", "Step 1 of 2", "Step 2 of 2"}); faults != nil {
		t.Errorf("faults: %q", faults)
	}
}

func TestEveryDifferenceIsAFault(t *testing.T) {
	t.Parallel()
	good := []string{"Initial commit", "Step 1 of 2", "Step 2 of 2"}
	for name, c := range map[string]struct {
		change func(*work.Item)
		log    []string
		fault  string
	}{
		"state":         {func(i *work.Item) { i.State = work.StateFailed }, good, "the state"},
		"attempts":      {func(i *work.Item) { i.Attempts = i.Attempts[1:] }, good, "reasons"},
		"reason":        {func(i *work.Item) { i.Attempts[0].Reason = work.ReasonTimeout }, good, "reasons"},
		"tests":         {func(i *work.Item) { i.Test.Status = work.TestFailed }, good, "test status"},
		"pull request":  {func(i *work.Item) { i.PR.Status = work.PRFailed }, good, "pull request"},
		"doubled step":  {func(*work.Item) {}, []string{"Initial commit", "Step 1 of 2", "Step 1 of 2", "Step 2 of 2"}, "the branch"},
		"lost step":     {func(*work.Item) {}, []string{"Initial commit", "Step 2 of 2"}, "the branch"},
		"absent branch": {func(*work.Item) {}, nil, "the branch"},
	} {
		item := resumedItem()
		c.change(&item)
		if faults := resumed.faults(item, c.log); len(faults) != 1 || !strings.Contains(faults[0], c.fault) {
			t.Errorf("%s: faults are %q, want one about %s", name, faults, c.fault)
		}
	}
}
