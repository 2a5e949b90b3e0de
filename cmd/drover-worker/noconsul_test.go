package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
	"drover/internal/worker"
)

// TestLastWordNamesWhereConsulWasLookedFor has each way in which a worker does not reach Consul.
func TestLastWordNamesWhereConsulWasLookedFor(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() }) // accepts, and never answers
	leaderless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
	}))
	t.Cleanup(leaderless.Close)
	nobody := fmt.Sprintf("127.0.0.1:%d", testkit.FreePorts(t, 1)[0])
	socket := "unix://" + filepath.Join(t.TempDir(), "consul.sock")
	const listen = "; the node's Consul agent must listen on an address that containers reach"
	for name, c := range map[string]struct{ address, want string }{
		"nothing listens":  {nobody, "Consul at http://" + nobody + " does not answer: connection refused" + listen},
		"with a scheme":    {"http://" + nobody, "Consul at http://" + nobody + " does not answer: connection refused" + listen},
		"no socket":        {socket, "Consul at " + socket + " does not answer: no such file or directory" + listen},
		"no such host":     {"consul.invalid:8500", "Consul at http://consul.invalid:8500 does not answer: lookup consul.invalid"},
		"no answer":        {silent.Addr().String(), "Consul at http://" + silent.Addr().String() + " does not answer in time" + listen},
		"servers are away": {leaderless.Listener.Addr().String(), "No cluster leader"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := consul.Open(consul.Options{Address: c.address})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			item := work.NewID(time.Now())
			_, err = client.ClaimAttempt(ctx, work.Envelope{Item: item, Attempt: work.NewAttemptID(item, 1)}, "alloc")
			if !errors.Is(err, work.ErrUnavailable) {
				t.Fatalf("claim: %v", err)
			}
			if got := noConsul(client.Address(), err); !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
				t.Errorf("last word %q, want %q in it", got, c.want)
			}
		})
	}
}

func TestExitStatusTellsTheLeaderWhatHappened(t *testing.T) {
	t.Parallel()
	for want, err := range map[int]error{
		0:                       nil,
		exitFailed:              fmt.Errorf("x: %w", worker.ErrStopped),
		work.WorkerExitFenced:   fmt.Errorf("x: %w: %w", worker.ErrFenced, worker.ErrStopped),
		work.WorkerExitNoConsul: fmt.Errorf("%w: %w", worker.ErrNoConsul, work.ErrUnavailable),
	} {
		if got := exitStatus(err); got != want {
			t.Errorf("exit status of %v = %d, want %d", err, got, want)
		}
	}
}
