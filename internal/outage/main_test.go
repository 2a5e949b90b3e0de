package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"drover/internal/testkit"
)

// binaries is where drover, its worker and the demo's agent are, as they are under test.
var binaries string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "outage-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	const parallel = "8" // they wait, and compute nothing
	if err := flag.Set("test.parallel", parallel); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for name, pkg := range map[string]string{"drover": "../../cmd/drover", "drover-worker": "../../cmd/drover-worker", "drover-demo-agent": "../demo/agent"} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", name, err, out)
			return 1
		}
	}
	return m.Run()
}

// testOptions are those of a world for a test, which is skipped without a Consul.
func testOptions(t *testing.T) options {
	t.Helper()
	testkit.ConsulBinary(t)
	return options{root: testkit.ModuleRoot(t), bin: binaries, dir: t.TempDir()}
}

// startWorld starts a world that ends with the test; its logs are shown when the test has failed.
func startWorld(t *testing.T, o options) *world {
	t.Helper()
	w, err := newWorld(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, p := range append(w.servers, w.consul) {
				t.Logf("%s:\n%s", p.name, p.logEnd())
			}
		}
	})
	return w
}

// testWriter prints to a test's log.
type testWriter struct{ *testing.T }

func (w testWriter) Write(text []byte) (int, error) {
	w.Logf("%s", text)
	return len(text), nil
}

var _ io.Writer = testWriter{}
