package pullrequest_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/internal/testkit"
	"drover/internal/work"
	"drover/internal/worker/pullrequest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	branch = "drover/item"
	token  = "forge-secret-token"
)

// forge stands in for GitHub's REST API.
type forge struct {
	mu      sync.Mutex
	pulls   []map[string]any
	calls   []string
	bodies  map[string]map[string]any
	faults  []string // of requests that are not as GitHub documents them
	answers []answer // given first, to any call that creates
	renamed string   // the owner's name now; owner if empty
	unknown []string // people, teams and labels that are refused
}

// owner is the owner's name at first.
const owner = "owner"

type answer struct {
	status int
	make   bool // the pull request is made all the same
	says   string
	docs   string // address of documentation
	errors []map[string]string
	header http.Header
}

func (f *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	call := r.Method + " " + r.URL.Path
	f.calls = append(f.calls, call)
	if r.Header.Get("Authorization") != "Bearer "+token {
		http.Error(w, `{"message":"Bad credentials `+token+`"}`, http.StatusUnauthorized)
		return
	}
	data, _ := io.ReadAll(r.Body) // a body cut short is no JSON
	body := map[string]any{}
	if len(data) > 0 && data[0] == '{' {
		_ = json.Unmarshal(data, &body) // as above: its fields are missed
	}
	if len(data) > 0 && data[0] == '[' { // the other form that labels may have
		var labels []any
		_ = json.Unmarshal(data, &labels) // as above
		body["labels"] = labels
	}
	f.bodies[call] = body
	if fault := misshapen(r, body); fault != "" {
		f.faults = append(f.faults, call+": "+fault)
	}
	now := cmp.Or(f.renamed, owner)
	switch rest, old := strings.CutPrefix(r.URL.Path, "/api/repos/"+owner+"/name"); {
	case old && now != owner: // GitHub's answer to the names of before
		code := http.StatusMovedPermanently
		if r.Method != http.MethodGet {
			code = http.StatusTemporaryRedirect
		}
		http.Redirect(w, r, "/api/repositories/1"+rest+"?"+r.URL.RawQuery, code)
	case r.Method == http.MethodGet && !strings.HasSuffix(r.URL.Path, "/pulls"):
		reply(w, http.StatusOK, map[string]any{"name": "name", "owner": map[string]any{"login": now}})
	case r.Method == http.MethodGet:
		f.list(w, r, now)
	case strings.HasSuffix(call, "/pulls"):
		f.create(w, body)
	default:
		f.decorate(w, body)
	}
}

func (f *forge) list(w http.ResponseWriter, r *http.Request, now string) {
	switch {
	case r.URL.Query().Get("state") != "all":
		http.Error(w, `{"message":"unexpected query"}`, http.StatusBadRequest)
	case r.URL.Query().Get("head") == now+":"+branch:
		reply(w, http.StatusOK, f.pulls)
	default:
		reply(w, http.StatusOK, []any{})
	}
}

// decorate takes labels and reviewers: all of them, or none where it does not know one.
func (f *forge) decorate(w http.ResponseWriter, body map[string]any) {
	for _, names := range body {
		for _, name := range names.([]any) {
			if slices.Contains(f.unknown, name.(string)) {
				reply(w, http.StatusUnprocessableEntity, map[string]any{"message": "Reviews may only be requested from collaborators."})
				return
			}
		}
	}
	reply(w, http.StatusCreated, nil)
}

// parameters are those that GitHub documents for each call, by the end of its path: with their types, in
// docs.github.com/en/rest, version 2022-11-28.
var parameters = map[string]map[string]string{
	"GET /pulls":                {"state": "query", "head": "query", "base": "query", "sort": "query", "direction": "query", "per_page": "query", "page": "query"},
	"POST /pulls":               {"title": "string", "head": "string", "base": "string", "body": "string", "draft": "bool", "maintainer_can_modify": "bool"},
	"POST /labels":              {"labels": "[]interface {}"},
	"POST /requested_reviewers": {"reviewers": "[]interface {}", "team_reviewers": "[]interface {}"},
}

