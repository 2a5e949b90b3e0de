package nomadd_test

import (
	"bufio"
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"drover/internal/contract"
	"drover/internal/devcluster/nomadd"
	"drover/internal/testkit"
	"drover/jobs"
)

// cliPatience bounds each command.
const cliPatience = 20 * time.Second

// cli runs the real nomad command against an embedded server.
type cli struct {
	*testing.T
	binary, addr, dir string
}

// run returns what a command printed, which must contain each of the wanted texts.
func (c *cli) run(args []string, want ...string) string {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), cliPatience)
	defer cancel()
	out, err := c.command(ctx, args).CombinedOutput()
	if err != nil {
		c.Fatalf("nomad %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	for _, text := range want {
		if !strings.Contains(string(out), text) {
			c.Errorf("nomad %s does not print %q:\n%s", strings.Join(args, " "), text, out)
		}
	}
	return string(out)
}

// follow runs a command that doesn't end by itself until it has printed a line.
func (c *cli) follow(args []string, line string) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), cliPatience)
	defer cancel()
	cmd := c.command(ctx, args)
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	found := false
	for lines := bufio.NewScanner(out); !found && lines.Scan(); {
		found = lines.Text() == line
	}
	cancel()
	_ = cmd.Wait()
	if !found {
		c.Errorf("nomad %s does not print %q", strings.Join(args, " "), line)
	}
}

func (c *cli) command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.binary, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "NOMAD_ADDR="+c.addr, "NOMAD_CLI_NO_COLOR=1")
	return cmd
}

// TestNomadCommandWorks runs what an operator would type.
func TestNomadCommandWorks(t *testing.T) {
	binary := testkit.NomadBinary(t)
	server, err := nomadd.New(nomadd.Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(server)
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		listener.Close()
	})
	c := &cli{T: t, binary: binary, addr: listener.URL, dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(c.dir, "worker.nomad.hcl"), []byte(jobs.WorkerRawExec), 0o600); err != nil {
		t.Fatal(err)
	}
	command := "-var=command=" + contract.BuildTestTask(t)
	size := []string{"-var=memory=64", "-var=cpu=50"}

	c.run([]string{"node", "status"}, "ready", "eligible")
	c.run([]string{"node", "status", "-self"}, "Drivers", "raw_exec")
	c.run([]string{"server", "members"}, "alive")
	c.run([]string{"status"}, "No running jobs")
	c.run([]string{"var", "put", "nomad/jobs/drover-worker", "GREETING=hello there"}, "hello there")
	c.run([]string{"var", "get", "-item=GREETING", "nomad/jobs/drover-worker"}, "hello there")
	c.run([]string{"var", "list"}, "nomad/jobs/drover-worker")

	run := append([]string{"job", "run", command, `-var=env={TESTTASK="env GREETING"}`}, size...)
	c.run(append(run, "worker.nomad.hcl"), "Job registration successful")
	c.run([]string{"job", "status"}, "drover-worker", "batch/parameterized", "running")
	c.run([]string{"job", "status", "drover-worker"}, "Parameterized Job", "Required Metadata", "item")
	c.run([]string{"job", "inspect", "drover-worker"}, `"MetaRequired"`)
	c.run([]string{"job", "plan", command, "worker.nomad.hcl"}, "Job Modify Index")
	c.run([]string{"job", "validate", command, "worker.nomad.hcl"}, "Job validation successful")

	out := c.run([]string{"job", "dispatch", "-detach", "-meta", "item=7", "-meta", "attempt=1", "-id-prefix-template", "7.1", "drover-worker"}, "Dispatched Job ID")
	child := regexp.MustCompile(`drover-worker/dispatch-7\.1-\S+`).FindString(out)
	eval := regexp.MustCompile(`Evaluation ID\s*=\s*(\S+)`).FindStringSubmatch(out)[1]
	c.run([]string{"eval", "status", "-monitor", eval}, "complete")
	out = c.run([]string{"job", "status", child}, "worker")
	alloc := regexp.MustCompile(`(?m)^([0-9a-f]{8})\s`).FindStringSubmatch(out)[1]
	c.run([]string{"alloc", "logs", alloc}, "GREETING=hello there")
	c.follow([]string{"alloc", "logs", "-f", alloc}, "GREETING=hello there")
	c.run([]string{"alloc", "status", alloc}, "complete", "Task Setup", "Exit Code: 0")
	c.run([]string{"job", "dispatch", "-meta", "item=8", "-meta", "attempt=1", "drover-worker"}, "finished with status \"complete\"")
	c.run([]string{"job", "status", "drover-worker"}, "Dispatched Jobs", "dead")
	c.run([]string{"job", "stop", "-purge", "-yes", child})
	c.run([]string{"system", "gc"})
	c.run([]string{"job", "stop", "-detach", "drover-worker"})
	c.run([]string{"job", "stop", "-purge", "-detach", "drover-worker"})
	c.run([]string{"status"}, "No running jobs")
}
