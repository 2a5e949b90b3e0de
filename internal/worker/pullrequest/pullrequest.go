// Package pullrequest makes the pull request of a pushed branch, or finds it.
package pullrequest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"drover/internal/work"
)

// Request is the pull request that is wanted.
type Request struct {
	Item       string
	Spec       work.Spec
	Base       string // branch
	Branch     string
	Commit     string // that the remote branch is at
	Changes    work.Changes
	Test       work.TestOutcome
	Token      string                                // of the forge
	Text       func(context.Context) (string, error) // of git request-pull
	Redact     func(string) string                   // applied to all that is sent or kept
	Alive      func()                                // called at every try
	HTTPClient *http.Client                          // http.DefaultClient if nil
	Backoff    time.Duration                         // before the second try, doubled each time; DefaultBackoff if 0
}

// DefaultBackoff is the wait before a call to the forge is tried again.
const DefaultBackoff = time.Second

// Make makes the pull request unless there is one. What goes wrong is in the
// outcome: finished work is never lost to a forge.
func Make(ctx context.Context, r Request) work.PullRequest {
	if r.Spec.PR.Provider == work.ProviderNone || r.Changes.Commits == 0 {
		return work.PullRequest{Status: work.PRNone}
	}
	if r.Backoff == 0 {
		r.Backoff = DefaultBackoff
	}
	made, err := r.provide(ctx)
	if made.Status != work.PRCreated {
		made.Status = work.PRFailed
	}
	made.Title = r.title()
	if err != nil {
		made.Error = r.Redact(err.Error())
	}
	return made
}

func (r Request) provide(ctx context.Context) (work.PullRequest, error) {
	switch r.Spec.PR.Provider {
	case work.ProviderGitHub:
		return r.gitHub(ctx)
	case work.ProviderRequestPull:
		text, err := r.Text(ctx)
		if err != nil {
			return work.PullRequest{}, err
		}
		return work.PullRequest{Status: work.PRCreated, Body: r.Redact(text)}, nil
	}
	return work.PullRequest{}, fmt.Errorf("provider %q: %w", r.Spec.PR.Provider, work.ErrInvalid)
}

func (r Request) title() string {
	title := r.Spec.PR.Title
	if title == "" {
		title, _, _ = strings.Cut(strings.TrimSpace(r.Spec.Task), "\n")
	}
	return r.Redact(title)
}

func (r Request) body() string {
	c := r.Changes
	text := fmt.Sprintf("%s\n\n---\nWork item `%s`: %d commits, %d files, +%d -%d. Tests: %s",
		strings.TrimSpace(r.Spec.Task), r.Item, c.Commits, c.Files, c.Added, c.Removed, r.Test.Status)
	if r.Test.Run > 0 {
		text += fmt.Sprintf(" (%d passed, %d failed)", r.Test.Passed, r.Test.Failed)
	}
	return r.Redact(text + ".\n")
}
