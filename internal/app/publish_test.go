package app_test

import (
	"fmt"
	"strings"
	"testing"

	"drover/internal/testkit"
	"drover/internal/work"
)

// TestFailedPullRequestIsMadeAgain: an item whose forge refuses the pull request is completed and says everywhere that
// it lacks one; drover pr retry makes it, once.
func TestFailedPullRequestIsMadeAgain(t *testing.T) {
	s := newSpine(t)
	s.forge.Refuse(true)
	s.start()
	id := s.submitSpecs([]work.Spec{{Task: "commits=1 delay=10ms", PR: work.PR{Provider: work.ProviderGitHub}}})[0]
	item := s.await(id)
	if item.State != work.StateCompleted || item.PR.Status != work.PRFailed || !strings.Contains(item.PR.Error, "403") || item.PublishAt.IsZero() {
		t.Fatalf("%s: %s, %+v, again at %s", item.State, item.Why, item.PR, item.PublishAt)
	}
	for _, args := range [][]string{{"list"}, {"show", id}, {"list", "-o", "json"}} {
		if out := s.mustDrover(args...); !strings.Contains(out, "completed") || !strings.Contains(out, "failed") {
			t.Errorf("drover %v does not say that the pull request failed:\n%s", args, out)
		}
	}
	if out := s.mustDrover("show", id); !strings.Contains(out, "but its pull request failed") || !strings.Contains(out, "PR again") {
		t.Errorf("drover show:\n%s", out)
	}
	s.forge.Refuse(false)
	if out := s.mustDrover("pr", "retry", id); !strings.Contains(out, "completed, pull request pending") {
		t.Errorf("drover pr retry: %s", out)
	}
	testkit.Eventually(t, patience, func() error {
		now, err := s.item(id)
		if err == nil && now.PR.Status != work.PRCreated {
			err = fmt.Errorf("pull request %+v, attempts %+v", now.PR, now.Attempts)
		}
		item = now
		return err
	})
	if item.State != work.StateCompleted || len(item.Attempts) != 2 || !item.Attempts[1].Publish || item.Attempts[1].State != work.AttemptCompleted || item.Iteration != 1 {
		t.Errorf("item %+v", item)
	}
	if pulls := s.forge.Pulls(); len(pulls) != 1 || pulls[0].URL != item.PR.URL || pulls[0].Head.Ref != item.Branch {
		t.Errorf("pull requests %+v", pulls)
	}
	if out, err := s.drover("pr", "retry", id); err == nil || !strings.Contains(out, "made already") {
		t.Errorf("once more: %v %s", err, out)
	}
}

// mustDrover runs the command against the server and returns what it printed.
func (s *spine) mustDrover(args ...string) string {
	s.t.Helper()
	out, err := s.drover(args...)
	if err != nil {
		s.t.Fatalf("drover %v: %v: %s", args, err, out)
	}
	return out
}
