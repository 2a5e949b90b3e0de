// Package forgetest is a small forge: the part of GitHub's REST API that makes
// and finds pull requests, kept in memory.
package forgetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Pull is a pull request.
type Pull struct {
	Number int    `json:"number"`
	State  string `json:"state"`
	Title  string `json:"title"`
	Body   string `json:"body"`
	URL    string `json:"html_url"`
	Head   Ref    `json:"head"`
	Base   Ref    `json:"base"`
	Draft  bool   `json:"draft"`
	repo   string
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
	s := &Server{token: token}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /repos/{owner}/{repo}", s.repository)
	mux.HandleFunc("GET /repos/{owner}/{repo}/pulls", s.list)
	mux.HandleFunc("POST /repos/{owner}/{repo}/pulls", s.create)
	s.http = httptest.NewServer(s.authorized(mux))
	s.url = s.http.URL
	return s
}

// Close ends the forge.
func (s *Server) Close() { s.http.Close() }

// URL is the root of the REST API.
func (s *Server) URL() string { return s.url + "/" }

// PullsOf returns the pull requests that were made in a repository, named owner/name.
func (s *Server) PullsOf(repository string) []Pull {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Pull
	for _, p := range s.pulls {
		if p.repo == repository {
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

func (s *Server) repository(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, map[string]string{"full_name": name(r), "default_branch": "main"})
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
	answer(w, http.StatusCreated, p)
}

func name(r *http.Request) string { return r.PathValue("owner") + "/" + r.PathValue("repo") }

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client has gone; there is nobody to tell
}
