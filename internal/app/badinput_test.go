package app_test

import (
	"bytes"
	"errors"
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

// TestUnreachableNomadOrConsulIsNamed starts servers that can't reach one of the two.
func TestUnreachableNomadOrConsulIsNamed(t *testing.T) {
	for name, nowhere := range map[string]func(s *spine){
		"Nomad":  func(s *spine) { s.nomad = "http://127.0.0.1:1" },
		"Consul": func(s *spine) { s.consul = "127.0.0.1:1" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpine(t)
			consul := s.consul
			nowhere(s)
			s.writeConfig()
			s.start()
			testkit.Eventually(t, patience, func() error {
				_, err := s.client.Status(t.Context())
				if err != nil && strings.Contains(err.Error(), name) {
					return nil
				}
				return err
			})
			s.refused(t, 4, name, "--repo", s.git.URL(repository), "--task", "x")
			s.consul = consul
			s.holdsNothing(t)
		})
	}
}
