package doctor_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"go.uber.org/goleak"

	"drover/internal/config"
	"drover/internal/devcluster/nomadd"
	"drover/internal/doctor"
	"drover/internal/testkit"
	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

// workerBinary is the worker that probes run.
var workerBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "drover-doctor")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	workerBinary = filepath.Join(dir, "drover-worker")
	build := exec.Command("go", "build", "-o", workerBinary, "drover/cmd/drover-worker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the worker: %v\n%s", err, out)
		os.Exit(1)
	}
	testkit.Main(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir) // what is left is in the system's directory of temporary files
		os.Exit(code)
	}))
}

const probeTimeout = 30 * time.Second

// patient is what the doctor looks at: an embedded Consul and Nomad, a git server
// and a forge, each behind a proxy that can be told to ail.
type patient struct {
	t       *testing.T
	options doctor.Options
	nomad   *proxy
	consul  *proxy
	git     *gittest.Server
	secrets map[string]string // of the workers
	forge   *proxy
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	p := &patient{t: t, secrets: map[string]string{"DROVER_GIT_USERNAME": "drover", "DROVER_GIT_TOKEN": "git-token", "DROVER_FORGE_TOKEN": "forge-token"}}
	p.nomad = newProxy(t, testkit.EmbeddedNomad(t, nomadd.Options{MemoryMB: 2000, Cores: 4}))
	p.consul = newProxy(t, "http://"+testkit.EmbeddedConsul(t))
	p.consul.change("/v1/agent/self", func(self map[string]any) {
		self["DebugConfig"] = map[string]any{"CheckUpdateInterval": "0s"}
	})
	p.nomad.answer("/v1/operator/scheduler/configuration", http.StatusOK, `{"SchedulerConfig":{"MemoryOversubscriptionEnabled":false}}`)
	p.git = gittest.New(t, gittest.Options{Username: "drover", Password: "git-token"})
	if err := p.git.CreateRepo("a", map[string]string{"x": "y"}); err != nil {
		t.Fatal(err)
	}
	p.forge = newProxy(t, "http://127.0.0.1:1")
	p.forge.header = http.Header{"X-Oauth-Scopes": {"repo, workflow"}}
	p.forge.answer("/user", http.StatusOK, `{"login":"bot"}`)
	p.forge.answer("/repos/a", http.StatusOK, `{"permissions":{"push":true}}`)

	cfg := config.Default()
	cfg.Consul.Address, cfg.Nomad.Address = strings.TrimPrefix(p.consul.URL, "http://"), p.nomad.URL
	cfg.Worker.Driver, cfg.Worker.Binary = config.DriverRawExec, workerBinary
	cfg.Worker.ConsulAddr = cfg.Consul.Address
	cfg.ItemDefaults.MemoryMB, cfg.ItemDefaults.CPUMHz = 100, 50
	cfg.ItemDefaults.PRProvider, cfg.ItemDefaults.PRAPIURL = work.ProviderGitHub, p.forge.URL
	p.options = doctor.Options{Config: cfg, Version: "dev", Repositories: []string{p.git.URL("a")}, ProbeTimeout: probeTimeout}
	return p
}

// runs has the job run a script in place of the worker.
func (p *patient) runs(script string) {
	p.t.Helper()
	path := filepath.Join(p.t.TempDir(), "drover-worker")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		p.t.Fatal(err)
	}
	p.options.Config.Worker.Binary = path
}

