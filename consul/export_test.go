package consul

import (
	"context"

	"github.com/hashicorp/consul/api"
)

// DestroyLeaderSession takes the lock from whoever holds it.
func (c *Client) DestroyLeaderSession(ctx context.Context) error {
	pair, _, err := c.once.KV().Get(c.Keys.Leader(), consistent(ctx))
	if err != nil {
		return err
	}
	_, err = c.once.Session().Destroy(pair.Session, (&api.WriteOptions{}).WithContext(ctx))
	return err
}
