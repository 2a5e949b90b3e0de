package app_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	nomadapi "github.com/hashicorp/nomad/api"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/devcluster/nomadd"
	"drover/internal/testkit"
	"drover/internal/testkit/forgetest"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	patience   = 90 * time.Second
	repository = "shop/checkout"
	gitToken   = "git-token-of-the-spine"
	forgeToken = "forge-token-of-the-spine"
	spineToken = "token-of-the-spine"
)

// servers are a Consul and a Nomad.
type servers struct {
	consul, nomad string // addresses
	nomadToken    string // which the tests show; empty where Nomad has no ACLs
}

// spine is everything around a server, real but for the forge and, unless it is
// there, Nomad.
type spine struct {
	servers
	t         *testing.T
	bin       string
	config    string
	address   string
	prefix    string // of drover's keys
	worker    string // what the configuration's block of that name holds besides Consul's address
	secrets   string // Nomad variable with the workers' secrets
	command   string // the agent of items that name none
	git       *gittest.Server
	forge     *forgetest.Server
	client    *api.Client
	transport *http.Transport
	env       []string // of servers, besides the test's own
}

// newSpine returns a spine whose workers are processes, with the binaries under test.
func newSpine(t *testing.T) *spine {
	t.Helper()
	return newSpineOn(t, servers{consul: newConsul(t), nomad: embeddedNomad(t)})
}

// newSpineOn is newSpine on other servers.
func newSpineOn(t *testing.T, on servers) *spine {
	t.Helper()
	s := newSurroundings(t, on)
	s.build("drover", "./cmd/drover")
	s.build("drover-worker", "./cmd/drover-worker")
	s.build("agent", "./internal/demo/agent")
	s.worker = fmt.Sprintf("driver = %q\n  binary = %q", "raw_exec", filepath.Join(s.bin, "drover-worker"))
	s.command = filepath.Join(s.bin, "agent")
	s.writeConfig()
	return s
}

// newConsul starts a real Consul and returns its address.
func newConsul(t *testing.T) string {
	t.Helper()
	return testkit.ConsulAddress(t, `check_update_interval = "0s"`)
}

// newSurroundings returns what a server needs on the Consul and the Nomad given.
func newSurroundings(t *testing.T, on servers) *spine {
	t.Helper()
	s := &spine{servers: on, t: t, bin: t.TempDir(), secrets: "nomad/jobs/drover-worker", transport: cleanhttp.DefaultPooledTransport()}
	t.Cleanup(s.transport.CloseIdleConnections)
	s.prefix = "test/" + work.NewID(time.Now()) + "/"
	s.git = gittest.New(t, gittest.Options{Username: "drover", Password: gitToken})
	if err := s.git.CreateRepo(repository, map[string]string{"README.md": "a shop\n"}); err != nil {
		t.Fatal(err)
	}
	s.forge = forgetest.New(t, forgeToken)
	s.giveWorkers(nil)
	s.address = fmt.Sprintf("127.0.0.1:%d", testkit.FreePorts(t, 1)[0])
	client, err := api.NewClient(api.ClientOptions{Address: "http://" + s.address, Token: spineToken})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s.client = client
	return s
}

func (s *spine) build(name, pkg string) {
	s.t.Helper()
	cmd := exec.Command("go", "build", "-o", filepath.Join(s.bin, name), pkg)
	cmd.Dir = testkit.ModuleRoot(s.t)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
}

// embeddedNomad serves the embedded Nomad and returns its address.
func embeddedNomad(t *testing.T) string {
	t.Helper()
	return testkit.EmbeddedNomad(t, nomadd.Options{MemoryMB: 16000, Cores: 16, EventBuffer: 1000})
}

