package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/hashicorp/go-cleanhttp"

	"drover/internal/control"
	"drover/internal/httpretry"
	"drover/internal/work"
)

// maxAnswerBytes bounds what a client reads.
const maxAnswerBytes = 512 << 20

// ClientOptions say how to reach a server.
type ClientOptions struct {
	Address string // host:port, or a URL
	Token   string
	TLS     TLS
	// Transport replaces the connection, for a server in the same process.
	Transport http.RoundTripper
}

// Client calls the API of a server. It is safe for concurrent use, and has the
// methods and errors of Service; besides those it returns work.ErrUnavailable
// when no server answers, and ErrUnauthorized.
type Client struct {
	base   *url.URL
	token  string
	repeat *http.Client // for calls that may be repeated
	once   *http.Client
}

var _ Service = (*Client)(nil)

// NewClient returns a client. It does not speak to the server yet.
// It returns work.ErrInvalid for an address or TLS setting that can't be used.
func NewClient(opts ClientOptions) (*Client, error) {
	settings, err := opts.TLS.Client()
	if err != nil {
		return nil, err
	}
	address := opts.Address
	if !strings.Contains(address, "://") {
		scheme := "http://"
		if settings != nil {
			scheme = "https://"
		}
		address = scheme + address
	}
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("server address %q: give it as host:port or http://host:port: %w", opts.Address, work.ErrInvalid)
	}
	transport := opts.Transport
	if transport == nil {
		t := cleanhttp.DefaultPooledTransport()
		t.TLSClientConfig = settings
		transport = t
	}
	return &Client{
		base: base, token: opts.Token, once: &http.Client{Transport: transport},
		repeat: httpretry.Client(transport, http.StatusInternalServerError), // drover's own fault, which a repetition meets again
	}, nil
}

// Address returns the URL of the server.
func (c *Client) Address() string { return c.base.String() }

// Close closes idle connections.
func (c *Client) Close() { c.once.CloseIdleConnections() }

// Submit stores all items or none.
func (c *Client) Submit(ctx context.Context, items []control.Submission) (stored []work.Item, err error) {
	// The items carry their ids, so that storing them twice is storing them once.
	err = c.call(ctx, c.repeat, http.MethodPost, c.url("items"), items, &stored)
	return stored, err
}

// Items returns the items that f selects, newest first.
func (c *Client) Items(ctx context.Context, f control.Filter) (items []work.Item, err error) {
	u := c.url("items")
	query := url.Values{}
	for name, value := range map[string]string{"state": string(f.State), "queue": f.Queue, "repository": f.Repository} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if f.Limit > 0 {
		query.Set("limit", strconv.Itoa(f.Limit))
	}
	u.RawQuery = query.Encode()
	err = c.call(ctx, c.repeat, http.MethodGet, u, nil, &items)
	return items, err
}

// Item returns an item and the progress of its running attempt.
func (c *Client) Item(ctx context.Context, id string) (work.Item, *work.Progress, error) {
	var detail control.Detail
	err := c.call(ctx, c.repeat, http.MethodGet, c.url("items", id), nil, &detail)
	return detail.Item, detail.Progress, err
}

// Logs returns the output of an attempt, the latest for 0.
func (c *Client) Logs(ctx context.Context, id string, attempt int) (logs control.Logs, err error) {
	u := c.url("items", id, "logs")
	if attempt > 0 {
		u.RawQuery = url.Values{"attempt": {strconv.Itoa(attempt)}}.Encode()
	}
	err = c.call(ctx, c.repeat, http.MethodGet, u, nil, &logs)
	return logs, err
}

// Follow writes the output of the running attempt until it ends.
func (c *Client) Follow(ctx context.Context, id string, stdout, stderr io.Writer) error {
	resp, err := c.do(ctx, c.once, http.MethodGet, c.url("items", id, "logs", "follow"), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = readFrames(resp.Body, stdout, stderr)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Cancel ends an item.
func (c *Client) Cancel(ctx context.Context, id, by string) (item work.Item, err error) {
	err = c.call(ctx, c.once, http.MethodPost, c.url("items", id, "cancel"), cancellation{By: by}, &item)
	return item, err
}

// Tokens returns the clients' tokens, without their hashes.
func (c *Client) Tokens(ctx context.Context) (tokens []work.Token, err error) {
	err = c.call(ctx, c.repeat, http.MethodGet, c.url("tokens"), nil, &tokens)
	return tokens, err
}

// CreateToken makes a token; its text is told this once.
func (c *Client) CreateToken(ctx context.Context, r control.TokenRequest) (token control.NewToken, err error) {
	err = c.call(ctx, c.once, http.MethodPost, c.url("tokens"), r, &token)
	return token, err
}

// RevokeToken removes a token.
func (c *Client) RevokeToken(ctx context.Context, id string) (token work.Token, err error) {
	err = c.call(ctx, c.once, http.MethodDelete, c.url("tokens", id), nil, &token)
	return token, err
}

// Status returns how the servers stand.
func (c *Client) Status(ctx context.Context) (status control.Status, err error) {
	err = c.call(ctx, c.repeat, http.MethodGet, c.url("status"), nil, &status)
	return status, err
}

func (c *Client) url(parts ...string) *url.URL {
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return c.base.JoinPath(append([]string{"v1"}, parts...)...)
}

// call sends a request and reads the JSON of the answer.
func (c *Client) call(ctx context.Context, client *http.Client, method string, u *url.URL, body, into any) error {
	resp, err := c.do(ctx, client, method, u, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswerBytes)).Decode(into); err != nil {
		return fmt.Errorf("answer of the server at %s: %v: %w", c.base, err, work.ErrUnavailable)
	}
	return nil
}

// do sends a request. An answer that is not a success becomes an error.
func (c *Client) do(ctx context.Context, client *http.Client, method string, u *url.URL, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), content)
	if err != nil {
		return nil, fmt.Errorf("request to %s: %v: %w", u, err, work.ErrInvalid)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode < http.StatusMultipleChoices {
		return resp, nil
	}
	defer resp.Body.Close()
	const maxProblemBytes = 1 << 20
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxProblemBytes))
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return nil, readProblem(resp, data)
}

func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // method and URL are said below
	}
	return fmt.Errorf("the server at %s can't be reached: %v: %w", c.base, err, work.ErrUnavailable)
}
