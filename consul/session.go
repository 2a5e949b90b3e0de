package consul

import (
	"context"
	"fmt"

	"github.com/hashicorp/consul/api"

	"drover/internal/work"
)

// sessionLives asks the servers for a session; a majority has to answer.
func (c *Client) sessionLives(ctx context.Context, session string) (bool, error) {
	info, _, err := c.once.Session().Info(session, consistent(ctx))
	return info != nil, classify("read session "+session, false, err)
}

// endSession destroys a session of an attempt, and looks whether it is gone. A
// server that was elected a moment ago may not have applied yet what its
// predecessors stored: it takes a session that it does not know for one that is
// gone, does nothing and answers that all is well (1.14.11,
// agent/consul/session_endpoint.go). It answers no consistent read before it has
// caught up, so the second try after one finds the session.
//
// It returns work.ErrUnavailable or work.ErrUnknownOutcome.
func (c *Client) endSession(ctx context.Context, session string, a work.AttemptID) error {
	what := fmt.Sprintf("destroy session %s of attempt %s", session, a)
	const tries = 2
	for range tries {
		_, err := c.repeat.Session().Destroy(session, (&api.WriteOptions{}).WithContext(ctx))
		if err != nil {
			return classify(what, true, err)
		}
		if lives, err := c.sessionLives(ctx, session); err != nil || !lives {
			return err
		}
	}
	return fmt.Errorf("%s: it is still there: %w", what, work.ErrUnavailable)
}
