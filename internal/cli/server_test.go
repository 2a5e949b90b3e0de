package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"

	"drover/internal/api"
	"drover/internal/app"
	"drover/internal/config"
	"drover/internal/control"
	"drover/internal/devcluster/nomadd"
	"drover/internal/telemetry"
	"drover/internal/testkit"
	"drover/internal/work"
)

const (
	patience    = time.Minute
	serverToken = "right"
)

// running is a drover server on a real Consul, and on an embedded Nomad whose
// tasks do what the first word of their item's task says.
type running struct {
	consul string // address
	prefix string
	url    string
	client *api.Client
	stop   func()
}

// startServer starts a server and waits until it leads.
func startServer(ctx context.Context, t testing.TB, consul, nomad string, change ...func(*config.Config)) (*running, error) {
	r := &running{consul: consul, prefix: "test/" + work.NewID(time.Now()) + "/"}
	cfg := config.Default()
	cfg.HTTP.Address, cfg.HTTP.Token = "127.0.0.1:0", serverToken
	cfg.Consul.Address, cfg.Consul.Prefix = consul, r.prefix
	cfg.Nomad.Address = nomad
	cfg.Worker.Image = "worker:1"
	cfg.ItemDefaults.Command = []string{"agent"}
	cfg.Retry.Backoff = []config.Duration{"1h"}
	cfg.Orchestrator.LeaderTTL, cfg.Orchestrator.ReconcileInterval = "2s", "1s"
	cfg.QueueBlocks = []config.Queue{{Name: "slow", MaxInFlight: 1}}
	for _, f := range change {
		f(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	level := "off"
	if os.Getenv("DROVER_TEST_LOG") != "" {
		level = "debug"
	}
	logs, err := telemetry.NewLogs(telemetry.LogOptions{Output: os.Stderr, Level: level})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- app.Run(ctx, app.Options{Config: cfg, Logs: logs, Version: "test", Ready: func(url string) { ready <- url }})
	}()
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
		if r.client != nil {
			r.client.Close()
		}
	}
	select {
	case r.url = <-ready:
	case err := <-ended:
		return nil, err
	}
	if r.client, err = api.NewClient(api.ClientOptions{Address: r.url, Token: cfg.HTTP.Token.Reveal()}); err != nil {
		return nil, err
	}
	testkit.Eventually(t, patience, func() error {
		_, err := r.client.Status(ctx)
		return err
	})
	return r, nil
}

// playedNomad serves an embedded Nomad whose tasks are played for the items below
// any prefix of a Consul.
func playedNomad(t testing.TB, consul string) string {
	t.Helper()
	return testkit.EmbeddedNomad(t, nomadd.Options{MemoryMB: 640000, Cores: 640, Drivers: map[string]nomadd.Driver{"docker": played{testkit.ConsulClient(t, consul)}}})
}

// played is a driver whose tasks play a worker.
type played struct{ consul *consulapi.Client }

func (played) Layout(host nomadd.Layout) nomadd.Layout { return host }
func (played) Close() error                            { return nil }

func (d played) Start(_ context.Context, task *nomadd.Task) (nomadd.Process, error) {
	var envelope work.Envelope
	data, err := os.ReadFile(filepath.Join(task.Host.Local, "item.json"))
	if err == nil {
		err = json.Unmarshal(data, &envelope)
	}
	if err != nil {
		return nil, err
	}
	if envelope.Attempt == "" { // a probe of the doctor
		exit := make(chan nomadd.Exit, 1)
		exit <- nomadd.Exit{}
		return &playedProcess{exit: exit}, nil
	}
	p := &playedProcess{exit: make(chan nomadd.Exit, 1), signals: make(chan syscall.Signal, 4)}
	go func() { p.exit <- d.play(envelope, task, p.signals) }()
	return p, nil
}

// play does what the item's task says, and returns how that ends.
func (d played) play(e work.Envelope, task *nomadd.Task, signals <-chan syscall.Signal) nomadd.Exit {
	reports := map[string]work.Reason{"done": work.ReasonCompleted, "sad": work.ReasonBudgetExceeded, "stuck": work.ReasonStuck}
	word, _, _ := strings.Cut(e.Spec.Task, " ")
	switch {
	case reports[word] != "":
		fmt.Fprintf(task.Stdout, "out %d\nmore\n", e.Attempt.Number())
		fmt.Fprintln(task.Stderr, "err")
		d.report(e, task.AllocID, reports[word])
		return nomadd.Exit{}
	case word == "crash":
		fmt.Fprintln(task.Stdout, "last words")
		return nomadd.Exit{Code: 139, Signal: 11}
	}
	fmt.Fprintln(task.Stdout, "live out")
	fmt.Fprintln(task.Stderr, "live err")
	d.put(e.KVPrefix+"progress/"+string(e.Attempt), work.Progress{
		Attempt: e.Attempt, Allocation: task.AllocID, At: time.Now(), Phase: work.PhaseAgent, Iteration: 2, LastTool: "edit", Tokens: work.Tokens{In: 5000, Out: 70},
	})
	<-signals
	return nomadd.Exit{Code: 143, Signal: 15}
}

func (d played) report(e work.Envelope, alloc string, reason work.Reason) {
	result := work.Result{
		Attempt: e.Attempt, Allocation: alloc, Reason: reason, Detail: "the agent said so", StartedAt: time.Now().Add(-time.Minute), EndedAt: time.Now(),
		Commit: "abc", RemoteCommit: "abc", PeakMemoryMB: 77, Iteration: 3, Tokens: work.Tokens{In: 100, Out: 20},
		Changes: work.Changes{Commits: 2, Files: 3, Added: 40, Removed: 5}, Test: work.TestOutcome{Status: work.TestPassed, Run: 9, Passed: 9},
		PR: work.PullRequest{Status: work.PRNone},
	}
	if reason == work.ReasonCompleted {
		result.PR = work.PullRequest{Status: work.PRCreated, Number: 7, URL: "https://example.com/pull/7"}
	}
	d.put(e.KVPrefix+"results/"+string(e.Attempt), result)
}

// put stores what a worker stores. Should it fail, the test misses it.
func (d played) put(key string, v any) {
	if data, err := json.Marshal(v); err == nil {
		_, _ = d.consul.KV().Put(&consulapi.KVPair{Key: key, Value: data}, nil)
	}
}

type playedProcess struct {
	exit    chan nomadd.Exit
	signals chan syscall.Signal
}

func (p *playedProcess) Wait() nomadd.Exit { return <-p.exit }

func (p *playedProcess) Signal(sig syscall.Signal) error {
	select {
	case p.signals <- sig:
	default: // one is enough
	}
	return nil
}

func (p *playedProcess) Usage(context.Context) (nomadd.Usage, error) {
	return nomadd.Usage{MemoryBytes: 300 << 20, MaxBytes: 300 << 20}, nil
}

// items returns the stored items.
func (r *running) items(ctx context.Context) ([]work.Item, error) {
	var items []work.Item
	err := r.client.Export(ctx, control.Filter{}, func(item work.Item) error {
		items = append(items, item)
		return nil
	})
	return items, err
}
