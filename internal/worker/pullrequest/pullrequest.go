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
	Attempt    int
	Iterations int
	Tokens     work.Tokens
	CostUSD    float64
	Changes    work.Changes
	Test       work.TestOutcome
	Tree       work.Tree
	Token      string                                // of the forge
	Text       func(context.Context) (string, error) // of git request-pull
	Redact     func(string) string                   // applied to all that is sent or kept
	Alive      func()                                // called at every try
	HTTPClient *http.Client                          // http.DefaultClient if nil
	Backoff    time.Duration                         // before the second try, doubled each time; DefaultBackoff if 0
	Patience   time.Duration                         // with the answer to one call; DefaultPatience if 0
}

// maxKeptBytes bounds what of the body is kept where there is no forge to keep
// it: the item, its history included, is to fit one value in Consul.
const maxKeptBytes = 16 << 10

// DefaultBackoff is the wait before a call to the forge is tried again.
const DefaultBackoff = time.Second

// DefaultPatience is how long a forge may take to answer.
const DefaultPatience = 30 * time.Second

// Make makes the pull request unless there is one. What goes wrong is in the
// outcome: finished work is never lost to a forge.
func Make(ctx context.Context, r Request) work.PullRequest {
	if r.Spec.PR.Provider == work.ProviderNone || r.Changes.Commits == 0 {
		return work.PullRequest{Status: work.PRNone}
	}
	if r.Backoff == 0 {
		r.Backoff = DefaultBackoff
	}
	if r.Patience == 0 {
		r.Patience = DefaultPatience
	}
	title, body, err := r.text()
	var made work.PullRequest
	if err == nil {
		made, err = r.provide(ctx, title, body)
	}
	if made.Status != work.PRCreated {
		made.Status = work.PRFailed
	}
	made.Title = title
	if err != nil {
		made.Error = r.Redact(err.Error())
	}
	return made
}

func (r Request) provide(ctx context.Context, title, body string) (work.PullRequest, error) {
	switch r.Spec.PR.Provider {
	case work.ProviderGitHub:
		return r.gitHub(ctx, title, body)
	case work.ProviderRequestPull:
		return r.requestPull(ctx, body)
	}
	return work.PullRequest{}, fmt.Errorf("provider %q: %w", r.Spec.PR.Provider, work.ErrInvalid)
}

// text returns the title and the body, redacted.
func (r Request) text() (title, body string, err error) {
	title, body, err = r.Spec.PR.Text(work.PRData{
		Item: r.Item, Task: strings.TrimSpace(r.Spec.Task), Base: r.Base, Branch: r.Branch, Labels: r.Spec.Labels,
		Attempt: r.Attempt, Iterations: r.Iterations, Tokens: r.Tokens, CostUSD: r.CostUSD, Changes: r.Changes, Test: r.Test, Tree: r.Tree.String(),
	})
	return r.Redact(title), r.Redact(body), err
}

// requestPull is the text for a remote without pull requests: as much of the
// body as may be kept with the item, and what git says about the branch.
func (r Request) requestPull(ctx context.Context, body string) (work.PullRequest, error) {
	text, err := r.Text(ctx)
	if err != nil {
		return work.PullRequest{}, err
	}
	if len(body) > maxKeptBytes {
		body = strings.ToValidUTF8(body[:maxKeptBytes], "") + "…\n"
	}
	return work.PullRequest{Status: work.PRCreated, Body: body + "\n" + r.Redact(text)}, nil
}