// giveWorkers puts the secrets into the Nomad variable of the workers.
func (p *patient) giveWorkers() {
	p.t.Helper()
	client, err := api.NewClient(&api.Config{Address: p.nomad.URL, HttpClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	if err == nil {
		_, _, err = client.Variables().Create(&api.Variable{Path: "nomad/jobs/drover-worker", Items: p.secrets}, nil)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *patient) findings() []doctor.Finding {
	p.t.Helper()
	if len(p.secrets) > 0 {
		p.giveWorkers()
	}
	found, err := doctor.Run(p.t.Context(), p.options)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range found {
		if f.Says == "" || (f.Status == doctor.Failure || f.Status == doctor.Warning) && f.Do == "" {
			p.t.Errorf("a finding says nothing, or not what to do: %+v", f)
		}
		for _, secret := range []string{"git-token", "forge-token"} {
			if strings.Contains(fmt.Sprint(f), secret) {
				p.t.Errorf("a finding tells a secret: %+v", f)
			}
		}
	}
	return found
}

// want checks that a check came to a status, with a text in what it says or has one do.
func (p *patient) want(check string, status work.FindingStatus, text string) {
	p.t.Helper()
	found := p.findings()
	for _, f := range found {
		if strings.HasPrefix(f.Check, check) && f.Status == status && strings.Contains(f.Says+" → "+f.Do, text) {
			return
		}
	}
	p.t.Errorf("no finding %s %s with %q in\n%s", check, status, text, listed(found))
}

func listed(found []doctor.Finding) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%-8s %s: %s → %s\n", f.Status, f.Check, f.Says, f.Do)
	}
	return b.String()
}

func TestHealthyClusterHasNoFinding(t *testing.T) {
	p := newPatient(t)
	found := p.findings()
	for _, f := range found {
		if f.Status != doctor.OK {
			t.Errorf("%+v", f)
		}
	}
	if len(found) < 15 {
		t.Errorf("only %d things were looked at:\n%s", len(found), listed(found))
	}
	for _, path := range []string{"/v1/jobs", "/v1/allocations"} {
		if left := p.nomad.read(path); strings.Contains(left, "drover-doctor") {
			t.Errorf("left in Nomad: %s", left)
		}
	}
	for _, path := range []string{"/v1/kv/?keys", "/v1/agent/services", "/v1/session/list"} {
		if left := p.consul.read(path); strings.Contains(left, "doctor") {
			t.Errorf("left in Consul at %s: %s", path, left)
		}
	}
}

// TestEachFinding provokes each finding of the doctor.
func TestEachFinding(t *testing.T) {
	for name, c := range map[string]struct {
		ail    func(p *patient)
		check  string
		status work.FindingStatus
		says   string
	}{
		"Consul is away":    {func(p *patient) { p.options.Config.Consul.Address = "127.0.0.1:1" }, "consul", doctor.Failure, "CONSUL_HTTP_ADDR"},
		"Consul, no leader": {func(p *patient) { p.consul.answer("/v1/status/leader", 200, `""`) }, "consul", doctor.Failure, "no leader"},
		"Consul is old":     {func(p *patient) { p.consul.answer("/v1/agent/self", 200, `{"Config":{"Version":"1.9.3"}}`) }, "consul version", doctor.Failure, "1.9.3"},
		"Consul hides":      {func(p *patient) { p.consul.answer("/v1/agent/self", 403, "Permission denied") }, "consul version", doctor.Warning, "agent_prefix"},
		"late check outputs": {func(p *patient) {
			p.consul.answer("/v1/agent/self", 200, `{"Config":{"Version":"1.20.0"},"DebugConfig":{"CheckUpdateInterval":"5m0s"}}`)
		}, "consul check_update_interval", doctor.Warning, "5m0s"},
		"Consul's clock": {func(p *patient) { p.consul.ahead = time.Minute }, "clock of Consul", doctor.Failure, "NTP"},
		"Nomad is away":  {func(p *patient) { p.options.Config.Nomad.Address = "http://127.0.0.1:1" }, "nomad", doctor.Failure, "NOMAD_ADDR"},
		"Nomad is old":   {func(p *patient) { p.nomad.answer("/v1/agent/self", 200, `{"config":{"Version":{"Version":"1.4.2"}}}`) }, "nomad version", doctor.Failure, "1.4.2"},
		"Nomad hides":    {func(p *patient) { p.nomad.answer("/v1/agent/self", 403, "Permission denied") }, "nomad version", doctor.Warning, "agent {"},
		"Nomad's clock":  {func(p *patient) { p.nomad.ahead = -time.Minute }, "clock of Nomad", doctor.Failure, "apart from this machine's"},
		"oversubscription": {func(p *patient) {
			p.nomad.answer("/v1/operator/scheduler/configuration", 200, `{"SchedulerConfig":{"MemoryOversubscriptionEnabled":true}}`)
		}, "nomad memory oversubscription", doctor.Warning, "it is on"},
		"oversubscription, hidden": {func(p *patient) { p.nomad.answer("/v1/operator/scheduler/configuration", 403, "Permission denied") }, "nomad memory oversubscription", doctor.Skipped, "operator {"},
		"nodes, hidden":            {func(p *patient) { p.nomad.answer("/v1/nodes", 403, "Permission denied") }, "nodes", doctor.Skipped, "node {"},
		"no node":                  {func(p *patient) { p.nomad.answer("/v1/nodes", 200, `[]`) }, "nodes", doctor.Failure, "none of 0"},
		"node not eligible":        {func(p *patient) { p.nomad.node(func(n map[string]any) { n["SchedulingEligibility"] = "ineligible" }) }, "nodes", doctor.Failure, "none of 1"},
		"no driver": {func(p *patient) {
			p.nomad.node(func(n map[string]any) { delete(n["Drivers"].(map[string]any), "raw_exec") })
		}, "driver raw_exec", doctor.Failure, "it has no driver"},
		"driver unhealthy": {func(p *patient) {
			p.nomad.node(func(n map[string]any) {
				driver := n["Drivers"].(map[string]any)["raw_exec"].(map[string]any)
				driver["Healthy"], driver["HealthDescription"] = false, "it has a cold"
			})
		}, "driver raw_exec", doctor.Failure, "it has a cold"},
		"cgroup v1": {func(p *patient) {
			p.options.Config.Worker.Driver, p.options.Config.Worker.Image, p.options.SkipProbe = config.DriverDocker, "i:1", true
			p.nomad.node(func(n map[string]any) { n["Attributes"].(map[string]any)["os.cgroups.version"] = "1" })
		}, "cgroups", doctor.Warning, "v1 on"},
		"cgroup unknown": {func(p *patient) {
			p.options.Config.Worker.Driver, p.options.Config.Worker.Image, p.options.SkipProbe = config.DriverDocker, "i:1", true
		}, "cgroups", doctor.Skipped, "do not say"},
		"cgroup v2": {func(p *patient) {
			p.options.Config.Worker.Driver, p.options.Config.Worker.Image, p.options.SkipProbe = config.DriverDocker, "i:1", true
			p.nomad.node(func(n map[string]any) { n["Attributes"].(map[string]any)["os.cgroups.version"] = "2" })
		}, "cgroups", doctor.OK, "v2 on every node"},
		"driver on one node of two": {(*patient).secondNode, "driver raw_exec", doctor.Warning, "1 of 2 nodes"},
		"no clock":                  {func(p *patient) { p.consul.timeless = true }, "clock of Consul", doctor.Skipped, "does not say"},
		"no probe":                  {func(p *patient) { p.options.SkipProbe = true }, "worker", doctor.Skipped, "no worker was run"},
		"probe without permission":  {func(p *patient) { p.nomad.refuse("PUT", "/dispatch") }, "worker", doctor.Skipped, "for want of a permission"},
		"git is ill": {func(p *patient) {
			p.options.Repositories = []string{p.forge.URL + "/a"}
			p.forge.answer("/a/info/refs", 502, "")
		}, "git ", doctor.Failure, "502"},
		"forge, not understood": {func(p *patient) { p.forge.answer("/repos/a", 200, "<html>") }, "github a", doctor.Warning, "pr_api_url"},
		"no room":               {func(p *patient) { p.options.Config.ItemDefaults.MemoryMB, p.options.SkipProbe = 64000, true }, "room", doctor.Failure, "64000 MB"},
		"no worker":             {func(p *patient) { p.options.Config.Worker.Binary = "/nonexistent/worker" }, "worker", doctor.Failure, "does not run"},
		"another program":       {func(p *patient) { p.runs("echo hello") }, "worker", doctor.Failure, "no drover worker"},
		"another version":       {func(p *patient) { p.options.Version = "9.9.9" }, "worker", doctor.Warning, "9.9.9"},
		"a worker that fails":   {func(p *patient) { p.runs("exit 7") }, "worker", doctor.Failure, "code 7"},
		"a worker that never ends": {func(p *patient) {
			p.options.ProbeTimeout = 2 * time.Second
			p.runs("exec sleep 300")
		}, "worker", doctor.Failure, "in time"},
		"an older worker":         {func(p *patient) { p.runs("echo usage >&2; exit 2") }, "worker", doctor.Failure, "code 2 and left no result: usage"},
		"workers, another Consul": {func(p *patient) { p.options.Config.Worker.ConsulAddr = "127.0.0.1:1" }, "consul from workers", doctor.Failure, "worker.consul_addr"},
		"workers, Consul without a leader": {func(p *patient) {
			// The server's Consul is another one.
			other := newProxy(p.t, p.consul.URL)
			other.answer("/v1/status/leader", 200, `""`)
			p.options.Config.Worker.ConsulAddr = strings.TrimPrefix(other.URL, "http://")
		}, "consul from workers", doctor.Failure, "no leader"},
		"workers may not make sessions": {func(p *patient) { p.workersRefused("PUT", "/v1/session/create") }, "consul permissions of workers", doctor.Failure, `session_prefix "" { policy = "write" }`},
		"workers may not register":      {func(p *patient) { p.workersRefused("PUT", "/v1/agent/service/register") }, "consul permissions of workers", doctor.Failure, `service "drover-worker" { policy = "write" }`},
		"workers may not write keys":    {func(p *patient) { p.workersRefused("PUT", "/v1/kv/drover/probes/") }, "consul permissions of workers", doctor.Failure, `key_prefix "drover/probes/" { policy = "write" }`},
		"workers, another datacenter":   {func(p *patient) { p.options.Config.Worker.Datacenters = []string{"elsewhere"} }, "worker", doctor.Failure, "no node of the datacenters elsewhere"},
		"workers, every node full":      {(*patient).fillNode, "worker", doctor.Warning, "found no room"},
		"may not list jobs":             {func(p *patient) { p.nomad.refuse("GET", "/v1/jobs") }, "nomad permissions", doctor.Failure, "list-jobs"},
		"may not watch":                 {func(p *patient) { p.nomad.refuse("GET", "/v1/event/stream") }, "nomad permissions", doctor.Failure, "read-job"},
		"may not parse":                 {func(p *patient) { p.nomad.refuse("PUT", "/v1/jobs/parse") }, "nomad permissions", doctor.Failure, "parse-job"},
		"may not register":              {func(p *patient) { p.nomad.refuse("PUT", "/v1/jobs") }, "nomad permissions", doctor.Failure, "submit-job"},
		"may not dispatch":              {func(p *patient) { p.nomad.refuse("PUT", "/dispatch") }, "nomad permissions", doctor.Failure, "dispatch-job"},
		"may not read logs":             {func(p *patient) { p.nomad.refuse("GET", "/v1/client/fs/logs/") }, "nomad permissions", doctor.Failure, "read-logs"},
		"git is away":                   {func(p *patient) { p.options.Repositories = []string{"http://127.0.0.1:1/a.git"} }, "git ", doctor.Failure, "DNS, firewall, proxy"},
		"git, other kind":               {func(p *patient) { p.options.Repositories = []string{"ssh://git@127.0.0.1:1/a.git"} }, "git ", doctor.Failure, "a worker can't use it"},
		"git, no repository":            {func(p *patient) { p.options.Repositories = nil }, "git", doctor.Skipped, "--repo"},
		"git, no token":                 {func(p *patient) { delete(p.secrets, "DROVER_GIT_TOKEN") }, "git ", doctor.Failure, "Put DROVER_GIT_TOKEN into the Nomad variable nomad/jobs/drover-worker"},
		"git, bad token":                {func(p *patient) { p.secrets["DROVER_GIT_TOKEN"] = "wrong-token" }, "git ", doctor.Failure, "Renew DROVER_GIT_TOKEN"},
		"forge is away":                 {func(p *patient) { p.options.Config.ItemDefaults.PRAPIURL = "http://127.0.0.1:1" }, "github token", doctor.Failure, "pr_api_url"},
		"forge, no token": {func(p *patient) {
			delete(p.secrets, "DROVER_FORGE_TOKEN")
			delete(p.secrets, "DROVER_GIT_TOKEN")
		}, "github token", doctor.Failure, "workers have none"},
		"forge, bad token":     {func(p *patient) { p.forge.answer("/user", 401, `{}`) }, "github token", doctor.Failure, "Renew"},
		"forge, ill":           {func(p *patient) { p.forge.answer("/user", 502, `{}`) }, "github token", doctor.Warning, "502"},
		"forge, few scopes":    {func(p *patient) { p.forge.header = http.Header{"X-Oauth-Scopes": {"read:org"}} }, "github token", doctor.Failure, "scope repo"},
		"forge, fine-grained":  {func(p *patient) { p.forge.header = nil }, "github token", doctor.OK, "fine-grained"},
		"forge, no repository": {func(p *patient) { p.forge.answer("/repos/a", 404, `{}`) }, "github a", doctor.Failure, "does not show it"},
		"forge, read only":     {func(p *patient) { p.forge.answer("/repos/a", 200, `{"permissions":{"push":false}}`) }, "github a", doctor.Failure, "may not push"},
		"no forge":             {func(p *patient) { p.options.Config.ItemDefaults.PRProvider = work.ProviderNone }, "github token", doctor.Skipped, "no pull requests"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			c.ail(p)
			p.want(c.check, c.status, c.says)
		})
	}
}

