package pullrequest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/google/go-github/v75/github"

	"drover/internal/work"
)

const (
	tries = 5
	// maxWait bounds the wait for a forge that says when to come back. It is
	// short of any heartbeat TTL, because a waiting worker gives no sign of life.
	maxWait = 8 * time.Second
)

// forge is one repository of GitHub.
type forge struct {
	Request
	client      *github.Client
	owner, name string
	title, body string
	draft       bool
}

func (r Request) gitHub(ctx context.Context, title, body string) (work.PullRequest, error) {
	f, err := r.open()
	if err != nil {
		return work.PullRequest{}, err
	}
	f.title, f.body, f.draft = title, body, r.Spec.PR.IsDraft(r.Test.Status, r.Tree.Incomplete())
	if err := f.resolve(ctx); err != nil {
		return work.PullRequest{}, fmt.Errorf("find the repository %s/%s: %w", f.owner, f.name, err)
	}
	pr, err := f.findOrCreate(ctx)
	if err != nil {
		return work.PullRequest{}, fmt.Errorf("pull request for %s in %s/%s: %w", r.Branch, f.owner, f.name, err)
	}
	made := work.PullRequest{Status: work.PRCreated, URL: pr.GetHTMLURL(), Number: pr.GetNumber()}
	return made, f.decorate(ctx, pr.GetNumber())
}

func (r Request) open() (*forge, error) {
	owner, name, err := ownerAndName(r.Spec.Repository)
	if err != nil {
		return nil, err
	}
	if r.Token == "" {
		return nil, errors.New("no token for the forge: set DROVER_FORGE_TOKEN or DROVER_GIT_TOKEN for the workers")
	}
	client := github.NewClient(r.client()).WithAuthToken(r.Token)
	client.DisableRateLimitCheck = true // the wait is decided here
	if r.Spec.PR.APIURL != "" {
		base, err := url.Parse(strings.TrimSuffix(r.Spec.PR.APIURL, "/") + "/")
		if err != nil {
			return nil, fmt.Errorf("pull_request.api_url: %v: %w", err, work.ErrInvalid)
		}
		client.BaseURL = base
	}
	return &forge{Request: r, client: client, owner: owner, name: name}, nil
}

// errElsewhere says that the forge sent a call to another host, which must not learn the token.
var errElsewhere = errors.New("the forge redirects to another host: see pull_request.api_url")

// client follows redirects, as of a renamed repository, on the forge's own host alone: the token goes with each call.
func (r Request) client() *http.Client {
	client := http.Client{}
	if r.HTTPClient != nil {
		client = *r.HTTPClient
	}
	client.CheckRedirect = func(to *http.Request, via []*http.Request) error {
		const most = 5
		switch first := via[0].URL; {
		case to.URL.Host != first.Host || to.URL.Scheme != first.Scheme:
			return fmt.Errorf("%w (from %s to %s)", errElsewhere, first.Host, to.URL.Host)
		case len(via) > most:
			return fmt.Errorf("the forge redirects more than %d times", most)
		}
		return nil
	}
	return &client
}

// resolve learns what owner and repository are called now. One that was renamed answers to its old name, too, but its
// branches are not found by the old owner's name. Where the forge does not show the repository, its answer to the
// pull request says more.
func (f *forge) resolve(ctx context.Context) error {
	return f.retry(ctx, func(ctx context.Context) error {
		now, _, err := f.client.Repositories.Get(ctx, f.owner, f.name)
		switch code := status(err); {
		case code == http.StatusNotFound || code == http.StatusForbidden && !rateLimited(err):
			return nil
		case err != nil:
			return err
		}
		f.owner, f.name = cmp.Or(now.GetOwner().GetLogin(), f.owner), cmp.Or(now.GetName(), f.name)
		return nil
	})
}

// rateLimited reports whether a call failed for a rate limit.
func rateLimited(err error) bool {
	var limit *github.RateLimitError
	var abuse *github.AbuseRateLimitError
	return errors.As(err, &limit) || errors.As(err, &abuse)
}