// misshapen says what of a request GitHub's documentation does not know, empty if it knows all.
func misshapen(r *http.Request, body map[string]any) string {
	known := parameters[r.Method+" /"+path.Base(r.URL.Path)]
	if repository := regexp.MustCompile(`^/api/(repos/\w+/name|repositories/1)$`); r.Method == http.MethodGet && repository.MatchString(r.URL.Path) {
		known = map[string]string{}
	}
	if known == nil {
		return "no such call"
	}
	for name := range r.URL.Query() {
		if known[name] != "query" {
			return "unknown in the query: " + name
		}
	}
	for name, value := range body {
		if r.Method == http.MethodGet || known[name] != fmt.Sprintf("%T", value) {
			return fmt.Sprintf("in the body: %s of type %T", name, value)
		}
	}
	for _, need := range []string{"title", "head", "base"} {
		if known[need] == "string" && body[need] == "" {
			return "without its " + need
		}
	}
	switch {
	case !strings.Contains(r.Header.Get("Accept"), "application/vnd.github"):
		return "Accept: " + r.Header.Get("Accept")
	case r.Header.Get("X-Github-Api-Version") != "2022-11-28":
		return "X-GitHub-Api-Version: " + r.Header.Get("X-Github-Api-Version")
	case r.Method == http.MethodPost && r.Header.Get("Content-Type") != "application/json":
		return "Content-Type: " + r.Header.Get("Content-Type")
	case r.Header.Get("User-Agent") == "":
		return "no User-Agent, which GitHub refuses"
	}
	return ""
}

