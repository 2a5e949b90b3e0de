package testkit_test

import (
	"errors"
	"fmt"
	"os"
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

// TestFreePortsDiffer also has none be a port that the kernel gives to others meanwhile.
func TestFreePortsDiffer(t *testing.T) {
	var first, last int
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &first, &last)
	}
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, port := range testkit.FreePorts(t, 10) {
		if seen[port] || port >= first && port <= last {
			t.Errorf("port %d came twice, or is of the kernel's %d to %d", port, first, last)
		}
		seen[port] = true
	}
}
