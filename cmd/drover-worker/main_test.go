package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drover/consul"
	"drover/internal/devcluster/consuld"
	"drover/internal/testkit"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

const (
	patience = 30 * time.Second
	repo     = "project"
	token    = "correct-horse-battery"
)

var binary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "drover-worker")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "drover-worker")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the worker: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// container is what a worker finds around it.
type container struct {
	t        *testing.T
	git      *gittest.Server
	client   *consul.Client
	envelope work.Envelope
	dir      string
	env      []string
	out      output
}

func newContainer(t *testing.T, script string) *container {
	t.Helper()
	server := consuld.New(consuld.Options{})
	listener := httptest.NewServer(server)
	t.Cleanup(func() { server.Close(); listener.Close() })
	address := listener.Listener.Addr().String()
	client, err := consul.Open(consul.Options{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	c := &container{t: t, git: gittest.New(t, gittest.Options{Username: "drover", Password: token}), client: client, dir: t.TempDir()}
	if err := c.git.CreateRepo(repo, map[string]string{"README.md": "hello\n"}); err != nil {
		t.Fatal(err)
	}
	item := work.NewID(time.Now())
	c.envelope = work.Envelope{
		Item: item, Attempt: work.NewAttemptID(item, 1), Branch: work.Branch(item),
		Spec: work.Spec{Repository: c.git.URL(repo), Task: "x", Command: []string{"sh", "-c", script}}.WithDefaults(work.NewDefaults()),
	}
	c.env = []string{
		"PATH=" + os.Getenv("PATH"), "NOMAD_TASK_DIR=" + c.dir, "NOMAD_ALLOC_ID=0a1b2c3d-0000-0000-0000-000000000000",
		"CONSUL_HTTP_ADDR=" + address, "DROVER_GIT_USERNAME=drover", "DROVER_GIT_TOKEN=" + token,
	}
	return c
}

// command returns the worker's process; before are arguments of a program that starts it.
func (c *container) command(before ...string) *exec.Cmd {
	c.t.Helper()
	payload, err := json.Marshal(c.envelope)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "item.json"), payload, 0o600); err != nil {
		c.t.Fatal(err)
	}
	args := append(before, binary)
	cmd := exec.CommandContext(c.t.Context(), args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.env, &c.out, &c.out
	return cmd
}

func (c *container) result() work.Result {
	c.t.Helper()
	r, err := c.client.Result(c.t.Context(), c.envelope.Attempt)
	if err != nil || r == nil {
		c.t.Fatalf("no result: %v\n%s", err, &c.out)
	}
	return *r
}

func TestAttemptOfOneProcess(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `echo "I read $(tr '\0' ' ' </proc/$PPID/environ 2>&1)"; echo x >x; git add -A; git commit -qm one`)
	if err := c.command().Run(); err != nil {
		t.Fatalf("%v\n%s", err, &c.out)
	}
	if r := c.result(); r.Reason != work.ReasonCompleted || r.RemoteCommit != c.git.Head(repo, c.envelope.Branch) {
		t.Errorf("result %+v", r)
	}
	if text := c.out.String(); strings.Contains(text, token) {
		t.Errorf("the token is in\n%s", text)
	}
}

func TestAgentCannotReadTheWorkersEnvironment(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `echo x >x; git add -A; git commit -qm one; ! cat /proc/$PPID/environ && ! cat /proc/$PPID/mem`)
	cmd := c.command()
	if os.Getuid() == 0 {
		c.asNobody(cmd) // root could read everything
	}
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &c.out)
	}
	if r := c.result(); r.Reason != work.ReasonCompleted || strings.Count(c.out.String(), "Permission denied") != 2 {
		t.Errorf("result %+v\n%s", r, &c.out)
	}
}

// openToAll lets every user reach the container's directory, and write there, as Nomad does.
func (c *container) openToAll() {
	c.t.Helper()
	for dir, mode := range map[string]os.FileMode{filepath.Dir(binary): 0o755, filepath.Dir(c.dir): 0o755, c.dir: 0o777, filepath.Join(c.dir, "item.json"): 0o644} {
		if err := os.Chmod(dir, mode); err != nil {
			c.t.Fatal(err)
		}
	}
}

