package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/work"
)

// MinLeaderTTL is the shortest silence after which another server may lead. The
// lock hangs on a TTL check, which Consul ends on time; shorter than this, a slow
// answer of Consul would end a term.
const MinLeaderTTL = time.Second

// checker collects faults, each with the field it is about.
type checker struct{ faults []string }

func (c *checker) bad(field, format string, args ...any) {
	c.faults = append(c.faults, field+": "+fmt.Sprintf(format, args...))
}

func (c *checker) require(field, value string) {
	if strings.TrimSpace(value) == "" {
		c.bad(field, "must not be empty")
	}
}

func (c *checker) atLeast(field string, value, least int) {
	if value < least {
		c.bad(field, "is %d, must be at least %d", value, least)
	}
}

// duration checks that a duration is one, and at least so long.
func (c *checker) duration(field string, d Duration, least time.Duration) {
	v, err := d.parse()
	switch {
	case err != nil:
		c.bad(field, "%q is no duration: write it as 90s, 15m or 2h", string(d))
	case v.Std() < least:
		c.bad(field, "is %s, must be at least %s", v, least)
	}
}

func (c *checker) durations(field string, durations []Duration) {
	if len(durations) == 0 {
		c.bad(field, "must have one duration at least")
	}
	for i, d := range durations {
		c.duration(fmt.Sprintf("%s[%d]", field, i), d, 0)
	}
}

func (c *checker) oneOf(field, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.bad(field, "%q: use one of %s", value, strings.Join(allowed, ", "))
	}
}

// Validate checks everything that can be known without looking at a cluster, and
// names every fault with its field. The error wraps work.ErrInvalid.
func (c Config) Validate() error {
	var check checker
	c.HTTP.validate(&check)
	c.Worker.validate(&check)
	c.ItemDefaults.validate(&check)
	c.Retry.validate(&check)
	c.validateBreaker(&check)
	c.Retention.validate(&check)
	c.Orchestrator.validate(&check)
	c.validateQueues(&check)
	if c.Consul.Prefix == "" || !strings.HasSuffix(c.Consul.Prefix, "/") || strings.HasPrefix(c.Consul.Prefix, "/") {
		check.bad("consul.prefix", "%q: give a key prefix such as drover/, with a slash at the end alone", c.Consul.Prefix)
	}
	if a := c.Nomad.Address; a != "" {
		if u, err := url.Parse(a); err != nil || u.Scheme == "" || u.Host == "" && u.Path == "" {
			check.bad("nomad.address", "%q: give it as http://host:4646", a)
		}
	}
	if len(check.faults) == 0 {
		return nil
	}
	return fmt.Errorf("configuration: %s: %w", strings.Join(check.faults, "; "), work.ErrInvalid)
}

func (h HTTP) validate(check *checker) {
	host, err := hostPort(h.Address)
	if err != nil {
		check.bad("http.address", "%q: give it as host:port", h.Address)
	} else if !loopback(host) && h.Token == "" {
		check.bad("http.address", "%s is not a loopback address, which needs a token: set %s or http.token_file", h.Address, EnvToken)
	}
	if h.Advertise == "" {
		if err == nil && unspecified(host) {
			check.bad("http.advertise", "must be given, since others can't reach %s", h.Address)
		}
	} else if host, err := hostPort(h.Advertise); err != nil || unspecified(host) {
		check.bad("http.advertise", "%q: give it as host:port", h.Advertise)
	}
	if (h.TLSCert == "") != (h.TLSKey == "") {
		check.bad("http.tls_cert", "tls_cert and tls_key go together")
	}
	if h.TLSCA != "" && h.TLSCert == "" {
		check.bad("http.tls_ca", "needs tls_cert and tls_key")
	}
}