// ownerAndName reads owner and name from a repository's URL: its last two path elements.
func ownerAndName(repository string) (owner, name string, err error) {
	path := repository
	if u, err := url.Parse(repository); err == nil && u.Scheme != "" {
		path = u.Path
	} else if _, after, ok := strings.Cut(repository, ":"); ok {
		path = after // git@host:owner/name.git
	}
	parts := strings.Split(strings.TrimSuffix(strings.Trim(path, "/"), ".git"), "/")
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return "", "", fmt.Errorf("repository %s names no owner and repository: %w", work.RedactURL(repository), work.ErrInvalid)
	}
	return parts[0], parts[1], nil
}

// findOrCreate looks before every try to create: one that failed may have worked.
func (f *forge) findOrCreate(ctx context.Context) (*github.PullRequest, error) {
	var pr *github.PullRequest
	err := f.retry(ctx, func(ctx context.Context) error {
		found, err := f.find(ctx, f.owner)
		if err != nil || found != nil {
			pr = found
			return err
		}
		pr, _, err = f.client.PullRequests.Create(ctx, f.owner, f.name, &github.NewPullRequest{
			Title: github.Ptr(f.title), Head: github.Ptr(f.Branch), Base: github.Ptr(f.Base), Body: github.Ptr(f.body), Draft: github.Ptr(f.draft),
		})
		if f.draft && noDrafts(err) {
			f.draft = false
			return errNoDrafts
		}
		if status(err) != http.StatusUnprocessableEntity {
			return err
		}
		if found, lookErr := f.find(ctx, ownerOfOther(err, f.owner)); lookErr == nil && found != nil {
			pr, err = found, nil
		}
		return err
	})
	return pr, err
}

// errNoDrafts says that the repository has no drafts, and that none is asked for any more.
var errNoDrafts = errors.New("the repository supports no draft pull requests")

// noDrafts reports whether GitHub refused a pull request for being a draft, which
// private repositories of some plans don't have.
func noDrafts(err error) bool {
	var answer *github.ErrorResponse
	return errors.As(err, &answer) && status(err) == http.StatusUnprocessableEntity &&
		strings.Contains(strings.ToLower(answer.Error()), "draft pull requests are not supported")
}

// existsFor is how GitHub names the pull request that is there already.
var existsFor = regexp.MustCompile(`A pull request already exists for ([^\s:]+):`)

// ownerOfOther returns whose branch has the pull request that is there already; owner where the refusal does not say.
func ownerOfOther(err error, owner string) string {
	var answer *github.ErrorResponse
	if errors.As(err, &answer) {
		if match := existsFor.FindStringSubmatch(answer.Error()); match != nil {
			return match[1]
		}
	}
	return owner
}

// early reports whether GitHub refused a pull request because it has not come to know what was just pushed: it looks
// at a copy of the repository that lags behind by seconds.
func early(err error) bool {
	var answer *github.ErrorResponse
	if !errors.As(err, &answer) || status(err) != http.StatusUnprocessableEntity {
		return false
	}
	for _, e := range answer.Errors {
		if e.Field == "head" && e.Code == "invalid" || strings.HasPrefix(e.Message, "No commits between") {
			return true
		}
	}
	return strings.Contains(strings.ToLower(answer.Message), "not all refs are readable")
}

// find returns the pull request of an owner's branch: an open one, or else the newest.
func (f *forge) find(ctx context.Context, owner string) (*github.PullRequest, error) {
	list, _, err := f.client.PullRequests.List(ctx, f.owner, f.name, &github.PullRequestListOptions{
		State: "all", Head: owner + ":" + f.Branch, Sort: "created", Direction: "desc",
	})
	if err != nil {
		return nil, err
	}
	var found *github.PullRequest
	for _, pr := range list {
		switch {
		case pr.GetHead().GetRef() != f.Branch: // a forge that does not know the filter lists all
		case pr.GetState() == "open":
			return pr, nil
		case found == nil:
			found = pr
		}
	}
	return found, nil
}

