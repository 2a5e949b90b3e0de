package orchestrator

import (
	"context"
	"fmt"
	"time"

	"drover/internal/control"
	"drover/internal/work"
)

// Tokens returns the stored tokens without their hashes, the oldest first.
// It returns work.ErrUnavailable.
func (o *Orchestrator) Tokens(ctx context.Context) ([]work.Token, error) {
	tokens, err := o.store.Tokens(ctx)
	for i := range tokens {
		tokens[i].Hash = ""
	}
	return tokens, err
}

// CreateToken stores a new token and returns it with its text.
// It returns work.ErrInvalid and what Ledger.Commit returns.
func (o *Orchestrator) CreateToken(ctx context.Context, r control.TokenRequest) (control.NewToken, error) {
	token, text, err := work.NewToken(r.Name, r.Role, r.Lifetime.Std(), time.Now().UTC())
	if err != nil {
		return control.NewToken{}, err
	}
	if err := o.ledger.Commit(ctx, work.Change{PutToken: &token}); err != nil {
		return control.NewToken{}, fmt.Errorf("store token %s: %w", token.ID, err)
	}
	o.log.Info("token created", "token", token.ID, "name", token.Name, "role", token.Role, "expires_at", token.ExpiresAt)
	token.Hash = ""
	return control.NewToken{Token: token, Text: text}, nil
}

// RevokeToken removes a token: from now on it opens nothing.
// It returns work.ErrNotFound, work.ErrUnavailable and what Ledger.Commit returns.
func (o *Orchestrator) RevokeToken(ctx context.Context, id string) (work.Token, error) {
	token, err := o.store.Token(ctx, id)
	if err != nil {
		return work.Token{}, err
	}
	if err := o.ledger.Commit(ctx, work.Change{DeleteToken: id}); err != nil {
		return work.Token{}, fmt.Errorf("remove token %s: %w", id, err)
	}
	o.log.Info("token revoked", "token", id, "name", token.Name)
	token.Hash = ""
	return token, nil
}
