package consul

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/consul/api"

	"drover/internal/work"
)

// CloseClaim closes the claim of an attempt, as the leader does when it ends one.
func (c *Client) CloseClaim(ctx context.Context, a work.AttemptID) error {
	claim, index, err := c.Claim(ctx, a)
	if err != nil {
		return err
	}
	claim.Ended = true
	value, err := json.Marshal(claim)
	if err != nil {
		return err
	}
	pair := &api.KVPair{Key: c.Keys.Claim(a), Value: value, ModifyIndex: index}
	done, _, err := c.once.KV().CAS(pair, (&api.WriteOptions{}).WithContext(ctx))
	if err == nil && !done {
		return fmt.Errorf("close the claim of attempt %s: %w", a, work.ErrConflict)
	}
	return classify("close the claim of attempt "+string(a), true, err)
}