// decorate adds labels and reviewers. The pull request is there whatever becomes of them.
func (f *forge) decorate(ctx context.Context, number int) error {
	var errs []error
	if labels := f.Spec.PR.Labels; len(labels) > 0 {
		errs = append(errs, f.together(ctx, "label", labels, func(ctx context.Context, labels []string) error {
			_, _, err := f.client.Issues.AddLabelsToIssue(ctx, f.owner, f.name, number, labels)
			return err
		}))
	}
	if reviewers := f.Spec.PR.Reviewers; len(reviewers) > 0 {
		errs = append(errs, f.together(ctx, "reviewer", reviewers, func(ctx context.Context, reviewers []string) error {
			_, _, err := f.client.PullRequests.RequestReviewers(ctx, f.owner, f.name, number, reviewersRequest(reviewers))
			return err
		}))
	}
	return errors.Join(errs...)
}

// reviewersRequest tells people from teams: a team is named with its organisation, acme/backend, as in CODEOWNERS,
// where names may begin with @.
func reviewersRequest(reviewers []string) (r github.ReviewersRequest) {
	for _, name := range reviewers {
		name = strings.TrimPrefix(name, "@")
		if _, team, ok := strings.Cut(name, "/"); ok {
			r.TeamReviewers = append(r.TeamReviewers, team)
		} else {
			r.Reviewers = append(r.Reviewers, name)
		}
	}
	return r
}

// together calls for all names at once. GitHub refuses all of them for one that it does not take: then it is called for
// each, and the error names those that it does not take.
func (f *forge) together(ctx context.Context, what string, names []string, call func(context.Context, []string) error) error {
	err := f.retry(ctx, func(ctx context.Context) error { return call(ctx, names) })
	if err == nil || status(err) != http.StatusUnprocessableEntity && status(err) != http.StatusNotFound || len(names) == 1 {
		return named(what, strings.Join(names, ", "), err)
	}
	var errs []error
	for _, name := range names {
		err := f.retry(ctx, func(ctx context.Context) error { return call(ctx, []string{name}) })
		errs = append(errs, named(what, name, err))
	}
	return errors.Join(errs...)
}

func named(what, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, name, err)
}

// errNoAnswer says that the forge did not answer a call, or what the call looks up, in time.
var errNoAnswer = errors.New("the forge gave no answer")

// retry calls until it succeeds, fails for good, or has been tried often enough.
func (f *forge) retry(ctx context.Context, call func(context.Context) error) error {
	for try := 1; ; try++ {
		f.Alive()
		limited, cancel := context.WithTimeoutCause(ctx, f.Patience, errNoAnswer)
		err := call(limited)
		if errors.Is(context.Cause(limited), errNoAnswer) && err != nil {
			err = fmt.Errorf("%w within %s", errNoAnswer, f.Patience)
		}
		cancel()
		wait, again := f.wait(err, try)
		if err == nil || !again || try == tries {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// wait tells whether a failed call may be repeated, and after how long. A limit
// that resets later than maxWait fails the pull request, which is made another time.
func (f *forge) wait(err error, try int) (time.Duration, bool) {
	wait := min(f.Backoff<<(try-1), maxWait)
	var limit *github.RateLimitError
	var abuse *github.AbuseRateLimitError
	switch code := status(err); {
	case errors.As(err, &limit):
		wait = max(wait, time.Until(limit.Rate.Reset.Time))
	case errors.As(err, &abuse):
		wait = max(wait, cmp.Or(abuse.GetRetryAfter(), wait))
	case errors.Is(err, errElsewhere):
		return 0, false
	case code == 0, code >= http.StatusInternalServerError, code == http.StatusTooManyRequests, early(err):
	default:
		return 0, false
	}
	return wait, wait <= maxWait
}

// status is the HTTP status of an answer that was an error, 0 where there was no answer.
func status(err error) int {
	var answer *github.ErrorResponse
	if errors.As(err, &answer) && answer.Response != nil {
		return answer.Response.StatusCode
	}
	return 0
}
