package locksocket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/work"
)

// Bounds of what an agent may ask.
const (
	maxBodyBytes  = 256 << 10
	maxRequests   = 32 // at a time
	headerTimeout = 5 * time.Second
)

// Modes of the socket and the directory it has to itself: whoever sees the
// directory may ask, such as an agent that runs as another user.
const (
	dirMode    = 0o755
	socketMode = 0o666
)

// Server answers on the socket.
type Server struct {
	locker  Locker
	attempt work.AttemptID
	dir     string
	http    *http.Server
	slots   chan struct{}
	served  chan struct{}
	log     hclog.Logger
}

// Listen makes the socket and answers on it until Close; requests end with ctx. It
// lies in the directory for temporary files, because the path of a socket must be
// short.
func Listen(ctx context.Context, attempt work.AttemptID, locker Locker, log hclog.Logger) (*Server, error) {
	dir, err := os.MkdirTemp("", "drover-locks-")
	if err != nil {
		return nil, fmt.Errorf("make the lock socket: %w", err)
	}
	s := &Server{
		locker: locker, attempt: attempt, dir: dir, log: log.Named("locks"), slots: make(chan struct{}, maxRequests), served: make(chan struct{}),
	}
	listener, err := s.listen()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the lock socket: %w", err), os.RemoveAll(dir))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/lock", s.answer(s.lock))
	mux.HandleFunc("POST /v1/unlock", s.answer(s.unlock))
	mux.HandleFunc("GET /v1/locks", s.answer(func(*http.Request) error { return nil }))
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, ErrorLog: log.StandardLogger(nil), BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() {
		defer close(s.served)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("lock socket", "error", err)
		}
	}()
	return s, nil
}

func (s *Server) listen() (net.Listener, error) {
	if err := os.Chmod(s.dir, dirMode); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", s.Path())
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(s.Path(), socketMode); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// Path returns where the socket is.
func (s *Server) Path() string { return filepath.Join(s.dir, "socket") }

// Close ends every request, waits for them, and removes the socket.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.served
	for range maxRequests { // the requests under way have lost their connections, and so their contexts
		s.slots <- struct{}{}
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// answer makes a handler of what a request does; it says what is held afterwards.
func (s *Server) answer(do func(r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			s.write(w, 0, nil, errBusy)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		var locks []work.Lock
		err := do(r)
		if err == nil {
			locks, err = s.locker.Locks(r.Context())
		}
		s.write(w, http.StatusOK, Locks{Attempt: s.attempt, Locks: locks}, err)
	}
}

func (s *Server) write(w http.ResponseWriter, status int, body any, err error) {
	if err != nil {
		f := failure{Error: err.Error()}
		f.Code, status = codeOf(err)
		errors.As(err, &f.Locked)
		body = f
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.log.Debug("answer not sent", "error", err)
	}
}

func (s *Server) lock(r *http.Request) error {
	asked, paths, err := read(r)
	if err != nil {
		return err
	}
	wait := asked.Wait.Std()
	switch {
	case asked.All || paths.Empty():
		return fmt.Errorf("lock: name the paths: %w", work.ErrInvalid)
	case wait < 0 || wait > MaxWait:
		return fmt.Errorf("wait %s: use 0 to %s: %w", asked.Wait, MaxWait, work.ErrInvalid)
	}
	return s.locker.Lock(r.Context(), paths, wait)
}

func (s *Server) unlock(r *http.Request) error {
	asked, paths, err := read(r)
	switch {
	case err != nil:
		return err
	case asked.All == !paths.Empty():
		return fmt.Errorf("unlock: name the paths, or all of them: %w", work.ErrInvalid)
	case asked.All:
		return s.locker.UnlockAll(r.Context())
	}
	return s.locker.Unlock(r.Context(), paths)
}

func read(r *http.Request) (request, work.PathSet, error) {
	var asked request
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		return asked, work.PathSet{}, fmt.Errorf("read request: %s: %w", strings.TrimPrefix(err.Error(), "json: "), work.ErrInvalid)
	}
	paths, err := work.NewPathSet(asked.Paths...)
	return asked, paths, err
}
