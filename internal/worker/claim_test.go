package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/work"
)

// awayStore is a Consul that is not there: each call ends with an error, or never.
type awayStore struct {
	err   error
	hangs bool
}

func (s awayStore) fail(ctx context.Context) error {
	if s.hangs {
		<-ctx.Done()
		return fmt.Errorf("no answer: %w: %w", ctx.Err(), work.ErrUnavailable)
	}
	return s.err
}

func (s awayStore) Envelope(ctx context.Context, _ work.AttemptID) (work.Envelope, error) {
	return work.Envelope{}, s.fail(ctx)
}

func (s awayStore) Claim(ctx context.Context, _ work.Envelope, _ string) (Claim, error) {
	return nil, s.fail(ctx)
}

// TestWorkerThatNeverReachesConsulSaysSo has each call that comes before the claim.
func TestWorkerThatNeverReachesConsulSaysSo(t *testing.T) {
	item := work.NewID(time.Now())
	whole := fmt.Sprintf(`{"item":%q,"attempt":"%s.1"}`, item, item)
	reference := fmt.Sprintf(`{"item":%q,"attempt":"%s.1","reference":true}`, item, item)
	for name, c := range map[string]struct {
		payload  string
		store    awayStore
		noConsul bool
		after    time.Duration
	}{
		"claim refused":        {payload: whole, store: awayStore{err: work.ErrUnavailable}, noConsul: true, after: claimPatience},
		"claim never answered": {payload: whole, store: awayStore{hangs: true}, noConsul: true, after: claimPatience},
		"claim in doubt":       {payload: whole, store: awayStore{err: work.ErrUnknownOutcome}, noConsul: true, after: claimPatience},
		"envelope refused":     {payload: reference, store: awayStore{err: work.ErrUnavailable}, noConsul: true, after: claimPatience},
		"claim not allowed":    {payload: whole, store: awayStore{err: work.ErrInvalid}},
		"nobody adopts it":     {payload: `{"repository":"x"}`, store: awayStore{err: work.ErrNotFound}, after: adoptPatience},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "item.json")
			if err := os.WriteFile(path, []byte(c.payload), 0o600); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := Run(t.Context(), Options{
					Payload: path, Job: "drover-worker/dispatch-1764470000-0a1b2c3d", Logger: hclog.NewNullLogger(),
					Open: func(string) (Store, error) { return c.store, nil },
				})
				if errors.Is(err, ErrNoConsul) != c.noConsul || err == nil {
					t.Errorf("ended with %v, want ErrNoConsul %t", err, c.noConsul)
				}
				if took := time.Since(began); took < c.after || took > c.after+claimTimeout+retryPause {
					t.Errorf("ended after %s, want %s", took, c.after)
				}
			})
		})
	}
}

func TestWorkerThatIsStoppedBeforeItsClaimDoesNotBlameConsul(t *testing.T) {
	path := filepath.Join(t.TempDir(), "item.json")
	item := work.NewID(time.Now())
	if err := os.WriteFile(path, []byte(fmt.Sprintf(`{"item":%q,"attempt":"%s.1"}`, item, item)), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(claimPatience+time.Second, func() { cancel(ErrStopped) })
		err := Run(ctx, Options{
			Payload: path, Logger: hclog.NewNullLogger(), Open: func(string) (Store, error) { return awayStore{hangs: true}, nil },
		})
		if errors.Is(err, ErrNoConsul) || err == nil || strings.Contains(err.Error(), ErrNoConsul.Error()) {
			t.Errorf("ended with %v", err)
		}
	})
}
