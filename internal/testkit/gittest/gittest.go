// Package gittest serves real bare git repositories over HTTP with basic authentication, by git's own http-backend.
package gittest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Branch is the default branch of the repositories.
const Branch = "main"

// InitialSubject is the subject of a repository's first commit.
const InitialSubject = "Initial commit"

// stopTimeout bounds how long Close waits for requests that are being answered.
const stopTimeout = 10 * time.Second

// Options of a server.
type Options struct {
	// Username and Password that every request must carry. Without a username nobody is asked for one.
	Username, Password string
	// Address to listen on, host:port; a free port of the loopback if empty.
	Address string
	// Before is called before a request is answered, with the repository's name as in CreateRepo. It may be nil.
	Before func(repo string)
}

// Server serves the bare repositories of one directory on the loopback. Its methods may be called concurrently.
type Server struct {
	dir     string
	options Options
	address string
	http    *http.Server
	closed  chan struct{}
	served  chan struct{}

	mu       sync.Mutex
	failures int           // receive-pack requests still to fail
	paused   chan struct{} // nil, or closed by Resume
}

// New starts a server for a test, and closes it with the test.
func New(t testing.TB, options Options) *Server {
	t.Helper()
	server, err := Start(t.TempDir(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// Start serves the repositories in dir, which must exist, until Close.
func Start(dir string, options Options) (*Server, error) {
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, fmt.Errorf("ask git where its programs are: %w", err)
	}
	backend := filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		return nil, fmt.Errorf("find git's http-backend: %w", err)
	}
	listener, err := net.Listen("tcp", cmp.Or(options.Address, "127.0.0.1:0"))
	if err != nil {
		return nil, fmt.Errorf("listen for git clients: %w", err)
	}
	s := &Server{
		dir: dir, options: options, address: listener.Addr().String(),
		closed: make(chan struct{}), served: make(chan struct{}),
	}
	s.http = &http.Server{Handler: s.handler(backend), ReadHeaderTimeout: stopTimeout}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(listener) // ends with ErrServerClosed
	}()
	return s, nil
}

// Close answers paused requests with 503, waits for the others and stops the server. It is to be called once.
func (s *Server) Close() error {
	close(s.closed)
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop git server: %w", err), s.http.Close())
	}
	<-s.served
	return err
}

// Path returns the directory of a bare repository.
func (s *Server) Path(repo string) string { return filepath.Join(s.dir, repo+".git") }

// Git runs git in a repository, or in the server's directory without one, apart from the user's configuration, and
// returns what it prints.
func (s *Server) Git(repo string, args ...string) (string, error) { return s.git(repo, nil, args...) }

// URL returns where git clients find the repository. It holds no credentials.
func (s *Server) URL(repo string) string { return "http://" + s.address + "/" + repo + ".git" }

// FailPushes has the next n requests of pushes answered with 503. A push whose first request fails sends no other, so
// n pushes fail.
func (s *Server) FailPushes(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = n
}

// Pause lets requests wait until Resume.
func (s *Server) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused == nil {
		s.paused = make(chan struct{})
	}
}

// Resume has requests answered again, also those that wait.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused != nil {
		close(s.paused)
		s.paused = nil
	}
}

// CreateRepo makes a bare repository whose branch Branch has one commit with the files, by path. A file that begins
// with #! is executable.
func (s *Server) CreateRepo(name string, files map[string]string) error {
	if _, err := s.git("", nil, "init", "--quiet", "--bare", "--initial-branch="+Branch, name+".git"); err != nil {
		return err
	}
	for _, setting := range []string{"http.receivepack", "uploadpack.allowFilter"} {
		if _, err := s.git(name, nil, "config", setting, "true"); err != nil {
			return err
		}
	}
	_, err := s.git(name, initialCommit(files), "fast-import", "--quiet")
	return err
}

// Head returns the commit a branch is at, empty if there is no such branch.
func (s *Server) Head(repo, branch string) string {
	head, _ := s.git(repo, nil, "rev-parse", "--verify", "--quiet", "refs/heads/"+branch) // exits 1 without output if absent
	return strings.TrimSpace(head)
}

// Log returns the subjects of a branch's commits, oldest first; none if there is no such branch.
func (s *Server) Log(repo, branch string) []string {
	subjects, _ := s.git(repo, nil, "log", "--reverse", "--format=%s", "refs/heads/"+branch, "--") // as Head
	return lines(subjects)
}

// Commits returns the hashes of a branch's commits, oldest first; none if there is no such branch.
func (s *Server) Commits(repo, branch string) []string {
	hashes, _ := s.git(repo, nil, "log", "--reverse", "--format=%H", "refs/heads/"+branch, "--") // as Head
	return lines(hashes)
}

// Refs returns the names of all refs, in order.
func (s *Server) Refs(repo string) []string {
	out, _ := s.git(repo, nil, "for-each-ref", "--format=%(refname)") // without a repository there are none
	return strings.Fields(out)
}

// Branches returns the names of a repository's branches in alphabetical order.
func (s *Server) Branches(repo string) []string {
	names, _ := s.git(repo, nil, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads") // as Head
	return lines(names)
}

// File returns the content of a file at the tip of a branch.
func (s *Server) File(repo, branch, path string) (string, error) {
	return s.git(repo, nil, "cat-file", "blob", "refs/heads/"+branch+":"+path)
}

func (s *Server) handler(backend string) http.Handler {
	git := &cgi.Handler{
		Path: backend,
		Env: []string{
			"GIT_PROJECT_ROOT=" + s.dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=" + s.options.Username,
			"HOME=" + s.dir, "GIT_CONFIG_NOSYSTEM=1",
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !s.admit(r):
			http.Error(w, "the git server is paused or stops", http.StatusServiceUnavailable)
		case !s.authorized(r):
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "authentication required", http.StatusUnauthorized)
		case isPush(r) && s.takeFailure():
			http.Error(w, "the git server fails this push", http.StatusServiceUnavailable)
		default:
			if before := s.options.Before; before != nil {
				repo, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), ".git/")
				before(repo)
			}
			serve(git, w, r)
		}
	})
}

// serve hands a request to CGI, which needs to know its length: git sends a big pack in chunks.
func serve(git http.Handler, w http.ResponseWriter, r *http.Request) {
	if r.ContentLength < 0 {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, fmt.Sprintf("read request: %v", err), http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	}
	git.ServeHTTP(w, r)
}

// admit waits while the server is paused; false means that it will not be resumed for this request.
func (s *Server) admit(r *http.Request) bool {
	s.mu.Lock()
	paused := s.paused
	s.mu.Unlock()
	if paused == nil {
		return true
	}
	select {
	case <-paused:
		return true
	case <-s.closed:
	case <-r.Context().Done():
	}
	return false
}

func (s *Server) authorized(r *http.Request) bool {
	if s.options.Username == "" {
		return true
	}
	username, password, _ := r.BasicAuth()
	return subtle.ConstantTimeCompare([]byte(username), []byte(s.options.Username)) == 1 &&
		subtle.ConstantTimeCompare([]byte(password), []byte(s.options.Password)) == 1
}

func (s *Server) takeFailure() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures == 0 {
		return false
	}
	s.failures--
	return true
}

func isPush(r *http.Request) bool {
	const service = "git-receive-pack"
	return r.URL.Query().Get("service") == service || strings.HasSuffix(r.URL.Path, "/"+service)
}

// git runs git in a repository, or in the server's directory, apart from the user's configuration.
func (s *Server) git(repo string, input []byte, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = s.dir
	if repo != "" {
		cmd.Dir = filepath.Join(s.dir, repo+".git")
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "GIT_CONFIG_NOSYSTEM=1"}
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s in %s: %w: %s", args[0], cmd.Dir, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// initialCommit is a repository's first commit as a stream for git fast-import.
func initialCommit(files map[string]string) []byte {
	var stream bytes.Buffer
	fmt.Fprintf(&stream, "commit refs/heads/%s\ncommitter drover <drover@localhost> %d +0000\n", Branch, time.Now().Unix())
	fmt.Fprintf(&stream, "data %d\n%s\n", len(InitialSubject), InitialSubject)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		mode := "100644"
		if strings.HasPrefix(files[path], "#!") {
			mode = "100755"
		}
		fmt.Fprintf(&stream, "M %s inline %s\ndata %d\n%s\n", mode, path, len(files[path]), files[path])
	}
	return stream.Bytes()
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}
