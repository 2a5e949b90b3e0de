package orchestrator

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// outage is a time in which Nomad does not answer.
type outage struct {
	since time.Time
	err   error
}

func (x *outage) sentence() string {
	return fmt.Sprintf("it waits for Nomad, which does not answer since %s: %v", stamp(x.since), x.err)
}

// askTimeout bounds the question whether Nomad answers.
const askTimeout = 3 * time.Second

// askNomad asks whether Nomad answers, and remembers it: while it does not, nothing
// is dispatched. It returns what Cluster.Check returns.
func (o *Orchestrator) askNomad(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err := o.cluster.Check(asking)
	switch before := o.away.Load(); {
	case err != nil && ctx.Err() == nil:
		if before == nil {
			o.log.Warn("Nomad does not answer: items are taken and none is dispatched", "error", err)
			before = &outage{since: time.Now()}
		}
		o.away.Store(&outage{since: before.since, err: err})
	case err == nil && before != nil:
		o.log.Info("Nomad answers again", "away", time.Since(before.since).Round(time.Second))
		o.away.Store(nil)
		nudge(o.wake)
	}
	return err
}

// steadiness is since when Consul has answered without fail, as far as this leader
// asked it. Its zero value has not answered yet.
type steadiness struct {
	mu   sync.Mutex
	from time.Time
}

func (s *steadiness) failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from = time.Time{}
}

// answered takes note of a consistent read that began at a time.
func (s *steadiness) answered(began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.from.IsZero() {
		s.from = began
	}
}

func (s *steadiness) since(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.from.IsZero() {
		return 0
	}
	return now.Sub(s.from)
}
