// Package devcluster starts the Nomad and the Consul of a development cluster on
// loopback addresses: the real agents in their dev mode where they are
// installed, and otherwise servers in this process that speak the part of their
// APIs that drover uses.
package devcluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/devcluster/consuld"
	"drover/internal/devcluster/nomadd"
)

const (
	startTimeout = time.Minute // an agent fingerprints its machine first
	startTries   = 3           // another process may take a port between finding it free and using it
	pollInterval = 100 * time.Millisecond
	answerLimit  = 10 * time.Second
)

// anyPort is a loopback address whose port the system chooses.
const anyPort = "127.0.0.1:0"

// Options of a Cluster; the zero value is good.
type Options struct {
	Embedded bool   // start no agents, even where they are on PATH
	Consul   string // host:port to serve Consul at; a free port of 127.0.0.1 if empty
	Nomad    string // host:port to serve Nomad at; a free port of 127.0.0.1 if empty
	Logger   hclog.Logger
}

// Cluster is a running Nomad and Consul of one node, which keep nothing.
type Cluster struct {
	ConsulAddr string // http://host:port
	NomadAddr  string // http://host:port
	ConsulKind string // what serves: "consul agent -dev" or "embedded"
	NomadKind  string

	dir     string // of the agents' configuration and logs
	closers []func() error
	failed  chan error
}

// Kinds of servers.
const (
	kindEmbedded = "embedded"
	kindConsul   = "consul agent -dev"
	kindNomad    = "nomad agent -dev"
)

// Start starts a cluster and waits until it can be used. Close ends it.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	dir, err := os.MkdirTemp("", "drover-dev-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the dev cluster: %w", err)
	}
	c := &Cluster{dir: dir, failed: make(chan error, 2)}
	c.closers = append(c.closers, func() error { return os.RemoveAll(dir) })
	if err := c.start(ctx, opts); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, opts Options) error {
	if err := c.startConsul(ctx, opts); err != nil {
		return fmt.Errorf("start consul: %w", err)
	}
	if err := c.startNomad(ctx, opts); err != nil {
		return fmt.Errorf("start nomad: %w", err)
	}
	return nil
}

// Failed yields an error when an agent ends that nobody told to.
func (c *Cluster) Failed() <-chan error { return c.failed }

// Close ends Nomad with all it runs, then Consul, and removes what was written to disk.
func (c *Cluster) Close() error {
	var errs []error
	for i := len(c.closers) - 1; i >= 0; i-- {
		errs = append(errs, c.closers[i]())
	}
	c.closers = nil
	return errors.Join(errs...)
}

func (c *Cluster) startConsul(ctx context.Context, opts Options) error {
	binary, err := exec.LookPath("consul")
	if opts.Embedded || err != nil {
		server := consuld.New(consuld.Options{NodeName: "drover-dev"})
		address, err := c.serve(opts.Consul, server, func() error { server.Close(); return nil })
		c.ConsulAddr, c.ConsulKind = "http://"+address, kindEmbedded
		return err
	}
	c.ConsulKind = kindConsul
	address, err := c.runAgent(ctx, opts.Consul, func(http int, others []int) (*agent, error) {
		return consulAgent(binary, c.dir, http, others)
	}, consulReady)
	c.ConsulAddr = "http://" + address
	return err
}

func (c *Cluster) startNomad(ctx context.Context, opts Options) error {
	binary, err := exec.LookPath("nomad")
	if opts.Embedded || err != nil {
		server, err := nomadd.New(nomadd.Options{NodeName: "drover-dev", Logger: opts.Logger.Named("nomad")})
		if err != nil {
			return err
		}
		address, err := c.serve(opts.Nomad, server, server.Close)
		c.NomadAddr, c.NomadKind = "http://"+address, kindEmbedded
		return err
	}
	c.NomadKind = kindNomad
	address, err := c.runAgent(ctx, opts.Nomad, func(http int, others []int) (*agent, error) {
		return nomadAgent(binary, c.dir, c.ConsulAddr, http, others)
	}, nomadReady)
	c.NomadAddr = "http://" + address
	return err
}

// serve serves handler until Close, which calls end before it closes what is connected.
func (c *Cluster) serve(address string, handler http.Handler, end func() error) (string, error) {
	listener, err := net.Listen("tcp", cmp.Or(address, anyPort))
	if err != nil {
		return "", errors.Join(err, end())
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: answerLimit}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			c.failed <- fmt.Errorf("serve at %s: %w", listener.Addr(), err)
		}
	}()
	c.closers = append(c.closers, func() error {
		err := errors.Join(end(), server.Close())
		<-done
		return err
	})
	return listener.Addr().String(), nil
}

// runAgent starts an agent that serves HTTP at address, or at a free port, and
// waits until it is ready.
func (c *Cluster) runAgent(ctx context.Context, address string, start func(http int, others []int) (*agent, error), ready func(context.Context, string) error) (string, error) {
	var failed error
	for range startTries {
		host, port, others, err := ports(address)
		if err != nil {
			return "", err
		}
		a, err := start(port, others)
		if err != nil {
			return "", err
		}
		at := net.JoinHostPort(host, fmt.Sprint(port))
		if err = a.await(ctx, func(ctx context.Context) error { return ready(ctx, "http://"+at) }); err == nil {
			c.watch(a)
			return at, nil
		}
		failed = errors.Join(fmt.Errorf("%w; its log ends with: %s", err, a.logEnd()), a.stop())
		if ctx.Err() != nil {
			break
		}
	}
	return "", failed
}

// watch reports an agent that ends on its own, and lets Close end it.
func (c *Cluster) watch(a *agent) {
	closing := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-a.exited:
			c.failed <- fmt.Errorf("%s ended; its log ends with: %s", a.name, a.logEnd())
		case <-closing:
		}
	}()
	c.closers = append(c.closers, func() error {
		close(closing)
		<-watched
		return a.stop()
	})
}

// ports returns the address's host and port, or a free port of 127.0.0.1, and
// two more ports that are free.
func ports(address string) (host string, port int, others []int, err error) {
	const more = 2
	var free []int
	for range more + 1 {
		listener, err := net.Listen("tcp", anyPort)
		if err != nil {
			return "", 0, nil, fmt.Errorf("find a free port: %w", err)
		}
		defer listener.Close() // only when all are found, so that they differ
		free = append(free, listener.Addr().(*net.TCPAddr).Port)
	}
	if address == "" {
		return "127.0.0.1", free[0], free[1:], nil
	}
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil || tcp.IP == nil || !tcp.IP.IsLoopback() {
		return "", 0, nil, fmt.Errorf("address %q: a dev cluster is served at a loopback address, as host:port", address)
	}
	return tcp.IP.String(), tcp.Port, free[1:], nil
}

// consulReady tells whether there is a leader that has entered its own node:
// before that no session can be made.
func consulReady(ctx context.Context, address string) error {
	var checks []struct{ Node string }
	if err := get(ctx, address+"/v1/health/state/passing", &checks); err != nil {
		return err
	}
	if len(checks) == 0 {
		return errors.New("consul has no healthy node yet")
	}
	return nil
}

func nomadReady(ctx context.Context, address string) error {
	var nodes []struct{ Status string }
	if err := get(ctx, address+"/v1/nodes", &nodes); err != nil {
		return err
	}
	if len(nodes) == 0 || nodes[0].Status != "ready" {
		return errors.New("nomad has no ready node yet")
	}
	return nil
}

func get(ctx context.Context, url string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
