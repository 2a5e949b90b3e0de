// Package config is the configuration of a server: defaults, HCL files and the
// environment, in this order. Files and environment fill one Config; Validate
// names everything that is wrong with it.
package config

import (
	"cmp"
	"time"

	"drover/internal/work"
)

// DefaultAddress is where a server listens and where the CLI looks for one.
const DefaultAddress = "127.0.0.1:4700"

// Worker drivers.
const (
	DriverDocker  = "docker"
	DriverRawExec = "raw_exec" // a plain process; for development alone
)

// Defaults of the orchestrator block.
const (
	DefaultMaxInFlight       = 32
	DefaultReconcileInterval = Duration("30s")
	DefaultLeaderTTL         = Duration("10s")
	DefaultLostAfter         = Duration("1m")
	DefaultSteady            = Duration("15s")
	DefaultLogLevel          = "info"
)

// Defaults of the retention block. An item and the logs of its attempts take some
// 100 KB in Consul.
const (
	DefaultKeepFor = Duration("720h")
	DefaultKeep    = 10000
)

// Formats of logs.
const (
	LogAuto = "auto" // text on a terminal, JSON elsewhere
	LogText = "text"
	LogJSON = "json"
)

// LogSubsystems lists what can have a log level of its own.
func LogSubsystems() []string {
	return []string{"api", "consul", "nomad", "orchestrator", "server", "telemetry"}
}

// Config is everything a server can be told.
type Config struct {
	HTTP         HTTP
	Consul       Consul
	Nomad        Nomad
	Worker       Worker
	ItemDefaults ItemDefaults
	Retry        Retry
	Breaker      Breaker
	Retention    Retention
	Orchestrator Orchestrator
	QueueBlocks  []Queue
}

// HTTP is how the API is served.
type HTTP struct {
	Address   string `hcl:"address,optional"`    // host:port to listen on
	Advertise string `hcl:"advertise,optional"`  // host:port where other servers and clients reach it; Address if empty
	TLSCert   string `hcl:"tls_cert,optional"`   // file
	TLSKey    string `hcl:"tls_key,optional"`    // file
	TLSCA     string `hcl:"tls_ca,optional"`     // file; clients must then have a certificate of this CA
	TokenFile string `hcl:"token_file,optional"` // the token's file; DROVER_TOKEN comes first
	// MetricsNeedToken has /metrics ask for the token too; otherwise it is as open as /health.
	MetricsNeedToken bool `hcl:"metrics_need_token,optional"`
	// Token is what clients have to show; none is asked for if empty.
	Token Secret
}

// URL returns where other servers and clients reach the API.
func (h HTTP) URL() string {
	scheme := "http://"
	if h.TLSCert != "" {
		scheme = "https://"
	}
	return scheme + cmp.Or(h.Advertise, h.Address)
}

// Consul is how the server reaches Consul. What is empty comes from the
// environment, as the consul CLI reads it.
type Consul struct {
	Address   string `hcl:"address,optional"`
	TokenFile string `hcl:"token_file,optional"`
	Prefix    string `hcl:"prefix,optional"` // of all keys
	// Token is what TokenFile holds.
	Token Secret
}

// Nomad is how the server reaches Nomad. What is empty comes from the
// environment, as the nomad CLI reads it.
type Nomad struct {
	Address   string `hcl:"address,optional"`
	TokenFile string `hcl:"token_file,optional"`
	Namespace string `hcl:"namespace,optional"`
	Region    string `hcl:"region,optional"`
	// Token is what TokenFile holds.
	Token Secret
}

