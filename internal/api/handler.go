package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/control"
	"drover/internal/work"
)

// Limits of requests.
const (
	// MaxSubmissions is how many items one request may hold.
	MaxSubmissions = 1000
	maxBodyBytes   = 32 << 20
	callTimeout    = time.Minute // of a call that is not a stream
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
)

// Options of a handler.
type Options struct {
	Service Service
	// Leader says where the leader's API answers, and whether that is this
	// server. It returns work.ErrNoLeader when none leads, and
	// work.ErrUnavailable. Nil means that this server always leads.
	Leader func(ctx context.Context) (address string, self bool, err error)
	// Fit returns what keeps this server from ever leading, nil if nothing does; may be nil.
	Fit func() error
	// Token may do everything; clients have to show it, or one that is stored.
	// None is asked for if empty.
	Token string
	// StoredToken returns a token by its id, also on a server that does not lead.
	// It returns work.ErrNotFound and work.ErrUnavailable. Nil means that none is stored.
	StoredToken func(ctx context.Context, id string) (work.Token, error)
	// Transport reaches the leader from a server that does not lead; http.DefaultTransport if nil.
	Transport http.RoundTripper
	Logger    hclog.Logger
	// Local is the server itself.
	Local Local
	// Metrics answers /metrics; there is none if nil.
	Metrics http.Handler
	// MetricsNeedToken has /metrics ask for a token too.
	MetricsNeedToken bool
}

type handler struct {
	Options
	forward http.Handler
}

// endpoint answers a call with a value to be sent as JSON.
type endpoint func(r *http.Request) (any, error)

// NewHandler returns the API.
func NewHandler(opts Options) http.Handler {
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	if opts.Leader == nil {
		opts.Leader = func(context.Context) (string, bool, error) { return "", true, nil }
	}
	if opts.StoredToken == nil {
		opts.StoredToken = func(context.Context, string) (work.Token, error) { return work.Token{}, work.ErrNotFound }
	}
	h := &handler{Options: opts}
	h.forward = h.forwarder()
	return h.routes()
}

// NewServer returns a server of handler without an address. Streams have no
// time limit, everything else has one.
func NewServer(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout}
}

// call makes a handler of an endpoint, with limits of size and time.
func (h *handler) call(status int, serve endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
		defer cancel()
		limit(w, callTimeout)
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		value, err := serve(r)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		if item, ok := value.(work.Item); ok {
			w.Header().Set("ETag", control.ETag(item))
		}
		if detail, ok := value.(control.Detail); ok {
			w.Header().Set("ETag", control.ETag(detail.Item))
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(value); err != nil {
			h.Logger.Debug("answer not sent", "path", r.URL.Path, "error", err)
		}
	})
}

// limit bounds the time for reading the request and for writing the answer.
// Not every connection can: a test's recorder is as good without.
func limit(w http.ResponseWriter, d time.Duration) {
	rc := http.NewResponseController(w)
	deadline := time.Now().Add(d)
	_ = rc.SetReadDeadline(deadline)
	_ = rc.SetWriteDeadline(deadline)
}

func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s: %w", callTimeout, work.ErrUnavailable)
	}
	if p := problemOf(err); p.Code == "internal" {
		h.Logger.Error("call went wrong", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	writeProblem(w, err)
}

// decodeBody reads a request's JSON object. An empty body leaves into as it is.
func decodeBody(r *http.Request, into any) error {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read request: %v: %w", err, work.ErrInvalid)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	if err := work.DecodeStrict(data, into); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	return nil
}

func (h *handler) status(r *http.Request) (any, error) { return h.Service.Status(r.Context()) }
