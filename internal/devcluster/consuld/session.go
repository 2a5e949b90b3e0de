package consuld

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

const (
	// minSessionTTL and maxSessionTTL are Consul's session_ttl_min and its fixed upper bound.
	minSessionTTL = 10 * time.Second
	maxSessionTTL = 24 * time.Hour

	// sessionTTLMultiplier is Consul's grace: a session ends when it was not renewed for twice its TTL.
	sessionTTLMultiplier = 2

	defaultLockDelay = 15 * time.Second

	// lockDelayUnit: a lock delay under this many nanoseconds is meant in seconds.
	lockDelayUnit = 1000
)

const (
	behaviorRelease = "release"
	behaviorDelete  = "delete"
)

// session is one session, in Consul's JSON.
type session struct {
	ID            string
	Name          string
	Node          string
	LockDelay     time.Duration
	Behavior      string
	TTL           string
	NodeChecks    []string
	ServiceChecks []serviceCheck
	Checks        []string `json:",omitempty"` // before NodeChecks there was this
	CreateIndex   uint64
	ModifyIndex   uint64

	expiry *time.Timer
}

type serviceCheck struct {
	ID        string
	Namespace string
}

// UnmarshalJSON reads LockDelay as a duration ("15s"), nanoseconds, or, when small, seconds.
func (x *session) UnmarshalJSON(data []byte) error {
	type plain session
	aux := struct {
		LockDelay any
		*plain
	}{plain: (*plain)(x)}
	if err := json.Unmarshal(data, &aux); err != nil {
		return err
	}
	var delay time.Duration
	switch v := aux.LockDelay.(type) {
	case nil:
		return nil
	case string:
		parsed, err := time.ParseDuration(v)
		if err != nil {
			return err
		}
		delay = parsed
	case float64:
		delay = time.Duration(v)
	}
	if delay < lockDelayUnit {
		delay *= time.Second
	}
	x.LockDelay = delay
	return nil
}

// boundTo lists the checks whose loss ends the session.
func (x *session) boundTo() []string {
	ids := slices.Concat(x.Checks, x.NodeChecks)
	for _, c := range x.ServiceChecks {
		ids = append(ids, c.ID)
	}
	return ids
}

// settleChecks applies Consul's defaults for the old and the new way to name node checks: naming one way drops the
// default of the other.
func (x *session) settleChecks() {
	switch {
	case len(x.Checks) == 0:
		x.NodeChecks = []string{}
	case slices.Equal(x.Checks, []string{serfHealth}), len(x.NodeChecks) == 0:
		x.Checks = nil
	}
}

func (s *Server) createSession(_ http.ResponseWriter, r *http.Request) (any, error) {
	x := &session{
		Node:       s.node.Node,
		NodeChecks: []string{serfHealth},
		Checks:     []string{serfHealth},
		LockDelay:  defaultLockDelay,
		Behavior:   behaviorRelease,
	}
	if r.ContentLength > 0 {
		if err := decodeBody(r, x); err != nil {
			return nil, err
		}
	}
	x.settleChecks()
	ttl, err := x.validate()
	if err != nil {
		return nil, err
	}
	x.ID = newUUID()

	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.try(func(w *write) error { return s.addSession(w, x) }); err != nil {
		return nil, fmt.Errorf("apply failed: %w", err)
	}
	s.armSession(x, ttl)
	return struct{ ID string }{x.ID}, nil
}

// validate checks what needs no look at the state, and returns the TTL, 0 for none.
func (x *session) validate() (time.Duration, error) {
	switch x.Behavior {
	case "":
		x.Behavior = behaviorRelease
	case behaviorRelease, behaviorDelete:
	default:
		return 0, refusal("Invalid Behavior setting '%s'", x.Behavior)
	}
	if x.TTL == "" {
		return 0, nil
	}
	ttl, err := time.ParseDuration(x.TTL)
	if err != nil {
		return 0, refusal("Session TTL '%s' invalid: %v", x.TTL, err)
	}
	if ttl != 0 && (ttl < minSessionTTL || ttl > maxSessionTTL) {
		return 0, refusal("Invalid Session TTL '%d', must be between [%v=%v]", ttl, minSessionTTL, maxSessionTTL)
	}
	return ttl, nil
}