// Worker is how attempts are run.
type Worker struct {
	JobID       string            `hcl:"job_id,optional"`
	Driver      string            `hcl:"driver,optional"`       // DriverDocker or DriverRawExec
	SpecFile    string            `hcl:"spec_file,optional"`    // job specification to use instead of the one shipped
	Image       string            `hcl:"image,optional"`        // of items that name none
	Binary      string            `hcl:"binary,optional"`       // path of drover-worker on the nodes, for DriverRawExec
	NetworkMode string            `hcl:"network_mode,optional"` // Docker's
	ConsulAddr  string            `hcl:"consul_addr,optional"`  // Consul agent of a worker; its node's if empty
	SecretsPath string            `hcl:"secrets_path,optional"` // Nomad variable that becomes the worker's environment
	Datacenters []string          `hcl:"datacenters,optional"`
	Env         map[string]string `hcl:"env,optional"`       // never a secret
	AgentEnv    []string          `hcl:"agent_env,optional"` // names of the worker's variables that agents may see besides the usual ones; PREFIX_* is all that begin so
	Links       map[string]string `hcl:"links,optional"`     // label to URL; Nomad's UI shows them beside a worker
	KillTimeout Duration          `hcl:"kill_timeout,optional"`
}

// ItemDefaults fill what an item leaves open.
type ItemDefaults struct {
	Agent          string   `hcl:"agent,optional"`   // kind of agent; work.AgentPlain if empty
	Command        []string `hcl:"command,optional"` // of agents of this kind
	Prompt         string   `hcl:"prompt,optional"`  // template; work.DefaultPrompt if empty
	LoopMode       string   `hcl:"loop_mode,optional"`
	DonePhrase     string   `hcl:"done_phrase,optional"`
	Uncommitted    string   `hcl:"uncommitted,optional"`   // what becomes of work that an agent does not commit; work.UncommittedCommit if empty
	BudgetTokens   int      `hcl:"budget_tokens,optional"` // of an item, over all attempts; 0 is no bound
	BudgetCostUSD  float64  `hcl:"budget_cost_usd,optional"`
	BudgetTime     Duration `hcl:"budget_time,optional"` // wall clock
	MemoryMB       int      `hcl:"memory_mb,optional"`
	MemoryMaxMB    int      `hcl:"memory_max_mb,optional"`
	Cores          int      `hcl:"cores,optional"` // work.DefaultCores if neither this nor CPUMHz is given
	CPUMHz         int      `hcl:"cpu_mhz,optional"`
	PIDs           int      `hcl:"pids,optional"`
	MaxIterations  int      `hcl:"max_iterations,optional"`
	Timeout        Duration `hcl:"timeout,optional"`
	HeartbeatTTL   Duration `hcl:"heartbeat_ttl,optional"`
	FenceGrace     Duration `hcl:"fence_grace,optional"`
	SilenceTimeout Duration `hcl:"silence_timeout,optional"`
	IdleTimeout    Duration `hcl:"idle_timeout,optional"`
	StartTimeout   Duration `hcl:"start_timeout,optional"`
	QueueTimeout   Duration `hcl:"queue_timeout,optional"`
	TestTimeout    Duration `hcl:"test_timeout,optional"`
	PRProvider     string   `hcl:"pr_provider,optional"`
	PRAPIURL       string   `hcl:"pr_api_url,optional"`
}

// Retry is what happens to items whose attempt ended.
type Retry struct {
	Backoff          []Duration        `hcl:"backoff,optional"`         // before retry 1, 2, …; the last repeats
	RequeueBackoff   []Duration        `hcl:"requeue_backoff,optional"` // before requeue 1, 2, … in a row; the last repeats
	RateLimitWait    Duration          `hcl:"rate_limit_wait,optional"`
	MaxRetries       int               `hcl:"max_retries,optional"`
	MaxRequeues      int               `hcl:"max_requeues,optional"`       // in a row, each while other attempts on the node went on, before the item is stuck
	Jitter           float64           `hcl:"jitter,optional"`             // share added to a wait at most, 0 to 1
	MemoryGrowth     float64           `hcl:"memory_growth,optional"`      // factor after an OOM
	Actions          map[string]string `hcl:"actions,optional"`            // reason to action; others stay as they are
	StartBackoff     []Duration        `hcl:"start_backoff,optional"`      // of older configurations; has no effect
	MaxStartFailures int               `hcl:"max_start_failures,optional"` // of older configurations; has no effect
}

