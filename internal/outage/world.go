package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-cleanhttp"
	nomadapi "github.com/hashicorp/nomad/api"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/testkit"
	"drover/internal/testkit/gittest"
	"drover/internal/wait"
	"drover/internal/work"
)

const (
	serverToken  = "outage"
	startTimeout = 2 * time.Minute
	callTimeout  = 5 * time.Second
	pollInterval = 200 * time.Millisecond
)

// options of a world.
type options struct {
	root     string // of the module: build/bin may hold Consul
	bin      string // of drover, drover-worker and drover-demo-agent
	dir      string
	real     bool   // the nomad on the PATH instead of the embedded one
	replicas int    // servers of drover
	inFlight int    // attempts at a time
	defaults string // more lines of the configuration's block defaults
	more     string // more blocks of the configuration
	leader   string // more lines of its block orchestrator
	ownAgent bool   // workers have a Consul agent of their own, which is no server
}

// world is everything around the items: a git server that stays, and a Consul, a Nomad and servers that do not.
type world struct {
	options
	git          *gittest.Server
	consul       *process
	node         *process // nil where workers use consul
	nomad        nomad
	servers      []*process
	clients      []*api.Client // of the servers, in their order
	consulAddr   string        // host and port
	workerConsul string        // of the agent that workers use
	consulAPI    *consulapi.Client
	nomadAPI     *nomadapi.Client
	worker       string // the worker's program, by a name that no other run uses
	agent        string
	transport    *http.Transport
}

