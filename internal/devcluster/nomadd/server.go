package nomadd

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// Version is the release of Nomad whose behaviour this server has.
	Version = "2.0.5"

	// defaultEventBuffer is Nomad's event_buffer_size.
	defaultEventBuffer = 100

	// defaultWait and maxWait bound a blocking query (Nomad's rpc.go).
	defaultWait = 5 * time.Minute
	maxWait     = 10 * time.Minute
)

// Options configures a Server; the zero value is a node with the machine's
// own memory and cores, and the drivers raw_exec and (if an engine answers) docker.
type Options struct {
	// DataDir holds the allocations' directories; empty means a temporary
	// one, removed by Close.
	DataDir string
	// NodeName is the node's name; empty means the host's.
	NodeName string
	// NodeIP is what ${attr.unique.network.ip-address} stands for; empty means 127.0.0.1.
	NodeIP string
	// MemoryMB is what the node offers; 0 means the machine's.
	MemoryMB int
	// Cores is what the node offers; 0 means the machine's.
	Cores int
	// MHzPerCore is the clock the node claims; 0 means 1000.
	MHzPerCore int
	// EventBuffer is how many writes the event stream can replay; 0 means 100.
	EventBuffer int
	// Drivers replaces the drivers of the node; nil means raw_exec and docker.
	Drivers map[string]Driver
	// Logger gets one line a failure; nil means none.
	Logger hclog.Logger
}

// Server is a one-node Nomad in this process: the part of Nomad's HTTP API
// that drover uses, with a scheduler and a client behind it. It is safe for
// concurrent use.
type Server struct {
	options Options
	logger  hclog.Logger
	state   *store
	drivers map[string]Driver
	mux     *http.ServeMux
	ownDir  bool

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	runners map[string]*runner
}

// New starts a server; Close must be called to end it.
func New(options Options) (*Server, error) {
	s := &Server{options: options, logger: options.Logger, drivers: options.Drivers, runners: map[string]*runner{}}
	if s.logger == nil {
		s.logger = hclog.NewNullLogger()
	}
	if s.options.DataDir == "" {
		dir, err := os.MkdirTemp("", "drover-nomad-")
		if err != nil {
			return nil, fmt.Errorf("make the data directory: %w", err)
		}
		s.options.DataDir, s.ownDir = dir, true
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if s.drivers == nil {
		s.drivers = machineDrivers(s.ctx, s.logger)
	}
	s.state = newStore(cmp.Or(options.EventBuffer, defaultEventBuffer))
	s.registerNode()
	s.routes()
	s.work.Go(s.schedule)
	return s, nil
}

// Close kills every task, waits for their ends, and removes what the server
// made on disk. Running requests end.
func (s *Server) Close() error {
	s.cancel()
	s.work.Wait()
	var errs []error
	for name, d := range s.drivers {
		if err := d.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close driver %s: %w", name, err))
		}
	}
	if s.ownDir {
		errs = append(errs, os.RemoveAll(s.options.DataDir))
	}
	return errors.Join(errs...)
}

// ServeHTTP answers Nomad's HTTP API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// httpError is an error with the status code it is answered with; any other
// error is a 500, as in Nomad.
type httpError struct {
	code int
	text string
}

func (e *httpError) Error() string { return e.text }

func coded(code int, text string) error { return &httpError{code, text} }

// handler answers with a value to be encoded as JSON, or an error; a nil
// value means that the handler wrote the answer itself.
type handler func(w http.ResponseWriter, r *http.Request) (any, error)

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	value, err := h(w, r)
	if err != nil {
		code := http.StatusInternalServerError
		if e, ok := errors.AsType[*httpError](err); ok {
			code = e.code
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(err.Error()))
		return
	}
	if value == nil {
		return
	}
	data, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
}