// TestPermissionsOfARealConsul has a server's token with the policy that drover ships,
// and tokens that lack something of it each.
func TestPermissionsOfARealConsul(t *testing.T) {
	acls := testkit.ConsulWithACLs(t)
	shipped := testkit.Shipped(t, "consul/policies/server.hcl")
	block := func(resource, policy string) string { return resource + " {\n  policy = \"" + policy + "\"\n}" }
	for name, c := range map[string]struct {
		resource, policy string
		status           work.FindingStatus
		says             string
	}{
		"all":      {`key_prefix "drover/"`, "write", doctor.OK, "the token may do all"},
		"keys":     {`key_prefix "drover/"`, "read", doctor.Failure, `key_prefix "drover/"`},
		"reading":  {`key_prefix "drover/"`, "deny", doctor.Failure, "read keys below"},
		"service":  {`service "drover"`, "read", doctor.Failure, `service "drover"`},
		"sessions": {`session_prefix ""`, "read", doctor.Failure, "session_prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			rules := strings.Replace(shipped, block(c.resource, "write"), block(c.resource, c.policy), 1)
			if (rules == shipped) != (c.policy == "write") {
				t.Fatalf("the policy that is shipped has no %s", c.resource)
			}
			p := newPatient(t)
			p.options.Config.Consul.Address, p.options.Config.Consul.Token = acls.Address, config.Secret(acls.Token(name, rules))
			p.options.SkipProbe = true
			p.want("consul permissions", c.status, c.says)
		})
	}
}

