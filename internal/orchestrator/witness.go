package orchestrator

import (
	"time"

	"drover/internal/work"
)

// witnessed counts, of an item's attempts that were requeued in a row, the one that
// ends so among them, those that ended while another item's attempt on the same
// node went on. Who runs no container of its own stands beside any other. It counts
// only once there are enough for the row to matter.
func (o *Orchestrator) witnessed(item *work.Item, end work.Ending) int {
	policy := o.policy(item.Spec)
	if policy.Actions[end.Reason] != work.ActRequeue || item.Requeues+1 < policy.MaxRequeues {
		return 0
	}
	var row []*work.Attempt
	for i := len(item.Attempts) - 1; i >= 0 && len(row) <= item.Requeues; i-- {
		a := item.Attempts[i]
		if !a.State.Terminal() {
			a.EndedAt = time.Now()
			if a.Node == "" {
				a.Node = end.Node
			}
		}
		row = append(row, &a)
	}
	seen := make([]bool, len(row))
	for _, other := range o.snapshot() {
		if other.ID == item.ID {
			continue
		}
		for i := range other.Attempts {
			for n, a := range row {
				seen[n] = seen[n] || outlived(&other.Attempts[i], a)
			}
		}
	}
	count := 0
	for _, yes := range seen {
		if yes {
			count++
		}
	}
	return count
}

// outlived reports whether an attempt went on where another ended: on the same
// node, under way at that moment, and not ended by infrastructure itself.
func outlived(other, a *work.Attempt) bool {
	switch {
	case other.StartedAt.IsZero() || other.StartedAt.After(a.EndedAt):
		return false
	case a.Node != "" && other.Node != a.Node:
		return false
	case other.State.Terminal():
		return other.EndedAt.After(a.EndedAt) && !other.Reason.Infrastructure()
	}
	return other.Suspicion == nil
}
