package testkit_test

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestEventuallyReturnsOnceTheConditionHolds(t *testing.T) {
	calls := 0
	testkit.Eventually(t, time.Minute, func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if calls != 3 {
		t.Errorf("condition was called %d times, want 3", calls)
	}
}

func TestConsulIsReadyForSessions(t *testing.T) {
	client := testkit.Consul(t, `check_update_interval = "0s"`)
	id, _, err := client.Session().Create(&api.SessionEntry{TTL: "10s"}, nil)
	if err != nil {
		t.Fatalf("create session: %v", err)
	}
	if _, err := client.Session().Destroy(id, nil); err != nil {
		t.Errorf("destroy session: %v", err)
	}
}

func TestFreePortsDiffer(t *testing.T) {
	seen := map[int]bool{}
	for _, port := range testkit.FreePorts(t, 10) {
		if seen[port] {
			t.Errorf("port %d came twice", port)
		}
		seen[port] = true
	}
}
