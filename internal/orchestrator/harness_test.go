package orchestrator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-hclog"

	"drover/consul"
	"drover/internal/control"
	"drover/internal/devcluster/nomadd"
	"drover/internal/orchestrator"
	"drover/internal/testkit"
	"drover/internal/work"
	"drover/jobs"
	"drover/nomad"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	patience  = 30 * time.Second
	leaderTTL = 2 * time.Second
)

// cluster is an embedded Consul and an embedded Nomad whose tasks run in this
// process, as each test says.
type cluster struct {
	t         *testing.T
	consul    *consulapi.Client
	consulURL string
	nomadURL  string
	transport *http.Transport
	prefix    string
	breaker   work.BreakerPolicy // opens none unless the test changes it
	retention orchestrator.Retention
	tasks     *scripted
}

func newCluster(t *testing.T, task func(*run) nomadd.Exit) *cluster {
	t.Helper()
	c := &cluster{t: t, prefix: "test/", transport: cleanhttp.DefaultPooledTransport()}
	c.tasks = &scripted{cluster: c, task: task}
	c.breaker = work.DefaultBreakerPolicy()
	c.breaker.MinCount = 1000
	c.consulURL = testkit.EmbeddedConsul(t)
	c.nomadURL = testkit.EmbeddedNomad(t, nomadd.Options{MemoryMB: 64000, Cores: 64, Drivers: map[string]nomadd.Driver{"docker": c.tasks}})
	t.Cleanup(c.transport.CloseIdleConnections)
	var err error
	c.consul, err = consulapi.NewClient(&consulapi.Config{Address: c.consulURL, HttpClient: &http.Client{Transport: c.transport}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// server is one term of an orchestrator on the cluster.
type server struct {
	*orchestrator.Orchestrator
	term  *consul.Term
	ended chan struct{}
	line  *testkit.Line
}

// faults change what an orchestrator sees of the world; nil means as it is.
type faults struct {
	ledger  func(orchestrator.Ledger) orchestrator.Ledger
	cluster func(orchestrator.Cluster) orchestrator.Cluster
}

func (c *cluster) start(f faults) *server {
	c.t.Helper()
	line := &testkit.Line{Base: c.transport}
	store, err := consul.Open(consul.Options{Address: c.consulURL, Prefix: c.prefix, Transport: line})
	if err != nil {
		c.t.Fatal(err)
	}
	nomadClient, err := nomad.Open(nomad.Options{
		Address: c.nomadURL, Transport: line,
		Job: nomad.Job{Source: jobs.Worker, Default: nomad.RunnerOf(work.Spec{}.WithDefaults(defaults()))},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	term, err := store.Lead(c.t.Context(), consul.Candidate{Leader: consul.Leader{ID: work.NewID(time.Now()), Address: "x"}, TTL: leaderTTL})
	if err != nil {
		c.t.Fatal(err)
	}
	var ledger orchestrator.Ledger = term
	var world orchestrator.Cluster = nomadClient
	if f.ledger != nil {
		ledger = f.ledger(ledger)
	}
	if f.cluster != nil {
		world = f.cluster(world)
	}
	retry := work.DefaultRetryPolicy()
	retry.Backoff = []work.Duration{work.Duration(10 * time.Millisecond)}
	retry.RequeueBackoff = retry.Backoff
	log := hclog.NewNullLogger()
	if os.Getenv("DROVER_TEST_LOG") != "" {
		log = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug})
	}
	s := &server{term: term, ended: make(chan struct{}), line: line}
	s.Orchestrator = orchestrator.New(orchestrator.Config{
		MaxInFlight: 20, Queues: map[string]orchestrator.Queue{work.DefaultQueue: {}, "patient": patient, "codex": {Agent: work.AgentCodex}}, Defaults: defaults(), Retry: retry, Breaker: c.breaker, Retention: c.retention,
		ReconcileEvery: 500 * time.Millisecond, KVPrefix: c.prefix,
	}, store, ledger, world, log)
	go func() {
		defer close(s.ended)
		_ = s.Run(term.Context()) // ends with the term; the tests look at what it stored
	}()
	c.t.Cleanup(s.stop)
	return s
}

func (s *server) stop() {
	s.term.Resign()
	<-s.ended
}

// crash ends the server as kill -9 would: from now on nothing it does reaches anyone.
func (c *cluster) crash(s *server) {
	c.t.Helper()
	s.line.Cut()
	s.stop()
}

// patient is a queue with rows of its own.
var patient = orchestrator.Queue{Retry: &work.RetryOverride{Actions: map[work.Reason]work.Action{work.ReasonStuck: work.ActRetry}}}

func defaults() work.Defaults {
	d := work.NewDefaults()
	d.Image, d.Command = "worker:1", []string{"agent"}
	d.Resources = work.Resources{MemoryMB: 100, CPUMHz: 10, PIDs: 10}
	return d
}

func (c *cluster) submit(s *server, count int, change ...func(*work.Spec)) []string {
	c.t.Helper()
	var submissions []control.Submission
	for range count {
		spec := work.Spec{Repository: "https://git.example.org/a/b.git", Task: "do it"}
		for _, f := range change {
			f(&spec)
		}
		submissions = append(submissions, control.Submission{ID: work.NewID(time.Now()), Spec: spec})
	}
	items, err := s.Submit(c.t.Context(), submissions)
	if err != nil {
		c.t.Fatal(err)
	}
	ids := make([]string, count)
	for i, item := range items {
		ids[i] = item.ID
	}
	return ids
}

// await waits until an item, as it is stored, is what is wanted.
func (c *cluster) await(id string, want func(work.Item) error) work.Item {
	c.t.Helper()
	var item work.Item
	testkit.Eventually(c.t, patience, func() error {
		pair, _, err := c.consul.KV().Get(c.prefix+"items/"+id, nil)
		if err != nil || pair == nil {
			return fmt.Errorf("item %s: %v", id, err)
		}
		item = work.Item{}
		if err := json.Unmarshal(pair.Value, &item); err != nil {
			return err
		}
		return want(item)
	})
	return item
}

func inState(state work.State) func(work.Item) error {
	return func(item work.Item) error {
		if item.State != state {
			return fmt.Errorf("item is %s (%s), want %s", item.State, item.Why, state)
		}
		return nil
	}
}

// clean waits until nothing is left of ended attempts: no child, no session.
func (c *cluster) clean() {
	c.t.Helper()
	testkit.Eventually(c.t, patience, func() error {
		children, err := c.children()
		if err != nil || len(children) > 0 {
			return fmt.Errorf("children left: %v %v", children, err)
		}
		return nil
	})
}

func (c *cluster) children() ([]string, error) {
	resp, err := (&http.Client{Transport: c.transport}).Get(c.nomadURL + "/v1/jobs")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var stubs []struct{ ID, ParentID string }
	if err := json.NewDecoder(resp.Body).Decode(&stubs); err != nil {
		return nil, err
	}
	var ids []string
	for _, stub := range stubs {
		if stub.ParentID != "" {
			ids = append(ids, stub.ID)
		}
	}
	return ids, nil
}

func (c *cluster) put(key string, v any) {
	data, err := json.Marshal(v)
	if err == nil {
		_, err = c.consul.KV().Put(&consulapi.KVPair{Key: c.prefix + key, Value: data}, nil)
	}
	if err != nil {
		c.t.Errorf("put %s: %v", key, err)
	}
}

// run is one task of a worker, played by the test.
type run struct {
	*cluster
	envelope work.Envelope
	alloc    string
	stdout   io.Writer
	stderr   io.Writer
	signals  chan syscall.Signal
}

// claim claims the attempt as the worker does first, without a session.
func (r *run) claim() {
	r.put("claims/"+string(r.envelope.Attempt), work.Claim{Attempt: r.envelope.Attempt, Allocation: r.alloc, At: time.Now()})
}

// report stores a result as the worker would.
func (r *run) report(reason work.Reason, change ...func(*work.Result)) {
	result := work.Result{Attempt: r.envelope.Attempt, Allocation: r.alloc, Reason: reason, Detail: "as the test says", StartedAt: time.Now(), EndedAt: time.Now()}
	for _, f := range change {
		f(&result)
	}
	r.put("results/"+string(r.envelope.Attempt), result)
}

// scripted is a driver whose tasks are functions.
type scripted struct {
	cluster *cluster
	task    func(*run) nomadd.Exit
	mu      sync.Mutex
	started map[work.AttemptID]int
	pulled  <-chan struct{} // holds starts up until it is closed; nil does not
}

// pull has the next tasks wait for their image until done is closed.
func (s *scripted) pull(done <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pulled = done
}

func (s *scripted) Layout(host nomadd.Layout) nomadd.Layout { return host }
func (s *scripted) Close() error                            { return nil }

func (s *scripted) Start(ctx context.Context, task *nomadd.Task) (nomadd.Process, error) {
	r := &run{cluster: s.cluster, alloc: task.AllocID, stdout: task.Stdout, stderr: task.Stderr, signals: make(chan syscall.Signal, 4)}
	data, err := os.ReadFile(filepath.Join(task.Host.Local, "item.json"))
	if err == nil {
		err = json.Unmarshal(data, &r.envelope)
	}
	if err == nil && r.envelope.Attempt == "" {
		r.envelope.Attempt, err = work.HandDispatched(task.JobID)
	}
	if err != nil {
		return nil, err
	}
	if r.envelope.Spec.Image == "no-such-image:1" {
		return nil, &nomadd.Unrecoverable{Err: errors.New("Failed to pull `no-such-image:1`: not found")}
	}
	s.mu.Lock()
	if s.started == nil {
		s.started = map[work.AttemptID]int{}
	}
	s.started[r.envelope.Attempt]++
	pulled := s.pulled
	s.mu.Unlock()
	if pulled != nil {
		task.Notify("Downloading image")
		select {
		case <-pulled:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	p := &process{exit: make(chan nomadd.Exit, 1), signals: r.signals}
	go func() {
		exit := nomadd.Exit{Code: 70} // should the test fail in the task
		defer func() { p.exit <- exit }()
		exit = s.task(r)
	}()
	return p, nil
}

// runs returns how often each attempt was started.
func (s *scripted) runs() map[work.AttemptID]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	copied := map[work.AttemptID]int{}
	for a, n := range s.started {
		copied[a] = n
	}
	return copied
}

type process struct {
	exit    chan nomadd.Exit
	signals chan syscall.Signal
}

func (p *process) Wait() nomadd.Exit { return <-p.exit }

func (p *process) Signal(sig syscall.Signal) error {
	p.signals <- sig
	return nil
}

func (p *process) Usage(context.Context) (nomadd.Usage, error) { return nomadd.Usage{}, nil }