// TestDaemonsEndWithTheAgent: what left the agent's process group, and its session, is gone when the tests begin.
func TestDaemonsEndWithTheAgent(t *testing.T) {
	t.Parallel()
	const daemon = `echo $$ >"$HOME/daemon"; while :; do sleep 0.05; done`
	c := newContainer(t, `setsid sh -c "(setsid sh -c '`+strings.ReplaceAll(daemon, "$", `\$`)+`' </dev/null >/dev/null 2>&1 &) &"
		until [ -s "$HOME/daemon" ]; do sleep 0.05; done; kill -0 "$(cat "$HOME/daemon")"; echo x >x; git add -A; git commit -qm one`)
	c.envelope.Spec.Test.Command = `test -s "$HOME/daemon" && ! kill -0 "$(cat "$HOME/daemon")"`
	if err := c.command().Run(); err != nil {
		t.Fatalf("%v\n%s", err, &c.out)
	}
	if r := c.result(); r.Reason != work.ReasonCompleted || r.Test.Status != work.TestPassed {
		t.Errorf("result %+v\n%s", r, &c.out)
	}
}

// TestNothingOutlivesTheFirstProcess kills it, as a container's engine does: worker and agent go with it.
func TestNothingOutlivesTheFirstProcess(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `echo "$PPID $$" >"$HOME/pids"; echo ready; while :; do sleep 0.1; echo working; done`)
	cmd := c.command()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() error {
		if !strings.Contains(c.out.String(), "working") {
			return fmt.Errorf("not ready: %s", &c.out)
		}
		return nil
	})
	worker, err := exec.Command("pgrep", "-P", fmt.Sprint(cmd.Process.Pid), "-f", "attempt").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	pids, err := os.ReadFile(filepath.Join(c.dir, "work", "home", "pids"))
	if err != nil {
		t.Fatal(err)
	}
	var first, agent int
	if _, err := fmt.Sscan(string(pids), &first, &agent); err != nil || first != cmd.Process.Pid {
		t.Errorf("the agent's parent is %d, not %d: %v", first, cmd.Process.Pid, err)
	}
	for _, pid := range []string{strings.TrimSpace(string(worker)), fmt.Sprint(agent)} {
		testkit.Eventually(t, patience, func() error {
			if _, err := os.Stat("/proc/" + pid); err == nil {
				return fmt.Errorf("process %s is left", pid)
			}
			return nil
		})
	}
}

// asNobody runs the worker as a user without privileges.
func (c *container) asNobody(cmd *exec.Cmd) {
	c.t.Helper()
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	c.openToAll()
	for _, path := range []string{c.dir, filepath.Join(c.dir, "item.json")} {
		if err := os.Chown(path, nobody, nobody); err != nil {
			c.t.Fatal(err)
		}
	}
}

func TestHealthAndMetricsAreServed(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `until [ -e "$HOME/end" ]; do sleep 0.05; echo waiting; done; echo x >x; git add -A; git commit -qm one`)
	address := fmt.Sprintf("127.0.0.1:%d", testkit.FreePorts(t, 1)[0])
	c.env = append(c.env, "DROVER_HEALTH_ADDR="+address)
	cmd := c.command()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for page, says := range map[string]string{"/health": `"ready":true`, "/metrics": "drover_worker_iterations 1\n"} {
		testkit.Eventually(t, patience, func() error {
			answer, err := http.Get("http://" + address + page)
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(body), says) {
				return fmt.Errorf("%s: %s %s %w", page, answer.Status, body, err)
			}
			return nil
		})
	}
	testkit.Eventually(t, patience, func() error { // the agent makes its home when it starts
		return os.WriteFile(filepath.Join(c.dir, "work", "home", "end"), nil, 0o600)
	})
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, &c.out)
	}
}

