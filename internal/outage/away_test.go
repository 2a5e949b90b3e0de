package main

import (
	"testing"
	"time"
)

// The short forms of make outage-consul.

func TestConsulAwayForLessThanTheGrace(t *testing.T) {
	t.Parallel()
	wantNothingWrong(t, away{items: 6, length: 25 * time.Second, ttl: 10 * time.Second, grace: 5 * time.Minute, delay: time.Second, steps: 10})
}

func TestConsulAwayForLongerThanTheGrace(t *testing.T) {
	t.Parallel()
	wantNothingWrong(t, away{items: 6, length: 30 * time.Second, ttl: 10 * time.Second, grace: 10 * time.Second, delay: time.Second, steps: 10})
}

func wantNothingWrong(t *testing.T, a away) {
	t.Helper()
	wrong, err := runAway(t.Context(), testWriter{t}, testOptions(t), a)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range wrong {
		t.Error(line)
	}
}
