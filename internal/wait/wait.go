// Package wait lets time pass without losing sight of a context.
package wait

import (
	"context"
	"time"
)

// For returns nil after d, or the context's cause if that ends first.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
