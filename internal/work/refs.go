package work

import (
	"fmt"
	"time"
)

// MaxCleanup bounds the items whose references one attempt removes: their ids have
// to fit a dispatch payload.
const MaxCleanup = 100

const (
	// refsKept is how long the references of an item stay that did not complete: a
	// person may retry it.
	refsKept = 7 * 24 * time.Hour
	// maxCleanups bounds the attempts of one item that remove references.
	maxCleanups = 3
)

// CleaningUp says that an attempt is about to be dispatched that only removes
// references of items that have ended, this one's among them or not. The item stays
// as it is whatever comes of it.
type CleaningUp struct{ Items []string }

// RefsRemoved says that an attempt, of this item or of another of the same
// repository, has removed the item's references.
type RefsRemoved struct{ By AttemptID }

func (CleaningUp) event()  {}
func (RefsRemoved) event() {}

// AttemptKind is what an attempt is for.
type AttemptKind string

// The kinds of attempts.
const (
	KindWork    AttemptKind = "work"
	KindPublish AttemptKind = "publish" // makes the pull request of completed work
	KindCleanup AttemptKind = "cleanup" // removes references below refs/drover/
)

// Kind returns what the attempt is for.
func (a *Attempt) Kind() AttemptKind {
	switch {
	case a.Publish:
		return KindPublish
	case len(a.Cleanup) > 0:
		return KindCleanup
	}
	return KindWork
}

// Aside reports whether the attempt runs beside an item that has ended, and
// changes nothing of its state.
func (a *Attempt) Aside() bool { return a.Kind() != KindWork }

// IsAside reports whether such an attempt is under way.
func (i *Item) IsAside() bool {
	a := i.Current()
	return a != nil && a.Aside() && !a.State.Terminal()
}

// IsCleaning reports whether an attempt is under way that removes references.
func (i *Item) IsCleaning() bool { return i.IsAside() && i.Current().Kind() == KindCleanup }

// RefsDue returns when the item's references below refs/drover/ are to be removed,
// zero if there are none or it may have further attempts: at the end of an item
// that has no pull request, a week after one that failed, is stuck or was cancelled.
func (i *Item) RefsDue() time.Time {
	switch {
	case !i.State.Terminal() || !i.RefsRemovedAt.IsZero() || !i.mayHaveRefs():
		return time.Time{}
	case i.State != StateCompleted:
		return i.Since().Add(refsKept)
	case i.PR.Status == PRNone || i.PR.Status == PRCreated && i.PR.Number == 0:
		return i.Since()
	}
	return time.Time{} // the pull request may bring a follow-up
}

// mayHaveRefs reports whether an attempt ran that did not complete: one that
// completes removes its references itself.
func (i *Item) mayHaveRefs() bool {
	for _, a := range i.Attempts {
		if !a.Aside() && !a.StartedAt.IsZero() && a.State != AttemptCompleted {
			return true
		}
	}
	return false
}

// MayCleanUp reports whether the item can have an attempt that removes references.
func (i *Item) MayCleanUp() bool {
	tries := 0
	for _, a := range i.Attempts {
		if a.Kind() == KindCleanup {
			tries++
		}
	}
	return i.State.Terminal() && !i.IsAside() && i.PublishAt.IsZero() && tries < maxCleanups
}

// RemovedRefsOf returns the attempt that removed the references of another item.
func (i *Item) RemovedRefsOf(other *Item) (AttemptID, bool) {
	for _, a := range i.Attempts {
		if a.State != AttemptCompleted || a.CreatedAt.Before(other.Since()) {
			continue
		}
		for _, id := range a.Cleanup {
			if id == other.ID {
				return a.ID, true
			}
		}
	}
	return "", false
}

func (i *Item) cleanUp(e CleaningUp, now time.Time) error {
	switch {
	case !i.MayCleanUp():
		return fmt.Errorf("it is %s and can't have an attempt that removes references: %w", i.State, ErrConflict)
	case len(e.Items) == 0 || len(e.Items) > MaxCleanup:
		return fmt.Errorf("references of %d items, limit %d: %w", len(e.Items), MaxCleanup, ErrInvalid)
	}
	id := i.NextAttempt()
	i.Attempts = append(i.Attempts, Attempt{
		ID: id, Number: id.Number(), Cleanup: e.Items, State: AttemptStarting, CreatedAt: now, MemoryMB: i.MemoryMB,
	})
	return nil
}

// refsRemoved notes that the item's references are gone. It returns ErrConflict
// when the item was opened again meanwhile.
func (i *Item) refsRemoved(now time.Time) error {
	if !i.State.Terminal() {
		return fmt.Errorf("it is %s again: %w", i.State, ErrConflict)
	}
	i.RefsRemovedAt = now
	return nil
}
