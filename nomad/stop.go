package nomad

import (
	"context"
	"errors"

	"drover/internal/work"
)

// Stop deregisters a child, which ends its allocation and places no
// replacement, as stopping the allocation would. With purge the child is gone
// from Nomad at once, its idempotency token with it. A child that is gone
// already is no error. It returns work.ErrUnavailable and work.ErrUnknownOutcome.
func (c *Client) Stop(ctx context.Context, child string, purge bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, _, err := c.once.Jobs().Deregister(child, purge, c.writeOpts(ctx))
	err = classify("stop child "+child, true, err)
	if errors.Is(err, work.ErrNotFound) {
		return nil
	}
	return err
}

// Check asks Nomad for its leader, to learn whether it can be reached.
// It returns work.ErrUnavailable.
func (c *Client) Check(ctx context.Context) error {
	var leader string
	_, err := c.once.Raw().Query("/v1/status/leader", &leader, c.readOpts(ctx))
	return classify("reach Nomad", false, err)
}