func (f *forge) create(w http.ResponseWriter, body map[string]any) {
	var a answer
	if len(f.answers) > 0 {
		a, f.answers = f.answers[0], f.answers[1:]
	}
	if a.status == 0 || a.make {
		f.pulls = append(f.pulls, pull(len(f.pulls)+1, "open"))
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if a.status != 0 {
		reply(w, a.status, map[string]any{"message": cmp.Or(a.says, "no"), "documentation_url": a.docs, "errors": a.errors})
		return
	}
	reply(w, http.StatusCreated, f.pulls[len(f.pulls)-1])
}

func pull(number int, state string) map[string]any {
	return map[string]any{
		"number": number, "state": state, "html_url": fmt.Sprintf("https://forge.example/owner/name/pull/%d", number),
		"head": map[string]any{"ref": branch},
	}
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone misses nothing
}

func (f *forge) created() int {
	n := 0
	for _, call := range f.calls {
		if strings.HasPrefix(call, "POST ") && strings.HasSuffix(call, "/name/pulls") {
			n++
		}
	}
	return n
}

func publish(t *testing.T, f *forge, change func(*pullrequest.Request)) work.PullRequest {
	t.Helper()
	f.bodies = map[string]map[string]any{}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	r := pullrequest.Request{
		Item: "item", Base: "main", Branch: branch, Token: token, Changes: work.Changes{Commits: 2, Files: 1, Added: 7, Removed: 4},
		Attempt: 2, Iterations: 5, Tokens: work.Tokens{In: 1200, Out: 300}, CostUSD: 0.25,
		Test: work.TestOutcome{Status: work.TestPassed, Run: 3, Passed: 3},
		Spec: work.Spec{Repository: "https://forge.example/owner/name.git", Task: "Fix it.\nPlease.",
			PR: work.PR{Provider: work.ProviderGitHub, APIURL: server.URL + "/api", Labels: []string{"bot"}, Reviewers: []string{"alice"}}},
		Redact: func(s string) string { return strings.ReplaceAll(s, token, "*") }, Alive: func() {},
		HTTPClient: server.Client(), Backoff: time.Millisecond,
	}
	if change != nil {
		change(&r)
	}
	made := pullrequest.Make(t.Context(), r)
	if len(f.faults) > 0 {
		t.Errorf("requests that GitHub does not know: %q", f.faults)
	}
	return made
}

func TestPullRequestIsMade(t *testing.T) {
	f := &forge{}
	pr := publish(t, f, nil)
	if pr.Status != work.PRCreated || pr.Number != 1 || pr.URL != "https://forge.example/owner/name/pull/1" || pr.Error != "" || pr.Title != "Fix it." {
		t.Errorf("%+v", pr)
	}
	body := f.bodies["POST /api/repos/owner/name/pulls"]
	if body["title"] != "Fix it." || body["head"] != branch || body["base"] != "main" || !strings.Contains(fmt.Sprint(body["body"]), "3 passed") {
		t.Errorf("asked for %v", body)
	}
	reviewers := f.bodies["POST /api/repos/owner/name/pulls/1/requested_reviewers"]
	if fmt.Sprint(reviewers["reviewers"]) != "[alice]" {
		t.Errorf("reviewers %v", reviewers)
	}
	if !strings.Contains(fmt.Sprint(f.calls), "POST /api/repos/owner/name/issues/1/labels") {
		t.Errorf("calls %v", f.calls)
	}
}

func TestBodyTellsWhatTheWorkCameTo(t *testing.T) {
	f := &forge{}
	publish(t, f, nil)
	body := fmt.Sprint(f.bodies["POST /api/repos/owner/name/pulls"]["body"])
	for _, want := range []string{
		"Fix it.\nPlease.\n", "Work item item, attempt 2", "2 commits, 1 files, +7 -4 lines", "passed, 3 passed and 0 failed of 3",
		"5 iterations, 1200 tokens read and 300 written, 0.25 USD",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}

func TestTitleAndBodyAreTemplates(t *testing.T) {
	f := &forge{}
	pr := publish(t, f, func(r *pullrequest.Request) {
		r.Spec.Labels = map[string]string{"ticket": "A-7"}
		r.Spec.PR.Title = `{{.Labels.ticket}}: {{.Task}}`
		r.Spec.PR.Body = `{{if eq .Test.Status "passed"}}ready{{else}}not ready{{end}} ` + token
	})
	body := f.bodies["POST /api/repos/owner/name/pulls"]
	if pr.Title != "A-7: Fix it." || body["title"] != pr.Title || body["body"] != "ready *" {
		t.Errorf("%+v, asked for %v", pr, body)
	}
	pr = publish(t, f, func(r *pullrequest.Request) { r.Spec.PR.Body = `{{.Labels.ticket}}` })
	if pr.Status != work.PRFailed || !strings.Contains(pr.Error, "pull_request.body") {
		t.Errorf("with a label that is not there: %+v", pr)
	}
}

func TestDraftFollowsTheTests(t *testing.T) {
	for _, c := range []struct {
		draft string
		tests work.TestStatus
		want  bool
	}{
		{"", work.TestPassed, false}, {"", work.TestSkipped, false}, {"", work.TestFailed, true}, {"", work.TestTimeout, true},
		{work.DraftOnFailure, work.TestError, true}, {work.DraftAlways, work.TestPassed, true}, {work.DraftNever, work.TestFailed, false},
	} {
		f := &forge{}
		pr := publish(t, f, func(r *pullrequest.Request) { r.Spec.PR.Draft, r.Test.Status = c.draft, c.tests })
		if got := f.bodies["POST /api/repos/owner/name/pulls"]["draft"]; pr.Status != work.PRCreated || got != c.want {
			t.Errorf("draft %q with tests %s: %v", c.draft, c.tests, got)
		}
	}
}

func TestRepositoryWithoutDraftsGetsAPlainPullRequest(t *testing.T) {
	f := &forge{answers: []answer{{status: 422, says: "Draft pull requests are not supported in this repository."}}}
	pr := publish(t, f, func(r *pullrequest.Request) { r.Spec.PR.Draft = work.DraftAlways })
	if got := f.bodies["POST /api/repos/owner/name/pulls"]["draft"]; pr.Status != work.PRCreated || got != false || f.created() != 2 {
		t.Errorf("%+v, draft %v after %v", pr, got, f.calls)
	}
}

func TestPullRequestThatIsThereIsFound(t *testing.T) {
	f := &forge{pulls: []map[string]any{pull(9, "closed"), pull(7, "open")}}
	if pr := publish(t, f, nil); pr.Status != work.PRCreated || pr.Number != 7 || f.created() != 0 {
		t.Errorf("%+v after %v", pr, f.calls)
	}
}

func TestTroubleOfTheForge(t *testing.T) {
	for name, c := range map[string]struct {
		answers []answer
		status  work.PRStatus
		creates int
	}{
		"exists after all (422)":   {[]answer{{status: 422, make: true}}, work.PRCreated, 1},
		"refused for good (422)":   {[]answer{{status: 422}}, work.PRFailed, 1},
		"down, then well":          {[]answer{{status: 502}, {status: 503}}, work.PRCreated, 3},
		"answer lost after making": {[]answer{{status: 500, make: true}}, work.PRCreated, 1},
		"too many requests":        {[]answer{{status: 429}}, work.PRCreated, 2},
		"down for good":            {[]answer{{status: 500}, {status: 500}, {status: 500}, {status: 500}, {status: 500}}, work.PRFailed, 5},
		"forbidden":                {[]answer{{status: 403}}, work.PRFailed, 1},
		"not there":                {[]answer{{status: 404}}, work.PRFailed, 1},
		"secondary limit": {[]answer{{status: 403, header: http.Header{"Retry-After": {"1"}}, says: "You have exceeded a secondary rate limit.",
			docs: "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"}}, work.PRCreated, 2},
		"limit that resets too late": {[]answer{{status: 403, header: limitHeader(time.Hour)}}, work.PRFailed, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := &forge{answers: c.answers}
			pr := publish(t, f, nil)
			if pr.Status != c.status || f.created() != c.creates || (pr.Status == work.PRFailed) != (pr.Error != "") {
				t.Errorf("%+v after %v", pr, f.calls)
			}
			if pr.Status == work.PRCreated && len(f.pulls) != 1 {
				t.Errorf("%d pull requests", len(f.pulls))
			}
		})
	}
}

// exists is GitHub's answer to a pull request that is there already.
func exists(owner string) answer {
	return answer{status: 422, says: "Validation Failed", errors: []map[string]string{
		{"resource": "PullRequest", "code": "custom", "message": "A pull request already exists for " + owner + ":" + branch + "."},
	}}
}

func TestRenamedOwnersPullRequestIsFound(t *testing.T) {
	for name, f := range map[string]*forge{
		"made":                    {renamed: "newname"},
		"found":                   {renamed: "newname", pulls: []map[string]any{pull(1, "open")}},
		"made, and answered late": {renamed: "newname", answers: []answer{{status: 502, make: true}}},
	} {
		pr := publish(t, f, nil)
		if pr.Status != work.PRCreated || pr.Number != 1 || pr.Error != "" || len(f.pulls) != 1 {
			t.Errorf("%s: pull request = %+v, %d of them, want one without an error, after %v", name, pr, len(f.pulls), f.calls)
		}
	}
}

// TestPullRequestOfAnOwnerThatWasRenamedMeanwhileIsFound: the refusal names the owner as it is called now.
func TestPullRequestOfAnOwnerThatWasRenamedMeanwhileIsFound(t *testing.T) {
	f := &renaming{forge: forge{pulls: []map[string]any{pull(7, "open")}, answers: []answer{exists("newname")}}}
	f.bodies = map[string]map[string]any{}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	pr := publish(t, &forge{}, func(r *pullrequest.Request) { r.Spec.PR.APIURL, r.HTTPClient = server.URL+"/api", server.Client() })
	if pr.Status != work.PRCreated || pr.Number != 7 {
		t.Errorf("pull request = %+v, want number 7, after %v", pr, f.calls)
	}
}

// renaming is a forge whose owner is renamed once pull requests have been listed.
type renaming struct{ forge }

func (f *renaming) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Query().Get("head"), owner+":") {
		reply(w, http.StatusOK, []any{})
		return
	}
	if strings.HasPrefix(r.URL.Query().Get("head"), "newname:") {
		reply(w, http.StatusOK, f.pulls)
		return
	}
	f.forge.ServeHTTP(w, r)
}