func (s *Server) addSession(w *write, x *session) error {
	if x.Node != s.node.Node {
		return refusal("Missing node registration")
	}
	for _, id := range x.boundTo() {
		check := s.catalog.checks[id]
		if check == nil {
			return refusal("Missing check '%s' registration", id)
		}
		if check.Status == critical {
			return refusal("Check '%s' is in %s state", id, critical)
		}
	}
	x.CreateIndex, x.ModifyIndex = w.index, w.index
	s.sessions[x.ID] = x
	s.sessionsMoved(w)
	return nil
}

func (s *Server) sessionsMoved(w *write) {
	s.catalog.index.sessions = w.index
	w.tables[sessionsChanged] = true
}

// armSession lets a session with a TTL end when nobody renews it.
func (s *Server) armSession(x *session, ttl time.Duration) {
	s.stop(x.expiry)
	if ttl == 0 {
		return
	}
	x.expiry = s.after(ttl*sessionTTLMultiplier, func() {
		s.apply(func(w *write) { s.endSession(w, x.ID) })
	})
}

// endSession removes a session and releases what it holds, in one step. An unknown one is no error.
func (s *Server) endSession(w *write, id string) {
	x := s.sessions[id]
	if x == nil {
		return
	}
	s.stop(x.expiry)
	delete(s.sessions, id)
	s.sessionsMoved(w)
	s.kv.release(w, x)
}

// endSessionsOf ends every session bound to a check.
func (s *Server) endSessionsOf(w *write, check string) {
	for _, x := range s.sortedSessions() {
		if slices.Contains(x.boundTo(), check) {
			s.endSession(w, x.ID)
		}
	}
}

func (s *Server) sortedSessions() []*session {
	list := []*session{}
	for _, id := range slices.Sorted(maps.Keys(s.sessions)) {
		list = append(list, s.sessions[id])
	}
	return list
}

func (s *Server) destroySession(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := tail(r, "/v1/session/destroy/", missingSession)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[id] != nil {
		s.apply(func(w *write) { s.endSession(w, id) })
	}
	return true, nil
}

const missingSession = "Missing session"

func (s *Server) renewSession(_ http.ResponseWriter, r *http.Request) (any, error) {
	id, err := tail(r, "/v1/session/renew/", missingSession)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sessions[id]
	if x == nil {
		return nil, &httpError{http.StatusNotFound, fmt.Sprintf("Session id '%s' not found", id)}
	}
	ttl, err := x.validate()
	if err != nil {
		return nil, err
	}
	s.armSession(x, ttl)
	return []session{*x}, nil
}

func (s *Server) sessionInfo(w http.ResponseWriter, r *http.Request) (any, error) {
	id, err := tail(r, "/v1/session/info/", missingSession)
	if err != nil {
		return nil, err
	}
	return s.query(w, r, func() view {
		x := s.sessions[id]
		v := s.lookAtSessions(func(y *session) bool { return y == x })
		v.notFound = x == nil
		return v
	})
}

func (s *Server) listSessions(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() view {
		return s.lookAtSessions(func(*session) bool { return true })
	})
}

func (s *Server) nodeSessions(w http.ResponseWriter, r *http.Request) (any, error) {
	name, err := tail(r, "/v1/session/node/", missingNodeName)
	if err != nil {
		return nil, err
	}
	return s.query(w, r, func() view {
		return s.lookAtSessions(func(x *session) bool { return x.Node == name })
	})
}

func (s *Server) lookAtSessions(wanted func(*session) bool) view {
	return view{index: s.catalog.index.sessions, touched: onTable(sessionsChanged), body: func() any {
		list := []session{}
		for _, x := range s.sortedSessions() {
			if wanted(x) {
				list = append(list, *x)
			}
		}
		return list
	}}
}

// newUUID makes a random id in the form Consul's have.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}
