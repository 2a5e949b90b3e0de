package main_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/internal/work"
)

// TestProbeReportsEachStep runs the probe as Nomad does: it prints a finding a line,
// without a secret.
func TestProbeReportsEachStep(t *testing.T) {
	t.Parallel()
	c := newContainer(t, "true")
	payload, err := json.Marshal(work.Probe{Name: "one", KVPrefix: "elsewhere/", Repositories: []string{c.git.URL(repo), "http://127.0.0.1:1/a.git"}, SecretsPath: "nomad/jobs/x"})
	if err != nil {
		t.Fatal(err)
	}
	cmd := c.command()
	if err := os.WriteFile(filepath.Join(c.dir, "item.json"), payload, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Args = append(cmd.Args, "probe")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &stdout, &c.out)
	}
	want := []string{
		"version ok dev", "consul from workers ok workers reach it at 127", "consul permissions of workers ok workers may do all that was tried: 8 things",
		"github token skipped", "git " + c.git.URL(repo) + " ok workers can read it, and push to it", "git http://127.0.0.1:1/a.git failure a worker can't use it: read the references",
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d findings, want %d:\n%s", len(lines), len(want), &stdout)
	}
	for i, line := range lines {
		var f work.Finding
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if text := f.Check + " " + string(f.Status) + " " + f.Says; !strings.HasPrefix(text, want[i]) {
			t.Errorf("finding %d = %q, want %q", i, text, want[i])
		}
	}
	if strings.Contains(stdout.String()+c.out.String(), token) {
		t.Errorf("the token is in\n%s%s", &stdout, &c.out)
	}
}

func TestProbeWithoutAQuestionFails(t *testing.T) {
	t.Parallel()
	c := newContainer(t, "true")
	cmd := c.command()
	if err := os.Remove(filepath.Join(c.dir, "item.json")); err != nil {
		t.Fatal(err)
	}
	cmd.Args = append(cmd.Args, "probe")
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(c.out.String(), "read the dispatch payload") {
		t.Errorf("%v: %s", err, &c.out)
	}
}