func TestForgeThatRedirectsToAnotherHostLearnsNoToken(t *testing.T) {
	var learnt atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { learnt.Add(1) }))
	t.Cleanup(other.Close)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(server.Close)
	pr := publish(t, &forge{}, func(r *pullrequest.Request) { r.Spec.PR.APIURL, r.HTTPClient = server.URL+"/api", server.Client() })
	if pr.Status != work.PRFailed || !strings.Contains(pr.Error, "the forge redirects to another host") || learnt.Load() != 0 {
		t.Errorf("pull request = %+v, other host called %d times, want a failure and no call", pr, learnt.Load())
	}
}

func TestPushThatGitHubDoesNotKnowYet(t *testing.T) {
	invalid := func(field string) answer {
		return answer{status: 422, says: "Validation Failed", errors: []map[string]string{{"resource": "PullRequest", "field": field, "code": "invalid"}}}
	}
	none := answer{status: 422, says: "Validation Failed", errors: []map[string]string{
		{"resource": "PullRequest", "code": "custom", "message": "No commits between main and " + branch},
	}}
	unreadable := answer{status: 422, says: "Validation Failed: not all refs are readable"}
	for name, c := range map[string]struct {
		answers []answer
		status  work.PRStatus
		creates int
	}{
		"head invalid":             {[]answer{invalid("head"), invalid("head")}, work.PRCreated, 3},
		"no commits yet":           {[]answer{none}, work.PRCreated, 2},
		"refs not readable":        {[]answer{unreadable}, work.PRCreated, 2},
		"head invalid for good":    {[]answer{invalid("head"), invalid("head"), invalid("head"), invalid("head"), invalid("head")}, work.PRFailed, 5},
		"base invalid":             {[]answer{invalid("base")}, work.PRFailed, 1},
		"a field that is too long": {[]answer{invalid("title")}, work.PRFailed, 1},
	} {
		f := &forge{answers: c.answers}
		pr := publish(t, f, nil)
		if pr.Status != c.status || f.created() != c.creates {
			t.Errorf("%s: pull request = %+v after %d tries, want %s after %d", name, pr, f.created(), c.status, c.creates)
		}
	}
}

func TestTeamsAreAskedAsTeams(t *testing.T) {
	for name, c := range map[string]struct {
		reviewers, unknown []string
		people, teams      string // of the last request
		says               string
	}{
		"team and person":      {[]string{"acme/backend", "alice"}, nil, "[alice]", "[backend]", ""},
		"as in CODEOWNERS":     {[]string{"@acme/backend", "@alice"}, nil, "[alice]", "[backend]", ""},
		"a team alone":         {[]string{"acme/backend"}, nil, "<nil>", "[backend]", ""},
		"an unknown person":    {[]string{"nobody", "acme/backend", "alice"}, []string{"nobody"}, "[alice]", "<nil>", "reviewer nobody: "},
		"an unknown team":      {[]string{"acme/none", "alice"}, []string{"none"}, "[alice]", "<nil>", "reviewer acme/none: "},
		"nobody that it knows": {[]string{"nobody"}, []string{"nobody"}, "[nobody]", "<nil>", "reviewer nobody: "},
	} {
		f := &forge{unknown: c.unknown}
		pr := publish(t, f, func(r *pullrequest.Request) { r.Spec.PR.Reviewers = c.reviewers })
		asked := f.bodies["POST /api/repos/owner/name/pulls/1/requested_reviewers"]
		if pr.Status != work.PRCreated || !strings.Contains(pr.Error, c.says) || c.says == "" && pr.Error != "" {
			t.Errorf("%s: pull request = %+v, want an error with %q", name, pr, c.says)
		}
		if strings.Contains(pr.Error, "alice") || strings.Contains(pr.Error, "backend") {
			t.Errorf("%s: error = %s, want nothing of those that the forge knows", name, pr.Error)
		}
		if people, teams := fmt.Sprint(asked["reviewers"]), fmt.Sprint(asked["team_reviewers"]); people != c.people || teams != c.teams {
			t.Errorf("%s: asked people %s and teams %s, want %s and %s", name, people, teams, c.people, c.teams)
		}
	}
}

