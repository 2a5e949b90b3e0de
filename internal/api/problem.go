package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"drover/internal/control"
	"drover/internal/work"
)

// ErrUnauthorized says that the server wants another token, or one at all.
var ErrUnauthorized = errors.New("not authorized")

// ErrForbidden says that the token is known, and its role is too little.
var ErrForbidden = errors.New("forbidden")

// errNoSuchCall is not work.ErrNotFound: it says nothing about items.
var errNoSuchCall = errors.New("no such call")

const problemType = "application/problem+json"

// retryAfter is how many seconds a client should wait for a new leader.
const retryAfter = "1"

// problem is the body of an error (RFC 9457). Code is what clients decide on.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// problems is the only mapping between errors and what is sent. The first
// sentinel that an error wraps counts.
var problems = []struct {
	err    error
	code   string
	status int
}{
	{ErrUnauthorized, "unauthorized", http.StatusUnauthorized},
	{ErrForbidden, "forbidden", http.StatusForbidden},
	{control.ErrChanged, "changed", http.StatusPreconditionFailed},
	{work.ErrNoLeader, "no_leader", http.StatusServiceUnavailable},
	{work.ErrUnknownOutcome, "unknown_outcome", http.StatusServiceUnavailable},
	{work.ErrFenced, "no_leader", http.StatusServiceUnavailable},
	{work.ErrUnavailable, "unavailable", http.StatusServiceUnavailable},
	{work.ErrIllegalTransition, "illegal_transition", http.StatusConflict},
	{work.ErrConflict, "conflict", http.StatusConflict},
	{work.ErrNotFound, "not_found", http.StatusNotFound},
	{work.ErrInvalid, "invalid", http.StatusBadRequest},
	{errNoSuchCall, "no_such_call", http.StatusNotFound},
}

func problemOf(err error) problem {
	for _, p := range problems {
		if errors.Is(err, p.err) {
			return problem{Title: http.StatusText(p.status), Status: p.status, Code: p.code, Detail: err.Error()}
		}
	}
	const status = http.StatusInternalServerError
	return problem{Title: http.StatusText(status), Status: status, Code: "internal", Detail: err.Error()}
}

func writeProblem(w http.ResponseWriter, err error) {
	p := problemOf(err)
	switch p.Status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter)
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client has gone; nobody is left to tell
}

// Error is what a server answered instead of what was asked for. It wraps the
// sentinel that the server's own error wrapped.
type Error struct {
	Status int    // of HTTP
	Code   string // empty if the answer was not drover's
	Detail string
}

func (e *Error) Error() string { return e.Detail }

// Unwrap returns the sentinel, nil if the server's error was none of them.
func (e *Error) Unwrap() error {
	for _, p := range problems {
		if p.code == e.Code {
			return p.err
		}
	}
	if e.Code == "" && e.Status >= http.StatusBadGateway {
		return work.ErrUnavailable
	}
	return nil
}

// readProblem makes an error of an answer. What does not come from drover (a
// proxy in between) is described by its status.
func readProblem(resp *http.Response, body []byte) error {
	var p problem
	if strings.HasPrefix(resp.Header.Get("Content-Type"), problemType) && json.Unmarshal(body, &p) == nil && p.Code != "" {
		return &Error{Status: resp.StatusCode, Code: p.Code, Detail: p.Detail}
	}
	return &Error{Status: resp.StatusCode, Detail: resp.Request.URL.Host + " answered " + resp.Status + ", not as a drover server does"}
}
