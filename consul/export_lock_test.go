package consul

import (
	"context"
	"time"

	"github.com/hashicorp/consul/api"
)

// SetLockDelay replaces work.LockDelay for what this client waits for.
func (c *Client) SetLockDelay(d time.Duration) { c.lost = newLostLocks(d) }

// Overwrite sets a key's value and leaves its holder.
func (c *Client) Overwrite(ctx context.Context, key, value string) error {
	_, err := c.once.KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, (&api.WriteOptions{}).WithContext(ctx))
	return err
}
