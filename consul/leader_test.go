package consul_test

import (
	"errors"
	"testing"

	"github.com/hashicorp/go-cleanhttp"

	"drover/internal/work"
)

// TestCommitThatMayHaveComeThroughIsNotCalledFenced loses the answer to a commit that is stored, and has another server lead
// before it is sent again.
func TestCommitThatMayHaveComeThroughIsNotCalledFenced(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		wire := &lossy{base: cleanhttp.DefaultPooledTransport()}
		t.Cleanup(wire.base.CloseIdleConnections)
		other := open()
		wire.then = func() {
			if err := other.DestroyLeaderSession(t.Context()); err != nil {
				t.Error(err)
			}
		}
		term := lead(t, open(wire), "a")
		wire.left.Store(1)
		err := term.Commit(t.Context(), work.Change{PutItem: newItem("stored")})
		if !errors.Is(err, work.ErrFenced) || !errors.Is(err, work.ErrUnknownOutcome) {
			t.Errorf("%v", err)
		}
		if items, err := other.Items(t.Context()); err != nil || len(items) != 1 {
			t.Errorf("%d items, %v", len(items), err)
		}
	})
}
