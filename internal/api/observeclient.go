package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"drover/internal/control"
	"drover/internal/report"
	"drover/internal/work"
)

// Explain says why an item is where it is, and what a person can do.
func (c *Client) Explain(ctx context.Context, id string) (e control.Explanation, err error) {
	err = c.call(ctx, c.repeat, http.MethodGet, c.url("items", id, "explain"), nil, &e)
	return e, err
}

// Report says how the items ended that did so since a time.
func (c *Client) Report(ctx context.Context, since time.Time) (r report.Report, err error) {
	u := c.url("report")
	u.RawQuery = url.Values{"since": {since.UTC().Format(time.RFC3339)}}.Encode()
	err = c.call(ctx, c.repeat, http.MethodGet, u, nil, &r)
	return r, err
}

// LogLevels returns the level of each subsystem of the server that is called.
func (c *Client) LogLevels(ctx context.Context) (levels map[string]string, err error) {
	err = c.call(ctx, c.repeat, http.MethodGet, c.url("server", "log-level"), nil, &levels)
	return levels, err
}

// SetLogLevel sets a level at the server that is called, and returns all.
// It returns work.ErrInvalid.
func (c *Client) SetLogLevel(ctx context.Context, level control.LogLevel) (levels map[string]string, err error) {
	err = c.call(ctx, c.repeat, http.MethodPut, c.url("server", "log-level"), level, &levels)
	return levels, err
}

// Examine has the server that is called examine itself and its workers.
func (c *Client) Examine(ctx context.Context) (findings []work.Finding, err error) {
	err = c.call(ctx, c.once, http.MethodPost, c.url("server", "examine"), nil, &findings)
	return findings, err
}

// Debug writes the debug bundle of the server that is called.
func (c *Client) Debug(ctx context.Context, to io.Writer) error {
	resp, err := c.do(ctx, c.once, http.MethodGet, c.url("server", "debug"), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(to, io.LimitReader(resp.Body, maxAnswerBytes)); err != nil {
		return fmt.Errorf("debug bundle of %s: %v: %w", c.base, err, work.ErrUnavailable)
	}
	return nil
}
