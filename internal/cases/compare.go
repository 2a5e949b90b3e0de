package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"drover/internal/testkit/forgetest"
	"drover/internal/work"
)

// comparison collects the differences between an outcome and the right one.
type comparison struct{ faults []string }

func (c *comparison) differ(what string, got, right any) {
	c.faults = append(c.faults, fmt.Sprintf("%s is %v, right is %v", what, got, right))
}

// part finds fault with a text that does not have the right part.
func (c *comparison) part(what, got, right string) {
	if !strings.Contains(got, right) {
		c.faults = append(c.faults, fmt.Sprintf("%s is %q, right has %q", what, got, right))
	}
}

func equal[T comparable](c *comparison, what string, got, right T) {
	if got != right {
		c.differ(what, got, right)
	}
}

// compare returns all that is wrong.
func (o outcome) compare(s *seen) []string {
	c := &comparison{}
	if o.Refused != "" || s.Refusal != "" {
		switch {
		case s.Refusal == "":
			c.faults = append(c.faults, fmt.Sprintf("the item is taken, right is a refusal with %q", o.Refused))
		case o.Refused == "":
			c.faults = append(c.faults, fmt.Sprintf("the item is refused: %q, right is to take it", s.Refusal))
		default:
			c.part("the refusal", s.Refusal, o.Refused)
		}
		return c.faults
	}
	if o.State != "" {
		o.compareItem(c, s)
		o.compareRemote(c, s)
	}
	if o.Also != nil {
		c.faults = append(c.faults, o.Also(s)...)
	}
	return c.faults
}

func (o outcome) compareItem(c *comparison, s *seen) {
	item := s.Item
	equal(c, "the state", item.State, o.State)
	if got := reasonsOf(item); !slices.Equal(got, o.Reasons) {
		c.differ("the list of reasons", got, o.Reasons)
	}
	sentence := item.Why
	if last := item.Current(); last != nil {
		sentence = last.Detail + " | " + item.Why
	}
	c.part("the sentence", sentence, o.Sentence)
	equal(c, "the test status", item.Test.Status, cmp.Or(o.Test.Status, work.TestSkipped))
	equal(c, "the number of passed tests", item.Test.Passed, o.Test.Passed)
	equal(c, "the number of failed tests", item.Test.Failed, o.Test.Failed)
	c.part("what the tests say", item.Test.Detail, o.Test.Says)
	equal(c, "the number of tokens", item.Tokens, o.Tokens)
	if math.Abs(item.CostUSD-o.CostUSD) > 1e-6 {
		c.differ("the cost in USD", item.CostUSD, o.CostUSD)
	}
	equal(c, "the number of retries", item.Retries, o.Retries)
	equal(c, "the number of requeues", item.Requeues, o.Requeues)
	o.compareWait(c, item)
}

func (o outcome) compareWait(c *comparison, item work.Item) {
	if item.State != work.StateQueued {
		return
	}
	var ended time.Time
	if last := item.Current(); last != nil {
		ended = last.EndedAt
	}
	wait := item.NotBefore.Sub(ended).Round(time.Second)
	switch {
	case !o.WaitUntil.IsZero():
		if !item.NotBefore.Equal(o.WaitUntil) {
			c.differ("the end of the wait", item.NotBefore.UTC(), o.WaitUntil.UTC())
		}
	case (wait - o.WaitAbout).Abs() > o.WaitAbout/4:
		c.differ("the wait", wait, o.WaitAbout)
	}
}

func (o outcome) compareRemote(c *comparison, s *seen) {
	if !slices.Equal(s.Commits, o.Commits) {
		c.differ("the branch", quoted(s.Commits), quoted(o.Commits))
	}
	for _, path := range slices.Sorted(maps.Keys(o.Files)) {
		got, there := s.Files[path]
		switch right := o.Files[path]; {
		case !there:
			c.differ("the file "+path, "as in the base", fmt.Sprintf("%q", right))
		case right != anything && got != right:
			c.differ("the file "+path, fmt.Sprintf("%q", got), fmt.Sprintf("%q", right))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(s.Files)) {
		if _, right := o.Files[path]; !right {
			c.differ("the file "+path, fmt.Sprintf("%.100q", s.Files[path]), "as in the base")
		}
	}
	equal(c, "the pull request's status", s.Item.PR.Status, cmp.Or(o.PR, work.PRNone))
	c.part("the pull request's error", s.Item.PR.Error, o.PRError)
	if o.PRError == "" && s.Item.PR.Error != "" {
		c.differ("the pull request's error", fmt.Sprintf("%q", s.Item.PR.Error), "none")
	}
	o.comparePulls(c, s.Pulls)
}

func (o outcome) comparePulls(c *comparison, pulls []forgetest.Pull) {
	right := 0
	if o.PR == work.PRCreated {
		right = 1
	}
	if len(pulls) != right {
		c.differ("the number of pull requests at the forge", len(pulls), right)
		return
	}
	if right == 1 {
		equal(c, "whether the pull request is a draft", pulls[0].Draft, o.Draft)
	}
}

func reasonsOf(item work.Item) []work.Reason {
	var found []work.Reason
	for _, attempt := range item.Attempts {
		found = append(found, attempt.Reason)
	}
	return found
}

func quoted(words []string) string {
	if len(words) == 0 {
		return "without commits"
	}
	return `"` + strings.Join(words, `", "`) + `"`
}