func hostPort(address string) (host string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	const bits = 16
	_, err = strconv.ParseUint(port, 10, bits)
	return host, err
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

var (
	variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*\*?$`)
	// workersOwn are the variables that no agent sees, see internal/worker/agent.
	workersOwn = regexp.MustCompile(`^(DROVER|CONSUL|NOMAD|VAULT)_`)
)

func (w Worker) validate(check *checker) {
	check.require("worker.job_id", w.JobID)
	check.require("worker.secrets_path", w.SecretsPath)
	check.oneOf("worker.driver", w.Driver, DriverDocker, DriverRawExec)
	check.duration("worker.kill_timeout", w.KillTimeout, time.Second)
	if w.Driver == DriverRawExec && w.Binary == "" && w.SpecFile == "" {
		check.bad("worker.binary", "must name the drover-worker binary, for the driver %s", DriverRawExec)
	}
	if len(w.Datacenters) == 0 {
		check.bad("worker.datacenters", "must name one at least, or \"*\" for all")
	}
	for _, pattern := range w.AgentEnv {
		switch {
		case !variablePattern.MatchString(pattern):
			check.bad("worker.agent_env", "%q: give the name of a variable, or the beginning of names with a * after it, as in AWS_*", pattern)
		case workersOwn.MatchString(pattern):
			check.bad("worker.agent_env", "%q: variables of the worker, Consul, Nomad and Vault are never shown to agents", pattern)
		}
	}
	for _, label := range slices.Sorted(maps.Keys(w.Links)) {
		if u, err := url.Parse(w.Links[label]); err != nil || u.Scheme == "" || u.Host == "" {
			check.bad("worker.links", "%s: %q: give it as https://host/path", label, w.Links[label])
		}
	}
}

func (d ItemDefaults) validate(check *checker) {
	for _, n := range []struct {
		field        string
		value, least int
	}{
		{"memory_mb", d.MemoryMB, 1}, {"memory_max_mb", d.MemoryMaxMB, 0}, {"cores", d.Cores, 0}, {"cpu_mhz", d.CPUMHz, 0},
		{"pids", d.PIDs, 1}, {"max_iterations", d.MaxIterations, 1},
	} {
		check.atLeast("defaults."+n.field, n.value, n.least)
	}
	if d.MemoryMaxMB > 0 && d.MemoryMaxMB < d.MemoryMB {
		check.bad("defaults.memory_max_mb", "%d is below memory_mb %d", d.MemoryMaxMB, d.MemoryMB)
	}
	if d.Cores > 0 && d.CPUMHz > 0 {
		check.bad("defaults.cores", "give cores or cpu_mhz, not both")
	}
	check.duration("defaults.timeout", d.Timeout, time.Second)
	check.duration("defaults.heartbeat_ttl", d.HeartbeatTTL, work.MinHeartbeatTTL.Std())
	check.duration("defaults.fence_grace", d.FenceGrace, time.Second)
	check.duration("defaults.silence_timeout", d.SilenceTimeout, time.Second)
	check.duration("defaults.idle_timeout", d.IdleTimeout, time.Second)
	check.duration("defaults.start_timeout", d.StartTimeout, time.Second)
	check.duration("defaults.queue_timeout", d.QueueTimeout, time.Second)
	check.duration("defaults.test_timeout", d.TestTimeout, time.Second)
	check.oneOf("defaults.agent", d.Agent, append(work.Agents(), "")...)
	check.oneOf("defaults.loop_mode", d.LoopMode, "", work.LoopOnce, work.LoopUntil)
	check.oneOf("defaults.uncommitted", d.Uncommitted, "", work.UncommittedCommit, work.UncommittedFail, work.UncommittedIgnore)
	if strings.Contains(d.DonePhrase, "\n") {
		check.bad("defaults.done_phrase", "must be one line")
	}
	if err := work.CheckPrompt(work.Spec{Prompt: d.Prompt}); err != nil {
		check.bad("defaults.prompt", "%s", strings.TrimSuffix(err.Error(), ": "+work.ErrInvalid.Error()))
	}
	check.atLeast("defaults.budget_tokens", d.BudgetTokens, 0)
	if d.BudgetCostUSD < 0 {
		check.bad("defaults.budget_cost_usd", "%v is below 0", d.BudgetCostUSD)
	}
	check.oneOf("defaults.pr_provider", d.PRProvider, "", work.ProviderGitHub, work.ProviderRequestPull, work.ProviderNone)
}

func (r Retry) validate(check *checker) {
	check.durations("retry.backoff", r.Backoff)
	check.durations("retry.requeue_backoff", r.RequeueBackoff)
	check.duration("retry.rate_limit_wait", r.RateLimitWait, time.Second)
	check.atLeast("retry.max_retries", r.MaxRetries, 0)
	check.atLeast("retry.max_requeues", r.MaxRequeues, 0)
	if r.Jitter < 0 || r.Jitter > 1 {
		check.bad("retry.jitter", "is %g, must be between 0 and 1", r.Jitter)
	}
	if r.MemoryGrowth < 1 {
		check.bad("retry.memory_growth", "is %g, must be at least 1", r.MemoryGrowth)
	}
	if err := (work.RetryOverride{Actions: actions(r.Actions)}).Validate(); err != nil {
		check.bad("retry.actions", "%s", strings.TrimSuffix(err.Error(), ": "+work.ErrInvalid.Error()))
	}
}

func (o Orchestrator) validate(check *checker) {
	check.atLeast("orchestrator.max_in_flight", o.MaxInFlight, 1)
	check.duration("orchestrator.reconcile_interval", o.ReconcileInterval, time.Second)
	check.duration("orchestrator.leader_ttl", o.LeaderTTL, MinLeaderTTL)
	check.duration("orchestrator.lost_after", o.LostAfter, time.Second)
	check.duration("orchestrator.steady", o.Steady, time.Second)
	check.oneOf("orchestrator.log_format", o.LogFormat, LogAuto, LogText, LogJSON)
	check.logLevel("orchestrator.log_level", o.LogLevel)
	for _, subsystem := range slices.Sorted(maps.Keys(o.LogLevels)) {
		check.oneOf("orchestrator.log_levels", subsystem, LogSubsystems()...)
		check.logLevel("orchestrator.log_levels."+subsystem, o.LogLevels[subsystem])
	}
}

func (c *checker) logLevel(field, level string) {
	if hclog.LevelFromString(level) == hclog.NoLevel {
		c.bad(field, "%q: use trace, debug, info, warn, error or off", level)
	}
}

func (c Config) validateBreaker(check *checker) {
	b := c.Breaker
	check.duration("breaker.window", b.Window, time.Second)
	check.duration("breaker.pause", b.Pause, time.Second)
	check.duration("breaker.max_pause", b.MaxPause, time.Second)
	if err := c.BreakerPolicy().Validate(); err != nil {
		check.bad("breaker", "%s", strings.TrimSuffix(err.Error(), ": "+work.ErrInvalid.Error()))
	}
}

func (r Retention) validate(check *checker) {
	check.duration("retention.keep_for", r.KeepFor, 0)
	check.atLeast("retention.keep", r.Keep, 0)
	if r.ArchiveFile != "" && len(r.ArchiveCmd) > 0 {
		check.bad("retention.archive_cmd", "give archive_file or archive_cmd, not both")
	}
	if len(r.ArchiveCmd) > 0 && r.ArchiveCmd[0] == "" {
		check.bad("retention.archive_cmd", "must name a program")
	}
}

func (c Config) validateQueues(check *checker) {
	seen := map[string]bool{}
	for _, q := range c.QueueBlocks {
		field := fmt.Sprintf("queue %q", q.Name)
		if !work.ValidQueueName(q.Name) {
			check.bad(field, "use lower-case letters, digits, dot, dash and underscore, at most 64")
		}
		if seen[q.Name] {
			check.bad(field, "is defined twice")
		}
		seen[q.Name] = true
		q.Retry.validate(check, field+".retry")
		settings := q.Settings()
		settings.Retry = nil // checked above, with its durations
		for _, fault := range settings.Faults() {
			check.bad(field+"."+fault.Field, "%s", fault.What)
		}
	}
}

func (r *QueueRetry) validate(check *checker, field string) {
	if r == nil {
		return
	}
	for name, durations := range map[string][]Duration{"backoff": r.Backoff, "requeue_backoff": r.RequeueBackoff} {
		for i, d := range durations {
			check.duration(fmt.Sprintf("%s.%s[%d]", field, name, i), d, 0)
		}
	}
	if err := r.Override().Validate(); err != nil {
		check.bad(field, "%v", err)
	}
}
