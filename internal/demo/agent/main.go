// Command agent stands in for a coding agent in the demo and in tests: what it does follows from its task alone, and
// everything around it is real. It works in the git repository of its working directory.
//
// It reads the task from the file DROVER_TASK_FILE, or else from standard input, and obeys these words in it:
//
//	commits=3             the finished branch holds so many commits of the item (3)
//	delay=500ms           time that passes between an edit and its commit (500ms)
//	exit=0                exit status after the last commit (0)
//	memory=256            MiB to take up a delay after the first commit, and to hold
//	hang-after=2          once the branch holds so many commits: fall silent for good
//	crash-on-attempt=1@2  in attempt 1, once the branch holds 2 commits: die of SIGKILL
//	journal=/tmp/x        file that gets a line for each start, commit and end of an agent (see journal)
//
// Commits say in a trailer which item (DROVER_ITEM) they belong to. An agent goes on from those that it finds in the
// branch, so a later attempt makes only what is missing.
//
// Standard output carries lines for people and, as lines of JSON, events: the iteration, which counts on from
// DROVER_ITERATION; each tool call; the tokens used so far.
//
// A task or repository that the agent cannot work with ends it with exit status 3.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const exitUnable = 3

// Tokens that the agent claims to have used for one step.
const (
	tokensInPerStep  = 1200
	tokensOutPerStep = 300
)

// pageBytes is the smallest page of memory: a write to each makes all of them count.
const pageBytes = 4096

func main() {
	code, err := run(context.Background(), os.Getenv, os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo agent:", err)
		code = exitUnable
	}
	os.Exit(code)
}

func run(ctx context.Context, getenv func(string) string, stdin io.Reader, stdout io.Writer) (int, error) {
	task, err := readTask(getenv("DROVER_TASK_FILE"), stdin)
	if err != nil {
		return 0, err
	}
	plan, err := parsePlan(task)
	if err != nil {
		return 0, err
	}
	a := &agent{plan: plan, out: stdout, item: cmp.Or(getenv("DROVER_ITEM"), "local")}
	if a.attempt, err = number(getenv, "DROVER_ATTEMPT", 1); err != nil {
		return 0, err
	}
	if a.iteration, err = number(getenv, "DROVER_ITERATION", 0); err != nil {
		return 0, err
	}
	if reason := getenv("DROVER_LAST_REASON"); reason != "" {
		a.say("The attempt before me ended: %s.", reason)
	}
	if err := a.journal("start", os.Getpid()); err != nil {
		return 0, err
	}
	if err := a.work(ctx); err != nil {
		return 0, err
	}
	return plan.exit, a.journal("end", plan.exit)
}

func readTask(path string, stdin io.Reader) (string, error) {
	if path != "" {
		task, err := os.ReadFile(path)
		return string(task), err
	}
	task, err := io.ReadAll(stdin)
	if err != nil {
		return "", fmt.Errorf("read task from standard input: %w", err)
	}
	return string(task), nil
}

func number(getenv func(string) string, name string, absent int) (int, error) {
	text := getenv(name)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}

type agent struct {
	plan      plan
	item      string
	attempt   int
	iteration int
	steps     int // made by this run
	out       io.Writer
	ballast   []byte
}

// work makes the commits that are missing and misbehaves where the plan says so.
func (a *agent) work(ctx context.Context) error {
	done, err := a.committed(ctx)
	if err != nil {
		return err
	}
	if done > 0 {
		a.say("Step %d of %d is in the branch already: I go on from there.", done, a.plan.commits)
	}
	for {
		if err := a.misbehave(done); err != nil {
			return err
		}
		if done >= a.plan.commits {
			break
		}
		if err := a.step(ctx, done+1); err != nil {
			return err
		}
		done++
	}
	runtime.KeepAlive(a.ballast)
	if a.plan.exit != 0 {
		a.say("I cannot finish this task.")
	} else {
		a.say("The task is done.")
	}
	return nil
}

