package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-hclog"

	"drover/internal/httpretry"
	"drover/internal/work"
)

// Client speaks to one Consul agent. It keeps two clients: one repeats failed
// calls and carries only those that may be repeated (reads, compare-and-set,
// check updates, session renewals), the other sends each call once.
type Client struct {
	Keys   Keys
	log    hclog.Logger
	health string // see Options
	timing Timing
	at     string // address of the agent, as it was asked for
	repeat *api.Client
	once   *api.Client
	lost   *lostLocks
	tries  *sync.Map // sessions of claims that this process tried to write, and knows nothing more of
}

// Options of a Client. Address, token and TLS come from the environment as the
// consul CLI reads them (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, …) where empty.
type Options struct {
	Address string
	Token   string
	Prefix  string
	Logger  hclog.Logger
	// Health is host:port where this worker's /health answers Consul's agent: the
	// service of a claimed attempt has that address, and a check of it. None if empty.
	Health string
	// Timing replaces the times that locks and sessions hang from.
	Timing Timing
	// Transport replaces the connection to the agent, for a server in the same process.
	Transport http.RoundTripper
	// Instrument is put around the connection, to see every request; may be nil.
	Instrument func(http.RoundTripper) http.RoundTripper
}

// Timing is the times that locks and sessions hang from, for a test that can't
// wait as long. A zero field stands for its default.
type Timing struct {
	LockDelay     time.Duration // work.LockDelay
	MinSessionTTL time.Duration // Consul's session_ttl_min, 10 s
}

func (t Timing) withDefaults() Timing {
	return Timing{LockDelay: cmp.Or(t.LockDelay, work.LockDelay), MinSessionTTL: cmp.Or(t.MinSessionTTL, minSessionTTL)}
}

// Open returns a client. It does not speak to Consul yet.
// It returns work.ErrInvalid for an address or TLS setting that can't be used.
func Open(opts Options) (*Client, error) {
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	timing := opts.Timing.withDefaults()
	c := &Client{Keys: NewKeys(opts.Prefix), log: opts.Logger.Named("consul"), health: opts.Health, timing: timing, lost: newLostLocks(timing.LockDelay), tries: &sync.Map{}}
	cfg := api.DefaultConfig()
	if opts.Address != "" {
		cfg.Address = opts.Address
	}
	if opts.Token != "" {
		cfg.Token = opts.Token
	}
	c.at = shownAddress(*cfg)
	base, err := transport(cfg, opts.Transport)
	if err != nil {
		return nil, fmt.Errorf("consul address %s: %v: %w", cfg.Address, err, work.ErrInvalid)
	}
	if opts.Instrument != nil {
		base = opts.Instrument(base)
	}
	if c.once, err = newAPI(*cfg, &http.Client{Transport: base}); err == nil {
		c.repeat, err = newAPI(*cfg, httpretry.Client(base))
	}
	if err != nil {
		return nil, fmt.Errorf("consul address %s: %v: %w", cfg.Address, err, work.ErrInvalid)
	}
	return c, nil
}

// Address returns where the client asks for Consul, for people.
func (c *Client) Address() string { return c.at }

func shownAddress(cfg api.Config) string {
	if strings.Contains(cfg.Address, "://") {
		return work.RedactURL(cfg.Address)
	}
	return cmp.Or(cfg.Scheme, "http") + "://" + cfg.Address
}

// amongOlder returns a client that locks as workers do which were dispatched before
// work.StoredFormat 2.
func (c *Client) amongOlder() *Client {
	older := *c
	older.Keys.unsafe = true
	return &older
}

// transport builds the connection: given, over a unix socket, or TCP with the
// configured TLS. consul/api would throw away our HTTP client for a socket, so
// the socket is dialled here and the address made an ordinary one.
func transport(cfg *api.Config, given http.RoundTripper) (http.RoundTripper, error) {
	if given != nil {
		return given, nil
	}
	t := cleanhttp.DefaultPooledTransport()
	t.MaxIdleConnsPerHost = 64
	t.DisableCompression = true // an agent stands on the same machine, as a rule: it costs more than it saves
	if path, ok := strings.CutPrefix(cfg.Address, "unix://"); ok {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
		cfg.Address, cfg.Scheme = "localhost", "http"
		return t, nil
	}
	if scheme, rest, ok := strings.Cut(cfg.Address, "://"); ok {
		cfg.Scheme, cfg.Address = scheme, rest
	}
	tls, err := api.SetupTLSConfig(&cfg.TLSConfig)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig = tls
	return t, nil
}

func newAPI(cfg api.Config, client *http.Client) (*api.Client, error) {
	cfg.HttpClient = client
	return api.NewClient(&cfg)
}

// classify translates an error of consul/api at the border. What was refused is
// work.ErrInvalid or work.ErrNotFound, what could not be reached or answered is
// work.ErrUnavailable; a write that timed out is work.ErrUnknownOutcome.
func classify(what string, write bool, err error) error {
	if err == nil {
		return nil
	}
	var status api.StatusError
	if errors.As(err, &status) {
		switch {
		case status.Code == http.StatusNotFound:
			return fmt.Errorf("%s: %s: %w", what, status.Body, work.ErrNotFound)
		case status.Code < 500 && status.Code != http.StatusTooManyRequests:
			return fmt.Errorf("%s: Consul refused it (%d): %s: %w", what, status.Code, status.Body, work.ErrInvalid)
		case write && status.Code == http.StatusInternalServerError:
			return fmt.Errorf("%s: Consul answered %d: %s: %w", what, status.Code, status.Body, work.ErrUnknownOutcome)
		}
		return fmt.Errorf("%s: Consul answered %d: %s: %w", what, status.Code, status.Body, work.ErrUnavailable)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, err)
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return fmt.Errorf("%s: Consul can't be reached: %w: %w", what, err, work.ErrUnavailable)
	}
	if write {
		return fmt.Errorf("%s: %w: %w", what, err, work.ErrUnknownOutcome)
	}
	return fmt.Errorf("%s: %w: %w", what, err, work.ErrUnavailable)
}
