package consul

import (
	"testing"
	"time"
)

func TestNotesOfACheckSayWhenItWasRegistered(t *testing.T) {
	for notes, want := range map[string]time.Time{
		"item x, attempt 1: critical after 2m0s; as of 2026-11-30T03:00:00Z": time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC),
		"item x, attempt 1: critical after 2m0s":                             {},
		"item x; as of yesterday":                                            {},
		"":                                                                   {},
	} {
		if got := registeredAt(notes); !got.Equal(want) {
			t.Errorf("registeredAt(%q) = %s, want %s", notes, got, want)
		}
	}
}
