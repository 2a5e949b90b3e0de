package main

import (
	"fmt"
	"slices"
	"strings"

	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

// scene is one item of the demo and how it is to end.
type scene struct {
	name      string
	task      string
	killAfter int // pushed commits after which its first attempt is killed; 0 never
	state     work.State
	reasons   []work.Reason // one an attempt
	commits   int           // that the agent leaves in the branch
	test      work.TestStatus
	pr        work.PRStatus
}

var scenes = []scene{
	{
		name: "smooth", task: "Write down three steps. commits=3 delay=700ms",
		state: work.StateCompleted, reasons: []work.Reason{work.ReasonCompleted},
		commits: 3, test: work.TestPassed, pr: work.PRCreated,
	},
	{
		name: "unlucky", task: "Write down six steps, slowly. commits=6 delay=1200ms", killAfter: 2,
		state: work.StateCompleted, reasons: []work.Reason{work.ReasonCrashed, work.ReasonCompleted},
		commits: 6, test: work.TestPassed, pr: work.PRCreated,
	},
	{
		name: "stuck", task: "Do what cannot be done. commits=1 delay=700ms exit=1",
		state: work.StateStuck, reasons: []work.Reason{work.ReasonStuck},
		commits: 1, test: work.TestSkipped, pr: work.PRNone,
	},
}

// faults compares what became of a scene, and of the branch that holds its work, with what should have.
func (s scene) faults(item work.Item, log []string) []string {
	var faults []string
	differ := func(what string, got, want any) {
		faults = append(faults, fmt.Sprintf("%s: %s is %v, should be %v", s.name, what, got, want))
	}
	if item.State != s.state {
		differ("the state", item.State, s.state)
	}
	if got := reasons(item); !slices.Equal(got, s.reasons) {
		differ("the list of reasons", got, s.reasons)
	}
	if item.Test.Status != s.test {
		differ("the test status", item.Test.Status, s.test)
	}
	if item.PR.Status != s.pr {
		differ("the pull request's status", item.PR.Status, s.pr)
	}
	if want := s.log(); !slices.Equal(log, want) {
		differ("the branch", quoted(log), quoted(want))
	}
	return faults
}

// log is what the branch should hold: every commit once.
func (s scene) log() []string {
	subjects := []string{gittest.InitialSubject}
	total := s.commits
	for n := range total {
		subjects = append(subjects, fmt.Sprintf("Step %d of %d", n+1, total))
	}
	return subjects
}

func reasons(item work.Item) []work.Reason {
	var found []work.Reason
	for _, attempt := range item.Attempts {
		found = append(found, attempt.Reason)
	}
	return found
}

func quoted(words []string) string { return `"` + strings.Join(words, `", "`) + `"` }