// Orchestrator is how the leader works, and how servers log.
type Orchestrator struct {
	MaxInFlight       int      `hcl:"max_in_flight,optional"` // attempts dispatched and not ended, over all queues
	ReconcileInterval Duration `hcl:"reconcile_interval,optional"`
	LeaderTTL         Duration `hcl:"leader_ttl,optional"` // silence after which another server may lead
	LostAfter         Duration `hcl:"lost_after,optional"` // since a worker's Consul session was first seen gone, at least its heartbeat_ttl
	Steady            Duration `hcl:"steady,optional"`     // for which Consul must have answered before a worker counts as lost
	LogLevel          string   `hcl:"log_level,optional"`
	LogFormat         string   `hcl:"log_format,optional"` // LogAuto, LogText or LogJSON
	// LogLevels are levels of subsystems that differ from LogLevel.
	LogLevels map[string]string `hcl:"log_levels,optional"`
}

// Queue is a queue that items can name.
type Queue struct {
	Name           string      `hcl:"name,label"`
	MaxInFlight    int         `hcl:"max_in_flight,optional"`     // attempts in flight at a time; 0 is no limit of its own
	Rate           float64     `hcl:"rate,optional"`              // dispatches a minute; 0 is no limit
	Burst          int         `hcl:"burst,optional"`             // dispatches that may come together after a quiet while; 1 if 0
	TokensPerHour  int         `hcl:"tokens_per_hour,optional"`   // 0 is no limit
	CostUSDPerHour float64     `hcl:"cost_usd_per_hour,optional"` // 0 is no limit
	Image          string      `hcl:"image,optional"`             // of items that name none; the worker's if empty
	MemoryMB       int         `hcl:"memory_mb,optional"`         // of items that name none, as what follows; the default's if 0
	MemoryMaxMB    int         `hcl:"memory_max_mb,optional"`
	Cores          int         `hcl:"cores,optional"`
	CPUMHz         int         `hcl:"cpu_mhz,optional"`
	PIDs           int         `hcl:"pids,optional"`
	Agent          string      `hcl:"agent,optional"`   // kind of agent of items that name none; the default's if empty
	Command        []string    `hcl:"command,optional"` // of these agents
	Retry          *QueueRetry `hcl:"retry,block"`
}

// Settings returns what the queue has of its own.
func (q Queue) Settings() work.QueueSettings {
	tokens := int64(q.TokensPerHour)
	settings := work.QueueSettings{
		MaxInFlight: given(q.MaxInFlight), Rate: given(q.Rate), Burst: given(q.Burst),
		TokensPerHour: given(tokens), CostUSDPerHour: given(q.CostUSDPerHour),
		Image: q.Image, Agent: q.Agent, Command: q.Command, Retry: q.Retry.Override(),
	}
	resources := work.Resources{MemoryMB: q.MemoryMB, MemoryMaxMB: q.MemoryMaxMB, Cores: q.Cores, CPUMHz: q.CPUMHz, PIDs: q.PIDs}
	if resources != (work.Resources{}) {
		settings.Resources = &resources
	}
	return settings
}