func TestBadLabelDoesNotLoseTheOthers(t *testing.T) {
	f := &forge{unknown: []string{"too long"}}
	pr := publish(t, f, func(r *pullrequest.Request) { r.Spec.PR.Labels = []string{"too long", "bot"} })
	if got := fmt.Sprint(f.bodies["POST /api/repos/owner/name/issues/1/labels"]["labels"]); pr.Status != work.PRCreated || !strings.Contains(pr.Error, "label too long: ") || got != "[bot]" {
		t.Errorf("pull request = %+v, last labels %s, want an error about one and [bot]", pr, got)
	}
}

func limitHeader(d time.Duration) http.Header {
	return http.Header{
		"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Limit": {"60"}, "X-Ratelimit-Reset": {fmt.Sprint(time.Now().Add(d).Unix())},
	}
}

// TestSilentForgeFailsInTime: neither a forge that takes the call and never answers, nor one that stops within its answer,
// holds finished work up.
func TestSilentForgeFailsInTime(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"silent":         func(http.ResponseWriter) {},
		"stops in there": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "[{"); w.(http.Flusher).Flush() },
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				begin(w)
				<-r.Context().Done()
			}))
			t.Cleanup(server.Close)
			pr := publish(t, &forge{}, func(r *pullrequest.Request) {
				r.Spec.PR.APIURL, r.HTTPClient, r.Patience = server.URL, server.Client(), 200*time.Millisecond
			})
			if pr.Status != work.PRFailed || !strings.Contains(pr.Error, "the forge gave no answer within 200ms") || calls.Load() < 2 {
				t.Errorf("%+v after %d calls", pr, calls.Load())
			}
		})
	}
}

func TestBadTokenFailsWithASentence(t *testing.T) {
	for name, c := range map[string]struct{ token, says string }{
		"wrong": {"wrong", "401"},
		"none":  {"", "DROVER_FORGE_TOKEN"},
	} {
		pr := publish(t, &forge{}, func(r *pullrequest.Request) { r.Token = c.token })
		if pr.Status != work.PRFailed || !strings.Contains(pr.Error, c.says) || strings.Contains(pr.Error, token) {
			t.Errorf("%s: %+v", name, pr)
		}
	}
}

func TestPlainRemoteGetsTheTextOfRequestPull(t *testing.T) {
	plain := func(text string, err error) work.PullRequest {
		return publish(t, &forge{}, func(r *pullrequest.Request) {
			r.Spec.PR.Provider = work.ProviderRequestPull
			r.Text = func(context.Context) (string, error) { return text, err }
		})
	}
	if pr := plain("The following changes, "+token, nil); pr.Status != work.PRCreated || !strings.HasSuffix(pr.Body, "\nThe following changes, *") || !strings.Contains(pr.Body, "3 passed") {
		t.Errorf("%+v", pr)
	}
	if pr := plain("", errors.New("no such commit")); pr.Status != work.PRFailed || pr.Error != "no such commit" {
		t.Errorf("%+v", pr)
	}
}

func TestNothingToRequest(t *testing.T) {
	for _, change := range []func(*pullrequest.Request){
		func(r *pullrequest.Request) { r.Spec.PR.Provider = work.ProviderNone },
		func(r *pullrequest.Request) { r.Changes = work.Changes{} },
	} {
		f := &forge{}
		if pr := publish(t, f, change); pr.Status != work.PRNone || len(f.calls) > 0 {
			t.Errorf("%+v after %v", pr, f.calls)
		}
	}
}

func TestRepositoryIsNamedByItsURL(t *testing.T) {
	for repository, ok := range map[string]bool{
		"https://forge.example/owner/name": true, "git@forge.example:owner/name.git": true, "ssh://git@forge.example/owner/name.git": true,
		"https://forge.example/owner/name.git/": true, "https://forge.example//owner/name/": true,
		"https://forge.example/name": false, "https://forge.example/group/owner/name": false,
	} {
		pr := publish(t, &forge{}, func(r *pullrequest.Request) { r.Spec.Repository = repository })
		if (pr.Status == work.PRCreated) != ok {
			t.Errorf("%s: %+v", repository, pr)
		}
	}
}