// TestFirstProcessOfAContainer runs the worker in a process namespace of its own, where the agent leaves orphans behind.
// Where the test is root, worker and agent are users of their own, as in a container.
func TestFirstProcessOfAContainer(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `for i in 1 2 3; do (sh -c 'sleep 0.2' & ); done; sleep 1; echo "zombies: $(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l)"
		echo "user: $(id -u)"; echo "above: $(($(cat /proc/self/oom_score_adj) - $(cat /proc/1/oom_score_adj)))"; echo ready; trap 'exit 9' TERM; while :; do sleep 0.1; done`)
	namespace := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if os.Getuid() != 0 {
		namespace = append(namespace, "--user", "--map-current-user")
	}
	if err := exec.Command(namespace[0], append(namespace[1:], "true")...).Run(); err != nil {
		t.Skipf("no process namespace here: %v", err)
	}
	cmd := c.command(namespace...)
	c.openToAll()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() error {
		if !strings.Contains(c.out.String(), "ready") {
			return fmt.Errorf("not ready: %s", &c.out)
		}
		return nil
	})
	wantUser := "user: " + fmt.Sprint(os.Getuid())
	if os.Getuid() == 0 {
		wantUser = "user: 1001"
	}
	if !strings.Contains(c.out.String(), wantUser) {
		t.Errorf("not %s: %s", wantUser, &c.out)
	}
	if !strings.Contains(c.out.String(), "above: 500") {
		t.Errorf("the kernel's score of the agent is not raised: %s", &c.out)
	}
	if !strings.Contains(c.out.String(), "zombies: 0") {
		t.Errorf("orphans are not reaped: %s", &c.out)
	}
	first, err := exec.Command("pgrep", "-P", fmt.Sprint(cmd.Process.Pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("kill", "-TERM", strings.TrimSpace(string(first))).Run(); err != nil {
		t.Fatal(err)
	}
	exit := (*exec.ExitError)(nil)
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(c.out.String(), "stopped by a signal") {
		t.Errorf("ended with %v\n%s", err, &c.out)
	}
}

// TestKernelKillsTheAgentBeforeTheWorker: whatever runs as the agent has a higher score, its children too, and the
// tests; nobody else has.
func TestKernelKillsTheAgentBeforeTheWorker(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `score() { cat "/proc/$1/oom_score_adj"; }
		echo "first $(score $PPID)"; echo "worker $(score $(pgrep -P $PPID -f attempt))"; echo "agent $(score $$)"
		sh -c 'echo "child $(cat /proc/$$/oom_score_adj)"'; (setsid sh -c 'echo "daemon $(cat /proc/$$/oom_score_adj)"')
		echo x >x; git add -A; git commit -qm one`)
	c.envelope.Spec.Test.Command = `echo "test $(cat /proc/$$/oom_score_adj)"`
	if err := c.command().Run(); err != nil {
		t.Fatalf("%v\n%s", err, &c.out)
	}
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	var score int
	if _, err := fmt.Sscan(string(own), &score); err != nil {
		t.Fatal(err)
	}
	raised := min(score+500, 1000)
	for who, want := range map[string]int{"first": score, "worker": score, "agent": raised, "child": raised, "daemon": raised, "test": raised} {
		if line := fmt.Sprintf("%s %d\n", who, want); !strings.Contains(c.out.String(), line) {
			t.Errorf("not %q in\n%s", line, &c.out)
		}
	}
}

// TestProgramThatCannotBeStarted: the reason is the program's, not that of what starts it.
func TestProgramThatCannotBeStarted(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.WriteFile(closed, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for program, says := range map[string]string{"/no/such/agent": "fork/exec /no/such/agent: no such file or directory", closed: "permission denied"} {
		c := newContainer(t, "")
		c.envelope.Spec.Command = []string{program, "x"}
		if err := c.command().Run(); err != nil {
			t.Fatalf("%v\n%s", err, &c.out)
		}
		if r := c.result(); r.Reason != work.ReasonStartFailed || !strings.Contains(r.Detail, says) {
			t.Errorf("%s: %s; want start_failed and %q", r.Reason, r.Detail, says)
		}
	}
}

// glutton is a command that takes more and more memory.
const glutton = `awk 'BEGIN { s = "x"; while (1) s = s s }'`

// TestKillForMemoryIsSeen runs the worker in a control group of cgroup v1 with 128 MiB.
func TestKillForMemoryIsSeen(t *testing.T) {
	const parent = "/sys/fs/cgroup/memory"
	group := filepath.Join(parent, "drover-test-"+work.NewID(time.Now()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("no control group for memory can be made: %v", err)
	}
	t.Cleanup(func() {
		testkit.Eventually(t, patience, func() error { return os.Remove(group) })
	})
	for file, value := range map[string]string{"memory.limit_in_bytes": "134217728", "memory.swappiness": "0"} {
		if err := os.WriteFile(filepath.Join(group, file), []byte(value), 0o644); err != nil {
			t.Skipf("the control group takes no limit: %v", err)
		}
	}
	for name, c := range map[string]struct {
		script string
		reason work.Reason
		kills  int
	}{
		"the agent itself":         {`echo x >x; git add -A; git commit -qm one; exec ` + glutton, work.ReasonOOMKilled, 0},
		"a process below it alone": {glutton + ` || echo y >y; git add -A; git commit -qm one`, work.ReasonCompleted, 1},
	} {
		t.Run(name, func(t *testing.T) {
			box := newContainer(t, c.script)
			cmd := box.command("sh", "-c", `echo $$ >"$0/tasks"; exec "$1"`, group)
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, &box.out)
			}
			r := box.result()
			if r.Reason != c.reason || r.OOMKills != c.kills || r.PeakMemoryMB < 64 || r.RemoteCommit == "" {
				t.Errorf("result %+v\n%s", r, &box.out)
			}
		})
	}
}

