package app_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"drover/internal/control"
	"drover/internal/testkit"
	"drover/internal/work"
)

// itemFields are what every line of a log has that concerns an item.
var itemFields = []string{"item", "attempt", "queue", "repository", "alloc", "trace_id"}

// TestEveryLineAboutAnItemSaysAllOfIt reads the logs of a server and of the
// workers of items that completed, were retried, failed and were cancelled.
func TestEveryLineAboutAnItemSaysAllOfIt(t *testing.T) {
	s := newSpine(t)
	server := s.start()
	none := 0
	ids := s.submitSpecs([]work.Spec{
		{Task: "commits=1 delay=1ms"},
		{Task: "x", Command: []string{"sh", "-c", `[ "$DROVER_ATTEMPT" != 1 ] || exit 3; echo x >x; git add -A; git commit -qm x`}},
		{Task: "x", Command: []string{"sh", "-c", "exit 4"}, Retry: &work.RetryOverride{MaxRetries: &none}},
		{Task: "x", Command: []string{"sh", "-c", "kill -KILL $$"}, Retry: &work.RetryOverride{MaxRetries: &none}},
	})
	for _, id := range ids {
		s.await(id)
	}
	workers := ""
	for _, id := range ids {
		workers += s.keptLogs(id) + "\n"
	}
	server.kill()
	seen := 0
	for _, line := range append(jsonLines(t, server.log.String(), true), jsonLines(t, workers, false)...) {
		if !concerns(line, ids) {
			continue
		}
		seen++
		for _, field := range itemFields {
			if _, ok := line[field]; !ok {
				t.Errorf("no %s in %v", field, line)
			}
		}
		if trace, _ := line["trace_id"].(string); trace != "" && trace != fmt.Sprintf("%x", work.TraceID(fmt.Sprint(line["item"]))) {
			t.Errorf("trace of another item in %v", line)
		}
	}
	if seen < 4*len(ids) {
		t.Errorf("only %d lines concern an item", seen)
	}
}

// jsonLines parses the lines of a log; all must be JSON unless agents write to it too.
func jsonLines(t *testing.T, text string, all bool) (lines []map[string]any) {
	t.Helper()
	for text := range strings.Lines(text) {
		var line map[string]any
		err := json.Unmarshal([]byte(text), &line)
		if err != nil && all {
			t.Errorf("not JSON: %s", text)
		}
		if err == nil && line["@message"] != nil {
			lines = append(lines, line)
		}
	}
	return lines
}

func concerns(line map[string]any, ids []string) bool {
	text := fmt.Sprint(line)
	for _, id := range ids {
		if strings.Contains(text, id) {
			return true
		}
	}
	return false
}

// TestLogLevelsChangeAtRunTime does so by the command line, by the API and by SIGHUP.
func TestLogLevelsChangeAtRunTime(t *testing.T) {
	s := newSpine(t)
	s.env = []string{"DROVER_LOG_LEVEL="} // the environment would count more than the file
	server := s.start()
	s.reachable()
	levels := func() map[string]string {
		t.Helper()
		levels, err := s.client.LogLevels(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return levels
	}
	if got := levels(); got["nomad"] != "info" || len(got) != 6 {
		t.Fatalf("levels at first: %v", got)
	}
	if out, err := s.drover("log-level", "nomad", "trace"); err != nil || !strings.Contains(out, "nomad         trace") {
		t.Errorf("drover log-level: %v\n%s", err, out)
	}
	if got := levels(); got["nomad"] != "trace" || got["api"] != "info" {
		t.Errorf("after log-level: %v", got)
	}
	if _, err := s.client.SetLogLevel(t.Context(), control.LogLevel{Subsystem: "kitchen", Level: "info"}); err == nil || !strings.Contains(err.Error(), "orchestrator") {
		t.Errorf("unknown subsystem: %v", err)
	}
	if _, err := s.client.SetLogLevel(t.Context(), control.LogLevel{Level: "loud"}); err == nil {
		t.Error("unknown level was set")
	}
	text, err := os.ReadFile(s.config)
	if err == nil {
		err = os.WriteFile(s.config, []byte(strings.Replace(string(text), "orchestrator {", "orchestrator {\n  log_level = \"warn\"\n  log_levels = { api = \"debug\" }", 1)), 0o600)
	}
	if err == nil {
		err = server.cmd.Process.Signal(syscall.SIGHUP)
	}
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() error {
		if got := levels(); got["nomad"] != "warn" || got["api"] != "debug" {
			return fmt.Errorf("after SIGHUP: %v", got)
		}
		return nil
	})
}

// drover runs the command against the server and returns what it printed.
func (s *spine) drover(args ...string) (string, error) {
	return s.droverWith([]string{"DROVER_ADDR=http://" + s.address}, args...)
}

// droverWith runs the command with more in its environment and returns what it printed.
func (s *spine) droverWith(env []string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(s.bin, "drover"), args...)
	cmd.Env = append(append(os.Environ(), "DROVER_TOKEN="+spineToken), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
