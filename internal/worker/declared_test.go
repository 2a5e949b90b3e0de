package worker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.opentelemetry.io/otel/trace/noop"

	"drover/internal/wait"
	"drover/internal/work"
	"drover/internal/worker/redact"
)

var heldByAnother = &work.LockedError{Path: "src/a", Held: work.HeldPath{Path: "src"}, Holder: work.Lock{Item: "i", Attempt: "i.2"}}

// declares runs the wait for an item's paths in a bubble of its own time.
func declares(t *testing.T, claim *fakeClaim, test func(w *worker, hold context.Context)) {
	synctest.Test(t, func(t *testing.T) {
		hold, lose := context.WithCancelCause(t.Context())
		defer lose(nil)
		w := &worker{
			Options: Options{Tracer: noop.NewTracerProvider().Tracer(""), Redactor: redact.New()}, claim: claim, log: hclog.NewNullLogger(),
		}
		w.metrics = newMetrics(w)
		w.envelope.Spec.Paths = []string{"src/a"}
		w.heart = newHeart(hold, time.Now(), heartOptions{
			claim: claim, ttl: testTTL, grace: testGrace, text: func() string { return "" }, dog: &watchdog{}, told: t.Context(), lose: lose, log: w.log,
			restore: func(context.Context) error { return nil },
		})
		w.journal = newJournal(claim, w.envelope, "", w.log)
		test(w, hold)
	})
}

func TestPathsThatCannotBeHadEndTheAttemptAndSpendNoRetry(t *testing.T) {
	claim := &fakeClaim{lock: func(ctx context.Context, patience time.Duration, waiting func(error)) error {
		waiting(heldByAnother)
		return errors.Join(heldByAnother, wait.For(ctx, patience))
	}}
	declares(t, claim, func(w *worker, hold context.Context) {
		began := time.Now()
		end, err := w.lockDeclared(hold)
		if err != nil || end == nil || end.reason != work.ReasonLocked || !strings.Contains(end.detail, "path src/a is held by item i, attempt 2") {
			t.Fatalf("%+v %v", end, err)
		}
		if time.Since(began) != declaredPatience || declaredPatience <= work.LockDelay {
			t.Errorf("waited %s; a lost holder's paths are kept for %s", time.Since(began), work.LockDelay)
		}
		if !end.retryAt.After(time.Now()) || work.DefaultRetryPolicy().Actions[end.reason] != work.ActWait {
			t.Errorf("%+v", end)
		}
		if text := w.journal.progress().LastTool; !strings.Contains(text, "waits: path src/a is held") {
			t.Errorf("progress says %q", text)
		}
	})
}

func TestWaitForPathsCountsAsTheAttemptsTime(t *testing.T) {
	claim := &fakeClaim{lock: func(ctx context.Context, patience time.Duration, _ func(error)) error {
		return errors.Join(heldByAnother, wait.For(ctx, patience))
	}}
	declares(t, claim, func(w *worker, hold context.Context) {
		limited, cancel := context.WithTimeoutCause(hold, time.Second, errTimeout)
		defer cancel()
		if end, err := w.lockDeclared(limited); err != nil || end == nil || end.reason != work.ReasonTimeout {
			t.Errorf("%+v %v", end, err)
		}
	})
}

// TestLockOfALostSessionIsAskedForAgain has the session end as the paths are asked for: the worker asks again once it has its attempt back.
func TestLockOfALostSessionIsAskedForAgain(t *testing.T) {
	for name, back := range map[string]bool{"taken back": true, "away": false} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			claim := &fakeClaim{lock: func(context.Context, time.Duration, func(error)) error {
				if asked++; asked == 1 {
					return work.ErrSessionLost
				}
				return nil
			}}
			declares(t, claim, func(w *worker, hold context.Context) {
				if back {
					time.AfterFunc(time.Minute, func() { w.heart.lift(hold) })
				}
				end, err := w.lockDeclared(hold)
				switch {
				case err != nil:
					t.Error(err)
				case back && (end != nil || asked != 2):
					t.Errorf("%+v, asked %d times", end, asked)
				case !back && (end == nil || end.reason != work.ReasonLocked || asked != 1 || !strings.Contains(end.detail, "has lost its session")):
					t.Errorf("%+v, asked %d times", end, asked)
				}
			})
		})
	}
}
