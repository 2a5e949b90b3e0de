package work

import (
	"fmt"
	"time"
)

// Suspicion says since when a running attempt's worker may be lost: its claim's
// session was gone. It is stored, so that the next leader goes on from it.
type Suspicion struct {
	Session string    `json:"session"`
	Since   time.Time `json:"since"` // when a leader first stored it
}

// Suspected says that the session of a running attempt's claim is gone. The worker
// may still take the attempt back, with another.
type Suspected struct {
	Attempt AttemptID
	Session string
}

// Heard says that a suspected attempt's claim has a session that lives.
type Heard struct{ Attempt AttemptID }

func (Suspected) event() {}
func (Heard) event()     {}

// LostAfter returns how long a worker's session must have been gone before the
// worker counts as lost. A session that ends takes its TTL to do so on one side
// alone, so the window is not shorter than that.
func (i *Item) LostAfter(window time.Duration) time.Duration {
	return max(window, i.Spec.Limits.HeartbeatTTL.Std())
}

func (i *Item) suspected(e Suspected, now time.Time) error {
	a, err := i.current(e.Attempt)
	if err != nil {
		return err
	}
	a.Suspicion = &Suspicion{Session: e.Session, Since: now}
	if !a.Aside() {
		i.Why = fmt.Sprintf("attempt %d lost its Consul session; its worker may take it back", a.Number)
	}
	return nil
}

func (i *Item) heard(e Heard) error {
	a, err := i.current(e.Attempt)
	if err != nil {
		return err
	}
	a.Suspicion = nil
	if !a.Aside() {
		i.Why = fmt.Sprintf("attempt %d runs on %s again: its worker is back", a.Number, a.Node)
	}
	return nil
}

// budgetGone says which budget the item has used up once its attempt ended so,
// empty if none.
func (i *Item) budgetGone(end Ending, now time.Time) string {
	budget := i.Spec.Budget
	in, out := max(i.Tokens.In, end.Tokens.In), max(i.Tokens.Out, end.Tokens.Out)
	spent := i.spent().Std()
	if a := i.Current(); a != nil && !a.State.Terminal() && !a.StartedAt.IsZero() && now.After(a.StartedAt) {
		spent += now.Sub(a.StartedAt)
	}
	switch {
	case budget.Tokens > 0 && in+out >= budget.Tokens:
		return fmt.Sprintf("its budget of %d tokens is used up", budget.Tokens)
	case budget.CostUSD > 0 && max(i.CostUSD, end.CostUSD) >= budget.CostUSD:
		return fmt.Sprintf("its budget of %g USD is used up", budget.CostUSD)
	case budget.Time > 0 && spent >= budget.Time.Std():
		return fmt.Sprintf("its budget of %s is used up", budget.Time)
	}
	return ""
}