// given returns a pointer to what is not zero.
func given[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// Breaker is when the breaker of a repository opens.
type Breaker struct {
	Window      Duration           `hcl:"window,optional"`       // attempts that count
	MinCount    int                `hcl:"min_count,optional"`    // weight of the attempts in the window below which none opens
	FailureRate float64            `hcl:"failure_rate,optional"` // share of failures at which one opens; above 0, at most 1
	Pause       Duration           `hcl:"pause,optional"`        // before one attempt passes; doubles from time to time
	MaxPause    Duration           `hcl:"max_pause,optional"`
	Weights     map[string]float64 `hcl:"weights,optional"` // reason to how much it counts; others stay as they are
}

// Retention is how long items are kept that are over.
type Retention struct {
	KeepFor     Duration `hcl:"keep_for,optional"`     // since their end; 0 is for ever
	Keep        int      `hcl:"keep,optional"`         // at most so many; 0 is all
	ArchiveFile string   `hcl:"archive_file,optional"` // JSON lines, appended to before items are removed
	ArchiveCmd  []string `hcl:"archive_cmd,optional"`  // gets the JSON lines on its standard input, in place of a file
}

// QueueRetry changes rows of the retry table for the items of one queue. What is
// not given stays as it is.
type QueueRetry struct {
	Backoff          []Duration        `hcl:"backoff,optional"`
	RequeueBackoff   []Duration        `hcl:"requeue_backoff,optional"`
	MaxRetries       *int              `hcl:"max_retries,optional"`
	MaxRequeues      *int              `hcl:"max_requeues,optional"`
	Actions          map[string]string `hcl:"actions,optional"`            // reason to action
	StartBackoff     []Duration        `hcl:"start_backoff,optional"`      // of older configurations; has no effect
	MaxStartFailures *int              `hcl:"max_start_failures,optional"` // of older configurations; has no effect
}

// Override returns what the queue changes, nil if nothing.
func (r *QueueRetry) Override() *work.RetryOverride {
	if r == nil {
		return nil
	}
	return &work.RetryOverride{
		Actions: actions(r.Actions), Backoff: workAll(r.Backoff), RequeueBackoff: workAll(r.RequeueBackoff),
		MaxRetries: r.MaxRetries, MaxRequeues: r.MaxRequeues,
	}
}

// Default returns the configuration of a server that was told nothing.
func Default() Config {
	d, r, b := work.NewDefaults(), work.DefaultRetryPolicy(), work.DefaultBreakerPolicy()
	return Config{
		HTTP:   HTTP{Address: DefaultAddress},
		Consul: Consul{Prefix: "drover/"},
		Worker: Worker{
			JobID: "drover-worker", Driver: DriverDocker, NetworkMode: "bridge",
			SecretsPath: "nomad/jobs/drover-worker", Datacenters: []string{"*"}, KillTimeout: "20s",
		},
		ItemDefaults: ItemDefaults{
			MemoryMB: d.Resources.MemoryMB, PIDs: d.Resources.PIDs, MaxIterations: d.Limits.MaxIterations,
			Timeout: text(d.Limits.Timeout), HeartbeatTTL: text(d.Limits.HeartbeatTTL), FenceGrace: text(d.Limits.FenceGrace), StartTimeout: text(d.Limits.StartTimeout),
			SilenceTimeout: text(d.Limits.SilenceTimeout), IdleTimeout: text(d.Limits.IdleTimeout),
			QueueTimeout: text(d.Limits.QueueTimeout), TestTimeout: text(d.Test.Timeout),
		},
		Retry: Retry{
			Backoff: texts(r.Backoff), RequeueBackoff: texts(r.RequeueBackoff), RateLimitWait: text(r.RateLimitWait),
			MaxRetries: r.MaxRetries, MaxRequeues: r.MaxRequeues,
			Jitter: r.Jitter, MemoryGrowth: r.MemoryGrowth,
		},
		Breaker: Breaker{
			Window: text(b.Window), MinCount: int(b.MinCount), FailureRate: b.FailureRate, Pause: text(b.Pause), MaxPause: text(b.MaxPause),
		},
		Retention: Retention{KeepFor: DefaultKeepFor, Keep: DefaultKeep},
		Orchestrator: Orchestrator{
			MaxInFlight: DefaultMaxInFlight, ReconcileInterval: DefaultReconcileInterval,
			LeaderTTL: DefaultLeaderTTL, LostAfter: DefaultLostAfter, Steady: DefaultSteady, LogLevel: DefaultLogLevel, LogFormat: LogAuto,
		},
	}
}

// Defaults returns what fills the open fields of an item.
func (c Config) Defaults() work.Defaults {
	d := c.ItemDefaults
	cores := d.Cores
	if cores == 0 && d.CPUMHz == 0 {
		cores = work.DefaultCores
	}
	defaults := work.Defaults{
		Agent: d.Agent, Command: d.Command, Prompt: d.Prompt,
		Loop:   work.Loop{Mode: d.LoopMode, DonePhrase: d.DonePhrase},
		Budget: work.Budget{Tokens: int64(d.BudgetTokens), CostUSD: d.BudgetCostUSD, Time: d.BudgetTime.work()},
		Resources: work.Resources{
			MemoryMB: d.MemoryMB, MemoryMaxMB: d.MemoryMaxMB, Cores: cores, CPUMHz: d.CPUMHz, PIDs: d.PIDs,
		},
		Limits: work.Limits{
			MaxIterations: d.MaxIterations, Timeout: d.Timeout.work(), HeartbeatTTL: d.HeartbeatTTL.work(), FenceGrace: d.FenceGrace.work(),
			SilenceTimeout: d.SilenceTimeout.work(), IdleTimeout: d.IdleTimeout.work(),
			StartTimeout: d.StartTimeout.work(), QueueTimeout: d.QueueTimeout.work(),
		},
		Uncommitted: d.Uncommitted,
		Test:        work.Test{Timeout: d.TestTimeout.work()},
		PR:          work.PR{Provider: d.PRProvider, APIURL: d.PRAPIURL},
	}
	if c.Worker.Driver == DriverDocker {
		defaults.Image = c.Worker.Image
	}
	return defaults
}

// RetryPolicy returns what decides about ended attempts.
func (c Config) RetryPolicy() work.RetryPolicy {
	policy := work.RetryPolicy{
		Actions: work.DefaultActions(),
		Backoff: workAll(c.Retry.Backoff), RequeueBackoff: workAll(c.Retry.RequeueBackoff), RateLimitWait: c.Retry.RateLimitWait.work(),
		MaxRetries: c.Retry.MaxRetries, MaxRequeues: c.Retry.MaxRequeues,
		Jitter: c.Retry.Jitter, MemoryGrowth: c.Retry.MemoryGrowth,
	}
	return policy.With(&work.RetryOverride{Actions: actions(c.Retry.Actions)})
}

// BreakerPolicy returns when breakers open and close.
func (c Config) BreakerPolicy() work.BreakerPolicy {
	b := c.Breaker
	policy := work.BreakerPolicy{
		Weights: work.DefaultBreakerWeights(), Window: b.Window.work(), MinCount: float64(b.MinCount), FailureRate: b.FailureRate,
		Pause: b.Pause.work(), MaxPause: b.MaxPause.work(),
	}
	for reason, weight := range b.Weights {
		if work.Reason(reason) == work.ReasonStartFailed {
			continue // of older configurations: infrastructure never counts against a repository
		}
		policy.Weights[work.Reason(reason)] = weight
	}
	return policy
}

func actions(named map[string]string) map[work.Reason]work.Action {
	actions := make(map[work.Reason]work.Action, len(named))
	for reason, action := range named {
		actions[work.Reason(reason)] = work.ParseAction(action)
	}
	return actions
}

// Queues returns every queue by its name. The default queue is always among them.
func (c Config) Queues() map[string]Queue {
	queues := map[string]Queue{work.DefaultQueue: {Name: work.DefaultQueue}}
	for _, q := range c.QueueBlocks {
		queues[q.Name] = q
	}
	return queues
}

// Duration is a time.Duration as it is written: "90s", "2h". Validate refuses
// what is none; an empty one is zero.
type Duration string

// Std returns d as a time.Duration, zero if it is not one.
func (d Duration) Std() time.Duration { return d.work().Std() }

func (d Duration) work() work.Duration {
	v, err := d.parse()
	if err != nil {
		return 0
	}
	return v
}

func (d Duration) parse() (v work.Duration, err error) {
	if d == "" {
		return 0, nil
	}
	err = v.UnmarshalText([]byte(d))
	return v, err
}

func text(d work.Duration) Duration { return Duration(d.String()) }

func texts(durations []work.Duration) []Duration {
	out := make([]Duration, len(durations))
	for i, d := range durations {
		out[i] = text(d)
	}
	return out
}

func workAll(durations []Duration) []work.Duration {
	out := make([]work.Duration, len(durations))
	for i, d := range durations {
		out[i] = d.work()
	}
	return out
}

// Secret is a string that no log or dump shows.
type Secret string

const hidden = "(hidden)"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the secret from JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }
