package testkit

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"drover/internal/devcluster/consuld"
	"drover/internal/devcluster/nomadd"
)

// EmbeddedConsul starts an embedded Consul for the length of a test and returns its host and port.
func EmbeddedConsul(t testing.TB) string {
	t.Helper()
	server := consuld.New(consuld.Options{})
	listener := httptest.NewServer(server)
	t.Cleanup(func() {
		server.Close() // first, because it ends the blocking queries
		listener.Close()
	})
	return listener.Listener.Addr().String()
}

// EmbeddedNomad starts an embedded Nomad for the length of a test and returns its URL.
func EmbeddedNomad(t testing.TB, options nomadd.Options) string {
	t.Helper()
	if options.DataDir == "" {
		options.DataDir = t.TempDir()
	}
	server, err := nomadd.New(options)
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(server)
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		listener.Close()
	})
	return listener.URL
}

// errCut is what every request over a cut connection ends with.
var errCut = errors.New("connection cut")

// Line is a connection that can be cut and mended.
type Line struct {
	Base http.RoundTripper
	mu   sync.Mutex
	cut  bool
}

// Cut has every request from now on fail, unseen by the server.
func (l *Line) Cut() { l.set(true) }

// Mend undoes Cut.
func (l *Line) Mend() { l.set(false) }

func (l *Line) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
}

// RoundTrip passes a request on unless the line is cut.
func (l *Line) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	if cut {
		return nil, errCut
	}
	return l.Base.RoundTrip(r)
}
