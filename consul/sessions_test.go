package consul_test

import (
	"testing"

	"drover/internal/work"
)

// TestSessionsAreThoseThatLive: what the leader compares the claims with.
func TestSessionsAreThoseThatLive(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		stays, leaves := envelope(work.MinHeartbeatTTL.Std()), envelope(work.MinHeartbeatTTL.Std())
		first, second := claim(t, client, stays, "a"), claim(t, client, leaves, "b")
		if err := first.SaveProgress(t.Context(), work.Progress{Attempt: stays.Attempt, Tokens: work.Tokens{In: 7}}); err != nil {
			t.Fatal(err)
		}
		if err := second.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		live, err := client.Sessions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for session, want := range map[string]bool{first.Claim().Session: true, second.Claim().Session: false} {
			if live[session] != want {
				t.Errorf("session %s lives: %t, want %t", session, live[session], want)
			}
		}
		progresses, err := client.Progresses(t.Context())
		if err != nil || len(progresses) != 1 || progresses[0].Attempt != stays.Attempt || progresses[0].Tokens.In != 7 {
			t.Errorf("progresses = %+v, error = %v, want one of attempt %s with 7 tokens", progresses, err, stays.Attempt)
		}
	})
}
