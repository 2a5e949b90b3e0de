package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"drover/consul"
	"drover/internal/devcluster/consuld"
	"drover/internal/testkit"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
	"drover/internal/worker"
	"drover/internal/worker/redact"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	patience = 30 * time.Second
	username = "drover"
	password = "correct-horse-battery"
	repo     = "project"
	alloc    = "0a1b2c3d-0000-0000-0000-000000000000"
)

// bench is a work item with everything its worker meets: Consul, the git server, a container's directory.
type bench struct {
	t        *testing.T
	git      *gittest.Server
	client   *consul.Client
	api      *api.Client
	consul   string        // address
	line     *testkit.Line // the worker's own connection to Consul
	envelope work.Envelope
	alloc    string
	dir      string
	environ  []string
	out      *buffer
	timing   worker.Timing
	health   string // address
	registry *prometheus.Registry

	remotePatience time.Duration
	// consulTiming is that of the clients that beside opens.
	consulTiming consul.Timing
}

// newBench returns the bench of an item whose agent is a shell script, with the embedded Consul.
func newBench(t *testing.T, script string) *bench {
	t.Helper()
	server := consuld.New(consuld.Options{})
	listener := httptest.NewServer(server)
	t.Cleanup(func() { server.Close(); listener.Close() })
	return benchOn(t, listener.Listener.Addr().String(), script)
}

func benchOn(t *testing.T, consulAddress, script string) *bench {
	t.Helper()
	item, prefix := work.NewID(time.Now()), "test/"+work.NewID(time.Now())
	b := &bench{
		t: t, alloc: alloc, dir: t.TempDir(), out: &buffer{}, consul: consulAddress,
		git: gittest.New(t, gittest.Options{Username: username, Password: password}),
		api: testkit.ConsulClient(t, consulAddress),
		environ: []string{
			"PATH=" + os.Getenv("PATH"), "DROVER_GIT_USERNAME=" + username, "DROVER_GIT_TOKEN=" + password,
			"CONSUL_HTTP_TOKEN=consul-secret-token", "NOMAD_TOKEN=nomad-secret-token", "AGENT_API_KEY=agent-secret-key",
		},
	}
	if err := b.git.CreateRepo(repo, map[string]string{"README.md": "hello\n"}); err != nil {
		t.Fatal(err)
	}
	transport := cleanhttp.DefaultPooledTransport()
	t.Cleanup(transport.CloseIdleConnections)
	b.line = &testkit.Line{Base: transport}
	var err error
	if b.client, err = consul.Open(consul.Options{Address: consulAddress, Prefix: prefix, Transport: b.line}); err != nil {
		t.Fatal(err)
	}
	b.envelope = work.Envelope{
		Item: item, Attempt: work.NewAttemptID(item, 1), Branch: work.Branch(item), KVPrefix: prefix,
		Spec: work.Spec{
			Repository: b.git.URL(repo), Task: "Do the work.\nAll of it.",
			Command: []string{"sh", "-c", "set -eu\n" + functions + script},
		}.WithDefaults(work.NewDefaults()),
	}
	return b
}

// functions are what the agents' scripts share.
const functions = `
commit() { echo "$1" >>work.txt; git add -A; git commit -q -m "$1"; }
gate() { until [ -e "$HOME/$1" ]; do sleep 0.05; echo waiting; done; }
`

func (b *bench) run() error { return b.runWith(b.t.Context()) }

func (b *bench) runWith(ctx context.Context) error {
	b.t.Helper()
	payload, err := json.Marshal(b.envelope)
	if err != nil {
		b.t.Fatal(err)
	}
	path := filepath.Join(b.dir, "item.json")
	if err := os.WriteFile(path, payload, 0o600); err != nil {
		b.t.Fatal(err)
	}
	redactor := redact.FromEnviron(b.environ)
	return worker.Run(ctx, worker.Options{
		Health: b.health, Registry: b.registry, Timing: b.timing, RemotePatience: b.remotePatience,
		Payload: path, Allocation: b.alloc, Dir: filepath.Join(b.dir, "work"), Environ: b.environ,
		Stdout: redactor.Writer(b.out), Stderr: redactor.Writer(b.out), Redactor: redactor,
		Logger: hclog.New(&hclog.LoggerOptions{Output: redactor.Writer(b.out)}),
		Open:   func(string) (worker.Store, error) { return store{b.client}, nil },
	})
}

