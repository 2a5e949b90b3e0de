package consuld

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Version is the Consul version whose behaviour the server has, and the one it reports.
const Version = "1.14.11"

const (
	datacenter    = "dc1"
	nodeAddress   = "127.0.0.1"
	serverAddress = "127.0.0.1:8300"
)

// Options configures a Server; the zero value is good.
type Options struct {
	// NodeName is the name of the one node. Default "consuld".
	NodeName string
}

// Server is an embedded Consul server and its agent. It is an http.Handler, safe for concurrent use.
type Server struct {
	node    node
	handler http.Handler
	closed  chan struct{}   // closed by Close: ends blocking queries
	life    context.Context // ends with Close
	end     context.CancelFunc
	probing sync.WaitGroup // HTTP checks that are being run

	mu       sync.Mutex
	index    uint64 // of the last write, as raft's applied index
	kv       kvTable
	sessions map[string]*session
	catalog  catalog
	agent    agent
	watches  map[*watch]struct{}
	timers   map[*time.Timer]struct{} // every timer armed
}

// New starts a server. Close it after use.
func New(opts Options) *Server {
	if opts.NodeName == "" {
		opts.NodeName = "consuld"
	}
	s := &Server{
		node:     newNode(opts.NodeName),
		closed:   make(chan struct{}),
		kv:       newKVTable(),
		sessions: map[string]*session{},
		catalog:  newCatalog(),
		agent:    agent{services: map[string]*nodeService{}, checks: map[string]*agentCheck{}},
		watches:  map[*watch]struct{}{},
		timers:   map[*time.Timer]struct{}{},
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.handler = printablePaths(s.routes())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply(s.registerSelf)
	s.every(antiEntropyInterval, s.antiEntropy)
	s.every(reapInterval, s.reapCriticalServices)
	s.every(tombstoneGranularity, s.forgetOld)
	return s
}

// Close stops every timer and ends the blocking queries that wait. It is safe to call twice.
func (s *Server) Close() {
	s.stopAll()
	s.end()
	s.probing.Wait()
}

func (s *Server) stopAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return
	}
	close(s.closed)
	for t := range s.timers {
		t.Stop()
	}
	clear(s.timers)
}

func (s *Server) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// ServeHTTP answers one API call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// after runs f under the mutex once d has passed, unless the timer is stopped or the server closed before.
func (s *Server) after(d time.Duration, f func()) *time.Timer {
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		// A timer that fired while its owner was stopping it is no longer in the set.
		if _, armed := s.timers[t]; armed {
			delete(s.timers, t)
			f()
		}
	})
	s.timers[t] = struct{}{}
	return t
}

// stop disarms a timer of after; nil is allowed.
func (s *Server) stop(t *time.Timer) {
	if t != nil {
		t.Stop()
		delete(s.timers, t)
	}
}

// every runs f under the mutex each time d has passed.
func (s *Server) every(d time.Duration, f func()) {
	s.after(d, func() {
		f()
		s.every(d, f)
	})
}

// endpoint answers one API call with a value to be sent as JSON, or with nothing when it has answered itself or has
// nothing to say.
type endpoint func(w http.ResponseWriter, r *http.Request) (any, error)

// httpError is an error with a status of its own; every other error is a 500, as in Consul.
type httpError struct {
	status int
	reason string
}

func (e *httpError) Error() string { return e.reason }