// committed returns how many steps of the item the branch holds.
func (a *agent) committed(ctx context.Context) (int, error) {
	subjects, err := git(ctx, "log", "--fixed-strings", "--grep="+a.trailer(), "--format=%s")
	return strings.Count(subjects, "\n"), err
}

func (a *agent) trailer() string { return "Item: " + a.item }

func (a *agent) step(ctx context.Context, n int) error {
	a.steps++
	a.event(map[string]any{"type": "iteration", "n": a.iteration + a.steps})
	a.say("Step %d of %d.", n, a.plan.commits)
	path := fmt.Sprintf("steps/step_%d.txt", n)
	if err := write(path, fmt.Sprintf("Step %d of %d.\n", n, a.plan.commits)); err != nil {
		return err
	}
	a.tool("Edit", path)
	if err := a.note(n); err != nil {
		return err
	}
	a.tool("Edit", notesPath)
	time.Sleep(a.plan.delay)
	if err := a.commit(ctx, n, path); err != nil {
		return err
	}
	a.tool("Bash", "git commit")
	a.event(map[string]any{"type": "tokens", "in": a.steps * tokensInPerStep, "out": a.steps * tokensOutPerStep})
	return nil
}

const notesPath = "NOTES.md"

// note adds a line to a file that every step changes.
func (a *agent) note(n int) error {
	notes, err := os.ReadFile(notesPath)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return write(notesPath, fmt.Sprintf("%s- step %d by attempt %d\n", notes, n, a.attempt))
}

func (a *agent) commit(ctx context.Context, n int, path string) error {
	if _, err := git(ctx, "add", "--", path, notesPath); err != nil {
		return err
	}
	message := fmt.Sprintf("Step %d of %d\n\n%s\n", n, a.plan.commits, a.trailer())
	if _, err := git(ctx, "-c", "user.name=Demo Agent", "-c", "user.email=agent@localhost", "commit", "--quiet", "--message="+message); err != nil {
		return err
	}
	head, err := git(ctx, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	return a.journal("commit", strings.TrimSpace(head))
}

// journal adds a line to the plan's journal, if it has one: the event, the attempt's number and a value, which is the
// process id of an agent that starts, the hash of a commit, or the exit status.
func (a *agent) journal(event string, value any) error {
	if a.plan.journal == "" {
		return nil
	}
	file, err := os.OpenFile(a.plan.journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the journal: %w", err)
	}
	_, err = fmt.Fprintf(file, "%s %d %v\n", event, a.attempt, value)
	return errors.Join(err, file.Close())
}

// misbehave does what the plan has for the moment when the branch holds done commits. A crash or hang has no return.
func (a *agent) misbehave(done int) error {
	if done > 0 && a.ballast == nil && a.plan.memoryMB > 0 {
		time.Sleep(a.plan.delay) // in which the commit is pushed
		a.say("I take up %d MiB.", a.plan.memoryMB)
		a.ballast = make([]byte, a.plan.memoryMB<<20)
		for i := 0; i < len(a.ballast); i += pageBytes {
			a.ballast[i] = 1
		}
	}
	if a.attempt == a.plan.crashAttempt && done >= a.plan.crashAfter {
		a.say("I crash.")
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill myself: %w", err)
		}
	}
	if a.plan.hangAfter > 0 && done >= a.plan.hangAfter {
		a.say("I hang.")
		for {
			time.Sleep(time.Hour)
		}
	}
	return nil
}

func (a *agent) say(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }

func (a *agent) tool(name, detail string) {
	a.event(map[string]any{"type": "tool", "name": name, "detail": detail})
}

func (a *agent) event(fields map[string]any) {
	line, err := json.Marshal(fields)
	if err != nil {
		panic(err) // strings and numbers alone
	}
	fmt.Fprintf(a.out, "%s\n", line)
}

func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

func git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
