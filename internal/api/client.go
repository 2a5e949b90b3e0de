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

// Check returns the items that Submit would store, and stores none.
func (c *Client) Check(ctx context.Context, items []control.Submission) (stored []work.Item, err error) {
	u := c.url("items")
	u.RawQuery = "dry_run=true"
	err = c.call(ctx, c.repeat, http.MethodPost, u, items, &stored)
	return stored, err
}

// SubmitStream stores any number of items, all or none.
func (c *Client) SubmitStream(ctx context.Context, lines io.Reader) (done control.Submitted, err error) {
	resp, err := c.send(ctx, c.once, http.MethodPost, c.url("items"), lines, http.Header{"Content-Type": {ndjson}})
	if err != nil {
		return done, err
	}
	defer resp.Body.Close()
	return done, c.decode(resp.Body, &done)
}

// Items returns a page of the items that q selects.
func (c *Client) Items(ctx context.Context, q control.Query) (page control.Page, err error) {
	values := encodeFilter(q.Filter)
	for name, value := range map[string]string{"sort": q.Sort, "cursor": q.Cursor} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if q.Asc {
		values.Set("order", "asc")
	}
	if q.Limit > 0 {
		values.Set("limit", strconv.Itoa(q.Limit))
	}
	u := c.url("items")
	u.RawQuery = values.Encode()
	err = c.call(ctx, c.repeat, http.MethodGet, u, nil, &page)
	return page, err
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

// Order carries out an order about an item. One with a key is sent again when
// the answer is lost.
func (c *Client) Order(ctx context.Context, id string, order control.Order) (item work.Item, err error) {
	header := http.Header{"Content-Type": {"application/json"}}
	client := c.once
	if order.Key != "" {
		client = c.repeat
		header.Set("Idempotency-Key", order.Key)
	}
	if order.Match != "" {
		header.Set("If-Match", order.Match)
	}
	method, u, body := http.MethodPost, c.url("items", id, string(order.Verb)), any(order)
	switch order.Verb {
	case control.Edit:
		method, u, body = http.MethodPatch, c.url("items", id), order.Patch
	case control.Remove:
		method, u, body = http.MethodDelete, c.url("items", id), nil
	}
	if method != http.MethodPost {
		values := url.Values{"by": {order.By}}
		if order.Force {
			values.Set("force", "true")
		}
		u.RawQuery = values.Encode()
	}
	data, err := encode(body)
	if err != nil {
		return item, err
	}
	resp, err := c.send(ctx, client, method, u, data, header)
	if err != nil {
		return item, err
	}
	defer resp.Body.Close()
	return item, c.decode(resp.Body, &item)
}

// Events sends changes until ctx ends, the connection breaks or send fails.
func (c *Client) Events(ctx context.Context, after string, send func(control.Event) error) error {
	header := http.Header{"Accept": {eventStream}}
	if after != "" {
		header.Set("Last-Event-ID", after)
	}
	resp, err := c.send(ctx, c.once, http.MethodGet, c.url("events"), nil, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = readEvents(resp.Body, send)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Export sends the items that f selects, the oldest first.
func (c *Client) Export(ctx context.Context, f control.Filter, send func(work.Item) error) error {
	return receive(ctx, c, c.url("export"), f, send)
}

// ExportLogs sends the kept output of the attempts of the items that f selects.
func (c *Client) ExportLogs(ctx context.Context, f control.Filter, send func(work.KeptLogs) error) error {
	return receive(ctx, c, c.url("export", "logs"), f, send)
}

// receive sends each line of an export on.
func receive[T any](ctx context.Context, c *Client, u *url.URL, f control.Filter, send func(T) error) error {
	u.RawQuery = encodeFilter(f).Encode()
	resp, err := c.send(ctx, c.once, http.MethodGet, u, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	decoder := json.NewDecoder(resp.Body)
	for {
		var value T
		err := decoder.Decode(&value)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("the connection to the server at %s broke off: %v: %w", c.base, err, work.ErrUnavailable)
		}
		if err := send(value); err != nil {
			return err
		}
	}
}

// Import stores items as Export sent them; dry only checks.
func (c *Client) Import(ctx context.Context, items []work.Item, dry bool) (done control.Import, err error) {
	u := c.url("import")
	u.RawQuery = url.Values{"dry_run": {strconv.FormatBool(dry)}}.Encode()
	return restore(ctx, c, u, items)
}

// ImportLogs stores kept output as ExportLogs sent it.
func (c *Client) ImportLogs(ctx context.Context, kept []work.KeptLogs) (done control.Import, err error) {
	return restore(ctx, c, c.url("import", "logs"), kept)
}

// restore sends a part of a backup. What is stored already stays as it is, so the
// call may be repeated.
func restore[T any](ctx context.Context, c *Client, u *url.URL, values []T) (done control.Import, err error) {
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	for n, value := range values {
		if err := encoder.Encode(value); err != nil {
			return done, fmt.Errorf("encode line %d of a backup: %w", n+1, err)
		}
	}
	resp, err := c.send(ctx, c.repeat, http.MethodPost, u, &lines, http.Header{"Content-Type": {ndjson}})
	if err != nil {
		return done, err
	}
	defer resp.Body.Close()
	return done, c.decode(resp.Body, &done)
}

// Overview returns what runs, and how the queues stand.
func (c *Client) Overview(ctx context.Context) (overview control.Overview, err error) {
	err = c.call(ctx, c.repeat, http.MethodGet, c.url("overview"), nil, &overview)
	return overview, err
}

// RetryPR has the pull request of a completed item made again.
func (c *Client) RetryPR(ctx context.Context, id string) (item work.Item, err error) {
	err = c.call(ctx, c.once, http.MethodPost, c.url("items", id, "pr", "retry"), nil, &item)
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
	return c.decode(resp.Body, into)
}

func (c *Client) decode(body io.Reader, into any) error {
	if err := json.NewDecoder(io.LimitReader(body, maxAnswerBytes)).Decode(into); err != nil {
		return fmt.Errorf("answer of the server at %s: %v: %w", c.base, err, work.ErrUnavailable)
	}
	return nil
}

// encode returns the JSON of a body, nothing for nil.
func encode(body any) (io.Reader, error) {
	if body == nil {
		return nil, nil
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	return bytes.NewReader(data), nil
}

// do sends a request whose body is JSON.
func (c *Client) do(ctx context.Context, client *http.Client, method string, u *url.URL, body any) (*http.Response, error) {
	content, err := encode(body)
	if err != nil {
		return nil, err
	}
	return c.send(ctx, client, method, u, content, http.Header{"Content-Type": {"application/json"}})
}

// send sends a request. An answer that is not a success becomes an error.
func (c *Client) send(ctx context.Context, client *http.Client, method string, u *url.URL, content io.Reader, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), content)
	if err != nil {
		return nil, fmt.Errorf("request to %s: %v: %w", u, err, work.ErrInvalid)
	}
	if header != nil {
		req.Header = header
	}
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
