package nomad

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"drover/internal/httpretry"
	"drover/internal/work"
)

// callTimeout bounds one call that is not a stream.
const callTimeout = 30 * time.Second

// taskName is the worker's task in the job specification.
const taskName = "worker"

// Client speaks to Nomad. Reads are repeated when they fail; writes are sent
// once, and the callers' loops look before they send again.
type Client struct {
	job    Job
	log    hclog.Logger
	repeat *api.Client
	once   *api.Client
	write  api.WriteOptions
	query  api.QueryOptions

	mu      sync.Mutex
	parents map[string]bool // registered in the life of this client
}

// Options of a Client. Address, token, namespace and TLS come from the
// environment as the nomad CLI reads them (NOMAD_ADDR, NOMAD_TOKEN, …) where empty.
type Options struct {
	Address   string
	Token     string
	Namespace string
	Region    string
	Job       Job
	Logger    hclog.Logger
	// Transport replaces the connection to the server, for one in the same process.
	Transport http.RoundTripper
	// Instrument is put around the connection, to see every request; may be nil.
	Instrument func(http.RoundTripper) http.RoundTripper
}

// Open returns a client. It does not speak to Nomad yet.
// It returns work.ErrInvalid for an address or TLS setting that can't be used.
func Open(opts Options) (*Client, error) {
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	cfg := api.DefaultConfig()
	for _, set := range []struct {
		to   *string
		from string
	}{{&cfg.Address, opts.Address}, {&cfg.SecretID, opts.Token}, {&cfg.Namespace, opts.Namespace}, {&cfg.Region, opts.Region}} {
		if set.from != "" {
			*set.to = set.from
		}
	}
	if u, err := url.Parse(cfg.Address); err != nil || u.Host == "" && u.Scheme != "unix" {
		return nil, fmt.Errorf("nomad address %q: give it as http://host:4646: %w", cfg.Address, work.ErrInvalid)
	}
	base := opts.Transport
	if base == nil {
		t := cleanhttp.DefaultPooledTransport()
		t.MaxIdleConnsPerHost = 32
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12} // ConfigureTLS fills it in
		client := &http.Client{Transport: t}
		if err := api.ConfigureTLS(client, cfg.TLSConfig); err != nil {
			return nil, fmt.Errorf("nomad TLS: %v: %w", err, work.ErrInvalid)
		}
		base = t
	}
	if opts.Instrument != nil {
		base = opts.Instrument(base)
	}
	c := &Client{job: opts.Job.withDefaults(), log: opts.Logger.Named("nomad"), parents: map[string]bool{}}
	var err error
	if c.once, err = newAPI(*cfg, &http.Client{Transport: base}); err == nil {
		// Nomad answers 500 to requests that can never succeed.
		c.repeat, err = newAPI(*cfg, httpretry.Client(base, http.StatusInternalServerError))
	}
	if err != nil {
		return nil, fmt.Errorf("nomad address %s: %v: %w", cfg.Address, err, work.ErrInvalid)
	}
	return c, nil
}

func newAPI(cfg api.Config, client *http.Client) (*api.Client, error) {
	cfg.HttpClient, cfg.TLSConfig = client, nil
	return api.NewClient(&cfg)
}

func (c *Client) readOpts(ctx context.Context) *api.QueryOptions {
	q := c.query
	return q.WithContext(ctx)
}

func (c *Client) writeOpts(ctx context.Context) *api.WriteOptions {
	w := c.write
	return w.WithContext(ctx)
}

// permanent are texts of Nomad's errors that no repetition changes. It answers
// most of them with status 500.
var permanent = []string{
	"Payload exceeds maximum size", "unpermitted metadata keys", "required meta keys", "priority must be between",
	"Permission denied", "validation failed", "is not a parameterized job",
}

// gone are texts that say the parent job has to be registered (again).
var gone = []string{"parameterized job not found", "is stopped"}

// classify translates an error of nomad/api at the border: work.ErrNotFound,
// work.ErrInvalid for what can never succeed, work.ErrUnavailable for what could
// not be reached, work.ErrUnknownOutcome for a write that may have happened.
func classify(what string, write bool, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, err)
	}
	var resp api.UnexpectedResponseError
	if errors.As(err, &resp) && resp.HasStatusCode() {
		return classifyStatus(what, write, resp)
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return fmt.Errorf("%s: Nomad can't be reached: %v: %w", what, err, work.ErrUnavailable)
	}
	if write {
		return fmt.Errorf("%s: %v: %w", what, err, work.ErrUnknownOutcome)
	}
	return fmt.Errorf("%s: %v: %w", what, err, work.ErrUnavailable)
}

func classifyStatus(what string, write bool, resp api.UnexpectedResponseError) error {
	code, body := resp.StatusCode(), strings.Join(strings.Fields(resp.Body()), " ")
	is := work.ErrUnavailable
	switch {
	case code == http.StatusNotFound || containsAny(body, gone):
		is = work.ErrNotFound
	case containsAny(body, permanent) || code < 500 && code != http.StatusTooManyRequests:
		is = work.ErrInvalid
	case write && code == http.StatusInternalServerError:
		is = work.ErrUnknownOutcome
	}
	return fmt.Errorf("%s: Nomad answered %d: %s: %w", what, code, body, is)
}

func containsAny(s string, parts []string) bool {
	for _, part := range parts {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}
