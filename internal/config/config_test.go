package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/internal/config"
	"drover/internal/work"
	"drover/jobs"
)

func env(pairs map[string]string) func(string) string {
	return func(name string) string { return pairs[name] }
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, text string) config.Config {
	t.Helper()
	c, err := config.Load(env(nil), write(t, "drover.hcl", text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaultIsValidAndSaysWhatTheDomainSays(t *testing.T) {
	t.Parallel()
	c := config.Default()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if got, want := c.Defaults(), work.NewDefaults(); !reflect.DeepEqual(got, want) {
		t.Errorf("defaults\n got %+v\nwant %+v", got, want)
	}
	if got, want := c.RetryPolicy(), work.DefaultRetryPolicy(); !reflect.DeepEqual(got, want) {
		t.Errorf("retry policy\n got %+v\nwant %+v", got, want)
	}
	if got := slices.Collect(maps.Keys(c.Queues())); !slices.Equal(got, []string{"default"}) {
		t.Errorf("queues %v", got)
	}
}

func TestFileChangesOnlyWhatItNames(t *testing.T) {
	t.Parallel()
	c := load(t, `
		http { address = "127.0.0.1:9000" }
		consul { prefix = "team/drover/" }
		nomad {
		  address   = "http://nomad:4646"
		  namespace = "agents"
		}
		worker {
		  image = "drover-worker:1"
		  env   = { LANG = "C.UTF-8" }
		  agent_env = ["AWS_*", "GOOGLE_CLOUD_PROJECT"]
		}
		defaults {
		  command = ["agent", "--print"]
		  cpu_mhz = 500
		  timeout = "30m"
		  agent   = "plain"
		  prompt  = "{{.Task}}"
		  loop_mode       = "until"
		  done_phrase     = "DONE"
		  budget_tokens   = 1000000
		  budget_cost_usd = 2.5
		  silence_timeout = "2h"
		  idle_timeout    = "20m"
		}
		retry {
		  backoff = ["10s", "20s"]
		  actions = { timeout = "fail" }
		}
		orchestrator { max_in_flight = 4 }
		queue "slow" {
		  max_in_flight = 1
		  retry { actions = { stuck = "retry" } }
		}
		queue "default" {
		  max_in_flight = 3
		  agent         = "codex"
		  command       = ["codex", "--model", "m"]
		}
	`)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.HTTP.Address = "127.0.0.1:9000"
	want.Consul.Prefix = "team/drover/"
	want.Nomad.Address, want.Nomad.Namespace = "http://nomad:4646", "agents"
	want.Worker.Image, want.Worker.Env = "drover-worker:1", map[string]string{"LANG": "C.UTF-8"}
	want.Worker.AgentEnv = []string{"AWS_*", "GOOGLE_CLOUD_PROJECT"}
	want.ItemDefaults.Command, want.ItemDefaults.CPUMHz, want.ItemDefaults.Timeout = []string{"agent", "--print"}, 500, "30m"
	want.ItemDefaults.Agent, want.ItemDefaults.Prompt = "plain", "{{.Task}}"
	want.ItemDefaults.LoopMode, want.ItemDefaults.DonePhrase = "until", "DONE"
	want.ItemDefaults.SilenceTimeout, want.ItemDefaults.IdleTimeout = "2h", "20m"
	want.ItemDefaults.BudgetTokens, want.ItemDefaults.BudgetCostUSD = 1000000, 2.5
	want.Retry.Backoff, want.Retry.Actions = []config.Duration{"10s", "20s"}, map[string]string{"timeout": "fail"}
	want.Orchestrator.MaxInFlight = 4
	want.QueueBlocks = []config.Queue{{Name: "slow", MaxInFlight: 1, Retry: &config.QueueRetry{Actions: map[string]string{"stuck": "retry"}}}, {Name: "default", MaxInFlight: 3, Agent: "codex", Command: []string{"codex", "--model", "m"}}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("configuration\n got %+v\nwant %+v", c, want)
	}

	d := c.Defaults()
	if d.Image != "drover-worker:1" || d.Resources.Cores != 0 || d.Resources.CPUMHz != 500 || d.Limits.Timeout.Std() != 30*time.Minute {
		t.Errorf("defaults %+v", d)
	}
	p := c.RetryPolicy()
	if p.Actions[work.ReasonTimeout] != work.ActFail || p.Actions[work.ReasonCrashed] != work.ActRetry || p.Backoff[1].Std() != 20*time.Second {
		t.Errorf("retry policy %+v", p)
	}
	slow, usual := c.Queues()["slow"], c.Queues()["default"]
	if slow.MaxInFlight != 1 || usual.MaxInFlight != 3 || len(c.Queues()) != 2 {
		t.Errorf("queues %+v", c.Queues())
	}
	if o := slow.Retry.Override(); o.Actions[work.ReasonStuck] != work.ActRetry || usual.Retry.Override() != nil {
		t.Errorf("retry of the queue %+v", o)
	}
}

func TestLaterFilesAndTheEnvironmentWin(t *testing.T) {
	t.Parallel()
	token := write(t, "token", "from-file\n")
	first := write(t, "a.hcl", fmt.Sprintf("http {\n address = \"127.0.0.1:1\"\n token_file = %q\n}\norchestrator { max_in_flight = 1 }", token))
	second := write(t, "b.hcl", `http { address = "127.0.0.1:2" }`)

	c, err := config.Load(env(nil), first, second)
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTP.Address != "127.0.0.1:2" || c.Orchestrator.MaxInFlight != 1 || c.HTTP.Token.Reveal() != "from-file" {
		t.Errorf("address %s, in flight %d, token %q", c.HTTP.Address, c.Orchestrator.MaxInFlight, c.HTTP.Token.Reveal())
	}

	c, err = config.Load(env(map[string]string{
		config.EnvAddress: "0.0.0.0:3", config.EnvAdvertise: "drover:3", config.EnvToken: "from-env", config.EnvLogFormat: config.LogJSON,
		config.EnvLogLevel: "debug", config.EnvImage: "w:2",
	}), first, second)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if c.HTTP.Address != "0.0.0.0:3" || c.HTTP.URL() != "http://drover:3" || c.HTTP.Token.Reveal() != "from-env" {
		t.Errorf("http %+v", c.HTTP)
	}
	if c.Orchestrator.LogFormat != config.LogJSON || c.Orchestrator.LogLevel != "debug" || c.Worker.Image != "w:2" {
		t.Errorf("orchestrator %+v, worker %+v", c.Orchestrator, c.Worker)
	}
}

func TestSecretsAreInNoDump(t *testing.T) {
	t.Parallel()
	c := config.Default()
	c.HTTP.Token, c.Consul.Token, c.Nomad.Token = "s3cret", "s3cret", "s3cret"
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, dump := range []string{string(encoded), fmt.Sprintf("%v %+v %#v", c, c, c)} {
		if strings.Contains(dump, "s3cret") {
			t.Errorf("dump shows a token: %s", dump)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, says string }{
		"unknown block":     {`htttp {}`, "htttp"},
		"unknown attribute": {`http { adress = "x" }`, "adress"},
		"wrong type":        {`orchestrator { max_in_flight = "many" }`, "number is required"},
		"syntax":            {`http {`, "drover.hcl:1"},
		"token in a file":   {`http { token = "x" }`, "token"},
		"missing token":     {`http { token_file = "/nonexistent/token" }`, "http.token_file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(env(nil), write(t, "drover.hcl", test.text))
			if !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q that is ErrInvalid", err, test.says)
			}
		})
	}
	if _, err := config.Load(env(nil), "/nonexistent/drover.hcl"); !errors.Is(err, work.ErrInvalid) {
		t.Errorf("missing file: %v", err)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	t.Parallel()
	for field, change := range map[string]func(c *config.Config){
		"http.address: \"nowhere\"":       func(c *config.Config) { c.HTTP.Address = "nowhere" },
		"http.address: 192.0.2.1:4700 is": func(c *config.Config) { c.HTTP.Address = "192.0.2.1:4700" },
		"http.advertise: must be given":   func(c *config.Config) { c.HTTP.Address, c.HTTP.Token = "0.0.0.0:4700", "t" },
		"http.advertise: \"0.0.0.0:1\"":   func(c *config.Config) { c.HTTP.Advertise = "0.0.0.0:1" },
		"http.tls_cert":                   func(c *config.Config) { c.HTTP.TLSCert = "cert.pem" },
		"http.tls_ca":                     func(c *config.Config) { c.HTTP.TLSCA = "ca.pem" },
		"consul.prefix":                   func(c *config.Config) { c.Consul.Prefix = "drover" },
		"nomad.address":                   func(c *config.Config) { c.Nomad.Address = "nomad" },
		"worker.job_id":                   func(c *config.Config) { c.Worker.JobID = " " },
		"worker.driver":                   func(c *config.Config) { c.Worker.Driver = "podman" },
		"worker.binary":                   func(c *config.Config) { c.Worker.Driver = config.DriverRawExec },
		"worker.kill_timeout":             func(c *config.Config) { c.Worker.KillTimeout = "soon" },
		"worker.secrets_path":             func(c *config.Config) { c.Worker.SecretsPath = "" },
		"worker.links: Items: \"/ui\"":    func(c *config.Config) { c.Worker.Links = map[string]string{"Items": "/ui"} },
		"worker.agent_env: \"AWS-*\"":     func(c *config.Config) { c.Worker.AgentEnv = []string{"AWS_*", "AWS-*"} },
		"worker.agent_env: \"*\"":         func(c *config.Config) { c.Worker.AgentEnv = []string{"*"} },
		"worker.agent_env: \"NOMAD_TOKEN": func(c *config.Config) { c.Worker.AgentEnv = []string{"NOMAD_TOKEN"} },
		"worker.datacenters":              func(c *config.Config) { c.Worker.Datacenters = nil },
		"defaults.memory_mb":              func(c *config.Config) { c.ItemDefaults.MemoryMB = 0 },
		"defaults.memory_max_mb":          func(c *config.Config) { c.ItemDefaults.MemoryMaxMB = 1 },
		"defaults.cores":                  func(c *config.Config) { c.ItemDefaults.Cores, c.ItemDefaults.CPUMHz = 1, 1 },
		"defaults.pids":                   func(c *config.Config) { c.ItemDefaults.PIDs = 0 },
		"defaults.max_iterations":         func(c *config.Config) { c.ItemDefaults.MaxIterations = -1 },
		"defaults.timeout":                func(c *config.Config) { c.ItemDefaults.Timeout = "-1h" },
		"defaults.heartbeat_ttl":          func(c *config.Config) { c.ItemDefaults.HeartbeatTTL = "5s" },
		"defaults.fence_grace":            func(c *config.Config) { c.ItemDefaults.FenceGrace = "-1m" },
		"defaults.agent":                  func(c *config.Config) { c.ItemDefaults.Agent = "gpt" },
		"defaults.prompt: prompt":         func(c *config.Config) { c.ItemDefaults.Prompt = "{{" },
		"defaults.prompt: unknown name":   func(c *config.Config) { c.ItemDefaults.Prompt = "{{.Nope}}" },
		"defaults.loop_mode":              func(c *config.Config) { c.ItemDefaults.LoopMode = "forever" },
		"defaults.done_phrase":            func(c *config.Config) { c.ItemDefaults.DonePhrase = "a\nb" },
		"defaults.budget_tokens":          func(c *config.Config) { c.ItemDefaults.BudgetTokens = -1 },
		"defaults.budget_cost_usd":        func(c *config.Config) { c.ItemDefaults.BudgetCostUSD = -0.1 },
		`queue "q".agent`:                 func(c *config.Config) { c.QueueBlocks = []config.Queue{{Name: "q", Agent: "gpt"}} },
		`queue "q".command`:               func(c *config.Config) { c.QueueBlocks = []config.Queue{{Name: "q", Command: []string{"x"}}} },
		"defaults.pr_provider":            func(c *config.Config) { c.ItemDefaults.PRProvider = "gitlab" },
		"retry.backoff":                   func(c *config.Config) { c.Retry.Backoff = nil },
		"retry.requeue_backoff[1]":        func(c *config.Config) { c.Retry.RequeueBackoff = []config.Duration{"1s", "x"} },
		"retry.max_retries":               func(c *config.Config) { c.Retry.MaxRetries = -1 },
		"retry.jitter":                    func(c *config.Config) { c.Retry.Jitter = 2 },
		"retry.memory_growth":             func(c *config.Config) { c.Retry.MemoryGrowth = 0.5 },
		"retry.actions: unknown reason":   func(c *config.Config) { c.Retry.Actions = map[string]string{"bored": "retry"} },
		"retry.actions: action \"nap\"":   func(c *config.Config) { c.Retry.Actions = map[string]string{"timeout": "nap"} },
		"orchestrator.max_in_flight":      func(c *config.Config) { c.Orchestrator.MaxInFlight = 0 },
		`queue "q".retry`: func(c *config.Config) {
			c.QueueBlocks = []config.Queue{{Name: "q", Retry: &config.QueueRetry{Actions: map[string]string{"completed": "fail"}}}}
		},
		"orchestrator.leader_ttl":     func(c *config.Config) { c.Orchestrator.LeaderTTL = "500ms" },
		"orchestrator.log_level":      func(c *config.Config) { c.Orchestrator.LogLevel = "loud" },
		`queue "q".rate`:              func(c *config.Config) { c.QueueBlocks = []config.Queue{{Name: "q", Rate: -1}} },
		`queue "q".resources`:         func(c *config.Config) { c.QueueBlocks = []config.Queue{{Name: "q", MemoryMB: 5, MemoryMaxMB: 4}} },
		"breaker.window":              func(c *config.Config) { c.Breaker.Window = "soon" },
		"breaker: node_lost never":    func(c *config.Config) { c.Breaker.Weights = map[string]float64{"node_lost": 1} },
		"breaker: failure rate":       func(c *config.Config) { c.Breaker.FailureRate = 1.5 },
		"retention.keep_for":          func(c *config.Config) { c.Retention.KeepFor = "-1h" },
		"retention.keep":              func(c *config.Config) { c.Retention.Keep = -1 },
		"retention.archive_cmd":       func(c *config.Config) { c.Retention.ArchiveFile, c.Retention.ArchiveCmd = "a", []string{"b"} },
		`queue "A b"`:                 func(c *config.Config) { c.QueueBlocks = []config.Queue{{Name: "A b"}} },
		`queue "a": is defined twice`: func(c *config.Config) { c.QueueBlocks = []config.Queue{{Name: "a"}, {Name: "a"}} },
		`queue "a".max_in_flight`:     func(c *config.Config) { c.QueueBlocks = []config.Queue{{Name: "a", MaxInFlight: -1}} },
	} {
		c := config.Default()
		change(&c)
		err := c.Validate()
		if !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), field) || strings.Contains(err.Error(), "; ") {
			t.Errorf("%s: got %v, want this one fault as ErrInvalid", field, err)
		}
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	t.Parallel()
	c := config.Default()
	c.HTTP.Address, c.Worker.Driver, c.Orchestrator.LogLevel = "x", "y", "z"
	err := c.Validate()
	for _, field := range []string{"http.address", "worker.driver", "orchestrator.log_level"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

func TestSpecificationOfADriver(t *testing.T) {
	t.Parallel()
	c := config.Default()
	own := write(t, "own.hcl", "job {}")
	for _, test := range []struct{ driver, file, want string }{
		{config.DriverDocker, "", jobs.Worker},
		{config.DriverRawExec, "", jobs.WorkerRawExec},
		{config.DriverDocker, own, "job {}"},
	} {
		c.Worker.Driver, c.Worker.SpecFile = test.driver, test.file
		if got, err := c.Worker.Specification(); err != nil || got != test.want {
			t.Errorf("driver %s, file %q: %v, %q", test.driver, test.file, err, got)
		}
	}
	c.Worker.SpecFile = "/nonexistent"
	if _, err := c.Worker.Specification(); !errors.Is(err, work.ErrInvalid) {
		t.Errorf("missing file: %v", err)
	}
}

func TestVariablesAreHCLExpressions(t *testing.T) {
	t.Parallel()
	w := config.Default().Worker
	w.ConsulAddr = "${attr.unique.network.ip-address}:8500"
	w.Env = map[string]string{"QUOTE": `a"b`}
	w.Links = map[string]string{"Items in Consul": "https://consul.example.com/ui"}
	w.Datacenters = []string{"dc1", "dc2"}
	w.AgentEnv = []string{"AWS_*"}
	got := w.Variables()
	for name, want := range map[string]string{
		"consul_addr":  `"$${attr.unique.network.ip-address}:8500"`,
		"datacenters":  `["dc1", "dc2"]`,
		"agent_env":    `["AWS_*"]`,
		"network_mode": `"bridge"`,
		"kill_timeout": `"20s"`,
	} {
		if got[name] != want {
			t.Errorf("%s = %s, want %s", name, got[name], want)
		}
	}
	if !strings.Contains(got["env"], `QUOTE = "a\"b"`) {
		t.Errorf("env = %s", got["env"])
	}
	if !strings.Contains(got["links"], `"Items in Consul" = "https://consul.example.com/ui"`) {
		t.Errorf("links = %s", got["links"])
	}
	if _, ok := got["command"]; ok {
		t.Error("docker got a command")
	}
	w.Driver, w.Binary = config.DriverRawExec, "/opt/drover-worker"
	if got := w.Variables(); got["command"] != `"/opt/drover-worker"` || got["network_mode"] != "" {
		t.Errorf("raw_exec: %v", got)
	}
}

func TestQueueBreakerAndRetentionAreRead(t *testing.T) {
	t.Parallel()
	c, err := config.Load(env(nil), write(t, "drover.hcl", `
queue "slow" {
  max_in_flight     = 2
  rate              = 0.5
  burst             = 4
  tokens_per_hour   = 1000
  cost_usd_per_hour = 2.5
  image             = "slow:1"
  memory_mb         = 100
}
breaker {
  min_count = 3
  weights   = { stuck = 0, timeout = 2, start_failed = 3 }
}
retention {
  keep_for     = "48h"
  archive_file = "/var/lib/drover/archive.jsonl"
}`))
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	s := c.Queues()["slow"].Settings()
	if *s.MaxInFlight != 2 || *s.Rate != 0.5 || *s.Burst != 4 || *s.TokensPerHour != 1000 || *s.CostUSDPerHour != 2.5 || s.Image != "slow:1" || s.Resources.MemoryMB != 100 {
		t.Errorf("%+v", s)
	}
	if s := c.Queues()["default"].Settings(); s.MaxInFlight != nil || s.Rate != nil || s.Resources != nil || s.Retry != nil {
		t.Errorf("%+v", s)
	}
	policy := c.BreakerPolicy()
	if policy.MinCount != 3 || policy.Weights["stuck"] != 0 || policy.Weights["timeout"] != 2 || policy.Weights["crashed"] != 1 || policy.Weights["start_failed"] != 0 {
		t.Errorf("policy = %+v, want min_count 3, stuck 0, timeout 2, crashed 1, no start_failed", policy)
	}
	if c.Retention.KeepFor.Std() != 48*time.Hour || c.Retention.Keep != config.DefaultKeep || c.Retention.ArchiveFile == "" {
		t.Errorf("%+v", c.Retention)
	}
}
