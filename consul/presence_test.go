package consul_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
)

// shownWithin is how late Consul's UI may be, for as many workers as may register that often.
const shownWithin = 15 * time.Second

// TestCatalogShowsWhatAWorkerDoes uses a Consul with its own check_update_interval, 5 minutes.
func TestCatalogShowsWhatAWorkerDoes(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client, e := open(), envelope(time.Minute)
		a := claim(t, client, e, firstAllocation)
		for _, c := range []struct {
			text   string
			silent bool
		}{{text: "iteration 1"}, {text: "iteration 2"}, {text: "agent silent since 12:00:00", silent: true}, {text: "iteration 3"}} {
			began := time.Now()
			testkit.Eventually(t, shownWithin, func() error {
				if err := a.Beat(t.Context(), c.text, c.silent); err != nil {
					return err
				}
				check := catalogCheck(t, client, e)
				if check.Output != c.text || (check.Status == api.HealthWarning) != c.silent {
					return fmt.Errorf("the catalog shows %q as %s, want %q, silent %t", check.Output, check.Status, c.text, c.silent)
				}
				return nil
			})
			t.Logf("%q was shown after %s", c.text, time.Since(began).Round(time.Millisecond))
		}
		if notes := catalogCheck(t, client, e).Notes; !strings.Contains(notes, "; as of 20") {
			t.Errorf("notes %q", notes)
		}
		if err := a.Confirm(t.Context()); err != nil {
			t.Errorf("the session did not survive the registrations: %v", err)
		}
	})
}

func catalogCheck(t *testing.T, client *consul.Client, e work.Envelope) *api.HealthCheck {
	t.Helper()
	for _, entry := range services(t, client, e) {
		for _, check := range entry.Checks {
			if strings.HasPrefix(check.CheckID, "drover:") {
				return check
			}
		}
	}
	t.Fatalf("no check of %s in the catalog", e.Attempt)
	return nil
}

func TestRegistrationsAreSpacedByTheNumberOfWorkers(t *testing.T) {
	for _, workers := range []int{0, 1, 10, 299, 300, 301, 1000, 5000} {
		shortest, longest := consul.PresenceEvery(workers)
		if workers <= 300 && longest >= shownWithin {
			t.Errorf("%d workers: every %s, want less than %s", workers, longest, shownWithin)
		}
		if rate := float64(workers) / shortest.Seconds(); workers > 300 && rate > 20 {
			t.Errorf("%d workers: %.1f registrations a second, want 20 at most", workers, rate)
		}
	}
}

func TestWorkersAreCounted(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		const workers = 4
		var last *consul.Attempt
		for range workers {
			last = claim(t, client, envelope(time.Minute), firstAllocation)
		}
		if err := last.Beat(t.Context(), "counts", false); err != nil {
			t.Fatal(err)
		}
		if got := last.CountedWorkers(); got != workers {
			t.Errorf("%d workers counted, want %d", got, workers)
		}
	})
}