func TestVersionAndUsage(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(binary, "version").Output()
	if err != nil || string(out) != "drover-worker dev\n" {
		t.Errorf("version: %q, %v", out, err)
	}
	exit := (*exec.ExitError)(nil)
	if out, err := exec.Command(binary, "--no-such-flag").CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "EXIT STATUS") {
		t.Errorf("wrong usage: %v, %s", err, out)
	}
}

func TestWithoutAPayloadThereIsNoResult(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(binary)
	cmd.Env = []string{"NOMAD_TASK_DIR=" + t.TempDir()}
	exit := (*exec.ExitError)(nil)
	if out, err := cmd.CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "item.json") {
		t.Errorf("%v: %s", err, out)
	}
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// TestReportsOfTheAgent runs tests whose reports the worker's own user may not read: the agent's files are private, or in
// a private folder, and worker and agent are users of their own.
func TestReportsOfTheAgent(t *testing.T) {
	t.Parallel()
	namespace := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if err := exec.Command(namespace[0], append(namespace[1:], "true")...).Run(); err != nil || os.Getuid() != 0 {
		t.Skipf("no users of our own here: %v", err)
	}
	const report = `<testsuite><testcase name="a"/><testcase name="b"><failure/></testcase></testsuite>`
	write := func(path string) string { return "umask 077; mkdir -p closed; echo '" + report + "' >" + path }
	for name, c := range map[string]struct {
		command, pattern string
		status           work.TestStatus
		passed, failed   int
		says             string
	}{
		"a private report":                       {write("r.xml"), "*.xml", "failed", 1, 1, "tests failed: b"},
		"in a private folder":                    {write("closed/r.xml"), "**/*.xml", "failed", 1, 1, "tests failed: b"},
		"a private folder beside it":             {write("r.xml"), "**/*.xml", "failed", 1, 1, "tests failed: b"},
		"a folder that no one may enter":         {write("r.xml") + "; chmod 0 closed", "**/*.xml", "error", 1, 1, "permission denied"},
		"a folder where no report is wanted":     {write("r.xml") + "; chmod 0 closed", "r.xml", "failed", 1, 1, "tests failed: b"},
		"a report that no one may read":          {write("r.xml") + "; chmod 0 r.xml", "r.xml", "error", 0, 0, "permission denied"},
		"a report that can't be read to its end": {"echo '<testsuite>' >r.xml", "r.xml", "error", 0, 0, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			worker := newContainer(t, `echo x >x; git add -A; git commit -qm one`)
			worker.envelope.Spec.Test.Command, worker.envelope.Spec.Test.JUnit = c.command, c.pattern
			cmd := worker.command(namespace...)
			worker.openToAll()
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, &worker.out)
			}
			got := worker.result().Test
			if got.Status != c.status || got.Passed != c.passed || got.Failed != c.failed || !strings.Contains(got.Detail, c.says) {
				t.Errorf("outcome = %+v, want %s with %d passed, %d failed and %q", got, c.status, c.passed, c.failed, c.says)
			}
		})
	}
}
