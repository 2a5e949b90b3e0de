// Package app is a drover server as a value: it connects the orchestrator and
// the API to Consul and Nomad, and leads or follows. The CLI, the dev cluster
// and the tests start the very same thing.
package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"drover/consul"
	"drover/internal/api"
	"drover/internal/config"
	"drover/internal/orchestrator"
	"drover/internal/telemetry"
	"drover/internal/work"
	"drover/nomad"
)

// shutdownTimeout bounds how long a server that stops waits for requests under
// way. Leadership is handed over before.
const shutdownTimeout = 5 * time.Second

// leadPause is how long a server waits before it tries again to lead.
const leadPause = time.Second

// Options of a server. Config must be valid.
type Options struct {
	Config  config.Config
	Logs    *telemetry.Logs
	Traces  *telemetry.Traces // nil sends none
	Version string
	// Ready is called once the API answers, with its address.
	Ready func(addr string)
}

// Server is one drover server.
type Server struct {
	opts    Options
	id      string
	store   *consul.Client
	cluster *nomad.Client
	log     hclog.Logger
	leading atomic.Pointer[orchestrator.Orchestrator] // nil while another leads
	address atomic.Pointer[string]                    // where the API answers
	barred  atomic.Pointer[error]                     // what keeps the server from leading for good, nil if nothing does
	seen    *telemetryOf
}

// Run serves until ctx ends. A leader hands over first; attempts that run go on.
// It returns an error when the server can't listen or is badly configured.
func Run(ctx context.Context, opts Options) error {
	s, err := newServer(opts)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", opts.Config.HTTP.Address)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	return s.serve(ctx, listener)
}

func newServer(opts Options) (*Server, error) {
	cfg, logger := opts.Config, opts.Logs.Logger()
	s := &Server{opts: opts, id: work.NewID(time.Now()), log: logger.Named("server")}
	var err error
	if s.seen, err = s.newTelemetry(); err != nil {
		return nil, err
	}
	s.store, err = consul.Open(consul.Options{
		Address: cfg.Consul.Address, Token: string(cfg.Consul.Token), Prefix: cfg.Consul.Prefix, Logger: logger,
		Instrument: s.seen.backends.Around("consul"),
	})
	if err != nil {
		return nil, err
	}
	job, err := workerJob(cfg)
	if err != nil {
		return nil, err
	}
	s.cluster, err = nomad.Open(nomad.Options{
		Address: cfg.Nomad.Address, Token: string(cfg.Nomad.Token), Namespace: cfg.Nomad.Namespace, Region: cfg.Nomad.Region,
		Job: job, Logger: logger, Instrument: s.seen.backends.Around("nomad"),
	})
	return s, err
}

func (s *Server) serve(ctx context.Context, listener net.Listener) error {
	cfg := s.opts.Config.HTTP
	if cfg.Advertise == "" {
		cfg.Advertise = listener.Addr().String()
	}
	url := cfg.URL()
	s.address.Store(&url)
	options, err := s.apiOptions()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	server := api.NewServer(api.NewHandler(options))
	if server.TLSConfig, err = clientCA(cfg.TLSCA); err != nil {
		return errors.Join(err, listener.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serveUntilClosed(server, listener, cfg) })
	group.Go(func() error {
		s.lead(ctx)
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		return server.Shutdown(stop)
	})
	if s.opts.Ready != nil {
		s.opts.Ready(url)
	}
	return group.Wait()
}

func serveUntilClosed(server *http.Server, listener net.Listener, cfg config.HTTP) error {
	var err error
	if cfg.TLSCert != "" {
		err = server.ServeTLS(listener, cfg.TLSCert, cfg.TLSKey)
	} else {
		err = server.Serve(listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API: %w", err)
}

// clientCA asks clients for a certificate of the CA in file, if there is one.
func clientCA(file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("http.tls_ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("http.tls_ca: %s holds no certificate: %w", file, work.ErrInvalid)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}, nil
}

// lead tries to lead, leads, and tries again, until ctx ends.
func (s *Server) lead(ctx context.Context) {
	who := consul.Candidate{
		Leader: consul.Leader{ID: s.id, Address: *s.address.Load()},
		TTL:    s.opts.Config.Orchestrator.LeaderTTL.Std(), Version: s.opts.Version, Health: s.health,
	}
	for ctx.Err() == nil {
		term, err := s.elected(ctx, who)
		if err == nil {
			s.term(term)
			continue
		}
		if ctx.Err() == nil {
			s.notElected(err)
		}
		select {
		case <-time.After(leadPause):
		case <-ctx.Done():
		}
	}
}

// elected waits until the server leads. It takes no part in the election where it
// does not know the format of what is stored.
func (s *Server) elected(ctx context.Context, who consul.Candidate) (*consul.Term, error) {
	if err := s.store.CheckFormat(ctx); err != nil {
		return nil, err
	}
	s.barred.Store(nil)
	return s.store.Lead(ctx, who)
}

// notElected logs why the server does not lead; what bars it for good, it logs once.
func (s *Server) notElected(err error) {
	if !errors.Is(err, work.ErrFormat) {
		s.log.Warn("can't take part in the election, trying again", "error", err)
		return
	}
	if was := s.barred.Swap(&err); was == nil || (*was).Error() != err.Error() {
		s.log.Error("this server does not lead", "error", err)
	}
}

// term leads for one term.
func (s *Server) term(term *consul.Term) {
	defer term.Resign()
	s.log.Info("leading", "server", s.id)
	cfg := s.opts.Config
	queues := map[string]orchestrator.Queue{}
	for name, q := range cfg.Queues() {
		queues[name] = q.Settings()
	}
	o := orchestrator.New(orchestrator.Config{
		MaxInFlight: cfg.Orchestrator.MaxInFlight, Queues: queues, Defaults: cfg.Defaults(), Retry: cfg.RetryPolicy(),
		Breaker: cfg.BreakerPolicy(), Retention: s.retention(),
		ReconcileEvery: cfg.Orchestrator.ReconcileInterval.Std(), LostAfter: cfg.Orchestrator.LostAfter.Std(), Steady: cfg.Orchestrator.Steady.Std(), KVPrefix: cfg.Consul.Prefix, Observer: s.seen, Traced: s.seen.traces != nil,
	}, s.store, term, s.cluster, s.opts.Logs.Logger())
	s.leading.Store(o)
	s.seen.metrics.SetLeader(true)
	err := o.Run(term.Context())
	s.leading.Store(nil)
	s.seen.metrics.SetLeader(false)
	s.log.Info("leading no more", "server", s.id, "cause", err)
}
