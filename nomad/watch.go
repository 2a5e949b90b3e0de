package nomad

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/nomad/api"

	"drover/internal/work"
)

// streamSilence is how long the event stream may be silent before it counts as
// dead. Nomad sends a heartbeat every 30 s.
const streamSilence = 75 * time.Second

// maxEventBytes bounds one line of the event stream.
const maxEventBytes = 16 << 20

// streamLine is one line of the event stream. The api module's decoder turns
// nanosecond times into floats and hides heartbeats, so drover has its own.
type streamLine struct {
	Index  uint64
	Events []struct {
		Topic   string
		Payload json.RawMessage
	}
}

// Watch calls seen for every change of an allocation of a child from index on,
// until the stream ends or falls silent; the error says why. Events are hints:
// some can be missing, doubled or out of order, and Children tells the truth.
// It returns the context's cause and work.ErrUnavailable.
func (c *Client) Watch(ctx context.Context, index uint64, seen func(work.Allocation)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(streamSilence, func() {
		cancel(fmt.Errorf("event stream was silent for %s: %w", streamSilence, work.ErrUnavailable))
	})
	defer watchdog.Stop()
	body, err := c.once.Raw().Response(fmt.Sprintf("/v1/event/stream?topic=Allocation:*&index=%d", index), c.readOpts(ctx))
	if err != nil {
		return classify("open event stream", false, err)
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEventBytes)
	for lines.Scan() {
		watchdog.Reset(streamSilence)
		if err := c.handle(lines.Bytes(), seen); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = lines.Err()
	if err == nil {
		err = io.EOF
	}
	return fmt.Errorf("event stream ended: %v: %w", err, work.ErrUnavailable)
}

func (c *Client) handle(line []byte, seen func(work.Allocation)) error {
	var parsed streamLine
	if err := json.Unmarshal(line, &parsed); err != nil {
		return fmt.Errorf("event stream: %v: %w", err, work.ErrUnavailable)
	}
	for _, event := range parsed.Events {
		if event.Topic != string(api.TopicAllocation) {
			continue
		}
		var payload struct{ Allocation *api.AllocationListStub }
		if err := json.Unmarshal(event.Payload, &payload); err != nil {
			return fmt.Errorf("event stream: allocation of index %d: %v: %w", parsed.Index, err, work.ErrUnavailable)
		}
		if a := payload.Allocation; a != nil && c.job.owns(a.JobID) {
			seen(fromStub(a))
		}
	}
	return nil
}
