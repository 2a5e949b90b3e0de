// Package parallel spreads work that needs no waiting over all processors.
package parallel

import (
	"runtime"

	"golang.org/x/sync/errgroup"
)

// chunk is how many calls one processor makes at a time.
const chunk = 256

// Each calls f with every number from 0 to below n, and returns the errors at
// their numbers.
func Each(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for begin := 0; begin < n; begin += chunk {
		group.Go(func() error {
			for i := begin; i < min(begin+chunk, n); i++ {
				errs[i] = f(i)
			}
			return nil
		})
	}
	_ = group.Wait() // every call's error is in errs
	return errs
}
