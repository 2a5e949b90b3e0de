package app_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"drover/internal/testkit"
	"drover/internal/work"
)

// kills is how often the server is killed; it runs ten items each time.
const kills = 20

// TestKilledServerLosesNothing kills the server at random moments while ten
// items run, and starts another. DROVER_TEST_SEED repeats a run.
func TestKilledServerLosesNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("DROVER_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("DROVER_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newSpine(t)
	server := s.start()
	var all []string
	for range kills {
		tasks := make([]string, 10)
		for i := range tasks {
			tasks[i] = fmt.Sprintf("commits=2 delay=%dms", 20+random.IntN(200))
		}
		ids := s.submit(tasks...)
		moment := time.NewTimer(time.Duration(random.IntN(2500)) * time.Millisecond)
		<-moment.C
		server.kill()
		server = s.start()
		for _, id := range ids {
			s.await(id)
		}
		all = append(all, ids...)
	}
	for _, id := range all {
		if err := s.verify(id, 2); err != nil {
			t.Error(err)
		}
	}
	if got := len(s.forge.Pulls()); got != len(all) {
		t.Errorf("%d pull requests for %d items", got, len(all))
	}
	testkit.Eventually(t, patience, func() error { return s.nothingLeft() })
}

// nothingLeft says what of ended attempts is still in Nomad.
func (s *spine) nothingLeft() error {
	jobs, _, err := s.nomadClient().Jobs().List(nil)
	if err != nil {
		return err
	}
	for _, job := range jobs {
		if job.ParentID != "" {
			return fmt.Errorf("child %s is still there", job.ID)
		}
	}
	return nil
}

// TestStoppedServerLeavesRunningAttemptsAlone stops the server as an operator
// does, while an item runs, and starts another.
func TestStoppedServerLeavesRunningAttemptsAlone(t *testing.T) {
	s := newSpine(t)
	first := s.start()
	id := s.submit("commits=3 delay=1s")[0]
	testkit.Eventually(t, patience, func() error {
		item, err := s.item(id)
		if err != nil || item.State != work.StateInProgress {
			return fmt.Errorf("%s %v", item.State, err)
		}
		return nil
	})
	if err := first.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := <-first.done
	first.done <- err
	if err != nil {
		t.Fatalf("a stopped server ends with %v", err)
	}
	s.start()
	if err := s.verify(id, 3); err != nil {
		t.Fatal(err)
	}
}

// TestJobDispatchedByHandBecomesAnItem dispatches a worker as `nomad job
// dispatch` does, with an item's specification as its payload.
func TestJobDispatchedByHandBecomesAnItem(t *testing.T) {
	s := newSpine(t)
	s.start()
	if err := s.verify(s.submit("commits=1 delay=10ms")[0], 1); err != nil { // registers the worker job
		t.Fatal(err)
	}
	payload := fmt.Sprintf(`{"repository": %q, "task": "commits=2 delay=10ms"}`, s.git.URL(repository))
	resp, _, err := s.nomadClient().Jobs().Dispatch("drover-worker", nil, []byte(payload), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	attempt, err := work.HandDispatched(resp.DispatchedJobID)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.verify(attempt.Item(), 2); err != nil {
		t.Fatal(err)
	}
}