// start runs the worker beside the test and returns what to wait for it with.
func (b *bench) start(ctx context.Context) (wait func() error) {
	done := make(chan error, 1)
	go func() { done <- b.runWith(ctx) }()
	b.t.Cleanup(func() {
		if b.t.Failed() {
			b.t.Log(b.out.String())
		}
	})
	return func() error { return <-done }
}

// result runs the worker to its end and returns what it reported.
func (b *bench) result() work.Result {
	b.t.Helper()
	if err := b.run(); err != nil {
		b.t.Fatalf("%v\n%s", err, b.out)
	}
	return b.reported()
}

func (b *bench) reported() work.Result {
	b.t.Helper()
	result, err := b.client.Result(context.Background(), b.envelope.Attempt)
	if err != nil || result == nil {
		b.t.Fatalf("no result: %v\n%s", err, b.out)
	}
	return *result
}

func (b *bench) wantNoResult() {
	b.t.Helper()
	if result, err := b.client.Result(context.Background(), b.envelope.Attempt); err != nil || result != nil {
		b.t.Fatalf("result %+v, %v; want none", result, err)
	}
}

func (b *bench) log() []string { return b.git.Log(repo, b.envelope.Branch) }

func (b *bench) wantLog(subjects ...string) {
	b.t.Helper()
	want := fmt.Sprint(subjects)
	if len(subjects) > 0 {
		want = fmt.Sprint(append([]string{gittest.InitialSubject}, subjects...))
	}
	if got := fmt.Sprint(b.log()); got != want {
		b.t.Errorf("the branch has %s, want %s\n%s", got, want, b.out)
	}
}

// eventuallyPushed waits until the branch has so many commits of the agent.
func (b *bench) eventuallyPushed(n int) {
	b.t.Helper()
	testkit.Eventually(b.t, patience, func() error {
		if got := len(b.log()) - 1; got < n {
			return fmt.Errorf("%d commits pushed, want %d", got, n)
		}
		return nil
	})
}

func (b *bench) eventuallySaid(text string) {
	b.t.Helper()
	testkit.Eventually(b.t, patience, func() error {
		if !strings.Contains(b.out.String(), text) {
			return fmt.Errorf("not said %q yet: %s", text, b.out)
		}
		return nil
	})
}

// checks returns the workers' TTL checks.
func (b *bench) checks() map[string]*api.AgentCheck {
	b.t.Helper()
	checks, err := b.api.Agent().Checks()
	if err != nil {
		b.t.Fatal(err)
	}
	for id, check := range checks {
		if check.ServiceName != consul.ServiceWorker {
			delete(checks, id)
		}
	}
	return checks
}

// wantNothingLeft checks rule 6: no session, no service, no check outlives the worker.
func (b *bench) wantNothingLeft() {
	b.t.Helper()
	if checks := b.checks(); len(checks) > 0 {
		b.t.Errorf("checks are left: %v", checks)
	}
	sessions, _, err := b.api.Session().List(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, s := range sessions {
		if strings.Contains(s.Name, b.envelope.Item) {
			b.t.Errorf("session %s is left", s.ID)
		}
	}
}

// store is what the worker's main package wires.
type store struct{ *consul.Client }

func (s store) Claim(ctx context.Context, e work.Envelope, allocation string) (worker.Claim, error) {
	return s.ClaimAttempt(ctx, e, allocation)
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *bench) putEnvelope(e work.Envelope) {
	b.t.Helper()
	data, err := json.Marshal(e)
	if err != nil {
		b.t.Fatal(err)
	}
	pair := &api.KVPair{Key: b.client.Keys.Envelope(e.Attempt), Value: data}
	if _, err := b.api.KV().Put(pair, nil); err != nil {
		b.t.Fatal(err)
	}
}
