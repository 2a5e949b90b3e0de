package orchestrator

import (
	"context"
	"reflect"

	"drover/internal/queue"
	"drover/internal/wait"
	"drover/internal/work"
)

// lockLoop tells the queue which paths are locked, so that no item is
// dispatched that would only wait for them.
func (o *Orchestrator) lockLoop(ctx context.Context) error {
	var index uint64
	var known map[string][]queue.Lock
	for {
		locks, next, err := o.store.Locks(ctx, index)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			o.complain("locks not read", "", err)
			if err := wait.For(ctx, retryPause); err != nil {
				return err
			}
			continue
		}
		index = next
		if held := byRepository(locks); !reflect.DeepEqual(held, known) {
			known = held
			o.mu.Lock()
			o.queue.Lock(held)
			o.mu.Unlock()
			nudge(o.wake)
		}
	}
}

func byRepository(locks []work.Lock) map[string][]queue.Lock {
	held := map[string][]queue.Lock{}
	for _, l := range locks {
		lock := queue.Lock{Item: l.Item, Attempt: l.Attempt.Number(), Paths: l.PathSet()}
		for _, p := range l.Paths {
			if lock.Since.IsZero() || p.Since.Before(lock.Since) {
				lock.Since = p.Since
			}
		}
		if !lock.Paths.Empty() {
			held[l.Repository] = append(held[l.Repository], lock)
		}
	}
	return held
}
