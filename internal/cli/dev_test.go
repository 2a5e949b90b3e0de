package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"drover/internal/cli"
	"drover/internal/testkit"
)

// screen is a Writer that can be read while it is written to.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

var exportLine = regexp.MustCompile(`(?m)^export (\w+)=(\S+)$`)

// startDev runs drover dev and returns what it exports, and its end.
func startDev(t *testing.T, env []string, args ...string) (exports map[string]string, out, log *screen, end func() int) {
	t.Helper()
	out, log = &screen{}, &screen{}
	ctx, cancel := context.WithCancel(t.Context())
	status := make(chan int, 1)
	go func() {
		status <- cli.Main(ctx, append([]string{"dev", "--embedded", "--http-addr", "127.0.0.1:0"}, args...), env, strings.NewReader(""), out, log)
	}()
	end = sync.OnceValue(func() int {
		cancel()
		return <-status
	})
	t.Cleanup(func() { end() })
	exports = map[string]string{}
	testkit.Eventually(t, time.Minute, func() error {
		for _, match := range exportLine.FindAllStringSubmatch(out.String(), -1) {
			exports[match[1]] = match[2]
		}
		if exports["DROVER_ADDR"] == "" {
			return fmt.Errorf("no address yet: %s", log)
		}
		return nil
	})
	return exports, out, log, end
}

func TestDevRunsAClusterAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	worker := filepath.Join(dir, "drover-worker")
	const executable = 0o755
	if err := os.WriteFile(worker, []byte("#!/bin/sh\n"), executable); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + dir, "DROVER_GIT_TOKEN=s3cret"}
	exports, out, log, end := startDev(t, env, "--driver", "raw_exec")

	testkit.Eventually(t, time.Minute, func() error {
		var stdout, stderr strings.Builder
		if status := cli.Main(t.Context(), []string{"list", "-o", "json"}, []string{"DROVER_ADDR=" + exports["DROVER_ADDR"]}, nil, &stdout, &stderr); status != 0 {
			return fmt.Errorf("list exits with %d: %s", status, stderr.String())
		}
		return nil
	})
	transport := &http.Transport{DisableKeepAlives: true}
	client, err := nomad.NewClient(&nomad.Config{Address: exports["NOMAD_ADDR"], HttpClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	secrets, _, err := client.Variables().Read("nomad/jobs/drover-worker", nil)
	if err != nil || len(secrets.Items) != 1 || secrets.Items["DROVER_GIT_TOKEN"] != "s3cret" {
		t.Errorf("the workers' secrets: %v, %v", secrets, err)
	}

	if status := end(); status != 0 {
		t.Errorf("dev exits with %d when it is interrupted", status)
	}
	if printed := out.String() + log.String(); strings.Contains(printed, "s3cret") {
		t.Errorf("a secret was printed: %s", printed)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDevServesWhereTheConfigurationSays(t *testing.T) {
	ports := testkit.FreePorts(t, 2)
	file := filepath.Join(t.TempDir(), "drover.hcl")
	text := fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\nnomad { address = \"http://127.0.0.1:%d\" }\nworker {\n driver = \"raw_exec\"\n binary = \"/bin/true\"\n}", ports[0], ports[1])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	exports, _, _, end := startDev(t, nil, "--config", file)
	if want := fmt.Sprintf("http://127.0.0.1:%d", ports[0]); exports["CONSUL_HTTP_ADDR"] != want {
		t.Errorf("consul at %s, want %s", exports["CONSUL_HTTP_ADDR"], want)
	}
	if want := fmt.Sprintf("http://127.0.0.1:%d", ports[1]); exports["NOMAD_ADDR"] != want {
		t.Errorf("nomad at %s, want %s", exports["NOMAD_ADDR"], want)
	}
	if status := end(); status != 0 {
		t.Errorf("dev exits with %d", status)
	}
}

func TestDevWithoutAWorkerSaysSo(t *testing.T) {
	var stdout, stderr strings.Builder
	status := cli.Main(t.Context(), []string{"dev", "--embedded", "--driver", "raw_exec"}, nil, nil, &stdout, &stderr)
	if status != 2 || !strings.Contains(stderr.String(), "drover-worker is neither beside drover nor on PATH") {
		t.Errorf("exit %d: %s", status, stderr.String())
	}
}
