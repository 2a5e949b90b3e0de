// Package probe examines, where workers run, whether an attempt could work
// there: it reaches Consul, the git servers and the forge with the worker's own
// environment.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"drover/internal/work"
	"drover/internal/worker/gitrepo"
)

const (
	// reachTimeout bounds the first call to Consul: a network that drops packets
	// would hold it for minutes.
	reachTimeout = 5 * time.Second
	// stepTimeout bounds the other steps. Together they take less than a minute.
	stepTimeout = 20 * time.Second
)

// Consul is what the probe tries of Consul.
type Consul interface {
	// HasLeader returns work.ErrUnavailable unless Consul answers and has a leader.
	HasLeader(ctx context.Context) error
	// ProbeWorker does once what a worker does, and removes what it made.
	ProbeWorker(ctx context.Context, name string) []Try
}

// Try is one thing that was tried.
type Try struct {
	Does string // in words
	Rule string // that a policy needs to allow it
	Err  error
}

// Options of a probe.
type Options struct {
	Probe     work.Probe
	Version   string // of the worker
	Env       map[string]string
	Environ   []string
	Dir       string // for git's files
	Consul    Consul
	Transport http.RoundTripper // to the forge; the default one if nil
	Redact    func(string) string
}

// prober is a probe under way.
type prober struct{ Options }

// Run examines everything and returns what it found. The version comes first.
func Run(ctx context.Context, opts Options) []work.Finding {
	p := prober{opts}
	steps := []func(context.Context) []work.Finding{p.consul, p.forge}
	for i, repository := range opts.Probe.Repositories {
		steps = append(steps, func(ctx context.Context) []work.Finding { return []work.Finding{p.git(ctx, i, repository)} })
	}
	found := make([][]work.Finding, len(steps))
	var group sync.WaitGroup
	for i, step := range steps {
		group.Go(func() { found[i] = step(ctx) })
	}
	group.Wait()
	all := []work.Finding{{Check: work.CheckVersion, Status: work.FindingOK, Says: opts.Version}}
	for _, findings := range found {
		for _, f := range findings {
			f.Says = work.RedactSecrets(opts.Redact(f.Says))
			all = append(all, f)
		}
	}
	return all
}

const (
	checkConsul      = "consul from workers"
	checkPermissions = "consul permissions of workers"
)

// consul tries what a worker does with Consul, at the address workers use.
func (p prober) consul(ctx context.Context) []work.Finding {
	address := p.Env["CONSUL_HTTP_ADDR"]
	reach, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := p.Consul.HasLeader(reach); err != nil {
		return []work.Finding{{Check: checkConsul, Status: work.FindingFailure, Says: fmt.Sprintf("a worker can't reach Consul at %s: %v", address, err), Do: adviseConsul(address, err)}}
	}
	findings := []work.Finding{{Check: checkConsul, Status: work.FindingOK, Says: "workers reach it at " + address}}
	ctx, cancel = context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	tries := p.Consul.ProbeWorker(ctx, p.Probe.Name)
	for _, try := range tries {
		if try.Err != nil {
			findings = append(findings, work.Finding{
				Check: checkPermissions, Status: work.FindingFailure, Says: fmt.Sprintf("a worker can't %s: %v", try.Does, try.Err),
				Do: fmt.Sprintf("Give the workers' token (CONSUL_HTTP_TOKEN of the Nomad variable %s) this rule: %s", p.Probe.SecretsPath, try.Rule),
			})
		}
	}
	if len(findings) == 1 {
		findings = append(findings, work.Finding{Check: checkPermissions, Status: work.FindingOK, Says: fmt.Sprintf("workers may do all that was tried: %d things", len(tries))})
	}
	return findings
}

// adviseConsul says what to change when Consul can't be reached at an address.
func adviseConsul(address string, err error) string {
	host := address
	if _, rest, ok := strings.Cut(address, "://"); ok {
		host = rest
	}
	if name, _, bad := net.SplitHostPort(host); bad == nil {
		host = name
	}
	other := "or name an address that workers reach: worker.consul_addr in drover's configuration."
	ip := net.ParseIP(host)
	switch {
	case strings.Contains(err.Error(), "no leader"):
		return "Consul's agent answers but its servers have no leader: see consul operator raft list-peers."
	case address == "":
		return "Set worker.consul_addr in drover's configuration: the job gives workers no CONSUL_HTTP_ADDR."
	case host == "localhost" || ip != nil && ip.IsLoopback():
		return "Set worker.consul_addr in drover's configuration to an address of the node that workers reach, and let Consul's agent listen there (client_addr): a container's loopback is its own. Where it is not set workers use their node's address, which nomad agent -dev takes to be the loopback."
	case errors.Is(err, syscall.ECONNREFUSED), strings.Contains(err.Error(), "connection refused"):
		return `Nothing listens at that address. Let Consul's agent on the node listen there and not on the loopback alone: client_addr = "127.0.0.1 {{ GetPrivateIP }}" in its configuration (consul agent -dev -client "127.0.0.1 {{ GetPrivateIP }}"), ` + other
	}
	return "Let workers through to Consul's agent on the node (firewall, the container's network, TLS settings in CONSUL_HTTP_SSL and CONSUL_CACERT), " + other
}

// git reads a repository with git itself, and checks push access. The number keeps
// its files apart from those of the others.
func (p prober) git(ctx context.Context, number int, repository string) work.Finding {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	f := work.Finding{Check: "git " + work.RedactURL(repository), Status: work.FindingOK, Says: "workers can read it, and push to it"}
	token := p.Env["DROVER_GIT_TOKEN"]
	err := gitrepo.Probe(ctx, gitrepo.Options{
		URL: repository, Dir: filepath.Join(p.Dir, "git"+strconv.Itoa(number)), Username: p.Env["DROVER_GIT_USERNAME"], Token: token,
		Environ: p.Environ, Redact: p.Redact,
	})
	if err == nil {
		return f
	}
	f.Status, f.Says = work.FindingFailure, fmt.Sprintf("a worker can't use it: %v", err)
	switch http := strings.HasPrefix(repository, "http"); {
	case errors.Is(err, gitrepo.ErrAuth) && !http:
		f.Do = "Give the worker's image a key that may read and push, and the host's key in known_hosts; or use the https URL."
	case errors.Is(err, gitrepo.ErrAuth) && token == "":
		f.Do = "Put DROVER_GIT_TOKEN into the Nomad variable " + p.Probe.SecretsPath + "."
	case errors.Is(err, gitrepo.ErrAuth):
		f.Do = "Renew DROVER_GIT_TOKEN in the Nomad variable " + p.Probe.SecretsPath + ", or let it read and write the repository."
	default:
		f.Do = "Check that the host is right and that workers reach it: DNS, firewall, proxy (HTTPS_PROXY in worker.env), certificates."
	}
	return f
}
