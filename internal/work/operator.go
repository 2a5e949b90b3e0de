package work

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// maxHistory bounds an item's history, so that orders without end can't have it
// outgrow what Consul takes for one value. drover's own transitions are bounded
// by the retry table.
const maxHistory = 500

// By says who ordered something, and names the order, so that an order which is
// repeated changes nothing. Both may be empty.
type By struct {
	Who string
	Key string
}

func (b By) String() string { return or(b.Who, "an operator") }

// Retried says that a person wants an item that failed, got stuck or was
// cancelled to be tried again, as if for the first time.
type Retried struct{ By By }

// Requeued says that a person wants a waiting item to run as soon as there is
// room. An attempt under way ends by Ended instead.
type Requeued struct{ By By }

// Prioritized says that a person gives an open item another priority.
type Prioritized struct {
	By       By
	Priority int
}

// Edited says that a person changed what is asked for, while no attempt acts on
// it. Spec must be valid and have its defaults.
type Edited struct {
	By   By
	Spec Spec
}

func (Retried) event()     {}
func (Requeued) event()    {}
func (Prioritized) event() {}
func (Edited) event()      {}

// Ordered reports whether the order of that key was carried out.
func (i *Item) Ordered(key string) bool {
	return key != "" && slices.ContainsFunc(i.History, func(t Transition) bool { return t.Key == key })
}

// note adds to the history what happened without the item's moving.
func (i *Item) note(cause string, by By, now time.Time) {
	i.History = append(i.History, Transition{At: now, From: i.State, To: i.State, Cause: cause, Key: by.Key})
}

// order applies what a person ordered.
func (i *Item) order(event Event, now time.Time) error {
	if len(i.History) >= maxHistory {
		return fmt.Errorf("its history of %d transitions is full: submit it anew: %w", len(i.History), ErrConflict)
	}
	switch e := event.(type) {
	case Retried:
		return i.retry(e, now)
	case Requeued:
		return i.requeue(e, now)
	case Prioritized:
		return i.prioritize(e, now)
	case Edited:
		return i.edit(e, now)
	}
	return fmt.Errorf("event %T: %w", event, ErrInvalid)
}

// retry opens an ended item again. Its counters begin anew, iterations too; what
// it spent and what it pushed stay.
func (i *Item) retry(e Retried, now time.Time) error {
	if err := CheckReopen(i.State); err != nil {
		return err
	}
	if i.IsCleaning() {
		return fmt.Errorf("its references are being removed, as attempt %d: try again when that has ended: %w", i.Current().Number, ErrConflict)
	}
	budget := i.Spec.Budget
	switch {
	case budget.Tokens > 0 && i.Tokens.In+i.Tokens.Out >= budget.Tokens:
		return fmt.Errorf("its budget of %d tokens is used up: raise budget.tokens first: %w", budget.Tokens, ErrConflict)
	case budget.CostUSD > 0 && i.CostUSD >= budget.CostUSD:
		return fmt.Errorf("its budget of %g USD is used up: raise budget.cost_usd first: %w", budget.CostUSD, ErrConflict)
	}
	i.Retries, i.Requeues, i.Iteration = 0, 0, 0
	i.NotBefore = time.Time{}
	i.wantPR()
	i.set(StateQueued, fmt.Sprintf("retried by %s", e.By), e.By.Key, now)
	return nil
}

func (i *Item) requeue(e Requeued, now time.Time) error {
	if i.State != StateQueued {
		return fmt.Errorf("it is %s and no attempt is under way: %w", i.State, ErrConflict)
	}
	i.NotBefore = time.Time{}
	i.Why = fmt.Sprintf("requeued by %s", e.By)
	i.note(i.Why, e.By, now)
	return nil
}

func (i *Item) prioritize(e Prioritized, now time.Time) error {
	if i.State.Terminal() {
		return fmt.Errorf("it is %s already: %w", i.State, ErrConflict)
	}
	if e.Priority < 0 || e.Priority > MaxPriority {
		return fmt.Errorf("priority %d: use 0 to %d: %w", e.Priority, MaxPriority, ErrInvalid)
	}
	i.Spec.Priority = &e.Priority
	i.note(fmt.Sprintf("priority set to %d by %s", e.Priority, e.By), e.By, now)
	return nil
}

// edit changes the specification of an item that waits, or that ended and may be
// retried.
func (i *Item) edit(e Edited, now time.Time) error {
	if i.State != StateQueued && CheckReopen(i.State) != nil {
		return fmt.Errorf("it is %s: only items that wait, or that ended without completing, can be edited: %w", i.State, ErrConflict)
	}
	before, spec := i.Spec, e.Spec
	if len(i.Attempts) > 0 && (spec.Repository != before.Repository || spec.Base != before.Base) {
		return fmt.Errorf("its branch was begun: the repository and the base stay as they are: %w", ErrConflict)
	}
	if spec.UniqueKey != before.UniqueKey || !slices.Equal(spec.DependsOn, before.DependsOn) || spec.Queue != before.Queue && before.UniqueKey != "" {
		return fmt.Errorf("what it depends on, its unique key and the queue of that stay as they are: %w", ErrConflict)
	}
	i.Spec = spec
	if spec.Resources.MemoryMB != before.Resources.MemoryMB {
		i.MemoryMB = spec.Resources.MemoryMB
	}
	if !spec.NotBefore.Equal(before.NotBefore) {
		i.NotBefore = spec.NotBefore
	}
	if i.State == StateQueued {
		i.PR.Status = PRNone
		i.wantPR()
	}
	i.note(fmt.Sprintf("edited by %s", e.By), e.By, now)
	return nil
}

// wantPR has a pull request made, if one is asked for.
func (i *Item) wantPR() {
	if i.PR.Status == PRNone && i.Spec.PR.Provider != ProviderNone {
		i.PR.Status = PRPending
	}
}

// Merged returns the specification after a JSON merge patch (RFC 7396): a field
// that is null is left open again. It returns ErrInvalid.
func (s Spec) Merged(patch []byte) (Spec, error) {
	current, err := json.Marshal(s)
	if err != nil {
		return Spec{}, fmt.Errorf("encode item: %w", err)
	}
	var target, changes map[string]any
	if err := json.Unmarshal(current, &target); err != nil {
		return Spec{}, fmt.Errorf("decode item: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(patch))
	decoder.UseNumber()
	if err := decoder.Decode(&changes); err != nil || changes == nil {
		return Spec{}, fmt.Errorf("edit: give an object of the fields to change: %w", ErrInvalid)
	}
	merged, err := json.Marshal(mergeObjects(target, changes))
	if err != nil {
		return Spec{}, fmt.Errorf("encode item: %w", err)
	}
	return DecodeSpec(merged)
}

func mergeObjects(target, patch map[string]any) map[string]any {
	if target == nil {
		target = map[string]any{}
	}
	for name, value := range patch {
		object, isObject := value.(map[string]any)
		switch {
		case value == nil:
			delete(target, name)
		case isObject:
			inner, _ := target[name].(map[string]any)
			target[name] = mergeObjects(inner, object)
		default:
			target[name] = value
		}
	}
	return target
}
