package consuld

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// Client returns an HTTP client that calls the server in memory, in the caller's goroutine, whatever host the URL
// names. Give it to consul/api as Config.HttpClient.
func (s *Server) Client() *http.Client { return &http.Client{Transport: inMemory{s}} }

// inMemory is an http.RoundTripper that needs no socket.
type inMemory struct{ server *Server }

func (t inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	request, err := asReceived(r)
	if err != nil {
		return nil, err
	}
	answer := &recorder{header: http.Header{}}
	t.server.ServeHTTP(answer, request)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return answer.response(r), nil
}

// asReceived is the request as a server would have read it from the wire.
func asReceived(r *http.Request) (*http.Request, error) {
	received := r.Clone(r.Context())
	received.RequestURI = r.URL.RequestURI()
	parsed, err := url.ParseRequestURI(received.RequestURI)
	if err != nil {
		return nil, fmt.Errorf("parse request URI: %w", err)
	}
	received.URL = parsed
	received.RemoteAddr = "127.0.0.1:0"
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		received.Body = http.NoBody
	case r.ContentLength == 0:
		received.ContentLength = -1 // a client's "unknown", sent chunked
	}
	return received, nil
}

// recorder keeps an answer until its caller reads it.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *recorder) Header() http.Header { return a.header }

func (a *recorder) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *recorder) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

func (a *recorder) response(r *http.Request) *http.Response {
	a.WriteHeader(http.StatusOK)
	a.header.Set("Content-Length", strconv.Itoa(a.body.Len()))
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)),
		StatusCode:    a.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        a.header,
		Body:          io.NopCloser(&a.body),
		ContentLength: int64(a.body.Len()),
		Request:       r,
	}
}
