package cli_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"drover/internal/cli"
	"drover/internal/control"
	"drover/internal/testkit"
	"drover/internal/wait"
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

// TestScripts runs testdata/script against the command itself, and against a
// server of each script's own on a real Consul.
func TestScripts(t *testing.T) {
	consul := testkit.ConsulAddress(t, `check_update_interval = "0s"`)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			t := env.T().(testing.TB)
			server, err := startServer(context.Background(), t, consul, playedNomad(t, consul))
			if err != nil {
				return err
			}
			env.Defer(server.stop)
			env.Setenv("DROVER_ADDR", server.url)
			env.Setenv("DROVER_TOKEN", serverToken)
			env.Setenv("USER", "tester")
			env.Setenv("CONSUL", consul)
			env.Setenv("PREFIX", server.prefix)
			env.Values[serverKey{}] = server
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"stored": stored, "exits": exits, "ids": ids, "line": line, "state": state, "progress": progress, "kept": kept,
			"append": appendCopies,
		},
	})
}

type serverKey struct{}

// stored checks how many items the server has: "stored N".
func stored(ts *testscript.TestScript, _ bool, args []string) {
	items, err := ts.Value(serverKey{}).(*running).items(context.Background())
	ts.Check(err)
	if got := fmt.Sprint(len(items)); got != args[0] {
		ts.Fatalf("%s items are stored, want %s", got, args[0])
	}
}

// appendCopies appends copies of a file to another: "append FILE COPIES ONE".
func appendCopies(ts *testscript.TestScript, _ bool, args []string) {
	copies, err := strconv.Atoi(args[1])
	ts.Check(err)
	file, err := os.OpenFile(ts.MkAbs(args[0]), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	ts.Check(err)
	_, err = file.WriteString(strings.Repeat(ts.ReadFile(args[2]), copies))
	ts.Check(errors.Join(err, file.Close()))
}

var jsonID = regexp.MustCompile(`(?m)^ *"id": "([0-9a-z]{26})"`)

// ids sets variables to the ids that the JSON printed last holds: "ids A B".
func ids(ts *testscript.TestScript, _ bool, args []string) {
	found := jsonID.FindAllStringSubmatch(ts.ReadFile("stdout"), -1)
	if len(found) != len(args) {
		ts.Fatalf("%d ids are printed, want %d", len(found), len(args))
	}
	for i, name := range args {
		ts.Setenv(name, found[i][1])
	}
}

// line sets a variable to what was printed last: "line A".
func line(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// state waits until an item is in a state: "state ID STATE".
func state(ts *testscript.TestScript, _ bool, args []string) {
	await(ts, func(ctx context.Context, server *running) error {
		item, _, err := server.client.Item(ctx, args[0])
		if err == nil && string(item.State) != args[1] {
			err = fmt.Errorf("item %s is %s (%s), want %s", args[0], item.State, item.Why, args[1])
		}
		return err
	})
}

// progress waits until an item's attempt has said how far it is: "progress ID".
func progress(ts *testscript.TestScript, _ bool, args []string) {
	await(ts, func(ctx context.Context, server *running) error {
		_, progress, err := server.client.Item(ctx, args[0])
		if err == nil && progress == nil {
			err = fmt.Errorf("item %s tells no progress", args[0])
		}
		return err
	})
}

// kept waits until an attempt's logs are kept: "kept ID ATTEMPT".
func kept(ts *testscript.TestScript, _ bool, args []string) {
	await(ts, func(ctx context.Context, server *running) error {
		number, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		wanted, found := work.NewAttemptID(args[0], number), false
		err = server.client.ExportLogs(ctx, control.Filter{}, func(logs work.KeptLogs) error { // never what Nomad still has
			found = found || logs.Attempt == wanted && len(logs.Events) > 0 && len(logs.Stdout) > 0
			return nil
		})
		if err == nil && !found {
			err = fmt.Errorf("the logs of %s are not kept", wanted)
		}
		return err
	})
}

func await(ts *testscript.TestScript, condition func(context.Context, *running) error) {
	server := ts.Value(serverKey{}).(*running)
	var last error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if last = condition(context.Background(), server); last == nil {
			return
		}
		_ = wait.For(context.Background(), statePoll) // it ends by itself
	}
	ts.Fatalf("%v", last)
}

const statePoll = 20 * time.Millisecond

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
	for _, name := range []string{"DROVER_ADDR", "DROVER_TOKEN", "DROVER_HTTP_ADDRESS", "CONSUL_HTTP_ADDR", "DROVER_CONSUL_PREFIX", "USER", "PATH"} {
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
	if lines := strings.Count("\n"+stderr.String(), "\ndrover: "); status != 0 && lines != 1 {
		ts.Fatalf("drover %v says %d lines, want one:\n%s", args, lines, stderr.String())
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
