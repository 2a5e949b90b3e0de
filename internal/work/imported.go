package work

import (
	"errors"
	"fmt"
	"slices"
)

// CheckStored returns ErrInvalid for an item that drover can't have stored: what
// a backup holds is checked before it is taken back.
func (i Item) CheckStored() error {
	err := errors.Join(i.checkIdentity(), i.Spec.Validate(), i.checkAttempts())
	if err != nil {
		return fmt.Errorf("item %s: %w: %w", i.ID, err, ErrInvalid)
	}
	return nil
}

func (i Item) checkIdentity() error {
	switch {
	case !ValidID(i.ID):
		return fmt.Errorf("id %q is not a work item's id", i.ID)
	case !slices.Contains(States(), i.State):
		return fmt.Errorf("state %q is none", i.State)
	case i.Branch != Branch(i.ID):
		return fmt.Errorf("branch %q is not the item's", i.Branch)
	case i.Spec.Queue == "" || i.Spec.Priority == nil:
		return errors.New("its specification lacks queue or priority")
	case i.CreatedAt.IsZero() || len(i.History) == 0:
		return errors.New("it has no history")
	}
	return nil
}

// checkAttempts checks that the attempts are numbered, and that one is under way
// exactly in the states that say so.
func (i Item) checkAttempts() error {
	open := i.State == StateAssigned || i.State == StateInProgress
	for n, a := range i.Attempts {
		if a.Number != n+1 || a.ID != NewAttemptID(i.ID, a.Number) || !slices.Contains(AttemptStates(), a.State) {
			return fmt.Errorf("attempt %d is not one of its own", n+1)
		}
		if last := n == len(i.Attempts)-1; a.State.Terminal() == (open && last) && !(last && i.IsAside()) {
			return fmt.Errorf("attempt %d is %s while the item is %s", a.Number, a.State, i.State)
		}
	}
	if open && len(i.Attempts) == 0 {
		return fmt.Errorf("it is %s without an attempt", i.State)
	}
	return nil
}
