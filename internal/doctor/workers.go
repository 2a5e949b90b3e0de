package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/internal/config"
	"drover/internal/work"
	"drover/nomad"
)

const (
	checkWorker      = "worker"
	checkPermissions = "nomad permissions"
	checkGit         = "git"
	// maxHosts bounds the hosts of stored items whose repositories are probed.
	maxHosts = 5
)

// examineWorkers runs a probe where workers run, and reports what it found there.
func (e *exam) examineWorkers(ctx context.Context) {
	if e.SkipProbe {
		e.add(checkWorker, Skipped, "", "no worker was run: neither what workers reach nor their tokens were examined")
		return
	}
	ask := e.question(ctx)
	ctx, cancel := context.WithTimeout(ctx, e.ProbeTimeout)
	defer cancel()
	p := e.nomad.Probe(ctx, nomad.Probe{ID: "drover-doctor-" + ask.Name, Ask: ask, Args: []string{"probe"}, Nodes: e.nodes})
	refused := e.permissions(p.Tries)
	switch {
	case len(p.Runs) == 0 && refused:
		e.add(checkWorker, Skipped, "", "%s was not run to its end, for want of a permission", e.program())
	case p.Full:
		e.add(checkWorker, Warning, "Run the doctor again when attempts have ended.", "%s found no room on %s: %s", e.program(), cmp.Or(strings.Join(p.Missed, ", "), "any node"), p.Why)
	case len(p.Runs) == 0 || len(p.Missed) > 0:
		e.add(checkWorker, Failure, "Check worker.datacenters and the constraints of the job specification.", "%s was not run on %s: %s", e.program(), cmp.Or(strings.Join(p.Missed, ", "), "any node"), p.Why)
	}
	var found []told
	for _, run := range p.Runs {
		for _, f := range e.readRun(run) {
			found = append(found, told{f, run.Node})
		}
	}
	e.findings = append(e.findings, merge(found)...)
}

// permissions reports what the token may not do, and whether there is such a thing.
func (e *exam) permissions(tries []nomad.Try) (refused bool) {
	for _, try := range tries {
		if try.Err != nil {
			refused = true
			e.add(checkPermissions, Failure, fmt.Sprintf("Give the server's token the capability %s in its namespace.", try.Rule), "drover can't %s: %v", try.Does, try.Err)
		}
	}
	if !refused {
		e.add(checkPermissions, OK, "", "the token may do all that was tried: %d things", len(tries))
	}
	return refused
}

// question is what the probe is asked. The repositories are those that the
// operator named, or else those of stored items.
func (e *exam) question(ctx context.Context) work.Probe {
	repositories := e.Repositories
	if len(repositories) == 0 {
		repositories = e.known(ctx)
	}
	if len(repositories) == 0 {
		e.add(checkGit, Skipped, "Name a repository with --repo.", "no item names a repository yet")
	}
	ask := work.Probe{
		Name: work.NewID(time.Now()), KVPrefix: e.Config.Consul.Prefix, Repositories: repositories,
		APIURL: e.Config.ItemDefaults.PRAPIURL, SecretsPath: e.Config.Worker.SecretsPath,
	}
	provider := e.Config.ItemDefaults.PRProvider
	if provider == work.ProviderGitHub {
		ask.Forge = provider
	}
	for _, repository := range repositories {
		if root, ok := work.GitHubAPI(repository); ok && provider == "" && ask.Forge == "" {
			ask.Forge, ask.APIURL = work.ProviderGitHub, cmp.Or(ask.APIURL, root)
		}
	}
	return ask
}

// known returns a repository of each host that items name, the newest first.
func (e *exam) known(ctx context.Context) (repositories []string) {
	items, err := e.consul.Items(ctx)
	if err != nil {
		return nil
	}
	var hosts []string
	for _, item := range slices.Backward(items) {
		host, _, _ := strings.Cut(work.RepositoryKey(item.Spec.Repository), "/")
		if slices.Contains(hosts, host) || len(hosts) == maxHosts {
			continue
		}
		hosts, repositories = append(hosts, host), append(repositories, item.Spec.Repository)
	}
	return repositories
}

// program names what the job runs.
func (e *exam) program() string {
	if e.Config.Worker.Driver == config.DriverDocker {
		return e.Config.Worker.Image
	}
	return e.Config.Worker.Binary
}

// readRun returns what a run of the probe found, or why it found nothing.
func (e *exam) readRun(run nomad.ProbeRun) []Finding {
	f := Finding{Check: checkWorker, Status: Failure}
	what := e.program()
	switch {
	case run.NoVariable:
		f.Says, f.Do = fmt.Sprintf("%s does not run: %s", what, run.Failed), work.AdviseVariable
		return []Finding{f}
	case run.Failed != "":
		f.Says = fmt.Sprintf("%s does not run: %s", what, run.Failed)
		if line := lastLine(run.Output); line != "" {
			f.Says += ": " + work.RedactSecrets(line)
		}
		f.Do = "Check worker.image of the configuration, that the nodes can pull it, and that it is built from the worker image of this release."
		return []Finding{f}
	}
	found := parse(run.Output)
	if len(found) == 0 || found[0].Check != work.CheckVersion {
		f.Says, f.Do = what+" runs, and is no drover worker", "Build the image from drover's worker image, with drover-worker as its entry point."
		return []Finding{f}
	}
	version := found[0].Says
	f.Status, f.Says = OK, fmt.Sprintf("%s runs, of version %s", what, version)
	if version != e.Version && e.Version != "" {
		f.Status, f.Do = Warning, "Build the image from the worker image of the same release."
		f.Says = fmt.Sprintf("%s holds the worker of version %s, and this is drover %s", what, version, e.Version)
	}
	return append([]Finding{f}, found[1:]...)
}

func parse(output string) (found []Finding) {
	for line := range strings.Lines(output) {
		var f Finding
		if json.Unmarshal([]byte(line), &f) == nil && f.Check != "" {
			found = append(found, f)
		}
	}
	return found
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// told is a finding of one node.
type told struct {
	Finding
	node string
}

// merge makes one finding of what several nodes found, and names the nodes of what
// is not well.
func merge(all []told) (merged []Finding) {
	type kind struct {
		check, do string
		status    work.FindingStatus
	}
	nodes, says := map[kind][]string{}, map[kind][]string{}
	var order []kind
	for _, f := range all {
		k := kind{f.Check, f.Do, f.Status}
		if nodes[k] == nil {
			order = append(order, k)
		}
		nodes[k] = append(nodes[k], f.node)
		if !slices.Contains(says[k], f.Says) {
			says[k] = append(says[k], f.Says)
		}
	}
	for _, k := range order {
		text := strings.Join(says[k], "; ")
		if k.status == Failure || k.status == Warning {
			text = "on " + strings.Join(nodes[k], ", ") + ": " + text
		}
		merged = append(merged, Finding{Check: k.check, Status: k.status, Says: text, Do: k.do})
	}
	return merged
}

// check returns work.ErrInvalid for repositories that a probe can't be asked about.
func check(repositories []string) error {
	if len(repositories) > work.MaxProbeRepositories {
		return fmt.Errorf("%d repositories: name at most %d: %w", len(repositories), work.MaxProbeRepositories, work.ErrInvalid)
	}
	for _, repository := range repositories {
		if !work.ValidRepository(repository) {
			return fmt.Errorf("repository %q: give a URL that git clones from, without a password: %w", work.RedactURL(repository), work.ErrInvalid)
		}
	}
	return nil
}
