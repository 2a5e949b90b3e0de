package nomad

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/nomad/api"

	"drover/internal/work"
)

// childMark separates a parent's id from the rest of a child's id.
const childMark = "/dispatch-"

// Dispatch starts an attempt and returns the id of its child job. The attempt's
// id is the idempotency token: doing it again returns the same child.
//
// Only one call for an attempt may be under way at a time, because servers
// accept two dispatches with one token that come together
// (hashicorp/nomad#26690).
//
// It returns work.ErrPayloadTooLarge, work.ErrInvalid when the attempt can never
// be dispatched like this, and work.ErrUnavailable or work.ErrUnknownOutcome when
// it is to be tried again.
func (c *Client) Dispatch(ctx context.Context, e work.Envelope) (string, error) {
	payload, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("dispatch attempt %s: %w", e.Attempt, err)
	}
	if len(payload) > work.MaxPayloadBytes {
		return "", fmt.Errorf("dispatch attempt %s: payload of %d bytes, limit %d: %w", e.Attempt, len(payload), work.MaxPayloadBytes, work.ErrPayloadTooLarge)
	}
	child, err := c.dispatch(ctx, e, payload)
	if errors.Is(err, work.ErrNotFound) {
		child, err = c.dispatch(ctx, e, payload) // the worker job had been removed
	}
	return child, err
}

func (c *Client) dispatch(ctx context.Context, e work.Envelope, payload []byte) (string, error) {
	parent, err := c.prepare(ctx, RunnerOf(e.Spec))
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	opts := &api.DispatchOptions{
		JobID: parent, Payload: payload, IdPrefixTemplate: string(e.Attempt),
		Meta: map[string]string{"item": e.Item, "attempt": string(e.Attempt)},
	}
	if e.Traceparent != "" {
		opts.Meta["traceparent"] = e.Traceparent
	}
	w := c.writeOpts(ctx)
	w.IdempotencyToken = string(e.Attempt)
	resp, _, err := c.once.Jobs().DispatchOpts(opts, w)
	if err != nil {
		err = classify("dispatch attempt "+string(e.Attempt), true, err)
		if errors.Is(err, work.ErrNotFound) {
			c.setKnown(parent, false)
		}
		return "", err
	}
	if resp.EvalID != "" {
		return resp.DispatchedJobID, nil
	}
	return c.verify(ctx, e.Attempt, resp.DispatchedJobID)
}

// verify looks whether a child that an earlier dispatch is said to have made
// exists: when two dispatches raced, the answer can name one that does not.
func (c *Client) verify(ctx context.Context, a work.AttemptID, child string) (string, error) {
	_, _, err := c.repeat.Jobs().Info(child, c.readOpts(ctx))
	err = classify(fmt.Sprintf("read child %s of attempt %s", child, a), false, err)
	if errors.Is(err, work.ErrNotFound) {
		return "", fmt.Errorf("%v: %w", err, work.ErrUnknownOutcome)
	}
	if err != nil {
		return "", err
	}
	return child, nil
}

// attemptOf reads the attempt from a child's id:
// <parent>/dispatch-<item>.<number>-<unix seconds>-<random>. A child that was
// dispatched by hand is named without one, and byHand is true.
func attemptOf(child string) (a work.AttemptID, byHand bool) {
	_, rest, ok := strings.Cut(child, childMark)
	if !ok {
		return "", false
	}
	name, _, _ := strings.Cut(rest, "-")
	if a, err := work.ParseAttemptID(name); err == nil {
		return a, false
	}
	a, err := work.HandDispatched(child)
	return a, err == nil
}

// Payload returns what a child was dispatched with.
// It returns work.ErrNotFound and work.ErrUnavailable.
func (c *Client) Payload(ctx context.Context, child string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	job, _, err := c.repeat.Jobs().Info(child, c.readOpts(ctx))
	if err != nil {
		return nil, classify("read child "+child, false, err)
	}
	return job.Payload, nil
}