func (s *Server) routes() {
	s.mux = http.NewServeMux()
	for pattern, h := range map[string]handler{
		"GET /v1/jobs":        s.listJobs,
		"PUT /v1/jobs":        s.registerJob,
		"POST /v1/jobs":       s.registerJob,
		"PUT /v1/jobs/parse":  s.parseJob,
		"POST /v1/jobs/parse": s.parseJob,
		"/v1/job/":            s.job,
		"/v1/validate/job":    s.validateJob,

		"GET /v1/allocations":                  s.listAllocs,
		"GET /v1/allocation/{id}":              s.readAlloc,
		"PUT /v1/allocation/{id}/stop":         s.stopAlloc,
		"POST /v1/allocation/{id}/stop":        s.stopAlloc,
		"GET /v1/client/allocation/{id}/stats": s.allocStats,
		"GET /v1/client/fs/logs/{id}":          s.streaming(s.streamLogs),
		"GET /v1/evaluations":                  s.listEvals,
		"GET /v1/evaluation/{id}":              s.readEval,
		"GET /v1/evaluation/{id}/allocations":  s.evalAllocs,
		"GET /v1/deployments":                  empty,
		"GET /v1/nodes":                        s.listNodes,
		"GET /v1/node/{id}":                    s.readNode,
		"GET /v1/node/{id}/allocations":        s.nodeAllocs,
		"GET /v1/agent/self":                   s.agentSelf,
		"GET /v1/agent/members":                s.agentMembers,
		"GET /v1/agent/health":                 s.agentHealth,
		"GET /v1/status/leader":                s.leader,
		"GET /v1/status/peers":                 s.peers,
		"GET /v1/regions":                      s.regions,
		"GET /v1/client/stats":                 s.clientStats,
		"PUT /v1/system/gc":                    s.systemGC,
		"GET /v1/namespaces":                   s.listNamespaces,
		"GET /v1/namespace/{name}":             s.readNamespace,
		"PUT /v1/namespace":                    s.putNamespace,
		"PUT /v1/namespace/{name}":             s.putNamespace,
		"GET /v1/vars":                         s.listVariables,
		"GET /v1/var/{path...}":                s.readVariable,
		"PUT /v1/var/{path...}":                s.putVariable,
		"POST /v1/var/{path...}":               s.putVariable,
		"DELETE /v1/var/{path...}":             s.deleteVariable,
		"PUT /v1/search":                       s.search,
		"POST /v1/search":                      s.search,
		"GET /v1/event/stream":                 s.streaming(s.streamEvents),
	} {
		s.mux.Handle(pattern, h)
	}
}

// empty answers a list that this server never has anything in.
func empty(w http.ResponseWriter, _ *http.Request) (any, error) {
	queryMeta(w, 1)
	return []any{}, nil
}

// streaming adapts a handler that writes its own answer.
func (s *Server) streaming(h func(http.ResponseWriter, *http.Request) error) handler {
	return func(w http.ResponseWriter, r *http.Request) (any, error) { return nil, h(w, r) }
}

// query answers a read: fn runs under the lock, and again after each change
// while its index isn't over the request's.
func (s *Server) query(w http.ResponseWriter, r *http.Request, fn func() (any, uint64, error)) (any, error) {
	minIndex, wait, err := blocking(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	var value any
	var index uint64
	s.state.wait(ctx, minIndex, wait, func() uint64 {
		value, index, err = fn()
		index = max(index, 1)
		if minIndex == 0 {
			return 1
		}
		return index
	})
	queryMeta(w, index)
	return value, err
}

func blocking(r *http.Request) (uint64, time.Duration, error) {
	query := r.URL.Query()
	wait := defaultWait
	if v := query.Get("wait"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			return 0, 0, coded(http.StatusBadRequest, "Invalid wait time")
		}
		wait = min(d, maxWait)
	}
	if query.Get("index") == "" {
		return 0, wait, nil
	}
	index, err := strconv.ParseUint(query.Get("index"), 10, 64)
	if err != nil {
		return 0, 0, coded(http.StatusBadRequest, "Invalid index")
	}
	return index, wait, nil
}

func queryMeta(w http.ResponseWriter, index uint64) {
	w.Header().Set("X-Nomad-Index", strconv.FormatUint(index, 10))
	w.Header().Set("X-Nomad-LastContact", "0")
	w.Header().Set("X-Nomad-KnownLeader", "true")
}

func writeMeta(w http.ResponseWriter, index uint64) {
	w.Header().Set("X-Nomad-Index", strconv.FormatUint(index, 10))
}

func namespaceOf(r *http.Request) string {
	return cmp.Or(r.URL.Query().Get("namespace"), "default")
}

// inNamespace tells whether an object is visible to the request.
func inNamespace(r *http.Request, namespace string) bool {
	wanted := namespaceOf(r)
	return wanted == "*" || wanted == namespace
}

func hasPrefix(r *http.Request, id string) bool {
	return strings.HasPrefix(id, r.URL.Query().Get("prefix"))
}

func decode(r *http.Request, into any) error {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		return coded(http.StatusBadRequest, err.Error())
	}
	return nil
}

// newID makes a random identifier in the form of a UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