// TestRealNomadIsExamined needs a Nomad: the doctor examines its nodes and scheduler, and runs a probe on it.
func TestRealNomadIsExamined(t *testing.T) {
	p := newPatient(t)
	p.onRealNomad()
	found := p.findings()
	for _, f := range found {
		if f.Status == doctor.Failure || f.Check == "worker" && f.Status != doctor.OK || f.Check == "nomad memory oversubscription" && f.Status == doctor.Skipped {
			t.Errorf("%+v", f)
		}
	}
}

// proxy stands before a server, and answers some calls itself or changes what the server answers.
type proxy struct {
	*httptest.Server
	t      *testing.T
	ahead  time.Duration // of its clock
	header http.Header   // added to answers
	// timeless has answers say no time.
	timeless bool
	answers  map[string]func(w http.ResponseWriter)
	changes  map[string]func(map[string]any)
	refused  []string
	behind   *httputil.ReverseProxy
}

func newProxy(t *testing.T, behind string) *proxy {
	t.Helper()
	u, err := url.Parse(behind)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, answers: map[string]func(http.ResponseWriter){}, changes: map[string]func(map[string]any){}, behind: httputil.NewSingleHostReverseProxy(u)}
	p.behind.Transport = &http.Transport{DisableKeepAlives: true}
	p.behind.FlushInterval = -1
	p.behind.ModifyResponse = p.modify
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request) {
	for name, values := range p.header {
		w.Header()[name] = values
	}
	if p.timeless {
		w.Header()["Date"] = nil // none
	}
	for _, refused := range p.refused {
		method, part, _ := strings.Cut(refused, " ")
		if r.Method == method && (r.URL.Path == part || strings.HasSuffix(part, "/") && strings.HasPrefix(r.URL.Path, part) || part == "/dispatch" && strings.HasSuffix(r.URL.Path, part)) {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
	}
	if answer := p.answers[r.URL.Path]; answer != nil {
		w.Header().Set("Date", time.Now().Add(p.ahead).UTC().Format(http.TimeFormat))
		answer(w)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/repos/") && p.answers["/repos/a"] != nil {
		p.answers["/repos/a"](w)
		return
	}
	p.behind.ServeHTTP(w, r)
}

func (p *proxy) modify(resp *http.Response) error {
	resp.Header.Set("Date", time.Now().Add(p.ahead).UTC().Format(http.TimeFormat))
	if p.timeless {
		resp.Header.Del("Date")
	}
	for part, change := range p.changes {
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Request.URL.Path, part) {
			continue
		}
		var value map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&value); err != nil {
			return err
		}
		change(value)
		data, err := json.Marshal(value)
		if err != nil {
			return err
		}
		resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(string(data))), int64(len(data))
		resp.Header.Set("Content-Length", fmt.Sprint(len(data)))
	}
	return nil
}

