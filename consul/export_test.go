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

// Read returns a key's value, empty if there is none.
func (c *Client) Read(ctx context.Context, key string) (string, error) {
	pair, _, err := c.repeat.KV().Get(key, consistent(ctx))
	if err != nil || pair == nil {
		return "", err
	}
	return string(pair.Value), nil
}
