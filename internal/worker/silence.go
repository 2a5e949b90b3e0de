package worker

import (
	"context"
	"io"
	"sync/atomic"
	"time"
)

// vigilInterval is how often a running agent is looked at.
const vigilInterval = time.Second

// vigil judges whether a run of the agent goes on: one that prints nothing for too
// long has hung, whatever CPU time it uses, and one that uses none either has hung
// sooner. Whether the worker itself lives is another question, and the heartbeat's.
type vigil struct{ printed, busy atomic.Bool }

// watched is a writer whose writes are signs of life.
func (v *vigil) watched(w io.Writer) io.Writer { return watchedOutput{w, v} }

type watchedOutput struct {
	io.Writer
	vigil *vigil
}

func (w watchedOutput) Write(p []byte) (int, error) {
	w.vigil.printed.Store(true)
	return w.Writer.Write(p)
}

// keep looks on until ctx ends, and calls stop once where the agent has printed
// nothing for silence, or neither printed anything nor used CPU time for idle. What
// counts is the time in which it looked: a worker that was stopped, or whose
// machine slept, has missed nothing.
func (v *vigil) keep(ctx context.Context, silence, idle time.Duration, stop func(error)) {
	tick := time.NewTicker(vigilInterval)
	defer tick.Stop()
	var silent, still time.Duration
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		step := min(now.Sub(last), 2*vigilInterval)
		last, silent, still = now, silent+step, still+step
		busy := v.busy.Swap(false)
		if printed := v.printed.Swap(false); printed {
			silent = 0
			busy = true
		}
		if busy {
			still = 0
		}
		switch {
		case silent >= silence:
			stop(errSilent)
			return
		case still >= idle:
			stop(errStill)
			return
		}
	}
}
