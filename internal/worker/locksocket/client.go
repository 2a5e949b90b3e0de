package locksocket

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"drover/internal/work"
)

// maxAnswerBytes bounds what a client reads.
const maxAnswerBytes = 64 << 20

// Client asks the worker whose socket it is. Every call returns what is held
// afterwards, or the error of the worker's Locker, and besides those
// work.ErrInvalid for a bad request and work.ErrUnavailable when nobody answers.
type Client struct{ http *http.Client }

// NewClient returns a client of the socket at path.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Lock takes paths, all or none, and waits for them for at most wait, which is at
// most MaxWait.
func (c *Client) Lock(ctx context.Context, paths []string, wait time.Duration) (Locks, error) {
	return c.call(ctx, http.MethodPost, "lock", request{Paths: paths, Wait: work.Duration(wait)})
}

// Unlock gives up what is held below the paths.
func (c *Client) Unlock(ctx context.Context, paths []string) (Locks, error) {
	return c.call(ctx, http.MethodPost, "unlock", request{Paths: paths})
}

// UnlockAll gives up all that is held.
func (c *Client) UnlockAll(ctx context.Context) (Locks, error) {
	return c.call(ctx, http.MethodPost, "unlock", request{All: true})
}

// Locks returns what is held.
func (c *Client) Locks(ctx context.Context) (Locks, error) {
	return c.call(ctx, http.MethodGet, "locks", nil)
}

func (c *Client) call(ctx context.Context, method, path string, body any) (Locks, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return Locks{}, fmt.Errorf("encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://drover-worker/v1/"+path, bytes.NewReader(data))
	if err != nil {
		return Locks{}, fmt.Errorf("make request: %w", err)
	}
	answer, err := c.http.Do(req)
	if err != nil {
		return Locks{}, fmt.Errorf("the worker does not answer: %v: %w", err, work.ErrUnavailable)
	}
	defer answer.Body.Close()
	decoder := json.NewDecoder(io.LimitReader(answer.Body, maxAnswerBytes))
	var locks Locks
	var f failure
	if answer.StatusCode == http.StatusOK {
		err = decoder.Decode(&locks)
	} else if err = decoder.Decode(&f); err == nil {
		return Locks{}, f.err()
	}
	if err != nil {
		return Locks{}, fmt.Errorf("the worker's answer (%s): %v: %w", answer.Status, err, work.ErrUnavailable)
	}
	return locks, nil
}

// err is the error that a failure tells of.
func (f failure) err() error {
	if f.Locked != nil {
		return f.Locked
	}
	for _, c := range codes {
		if c.code == f.Code {
			return &remoteError{text: f.Error, is: c.err}
		}
	}
	return &remoteError{text: f.Error, is: work.ErrUnavailable}
}

// remoteError is a worker's error: its text, and the sentinel it wrapped.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }
