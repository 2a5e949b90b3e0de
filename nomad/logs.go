package nomad

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"drover/internal/work"
)

// Logs returns the last bytes of an allocation's output; stream is stdout or
// stderr. A task that never started has none.
// It returns work.ErrNotFound when Nomad no longer has it, and work.ErrUnavailable.
func (c *Client) Logs(ctx context.Context, allocation, stream string, bytes int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := c.repeat.Raw().Response(logsPath(allocation, stream, bytes, false), c.readOpts(ctx))
	if err != nil {
		err = classify(fmt.Sprintf("read %s of allocation %s", stream, allocation), false, err)
		if errors.Is(err, work.ErrNotFound) && strings.Contains(err.Error(), "not started yet") {
			return nil, nil
		}
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, int64(bytes)))
	return data, classify(fmt.Sprintf("read %s of allocation %s", stream, allocation), false, err)
}

// Follow copies an allocation's output to w as it comes, beginning with its
// last bytes, until the task ends. It returns what Logs returns.
func (c *Client) Follow(ctx context.Context, allocation, stream string, bytes int, w io.Writer) error {
	body, err := c.once.Raw().Response(logsPath(allocation, stream, bytes, true), c.readOpts(ctx))
	if err != nil {
		return classify(fmt.Sprintf("follow %s of allocation %s", stream, allocation), false, err)
	}
	defer body.Close()
	_, err = io.Copy(w, body)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return classify(fmt.Sprintf("follow %s of allocation %s", stream, allocation), false, err)
}

func logsPath(allocation, stream string, bytes int, follow bool) string {
	return fmt.Sprintf("/v1/client/fs/logs/%s?task=%s&type=%s&origin=end&offset=%d&plain=true&follow=%t",
		url.PathEscape(allocation), taskName, stream, bytes, follow)
}
