package worker

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/internal/work"
)

// watch keeps a vigil over an agent that does something every second, for so long
// as a limit allows, and returns what it was stopped for, and when.
func watch(t *testing.T, limits work.Limits, does func(second int, v *vigil)) (after time.Duration, stopped error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var v vigil
	began := time.Now()
	var agent sync.WaitGroup
	agent.Go(func() {
		for second := 1; ctx.Err() == nil && time.Since(began) < 3*time.Hour; second++ {
			time.Sleep(time.Second - time.Millisecond)
			does(second, &v)
			time.Sleep(time.Millisecond)
		}
		cancel(nil)
	})
	v.keep(ctx, limits.SilenceTimeout.Std(), limits.IdleTimeout.Std(), func(err error) { cancel(err); stopped = err })
	after = time.Since(began)
	agent.Wait()
	return after, stopped
}

func prints(v *vigil) { _, _ = io.WriteString(v.watched(io.Discard), "x") }

func TestSilenceAndIdlenessHaveLimitsOfTheirOwn(t *testing.T) {
	for name, c := range map[string]struct {
		does  func(second int, v *vigil)
		want  error
		after time.Duration
	}{
		"it prints":                      {func(_ int, v *vigil) { prints(v) }, nil, 3 * time.Hour},
		"it prints every 29 minutes":     {func(s int, v *vigil) { every(s, 29*60, func() { prints(v) }) }, nil, 3 * time.Hour},
		"it waits ten minutes at a time": {func(s int, v *vigil) { every(s, 600, func() { prints(v) }) }, nil, 3 * time.Hour},
		"it is silent, and computes":     {func(_ int, v *vigil) { v.busy.Store(true) }, errSilent, time.Hour},
		"it is silent, and stirs":        {func(s int, v *vigil) { every(s, 120, func() { v.busy.Store(true) }) }, errSilent, time.Hour},
		"nothing stirs":                  {func(int, *vigil) {}, errStill, 30 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				after, err := watch(t, work.NewDefaults().Limits, c.does)
				if !errors.Is(err, c.want) || (after-c.after).Abs() > time.Second {
					t.Errorf("stopped for %v after %s, want %v after %s", err, after, c.want, c.after)
				}
			})
		})
	}
}

func every(second, seconds int, do func()) {
	if second%seconds == 0 {
		do()
	}
}