func (s *spine) nomadClient() *nomadapi.Client {
	s.t.Helper()
	client, err := nomadapi.NewClient(&nomadapi.Config{Address: s.nomad, SecretID: s.nomadToken, HttpClient: &http.Client{Transport: s.transport}})
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

// giveWorkers gives workers their secrets, and more of them.
func (s *spine) giveWorkers(more map[string]string) {
	s.t.Helper()
	secrets := nomadapi.NewVariable(s.secrets)
	secrets.Items = nomadapi.VariableItems{"DROVER_GIT_USERNAME": "drover", "DROVER_GIT_TOKEN": gitToken, "DROVER_FORGE_TOKEN": forgeToken}
	maps.Copy(secrets.Items, more)
	if _, _, err := s.nomadClient().Variables().Update(secrets, nil); err != nil {
		s.t.Fatal(err)
	}
}

func (s *spine) writeConfig() {
	s.t.Helper()
	s.config = filepath.Join(s.bin, "drover.hcl")
	text := fmt.Sprintf(`
http { address = %q }
consul {
  address = %q
  prefix  = %q
}
nomad { address = %q }
worker {
  consul_addr = %q
  %s
}
defaults {
  command       = [%q]
  memory_mb     = 256
  cpu_mhz       = 50
  heartbeat_ttl = "30s"
  pr_provider   = "github"
  pr_api_url    = %q
}
retry {
  backoff         = ["500ms"]
  requeue_backoff = ["500ms"]
}
breaker { min_count = 1000 } # one repository, and every way to fail
orchestrator {
  leader_ttl         = "1s"
  reconcile_interval = "2s"
  lost_after         = "5s"
  steady             = "5s"
}
`, s.address, s.consul, s.prefix, s.nomad, s.consul, s.worker, s.command, s.forge.URL())
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// process is a running `drover server`.
type process struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan error
}

func (s *spine) start() *process {
	s.t.Helper()
	p := &process{cmd: exec.Command(filepath.Join(s.bin, "drover"), "server", "--config", s.config), log: &bytes.Buffer{}, done: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Env = append(append(os.Environ(), "DROVER_TOKEN="+spineToken, "DROVER_LOG_LEVEL=debug"), s.env...)
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	s.t.Cleanup(func() {
		p.kill()
		if s.t.Failed() {
			s.t.Logf("server %d:\n%s", p.cmd.Process.Pid, p.log)
		}
	})
	return p
}

// kill ends the process as kill -9 does. Doing it twice changes nothing.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	err := <-p.done
	p.done <- err
}

// submit submits items, and tries until a server takes them.
func (s *spine) submit(tasks ...string) []string {
	s.t.Helper()
	specs := make([]work.Spec, len(tasks))
	for i, task := range tasks {
		specs[i] = work.Spec{Task: task}
	}
	return s.submitSpecs(specs)
}

// submitSpecs is submit for whole specifications; one that names no repository
// is about the usual one.
func (s *spine) submitSpecs(specs []work.Spec) []string {
	s.t.Helper()
	submissions := make([]control.Submission, len(specs))
	ids := make([]string, len(specs))
	for i, spec := range specs {
		spec.Repository = cmp.Or(spec.Repository, s.git.URL(repository))
		ids[i] = work.NewID(time.Now())
		submissions[i] = control.Submission{ID: ids[i], Spec: spec}
	}
	testkit.Eventually(s.t, patience, func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
		defer cancel()
		_, err := s.client.Submit(ctx, submissions)
		return err
	})
	return ids
}

func (s *spine) item(id string) (work.Item, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	item, _, err := s.client.Item(ctx, id)
	return item, err
}

// await waits until an item has ended.
func (s *spine) await(id string) work.Item {
	s.t.Helper()
	var item work.Item
	testkit.Eventually(s.t, patience, func() error {
		var err error
		if item, err = s.item(id); err != nil {
			return err
		}
		if !item.State.Terminal() {
			return fmt.Errorf("item %s is %s: %s", id, item.State, item.Why)
		}
		return nil
	})
	return item
}

// verify checks an item that was to make some commits: it ended as it should,
// ran once, its branch holds each commit once, and it has one pull request.
func (s *spine) verify(id string, commits int) error {
	item := s.await(id)
	var faults []error
	bad := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("item %s: "+format, append([]any{id}, args...)...))
	}
	if item.State != work.StateCompleted || item.PR.Status != work.PRCreated {
		bad("%s (%s), pull request %s %s", item.State, item.Why, item.PR.Status, item.PR.Error)
	}
	if len(item.Attempts) != 1 {
		bad("%d attempts: %s", len(item.Attempts), item.Attempts[0].Detail)
	}
	if log := s.git.Log(repository, item.Branch); len(log) != commits+1 {
		bad("branch holds %d commits, want %d: %s", len(log)-1, commits, strings.Join(log, " | "))
	}
	pulls := 0
	for _, p := range s.forge.Pulls() {
		if p.Head.Ref == item.Branch {
			pulls++
		}
	}
	if pulls != 1 {
		bad("%d pull requests", pulls)
	}
	return errors.Join(faults...)
}
