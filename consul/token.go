package consul

import (
	"context"
	"fmt"

	"drover/internal/work"
)

// Tokens returns every stored token, in the order of their ids.
// It returns work.ErrUnavailable.
func (c *Client) Tokens(ctx context.Context) ([]work.Token, error) {
	return list[work.Token](ctx, c, c.Keys.Tokens())
}

// Token returns a stored token.
// It returns work.ErrNotFound and work.ErrUnavailable.
func (c *Client) Token(ctx context.Context, id string) (work.Token, error) {
	if !work.ValidID(id) {
		return work.Token{}, fmt.Errorf("token %q: %w", id, work.ErrNotFound)
	}
	token, _, err := get[work.Token](ctx, c, c.Keys.Token(id))
	if err == nil && token == nil {
		err = fmt.Errorf("token %s: %w", id, work.ErrNotFound)
	}
	if err != nil {
		return work.Token{}, err
	}
	return *token, nil
}