func badRequest(format string, args ...any) error {
	return &httpError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// refusal is a 500 that Consul answers on purpose, in Consul's words.
func refusal(format string, args ...any) error {
	return &httpError{http.StatusInternalServerError, fmt.Sprintf(format, args...)}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, route := range []struct {
		method, path string
		serve        endpoint
	}{
		{"GET,PUT,DELETE", "/v1/kv/", s.serveKV},
		{"PUT", "/v1/txn", s.serveTxn},

		{"PUT", "/v1/session/create", s.createSession},
		{"PUT", "/v1/session/destroy/", s.destroySession},
		{"PUT", "/v1/session/renew/", s.renewSession},
		{"GET", "/v1/session/info/", s.sessionInfo},
		{"GET", "/v1/session/node/", s.nodeSessions},
		{"GET", "/v1/session/list", s.listSessions},

		{"GET", "/v1/agent/self", s.agentSelf},
		{"GET", "/v1/agent/members", s.agentMembers},
		{"GET", "/v1/agent/services", s.agentServices},
		{"GET", "/v1/agent/service/", s.agentService},
		{"PUT", "/v1/agent/service/register", s.registerService},
		{"PUT", "/v1/agent/service/deregister/", s.deregisterService},
		{"GET", "/v1/agent/checks", s.agentChecks},
		{"PUT", "/v1/agent/check/register", s.registerCheck},
		{"PUT", "/v1/agent/check/deregister/", s.deregisterCheck},
		{"PUT", "/v1/agent/check/update/", s.updateCheck},
		{"PUT", "/v1/agent/check/pass/", s.setCheck("/v1/agent/check/pass/", passing)},
		{"PUT", "/v1/agent/check/warn/", s.setCheck("/v1/agent/check/warn/", warning)},
		{"PUT", "/v1/agent/check/fail/", s.setCheck("/v1/agent/check/fail/", critical)},

		{"GET", "/v1/catalog/datacenters", s.catalogDatacenters},
		{"GET", "/v1/catalog/nodes", s.catalogNodes},
		{"GET", "/v1/catalog/node/", s.catalogNode},
		{"GET", "/v1/catalog/services", s.catalogServices},
		{"GET", "/v1/catalog/service/", s.catalogService},
		{"PUT", "/v1/catalog/deregister", s.catalogDeregister},

		{"GET", "/v1/health/service/", s.healthService},
		{"GET", "/v1/health/checks/", s.healthChecks},
		{"GET", "/v1/health/node/", s.healthNode},
		{"GET", "/v1/health/state/", s.healthState},

		{"GET", "/v1/status/leader", func(http.ResponseWriter, *http.Request) (any, error) { return serverAddress, nil }},
		{"GET", "/v1/status/peers", func(http.ResponseWriter, *http.Request) (any, error) { return []string{serverAddress}, nil }},
	} {
		mux.Handle(route.path, serveJSON(strings.Split(route.method, ","), route.serve))
	}
	mux.HandleFunc("/", unknownRoute)
	return mux
}

func unknownRoute(w http.ResponseWriter, r *http.Request) {
	reason := "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'"
	if strings.Contains(r.URL.Path, "/v1/") {
		reason = "Invalid URL path: not a recognized HTTP API endpoint"
	}
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprintln(w, reason)
}

// printablePaths refuses paths with unprintable characters, as Consul does before it routes.
func printablePaths(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.ContainsFunc(r.URL.Path, func(c rune) bool { return !unicode.IsPrint(c) }) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// serveJSON makes a handler of an endpoint: method check, error to status, value to JSON.
func serveJSON(methods []string, serve endpoint) http.Handler {
	allow := strings.Join(append([]string{http.MethodOptions}, methods...), ",")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
		if !slices.Contains(methods, r.Method) {
			w.Header().Set("Allow", allow)
			if r.Method != http.MethodOptions {
				writeError(w, &httpError{http.StatusMethodNotAllowed, fmt.Sprintf("method %s not allowed", r.Method)})
			}
			return
		}
		if dc := r.URL.Query().Get("dc"); dc != "" && dc != datacenter {
			writeError(w, refusal("No path to datacenter"))
			return
		}
		value, err := serve(w, r)
		switch {
		case err != nil:
			writeError(w, err)
		case value != nil:
			writeJSON(w, r, http.StatusOK, value)
		}
	})
}

func writeError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if e, ok := errors.AsType[*httpError](err); ok {
		status = e.status
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, err.Error()) // the client has gone; nobody is left to tell
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, value any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	if r.URL.Query().Has("pretty") {
		encoder.SetIndent("", "    ")
	}
	if err := encoder.Encode(value); err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // as above
}

// tail is what follows the route's prefix in the path; an empty one is refused with the given reason.
func tail(r *http.Request, prefix, missing string) (string, error) {
	rest := strings.TrimPrefix(r.URL.Path, prefix)
	if rest == "" && missing != "" {
		return "", badRequest("%s", missing)
	}
	return rest, nil
}

// decodeStrict is decodeBody that refuses fields nobody knows, as Consul does for services and checks.
func decodeStrict(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return badRequest("Request decode failed: %v", err)
	}
	return nil
}

// decodeBody reads the request's JSON; what does not parse is the caller's fault.
func decodeBody(r *http.Request, into any) error {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		return badRequest("Request decode failed: %v", err)
	}
	return nil
}
