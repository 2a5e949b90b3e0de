// Package testkit is what tests share: real servers, waiting for a condition, and the check for leaked goroutines.
package testkit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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

// Where FreePorts looks: below Nomad's dynamic ports (20000 to 32000), and below those that Linux gives to every
// connection and to whoever listens on port 0 (32768 and above). From there a port would at times be
// another's by the time it is used.
const firstPort, lastPort = 10000, 19999

// FreePorts is Ports for a test.
func FreePorts(t testing.TB, count int) []int {
	t.Helper()
	ports, err := Ports(count)
	if err != nil {
		t.Fatal(err)
	}
	return ports
}

// Ports returns count different loopback TCP ports that nobody listened on a moment ago.
func Ports(count int) ([]int, error) {
	var ports []int
	for len(ports) < count {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer listener.Close() // only when all are found, so that they differ
		ports = append(ports, port)
	}
	return ports, nil
}
