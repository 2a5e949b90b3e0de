package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

var agentBinary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "demo-agent")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	agentBinary = filepath.Join(dir, "drover-demo-agent")
	if out, err := exec.Command("go", "build", "-o", agentBinary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the agent: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func TestCommitsAndEvents(t *testing.T) {
	t.Parallel()
	repo := newRepo(t)
	ended := runAgent(t, repo, "Make commits=2, with delay=1ms.", "DROVER_ITERATION=4", "DROVER_LAST_REASON=crashed")
	if ended.code != 0 {
		t.Fatalf("exit status %d: %s", ended.code, ended.output)
	}
	wantLog(t, repo, "Initial commit", "Step 1 of 2", "Step 2 of 2")
	want := []string{
		`{"n":5,"type":"iteration"}`,
		`{"detail":"steps/step_1.txt","name":"Edit","type":"tool"}`,
		`{"detail":"NOTES.md","name":"Edit","type":"tool"}`,
		`{"detail":"git commit","name":"Bash","type":"tool"}`,
		`{"in":1200,"out":300,"type":"tokens"}`,
		`{"n":6,"type":"iteration"}`,
		`{"detail":"steps/step_2.txt","name":"Edit","type":"tool"}`,
		`{"detail":"NOTES.md","name":"Edit","type":"tool"}`,
		`{"detail":"git commit","name":"Bash","type":"tool"}`,
		`{"in":2400,"out":600,"type":"tokens"}`,
	}
	if got := events(t, ended.output); !slices.Equal(got, want) {
		t.Errorf("events are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, line := range []string{"The attempt before me ended: crashed.", "The task is done."} {
		if !strings.Contains(ended.output, line+"\n") {
			t.Errorf("the output lacks %q:\n%s", line, ended.output)
		}
	}
	if status := gitIn(t, repo, "status", "--porcelain"); status != "" {
		t.Errorf("left uncommitted: %s", status)
	}
}

func TestExitStatusIsTheOneAskedFor(t *testing.T) {
	t.Parallel()
	repo := newRepo(t)
	if ended := runAgent(t, repo, "commits=1 delay=0s exit=7"); ended.code != 7 {
		t.Errorf("exit status %d, want 7: %s", ended.code, ended.output)
	}
	wantLog(t, repo, "Initial commit", "Step 1 of 1")
}

func TestNextAttemptMakesOnlyWhatIsMissing(t *testing.T) {
	t.Parallel()
	repo := newRepo(t)
	task := "commits=4 delay=0s crash-on-attempt=1@2"
	if ended := runAgent(t, repo, task, "DROVER_ATTEMPT=1"); ended.signal != syscall.SIGKILL {
		t.Fatalf("attempt 1 ended with status %d, signal %v, want a kill: %s", ended.code, ended.signal, ended.output)
	}
	wantLog(t, repo, "Initial commit", "Step 1 of 4", "Step 2 of 4")
	if ended := runAgent(t, repo, task, "DROVER_ATTEMPT=2"); ended.code != 0 {
		t.Fatalf("attempt 2 ended with status %d: %s", ended.code, ended.output)
	}
	wantLog(t, repo, "Initial commit", "Step 1 of 4", "Step 2 of 4", "Step 3 of 4", "Step 4 of 4")
	notes, err := os.ReadFile(filepath.Join(repo, "NOTES.md"))
	want := "- step 1 by attempt 1\n- step 2 by attempt 1\n- step 3 by attempt 2\n- step 4 by attempt 2\n"
	if err != nil || string(notes) != want {
		t.Errorf("notes are %q, %v, want %q", notes, err, want)
	}
}

func TestCommitsOfOtherItemsDoNotCount(t *testing.T) {
	t.Parallel()
	repo := newRepo(t)
	runAgent(t, repo, "commits=2 delay=0s", "DROVER_ITEM=one")
	runAgent(t, repo, "commits=1 delay=0s", "DROVER_ITEM=two")
	wantLog(t, repo, "Initial commit", "Step 1 of 2", "Step 2 of 2", "Step 1 of 1")
}

func TestHangIsSilentUntilKilled(t *testing.T) {
	t.Parallel()
	repo := newRepo(t)
	cmd := agentCommand(t, repo, "commits=3 delay=0s hang-after=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "I hang." {
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("the hanging agent is gone: %v", err)
	}
	if rest, err := io.ReadAll(stdout); err != nil || len(rest) > 0 {
		t.Errorf("after the hang came %q, %v", rest, err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("the agent ended with %v, want the signal", err)
	}
	wantLog(t, repo, "Initial commit", "Step 1 of 3")
}

func TestMemoryIsTakenUp(t *testing.T) {
	t.Parallel()
	const mib = 96
	repo := newRepo(t)
	cmd := agentCommand(t, repo, fmt.Sprintf("commits=2 delay=0s memory=%d", mib))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss; peak < mib<<10 {
		t.Errorf("the agent took at most %d KiB, want %d MiB", peak, mib)
	}
}

func TestUnusableTaskOrRepository(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ dir, task, says string }{
		"bad number":    {newRepo(t), "commits=many", `"commits=many"`},
		"bad crash":     {newRepo(t), "crash-on-attempt=1", `"crash-on-attempt=1"`},
		"no repository": {t.TempDir(), "commits=1", "git log"},
	} {
		ended := runAgent(t, c.dir, c.task)
		if ended.code != 3 || !strings.Contains(ended.output, c.says) {
			t.Errorf("%s: exit status %d, output %q, want 3 and %s", name, ended.code, ended.output, c.says)
		}
	}
}

func TestJournalHasALineForEachStartCommitAndEnd(t *testing.T) {
	t.Parallel()
	repo, journal := newRepo(t), filepath.Join(t.TempDir(), "journal")
	task := "commits=2 delay=0s crash-on-attempt=1@1 journal=" + journal
	runAgent(t, repo, task, "DROVER_ATTEMPT=1")
	first := strings.TrimSpace(gitIn(t, repo, "rev-parse", "HEAD"))
	runAgent(t, repo, task, "DROVER_ATTEMPT=2")
	second := strings.TrimSpace(gitIn(t, repo, "rev-parse", "HEAD"))
	text, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`(?m)^(start \d) \d+$`).ReplaceAllString(string(text), "$1 pid")
	want := fmt.Sprintf("start 1 pid\ncommit 1 %s\nstart 2 pid\ncommit 2 %s\nend 2 0\n", first, second)
	if got != want {
		t.Errorf("journal is\n%swant\n%s", got, want)
	}
}

func TestTaskFromStandardInput(t *testing.T) {
	t.Parallel()
	repo := newRepo(t)
	cmd := agentCommand(t, repo, "")
	cmd.Env = append(cmd.Env, "DROVER_TASK_FILE=")
	cmd.Stdin = strings.NewReader("commits=1 delay=0s")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wantLog(t, repo, "Initial commit", "Step 1 of 1")
}

type ended struct {
	code   int
	signal syscall.Signal
	output string
}

func runAgent(t *testing.T, repo, task string, env ...string) ended {
	t.Helper()
	cmd := agentCommand(t, repo, task, env...)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("run the agent: %v", err)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	e := ended{code: cmd.ProcessState.ExitCode(), output: string(out)}
	if status.Signaled() {
		e.signal = status.Signal()
	}
	return e
}

func agentCommand(t *testing.T, repo, task string, env ...string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(t.TempDir(), "task.txt")
	if err := os.WriteFile(file, []byte(task), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), agentBinary)
	cmd.Dir = repo
	cmd.Env = append(gitEnv(t), append([]string{"DROVER_TASK_FILE=" + file}, env...)...)
	return cmd
}

func newRepo(t *testing.T) string {
	t.Helper()
	repo := t.TempDir()
	gitIn(t, repo, "init", "--quiet", "--initial-branch=main")
	gitIn(t, repo, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--allow-empty", "--message=Initial commit")
	return repo
}

func wantLog(t *testing.T, repo string, want ...string) {
	t.Helper()
	got := strings.Split(strings.TrimSpace(gitIn(t, repo, "log", "--reverse", "--format=%s")), "\n")
	if !slices.Equal(got, want) {
		t.Errorf("log is %q, want %q", got, want)
	}
}

// events returns the lines of JSON.
func events(t *testing.T, output string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, "{") {
			continue
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(line)); err != nil {
			t.Errorf("event %q: %v", line, err)
		}
		found = append(found, strings.TrimSpace(compact.String()))
	}
	return found
}

func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir, cmd.Env = dir, gitEnv(t)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// gitEnv keeps git away from the user's configuration, which may ask for signed commits.
func gitEnv(t *testing.T) []string {
	t.Helper()
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1"}
}
