// Package forgetest is a small forge: the part of GitHub's REST API that makes
// and finds pull requests, kept in memory.
package forgetest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Pull is a pull request.
type Pull struct {
	Number    int      `json:"number"`
	State     string   `json:"state"`
	Title     string   `json:"title"`
	Body      string   `json:"body"`
	URL       string   `json:"html_url"`
	Head      Ref      `json:"head"`
	Base      Ref      `json:"base"`
	Draft     bool     `json:"draft"`
	Labels    []string `json:"-"`
	Reviewers []string `json:"-"` // people
	Teams     []string `json:"-"`
	repo      string
}

// Ref is a branch of a pull request.
type Ref struct {
	Ref   string `json:"ref"`
	Label string `json:"label"`
}

// Server is a forge. Its methods may be called concurrently.
type Server struct {
	url   string
	token string
	http  *httptest.Server
	mu    sync.Mutex
	pulls []Pull
	shut  bool
	rules map[string]*Rules
}

// Rules are how the forge treats one repository.
type Rules struct {
	Renamed     string   // owner/name under which it answers now; the old name redirects
	HeadInvalid int      // so many creations are refused as if the branch were not there yet
	LostAnswers int      // so many creations succeed and are answered with 502
	Unknown     []string // reviewers, teams and labels that are refused, with all that are named beside them
}

// Treat sets the rules of a repository, named owner/name.
func (s *Server) Treat(repository string, rules Rules) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules[repository] = &rules
}

// New starts a forge that takes token, for the length of a test.
func New(t testing.TB, token string) *Server {
	t.Helper()
	s := Start(token)
	t.Cleanup(s.Close)
	return s
}

// Start starts a forge that takes token, until Close.
func Start(token string) *Server {
	s := &Server{token: token, rules: map[string]*Rules{}}
	mux := http.NewServeMux()
	for _, prefix := range []string{"/repos/{owner}/{repo}", "/repositories/{owner}/{repo}"} { // as GitHub's /repositories/{id}
		mux.HandleFunc("GET "+prefix, s.repository)
		mux.HandleFunc("GET "+prefix+"/pulls", s.list)
		mux.HandleFunc("POST "+prefix+"/pulls", s.create)
		mux.HandleFunc("POST "+prefix+"/issues/{number}/labels", s.label)
		mux.HandleFunc("POST "+prefix+"/pulls/{number}/requested_reviewers", s.review)
	}
	s.http = httptest.NewServer(s.authorized(s.redirected(mux)))
	s.url = s.http.URL
	return s
}

// Close ends the forge.
func (s *Server) Close() { s.http.Close() }

// URL is the root of the REST API.
func (s *Server) URL() string { return s.url + "/" }

// PullsOf returns the pull requests that were made in a repository, named owner/name as at first.
func (s *Server) PullsOf(repository string) []Pull {
	now := cmp.Or(s.rulesOf(repository).Renamed, repository)
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Pull
	for _, p := range s.pulls {
		if p.repo == now {
			found = append(found, p)
		}
	}
	return found
}

// Pulls returns every pull request that was made.
func (s *Server) Pulls() []Pull {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Pull(nil), s.pulls...)
}

// Refuse has the forge refuse to make pull requests, or take them again.
func (s *Server) Refuse(shut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut = shut
}

func (s *Server) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+s.token {
			answer(w, http.StatusUnauthorized, map[string]string{"message": "Bad credentials"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// redirected answers calls to a repository's old name as GitHub does.
func (s *Server) redirected(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/repos/"), "/", 3)
		if !strings.HasPrefix(r.URL.Path, "/repos/") || len(parts) < 2 {
			next.ServeHTTP(w, r)
			return
		}
		now := s.rulesOf(parts[0] + "/" + parts[1]).Renamed
		if now == "" {
			next.ServeHTTP(w, r)
			return
		}
		code := http.StatusMovedPermanently
		if r.Method != http.MethodGet {
			code = http.StatusTemporaryRedirect
		}
		to := "/repositories/" + strings.Join(append([]string{now}, parts[2:]...), "/")
		http.Redirect(w, r, to+"?"+r.URL.RawQuery, code)
	})
}

// rulesOf returns a copy of the repository's rules.
func (s *Server) rulesOf(repository string) Rules {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rules := s.rules[repository]; rules != nil {
		return *rules
	}
	return Rules{}
}

func (s *Server) repository(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, map[string]any{
		"full_name": name(r), "name": r.PathValue("repo"), "owner": map[string]string{"login": r.PathValue("owner")}, "default_branch": "main",
	})
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := []Pull{}
	for _, p := range s.pulls {
		if head := r.URL.Query().Get("head"); p.repo == name(r) && (head == "" || head == p.Head.Label) {
			found = append(found, p)
		}
	}
	answer(w, http.StatusOK, found)
}