func (p *proxy) answer(path string, status int, body string) {
	p.answers[path] = func(w http.ResponseWriter) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func (p *proxy) change(path string, change func(map[string]any)) { p.changes[path] = change }

// node changes what Nomad tells of its node.
func (p *proxy) node(change func(map[string]any)) { p.changes["/v1/node/"] = change }

// secondNode gives Nomad another node, without the driver.
func (p *patient) secondNode() {
	var stubs []map[string]any
	if err := json.Unmarshal([]byte(p.nomad.read("/v1/nodes")), &stubs); err != nil {
		p.t.Fatal(err)
	}
	var full map[string]any
	if err := json.Unmarshal([]byte(p.nomad.read("/v1/node/"+stubs[0]["ID"].(string))), &full); err != nil {
		p.t.Fatal(err)
	}
	const id = "0a1b2c3d-0000-0000-0000-000000000000"
	full["ID"], full["Name"], full["Drivers"] = id, "other", map[string]any{}
	second, err := json.Marshal(full)
	if err != nil {
		p.t.Fatal(err)
	}
	p.nomad.answer("/v1/node/"+id, 200, string(second))
	list, err := json.Marshal(append(stubs, map[string]any{"ID": id, "Name": "other", "Status": "ready"}))
	if err != nil {
		p.t.Fatal(err)
	}
	p.nomad.answer("/v1/nodes", 200, string(list))
}

// fillNode runs a job that takes all memory of the node but what is too little for a probe.
func (p *patient) fillNode() {
	client, err := api.NewClient(&api.Config{Address: p.nomad.URL, HttpClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	if err != nil {
		p.t.Fatal(err)
	}
	task := api.NewTask("t", "raw_exec")
	task.Config, task.Resources = map[string]any{"command": "/bin/sleep", "args": []string{"300"}}, &api.Resources{CPU: new(1), MemoryMB: new(1950)}
	job := api.NewBatchJob("full", "full", "global", 50).AddDatacenter("*").AddTaskGroup(api.NewTaskGroup("g", 1).AddTask(task))
	if _, _, err := client.Jobs().Register(job, nil); err != nil {
		p.t.Fatal(err)
	}
	testkit.Eventually(p.t, probeTimeout, func() error {
		allocs, _, err := client.Jobs().Allocations("full", true, nil)
		if err == nil && (len(allocs) == 0 || allocs[0].ClientStatus != "running") {
			err = fmt.Errorf("allocations %v, want one that runs", allocs)
		}
		return err
	})
}

// workersRefused puts a Consul before the workers that refuses a call.
func (p *patient) workersRefused(method, path string) {
	other := newProxy(p.t, p.consul.URL)
	other.refuse(method, path)
	p.options.Config.Worker.ConsulAddr = strings.TrimPrefix(other.URL, "http://")
}

func (p *proxy) refuse(method, path string) { p.refused = append(p.refused, method+" "+path) }

func (p *proxy) read(path string) string {
	p.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(p.URL + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(data)
}
