package app_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"drover/internal/testkit"
	"drover/internal/work"
)

// cli runs drover against the spine's server and returns its exit status and
// what it wrote to standard error.
func (s *spine) cli(args ...string) (int, string) {
	s.t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(s.bin, "drover"), args...)
	cmd.Env = append(os.Environ(), "DROVER_ADDR=http://"+s.address, "DROVER_TOKEN="+spineToken)
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stderr.String()
}

// refused checks that a submission ends with a status and one line that says why.
func (s *spine) refused(t *testing.T, status int, says string, args ...string) {
	t.Helper()
	got, stderr := s.cli(append([]string{"submit"}, args...)...)
	if got != status || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, says) {
		t.Errorf("exit status %d, want %d; says %q, want one line with %q", got, status, stderr, says)
	}
}

// TestBadInputIsRefusedAndStoresNothing submits what can't be accepted to a real server.
func TestBadInputIsRefusedAndStoresNothing(t *testing.T) {
	s := newSpine(t)
	s.start()
	testkit.Eventually(t, patience, func() error {
		_, err := s.client.Status(t.Context())
		return err
	})
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "items.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := "repository: " + s.git.URL(repository) + "\ntask: x\n"
	for name, c := range map[string]struct {
		says string
		args []string
	}{
		"unknown field":      {"unknown field", []string{"-f", file(good + "---\n" + good + "tsak: y\n")}},
		"missing repository": {"repository is missing", []string{"--task", "x"}},
		"over-long task":     {"bytes, at most", []string{"-f", file("repository: https://h/a.git\ntask: " + strings.Repeat("x", work.MaxTaskBytes+1) + "\n")}},
		"bad YAML":           {"document 1", []string{"-f", file("repository: [\n")}},
		"unknown queue":      {`unknown queue "nowhere"`, []string{"--repo", s.git.URL(repository), "--task", "x", "--queue", "nowhere"}},
		"good with bad":      {"unknown queue", []string{"-f", file(good + "---\n" + good + "queue: nowhere\n")}},
	} {
		t.Run(name, func(t *testing.T) { s.refused(t, 2, c.says, c.args...) })
	}
	s.holdsNothing(t)
}

func (s *spine) holdsNothing(t *testing.T) {
	t.Helper()
	keys, _, err := testkit.ConsulClient(t, s.consul).KV().Keys("test/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if strings.Contains(key, "/items/") {
			t.Errorf("%s was stored", key)
		}
	}
}

// TestUnreachableConsulIsNamed: without Consul nothing can be stored.
func TestUnreachableConsulIsNamed(t *testing.T) {
	s := newSpine(t)
	consul := s.consul
	s.consul = "127.0.0.1:1"
	s.startUnreachable(t, "Consul")
	s.refused(t, 4, "Consul", "--repo", s.git.URL(repository), "--task", "x")
	s.consul = consul
	s.holdsNothing(t)
}

// TestUnreachableNomadIsNamed: an item is stored, and says what it waits for.
func TestUnreachableNomadIsNamed(t *testing.T) {
	s := newSpine(t)
	s.nomad = "http://127.0.0.1:1"
	s.startUnreachable(t, "Nomad")
	id := s.submitSpecs([]work.Spec{{Task: "x"}})[0]
	testkit.Eventually(t, patience, func() error {
		item, _, err := s.client.Item(t.Context(), id)
		if err == nil && (item.State != work.StateQueued || !strings.Contains(item.Why, "waits for Nomad")) {
			err = fmt.Errorf("item is %s: %s; want queued, and that it waits for Nomad", item.State, item.Why)
		}
		return err
	})
}

// startUnreachable starts a server that can't reach one of the two, and waits until it says so.
func (s *spine) startUnreachable(t *testing.T, name string) {
	t.Helper()
	s.writeConfig()
	s.start()
	testkit.Eventually(t, patience, func() error {
		status, err := s.client.Status(t.Context())
		if said := fmt.Sprintf("%v %s", err, status.NotDispatching); !strings.Contains(said, name) {
			return fmt.Errorf("the server says %q, want it to name %s", said, name)
		}
		return nil
	})
}