func (s *Server) label(w http.ResponseWriter, r *http.Request) {
	var labels []string
	s.decorate(w, r, &labels, func(p *Pull) (names []string, add func()) {
		return labels, func() { p.Labels = append(p.Labels, labels...) }
	})
}

func (s *Server) review(w http.ResponseWriter, r *http.Request) {
	var want struct {
		Reviewers []string
		Teams     []string `json:"team_reviewers"`
	}
	s.decorate(w, r, &want, func(p *Pull) (names []string, add func()) {
		if slices.ContainsFunc(want.Reviewers, func(name string) bool { return strings.Contains(name, "/") }) {
			return nil, nil // a team is no person
		}
		return slices.Concat(want.Reviewers, want.Teams), func() {
			p.Reviewers, p.Teams = append(p.Reviewers, want.Reviewers...), append(p.Teams, want.Teams...)
		}
	})
}

// decorate reads a request into want and adds what it names to a pull request, unless one of the names is refused, or
// named returns no add.
func (s *Server) decorate(w http.ResponseWriter, r *http.Request, want any, named func(*Pull) (names []string, add func())) {
	if err := json.NewDecoder(r.Body).Decode(want); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"message": "Problems parsing JSON"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.pulls {
		p := &s.pulls[i]
		if p.repo != name(r) || strconv.Itoa(p.Number) != r.PathValue("number") {
			continue
		}
		names, add := named(p)
		unknown := s.rulesFor(name(r)).Unknown
		if add == nil || slices.ContainsFunc(names, func(name string) bool { return slices.Contains(unknown, name) }) {
			answer(w, http.StatusUnprocessableEntity, map[string]string{
				"message": "Reviews may only be requested from collaborators. One or more of the users or teams you specified is not a collaborator of the " + name(r) + " repository.",
			})
			return
		}
		add()
		answer(w, http.StatusCreated, nil)
		return
	}
	answer(w, http.StatusNotFound, map[string]string{"message": "Not Found"})
}

// rulesFor returns the rules of a repository by its present name. The caller holds mu.
func (s *Server) rulesFor(now string) *Rules {
	for name, rules := range s.rules {
		if name == now && rules.Renamed == "" || rules.Renamed == now {
			return rules
		}
	}
	return &Rules{}
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	var want struct {
		Title, Head, Base, Body string
		Draft                   bool
	}
	if err := json.NewDecoder(r.Body).Decode(&want); err != nil || want.Head == "" || want.Base == "" || want.Title == "" {
		answer(w, http.StatusUnprocessableEntity, map[string]string{"message": "Validation Failed"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		answer(w, http.StatusForbidden, map[string]string{"message": "Resource not accessible by personal access token"})
		return
	}
	rules := s.rulesFor(name(r))
	if rules.HeadInvalid > 0 {
		rules.HeadInvalid--
		answer(w, http.StatusUnprocessableEntity, map[string]any{
			"message": "Validation Failed", "errors": []map[string]string{{"resource": "PullRequest", "field": "head", "code": "invalid"}},
		})
		return
	}
	branch := want.Head[strings.LastIndex(want.Head, ":")+1:]
	for _, p := range s.pulls {
		if p.repo == name(r) && p.Head.Ref == branch {
			answer(w, http.StatusUnprocessableEntity, map[string]any{
				"message": "Validation Failed",
				"errors":  []map[string]string{{"resource": "PullRequest", "code": "custom", "message": "A pull request already exists for " + p.Head.Label + "."}},
			})
			return
		}
	}
	number := len(s.pulls) + 1
	p := Pull{
		Number: number, State: "open", Title: want.Title, Body: want.Body, Draft: want.Draft, repo: name(r),
		URL:  fmt.Sprintf("%s/%s/pull/%d", s.url, name(r), number),
		Head: Ref{Ref: branch, Label: r.PathValue("owner") + ":" + branch}, Base: Ref{Ref: want.Base},
	}
	s.pulls = append(s.pulls, p)
	if rules.LostAnswers > 0 {
		rules.LostAnswers--
		answer(w, http.StatusBadGateway, map[string]string{"message": "Server Error"})
		return
	}
	answer(w, http.StatusCreated, p)
}

func name(r *http.Request) string { return r.PathValue("owner") + "/" + r.PathValue("repo") }

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client has gone; there is nobody to tell
}
