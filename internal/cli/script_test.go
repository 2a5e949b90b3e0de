package cli_test

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"drover/internal/api"
	"drover/internal/cli"
	"drover/internal/control"
	"drover/internal/work"
)

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){
		"drover": func() {
			os.Exit(cli.Main(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	code := l.m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestScripts runs testdata/script against the command itself, and a server
// whose items are in memory.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			service := newShelf()
			handler := api.NewHandler(api.Options{Service: service, Token: "right"})
			server := httptest.NewServer(handler)
			env.Defer(server.Close)
			env.Setenv("DROVER_ADDR", server.URL)
			env.Setenv("DROVER_TOKEN", "right")
			env.Values[shelfKey{}] = service
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"stored": stored, "exits": exits,
		},
	})
}

type shelfKey struct{}

// stored checks how many items the server has: "stored N".
func stored(ts *testscript.TestScript, _ bool, args []string) {
	shelf := ts.Value(shelfKey{}).(*shelf)
	if got := fmt.Sprint(len(shelf.all())); got != args[0] {
		ts.Fatalf("%s items are stored, want %s", got, args[0])
	}
}

// exits runs drover in this process and checks its status: "exits N [<stdin] args…".
// When it fails it has to say why on one line.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, args := args[0], args[1:]
	var stdin string
	if len(args) == 0 {
		args = []string{"--help"}
	}
	if file, ok := strings.CutPrefix(args[0], "<"); ok {
		stdin, args = ts.ReadFile(file), args[1:]
	}
	var env []string
	for _, name := range []string{"DROVER_ADDR", "DROVER_TOKEN", "DROVER_HTTP_ADDRESS", "PATH"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	for i, arg := range args {
		if ts.MkAbs(arg) != arg && strings.Contains(arg, ".") && exists(ts.MkAbs(arg)) {
			args[i] = ts.MkAbs(arg)
		}
	}
	var stdout, stderr strings.Builder
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	status := cli.Main(ctx, args, env, strings.NewReader(stdin), &stdout, &stderr)
	fmt.Fprint(ts.Stdout(), stdout.String())
	fmt.Fprint(ts.Stderr(), stderr.String())
	if fmt.Sprint(status) != want {
		ts.Fatalf("drover %v exits with %d, want %s:\n%s", args, status, want, stderr.String())
	}
	if lines := strings.Count(stderr.String(), "\n"); status != 0 && lines != 1 {
		ts.Fatalf("drover %v says %d lines, want one:\n%s", args, lines, stderr.String())
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// shelf is a Service that keeps items in memory and runs none. Every item whose
// queue is "done" is completed at once, and every one of "sad" failed.
type shelf struct {
	api.Service // of the methods that no script calls

	mu    sync.Mutex
	items map[string]work.Item
}

func newShelf() *shelf { return &shelf{items: map[string]work.Item{}} }

func (s *shelf) all() []work.Item {
	s.mu.Lock()
	defer s.mu.Unlock()
	var items []work.Item
	for _, item := range s.items {
		items = append(items, item)
	}
	slices.SortFunc(items, func(a, b work.Item) int { return strings.Compare(b.ID, a.ID) })
	return items
}

func (s *shelf) Submit(_ context.Context, submissions []control.Submission) ([]work.Item, error) {
	var items []work.Item
	for _, submission := range submissions {
		spec := submission.Spec.WithDefaults(work.NewDefaults())
		if err := spec.Validate(); err != nil {
			return nil, err
		}
		if !slices.Contains([]string{"default", "done", "sad"}, spec.Queue) {
			return nil, fmt.Errorf("unknown queue %q; there are default, done, sad: %w", spec.Queue, work.ErrInvalid)
		}
		item := work.NewItem(submission.ID, spec, time.Now().Add(-90*time.Second))
		switch spec.Queue {
		case "done":
			item = ended(item, work.ReasonCompleted)
		case "sad":
			item = ended(item, work.ReasonBudgetExceeded)
		}
		items = append(items, item)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, item := range items {
		s.items[item.ID] = item
	}
	return items, nil
}

// ended returns the item after one attempt.
func ended(item work.Item, reason work.Reason) work.Item {
	start := item.CreatedAt.Add(time.Second)
	result := &work.Result{
		Attempt: item.NextAttempt(), Reason: reason, StartedAt: start, Commit: "abc", RemoteCommit: "abc", PeakMemoryMB: 77,
		Changes: work.Changes{Commits: 2, Files: 3, Added: 40, Removed: 5},
		Test:    work.TestOutcome{Status: work.TestPassed, Run: 9, Passed: 9},
		PR:      work.PullRequest{Status: work.PRCreated, Number: 7, URL: "https://example.com/pull/7"},
	}
	for _, event := range []work.Event{
		work.Assigned{},
		work.Dispatched{Attempt: result.Attempt, Child: "drover-worker/dispatch-1"},
		work.Started{Attempt: result.Attempt, Allocation: "a1", Node: "node-1", At: start},
		work.Ended{Attempt: result.Attempt, Ending: work.Ending{Reason: reason, Detail: "the agent said so", Result: result}},
	} {
		next, err := work.Apply(item, event, work.DefaultRetryPolicy(), start.Add(time.Minute))
		if err != nil {
			panic(err)
		}
		item = next
	}
	return item
}

func (s *shelf) Items(_ context.Context, f control.Filter) ([]work.Item, error) {
	items := slices.DeleteFunc(s.all(), func(i work.Item) bool {
		return f.State != "" && i.State != f.State || f.Queue != "" && i.Spec.Queue != f.Queue ||
			!strings.Contains(i.Spec.Repository, f.Repository)
	})
	if f.Limit > 0 {
		items = items[:min(f.Limit, len(items))]
	}
	return items, nil
}

func (s *shelf) Item(_ context.Context, id string) (work.Item, *work.Progress, error) {
	if id == "latest" {
		return s.all()[0], nil, nil
	}
	for _, item := range s.all() {
		if strings.HasPrefix(item.ID, id) {
			progress := &work.Progress{Attempt: work.NewAttemptID(item.ID, 1), Phase: work.PhaseAgent, Iteration: 2, LastTool: "edit", At: time.Now()}
			return item, progress, nil
		}
	}
	return work.Item{}, nil, fmt.Errorf("item %s: %w", id, work.ErrNotFound)
}

func (s *shelf) Logs(_ context.Context, id string, attempt int) (control.Logs, error) {
	switch {
	case id == "empty":
		return control.Logs{Attempt: "empty.1", Missing: "it was never placed on a node"}, nil
	case id == "killed":
		code := 137
		return control.Logs{
			Attempt: "killed.2", Stdout: []string{"last words"}, Events: []string{"2026-01-01T00:00:00Z Terminated Exit Code: 137"},
			End: &control.End{
				State: work.AttemptKilled, Reason: work.ReasonOOMKilled, Detail: "out of memory", ExitCode: &code, Signal: 9, MemoryMB: 128, PeakMemoryMB: 127,
			},
		}, nil
	case id != "item" && id != "running":
		return control.Logs{}, fmt.Errorf("item %s: %w", id, work.ErrNotFound)
	}
	return control.Logs{Attempt: "item.1", Stdout: []string{fmt.Sprint("out ", attempt), "more"}, Stderr: []string{"err"}}, nil
}

func (s *shelf) Follow(_ context.Context, id string, stdout, stderr io.Writer) error {
	if id != "running" {
		return fmt.Errorf("item %s runs no attempt: %w", id, work.ErrNotFound)
	}
	fmt.Fprintln(stdout, "live out")
	fmt.Fprintln(stderr, "live err")
	return nil
}

func (s *shelf) Cancel(_ context.Context, id, by string) (work.Item, error) {
	for _, item := range s.all() {
		if id == "latest" || item.ID == id {
			next, err := work.Apply(item, work.Cancelled{By: by}, work.DefaultRetryPolicy(), time.Now())
			if err == nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.items[item.ID] = next
			}
			return next, err
		}
	}
	return work.Item{}, fmt.Errorf("item %s: %w", id, work.ErrNotFound)
}

func (s *shelf) Status(context.Context) (control.Status, error) { return control.Status{}, nil }
