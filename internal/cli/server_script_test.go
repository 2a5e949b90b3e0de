package cli_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/rogpeppe/go-internal/testscript"

	"drover/consul"
	"drover/internal/app"
	"drover/internal/cli"
	"drover/internal/config"
	"drover/internal/devcluster/nomadd"
	"drover/internal/telemetry"
	"drover/internal/testkit"
	"drover/internal/work"
)

// TestServerScripts runs testdata/server against a server on a real Consul and
// an embedded Nomad. "restart" has another server take over.
func TestServerScripts(t *testing.T) {
	consulAddress := testkit.ConsulAddress(t, `check_update_interval = "0s"`)
	nomad := testkit.EmbeddedNomad(t, nomadd.Options{MemoryMB: 16000, Cores: 16})
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/server",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			cfg := config.Default()
			cfg.HTTP.Address = "127.0.0.1:0"
			cfg.Consul.Address, cfg.Consul.Prefix = consulAddress, "test/"+work.NewID(time.Now())+"/"
			cfg.Nomad.Address = nomad
			cfg.Worker.JobID = "worker-" + work.NewID(time.Now())
			cfg.Worker.Driver, cfg.Worker.Binary = config.DriverRawExec, "/bin/false"
			cfg.ItemDefaults.Command = []string{"agent"}
			cfg.Orchestrator.LeaderTTL = "2s"
			cfg.QueueBlocks = []config.Queue{{Name: "slow", MaxInFlight: 2, Rate: 6}}
			if err := cfg.Validate(); err != nil {
				return err
			}
			s := &scriptServer{cfg: cfg}
			env.Values[scriptServerKey{}] = s
			env.Defer(func() { s.stop() })
			addr, err := s.start()
			env.Setenv("DROVER_ADDR", addr)
			return err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "restart": restart, "waits": waits, "holds": holds,
		},
	})
}

// serverPatience is how long a server may take to do what it does by itself.
const serverPatience = 30 * time.Second

type scriptServerKey struct{}

// scriptServer is the server of one script.
type scriptServer struct {
	cfg    config.Config
	cancel context.CancelFunc
	ended  chan error
}

// start returns the server's address once it leads.
func (s *scriptServer) start() (string, error) {
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan string, 1)
	s.cancel, s.ended = cancel, make(chan error, 1)
	go func() {
		logs, err := telemetry.NewLogs(telemetry.LogOptions{Output: io.Discard, Level: "off", Subsystems: config.LogSubsystems()})
		if err != nil {
			s.ended <- err
			return
		}
		s.ended <- app.Run(ctx, app.Options{Config: s.cfg, Logs: logs, Version: "test", Ready: func(addr string) { ready <- addr }})
	}()
	select {
	case addr := <-ready:
		return addr, nil
	case err := <-s.ended:
		s.ended <- err
		return "", fmt.Errorf("the server ended: %w", err)
	}
}

func (s *scriptServer) stop() {
	s.cancel()
	<-s.ended
}

func restart(ts *testscript.TestScript, _ bool, _ []string) {
	s := ts.Value(scriptServerKey{}).(*scriptServer)
	s.stop()
	addr, err := s.start()
	ts.Check(err)
	ts.Setenv("DROVER_ADDR", addr)
}

// holds has the first attempt of an item that no server knows lock paths: "holds ITEM REPOSITORY PATH…".
func holds(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value(scriptServerKey{}).(*scriptServer)
	release, err := holdPaths(s.cfg.Consul.Address, s.cfg.Consul.Prefix, args[0], args[1], args[2:]...)
	ts.Check(err)
	ts.Defer(func() { ts.Check(release()) })
}

// holdPaths has the first attempt of an item that no server knows lock paths, until release is called.
func holdPaths(address, prefix, item, repository string, texts ...string) (release func() error, err error) {
	transport := cleanhttp.DefaultPooledTransport()
	client, err := consul.Open(consul.Options{Address: address, Prefix: prefix, Transport: transport})
	if err != nil {
		return nil, err
	}
	paths, err := work.NewPathSet(texts...)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	spec := work.Spec{Repository: repository, Task: "x"}.WithDefaults(work.NewDefaults())
	attempt, err := client.ClaimAttempt(ctx, work.Envelope{Format: work.StoredFormat, Item: item, Attempt: work.NewAttemptID(item, 1), Spec: spec}, "a1")
	if err != nil {
		return nil, err
	}
	release = func() error {
		defer transport.CloseIdleConnections()
		return attempt.Release(ctx)
	}
	if _, err := attempt.Lock(ctx, paths, 0, nil); err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

// waits lists the items until the list matches: "waits REGEXP".
func waits(ts *testscript.TestScript, _ bool, args []string) {
	wanted, err := regexp.Compile(args[0])
	ts.Check(err)
	deadline := time.Now().Add(serverPatience)
	for {
		var stdout, stderr strings.Builder
		env := []string{"DROVER_ADDR=" + ts.Getenv("DROVER_ADDR")}
		cli.Main(context.Background(), []string{"list"}, env, strings.NewReader(""), &stdout, &stderr)
		if wanted.MatchString(stdout.String()) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no item is listed as %s:\n%s%s", args[0], stdout.String(), stderr.String())
		}
	}
}