// newWorld starts everything and waits until items are taken. The caller must close it.
func newWorld(ctx context.Context, o options) (*world, error) {
	w := &world{options: o, worker: filepath.Join(o.dir, "drover-worker"), agent: filepath.Join(o.bin, "drover-demo-agent"), transport: cleanhttp.DefaultPooledTransport()}
	err := w.build()
	if err == nil {
		err = w.begin(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// build makes everything and starts nothing but the git server.
func (w *world) build() (err error) {
	const portsOfConsul, portsOfNomad = 6, 3
	ports, err := testkit.Ports(portsOfConsul + portsOfNomad + w.replicas)
	if err != nil {
		return err
	}
	if w.git, err = gittest.Start(w.dir, gittest.Options{}); err != nil {
		return err
	}
	if err := os.Symlink(filepath.Join(w.bin, "drover-worker"), w.worker); err != nil {
		return err
	}
	if err := w.makeConsul(ports[:portsOfConsul]); err != nil {
		return err
	}
	if err := w.makeNomad(ports[portsOfConsul:][:portsOfNomad]); err != nil {
		return err
	}
	return w.makeServers(ports[portsOfConsul+portsOfNomad:])
}

func (w *world) makeConsul(ports []int) error {
	binary, err := findBinary(w.root, "consul")
	if err != nil {
		return err
	}
	w.consul = w.consulAgent(binary, "consul", ports[:3], "-server", "-bootstrap-expect=1", "-hcl=performance { raft_multiplier = 1 }")
	w.consulAddr, w.workerConsul = local(ports[0]), local(ports[0])
	if w.ownAgent {
		w.node = w.consulAgent(binary, "node", ports[3:], "-retry-join="+local(ports[2]), "-retry-interval=1s")
		w.workerConsul = local(ports[3])
	}
	w.consulAPI, err = consulapi.NewClient(&consulapi.Config{Address: w.consulAddr, HttpClient: &http.Client{Transport: w.transport}})
	return err
}

// consulAgent makes an agent on ports for HTTP, for servers and for gossip.
func (w *world) consulAgent(binary, name string, ports []int, args ...string) *process {
	return newProcess(w.dir, name, clean(os.Environ()), append([]string{
		binary, "agent", "-node=" + name, "-data-dir=" + filepath.Join(w.dir, name), "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn",
		"-http-port=" + strconv.Itoa(ports[0]), "-server-port=" + strconv.Itoa(ports[1]), "-serf-lan-port=" + strconv.Itoa(ports[2]),
		"-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", `-hcl=check_update_interval = "0s"`,
	}, args...)...)
}

func (w *world) makeNomad(ports []int) (err error) {
	if w.real {
		binary, err := findBinary(w.root, "nomad")
		if err != nil {
			return err
		}
		if w.nomad, err = newRealNomad(binary, w.dir, ports); err != nil {
			return err
		}
	} else if w.nomad, err = newEmbedded(w.dir, local(ports[0])); err != nil {
		return err
	}
	w.nomadAPI, err = nomadapi.NewClient(&nomadapi.Config{Address: "http://" + local(ports[0]), HttpClient: &http.Client{Transport: w.transport}})
	return err
}

const configuration = `
consul { address = %q }
nomad { address = %q }
worker {
  driver      = "raw_exec"
  binary      = %q
  consul_addr = %q
}
defaults {
  command        = [%q]
  memory_mb      = 128
  cpu_mhz        = 50
  max_iterations = 1000
  pr_provider    = "none"
  %s
}
orchestrator {
  max_in_flight      = %d
  reconcile_interval = "5s"
  %s
}
%s
`

func (w *world) makeServers(ports []int) error {
	text := fmt.Sprintf(configuration, w.consulAddr, w.nomadAPI.Address(), w.worker, w.workerConsul, w.agent, w.defaults, w.inFlight, w.leader, w.more)
	file := filepath.Join(w.dir, "drover.hcl")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	env := append(clean(os.Environ()), "DROVER_TOKEN="+serverToken, "DROVER_LOG_LEVEL=debug")
	for i, port := range ports {
		name := fmt.Sprintf("server %d", i+1)
		w.servers = append(w.servers, newProcess(w.dir, name, env, filepath.Join(w.bin, "drover"), "server", "--config", file, "--http-addr", local(port)))
		client, err := api.NewClient(api.ClientOptions{Address: local(port), Token: serverToken})
		if err != nil {
			return err
		}
		w.clients = append(w.clients, client)
	}
	return nil
}

func local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// begin starts what was built.
func (w *world) begin(ctx context.Context) error {
	if err := w.consul.start(); err != nil {
		return err
	}
	if err := w.nomad.start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("not everything is up in time"))
	defer cancel()
	if err := w.awaitUp(ctx, target{"consul", w.consul}, w.consulReady); err != nil {
		return err
	}
	if err := w.awaitUp(ctx, target{"nomad", w.nomad}, w.nomadReady); err != nil {
		return err
	}
	for _, s := range w.servers {
		if err := s.start(); err != nil {
			return err
		}
	}
	if err := w.startNode(ctx); err != nil {
		return err
	}
	return w.await(ctx, "drover", func(ctx context.Context) error {
		return w.call(ctx, func(ctx context.Context, c *api.Client) error {
			status, err := c.Status(ctx)
			if err == nil && len(status.NotReady) > 0 {
				err = errors.New(strings.Join(status.NotReady, "; "))
			}
			return err
		})
	})
}

// startNode starts the workers' own Consul agent, if they have one, and waits until it is in the catalog.
func (w *world) startNode(ctx context.Context) error {
	if w.node == nil {
		return nil
	}
	if err := w.node.start(); err != nil {
		return err
	}
	return w.await(ctx, "the workers' consul agent", func(ctx context.Context) error {
		checks, _, err := w.consulAPI.Health().Node(w.node.name, (&consulapi.QueryOptions{}).WithContext(ctx))
		if err == nil && checks.AggregatedStatus() != consulapi.HealthPassing {
			err = errors.New("it is not in the catalog")
		}
		return err
	})
}

// close ends everything.
func (w *world) close() error {
	var errs []error
	for _, s := range w.servers {
		errs = append(errs, s.kill())
	}
	for _, c := range w.clients {
		c.Close()
	}
	if w.nomad != nil {
		errs = append(errs, w.nomad.close())
	}
	for _, pid := range processesOf(w.worker) { // none, unless something went wrong
		errs = append(errs, kill(pid))
	}
	for _, agent := range []*process{w.node, w.consul} {
		if agent != nil {
			errs = append(errs, agent.kill())
		}
	}
	if w.git != nil {
		errs = append(errs, w.git.Close())
	}
	w.transport.CloseIdleConnections()
	return errors.Join(errs...)
}

// consulReady tells whether Consul has a leader and a healthy node: before that no session can be made.
func (w *world) consulReady(ctx context.Context) error {
	checks, _, err := w.consulAPI.Health().State(consulapi.HealthPassing, (&consulapi.QueryOptions{}).WithContext(ctx))
	if err == nil && len(checks) == 0 {
		err = errors.New("no healthy node yet")
	}
	return err
}

func (w *world) nomadReady(ctx context.Context) error {
	nodes, _, err := w.nomadAPI.Nodes().List((&nomadapi.QueryOptions{}).WithContext(ctx))
	if err == nil && (len(nodes) == 0 || nodes[0].Status != "ready") {
		err = errors.New("no node is ready")
	}
	return err
}

// await waits until a condition holds.
func (w *world) await(ctx context.Context, what string, condition func(context.Context) error) error {
	var last error
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil { // else it may have been cut short
			last = err
		}
		if wait.For(ctx, pollInterval) != nil {
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), last)
		}
	}
}

// awaitUp waits until a target is ready, and gives up when it has ended.
func (w *world) awaitUp(ctx context.Context, t target, ready func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	return w.await(ctx, t.name, func(ctx context.Context) error {
		if err := t.of.fault(); err != nil {
			cancel(err)
			return err
		}
		return ready(ctx)
	})
}

// call calls the servers one after the other until one answers.
func (w *world) call(ctx context.Context, do func(context.Context, *api.Client) error) error {
	var errs []error
	for _, c := range w.clients {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		err := do(ctx, c)
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// submit stores items, however often the servers must be asked.
func (w *world) submit(ctx context.Context, items []control.Submission) error {
	return w.await(ctx, "the items to be stored", func(ctx context.Context) error {
		return w.call(ctx, func(ctx context.Context, c *api.Client) error {
			_, err := c.Submit(ctx, items)
			return err
		})
	})
}

// items returns all items by id.
func (w *world) items(ctx context.Context) (byID map[string]work.Item, err error) {
	err = w.call(ctx, func(ctx context.Context, c *api.Client) error {
		page, err := c.Items(ctx, control.Query{Limit: control.MaxPage})
		byID = map[string]work.Item{}
		for _, item := range page.Items {
			byID[item.ID] = item
		}
		return err
	})
	return byID, err
}
