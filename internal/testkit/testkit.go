// Package testkit is what tests share: real servers, waiting for a condition, and the check for leaked goroutines.
package testkit

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// MustRunVariable names the environment variable that lists (separated by commas) what may not be skipped for want of
// a server: "consul", "nomad".
const MustRunVariable = "DROVER_TEST_MUST_RUN"

// pollInterval is how often Eventually looks.
const pollInterval = 10 * time.Millisecond

// Main runs a package's tests and fails when one of them leaves a goroutine behind. Call it from TestMain.
func Main(m *testing.M, options ...goleak.Option) { goleak.VerifyTestMain(m, options...) }

// Eventually waits until condition returns nil, and fails the test with its last error when that takes longer than
// timeout. Call it from the test's own goroutine.
func Eventually(t testing.TB, timeout time.Duration, condition func() error) {
	t.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("still not so after %v: %v", timeout, err)
		}
	}
}

// SkipWithout skips the test for want of a server ("consul", "nomad"), or fails it where MustRunVariable names that
// server.
func SkipWithout(t testing.TB, server, why string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv(MustRunVariable), ","), server) {
		t.Fatalf("%s must run: %s", server, why)
	}
	t.Skipf("no %s: %s", server, why)
}

// ModuleRoot is the directory of the module that the test belongs to.
func ModuleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("find module root: %v", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("find module root: no go.mod above the working directory")
		}
		dir = parent
	}
}

// FreePorts returns count different loopback TCP ports that nobody listened on a moment ago.
func FreePorts(t testing.TB, count int) []int {
	t.Helper()
	ports := make([]int, count)
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("find a free port: %v", err)
		}
		defer listener.Close() // only when all are found, so that they differ
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports
}
