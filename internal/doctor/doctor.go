// Package doctor examines whether drover can work where it is: it looks at Nomad,
// Consul and the nodes, tries once each thing that drover does, and runs a probe
// where workers run, which reaches Consul, the git servers and the forge with the
// worker's image, user, network and secrets. It removes what it makes.
package doctor

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"drover/consul"
	"drover/internal/config"
	"drover/internal/work"
	"drover/nomad"
)

// Finding is what one examination found.
type Finding = work.Finding

// Results of an examination.
const (
	OK      = work.FindingOK
	Warning = work.FindingWarning
	Failure = work.FindingFailure
	Skipped = work.FindingSkipped
)

// Versions below which drover is not tested.
const (
	MinNomad  = "1.9.0"
	MinConsul = "1.14.0"
)

// maxSkew is how far clocks may be apart before times in logs and limits mislead.
const maxSkew = 2 * time.Second

// Options of an examination. Config must be valid.
type Options struct {
	Config       config.Config
	Version      string   // of drover, which the worker's should equal
	Repositories []string // URLs that workers should reach, at most work.MaxProbeRepositories; those of stored items if empty
	ProbeTimeout time.Duration
	SkipProbe    bool // runs no worker
}

// exam is an examination under way.
type exam struct {
	Options
	nomad    *nomad.Client
	consul   *consul.Client
	skews    map[string]*skew
	nodes    []nomad.Node // nil where they are not told
	findings []Finding
}

// Run examines everything and returns what it found, in the order it looked.
// It returns work.ErrInvalid for a configuration or a repository that can't be used.
func Run(ctx context.Context, opts Options) ([]Finding, error) {
	e := &exam{Options: opts, skews: map[string]*skew{"Nomad": {}, "Consul": {}}}
	cfg := opts.Config
	err := check(opts.Repositories)
	if err != nil {
		return nil, err
	}
	e.consul, err = consul.Open(consul.Options{
		Address: cfg.Consul.Address, Token: cfg.Consul.Token.Reveal(), Prefix: cfg.Consul.Prefix, Instrument: e.skews["Consul"].around,
	})
	if err != nil {
		return nil, err
	}
	source, err := cfg.Worker.Specification()
	if err != nil {
		return nil, err
	}
	e.nomad, err = nomad.Open(nomad.Options{
		Address: cfg.Nomad.Address, Token: cfg.Nomad.Token.Reveal(), Namespace: cfg.Nomad.Namespace, Region: cfg.Nomad.Region,
		Instrument: e.skews["Nomad"].around,
		Job: nomad.Job{
			ID: cfg.Worker.JobID, Source: source, Variables: cfg.Worker.Variables(),
			Default: nomad.RunnerOf(work.Spec{}.WithDefaults(cfg.Defaults())),
		},
	})
	if err != nil {
		return nil, err
	}
	if e.examineConsul(ctx) {
		e.examineClock("Consul")
	}
	if e.examineNomad(ctx) {
		e.examineClock("Nomad")
		e.examineNodes(ctx)
		e.examineWorkers(ctx)
	}
	return e.findings, nil
}

func (e *exam) add(check string, status work.FindingStatus, do, format string, args ...any) {
	e.findings = append(e.findings, Finding{Check: check, Status: status, Says: work.RedactSecrets(fmt.Sprintf(format, args...)), Do: do})
}

// examineConsul reports whether Consul answers.
func (e *exam) examineConsul(ctx context.Context) bool {
	if err := e.consul.HasLeader(ctx); err != nil {
		e.add("consul", Failure, "Start Consul, or say where it is: consul.address in the configuration, or CONSUL_HTTP_ADDR.", "%v", err)
		return false
	}
	e.add("consul", OK, "", "it answers, and has a leader")
	about, err := e.consul.About(ctx)
	if err != nil {
		e.add("consul version", Warning, `Give the token agent_prefix "" { policy = "read" }, should you want to know.`, "it is not told: %v", err)
	} else {
		e.version("consul version", "Consul", about.Version, MinConsul)
		if about.CheckUpdateInterval > 0 {
			e.add("consul check_update_interval", Warning, `Set check_update_interval = "0s" in the agents' configuration.`,
				"heartbeat output can be up to %s stale in drover top and explain", about.CheckUpdateInterval)
		} else {
			e.add("consul check_update_interval", OK, "", "heartbeat output reaches the servers at once")
		}
	}
	var failed []consul.Try
	tries := e.consul.Examine(ctx, work.NewID(time.Now()))
	for _, try := range tries {
		if try.Err != nil {
			failed = append(failed, try)
		}
	}
	for _, try := range failed {
		e.add("consul permissions", Failure, "Give the server's token this rule: "+try.Rule, "the token may not %s: %v", try.Does, try.Err)
	}
	if len(failed) == 0 {
		e.add("consul permissions", OK, "", "the token may do all that was tried: %d things", len(tries))
	}
	return true
}

// examineNomad reports whether Nomad answers.
func (e *exam) examineNomad(ctx context.Context) bool {
	if err := e.nomad.Check(ctx); err != nil {
		e.add("nomad", Failure, "Start Nomad, or say where it is: nomad.address in the configuration, or NOMAD_ADDR.", "%v", err)
		return false
	}
	e.add("nomad", OK, "", "it answers, and has a leader")
	if version, err := e.nomad.Version(ctx); err != nil {
		e.add("nomad version", Warning, `Give the token agent { policy = "read" }, should you want to know.`, "it is not told: %v", err)
	} else {
		e.version("nomad version", "Nomad", version, MinNomad)
	}
	switch on, err := e.nomad.Oversubscription(ctx); {
	case err != nil:
		e.add("nomad memory oversubscription", Skipped, `Give the token operator { policy = "read" }, should you want to know.`, "%v", err)
	case on:
		e.add("nomad memory oversubscription", Warning, "Have jobs with memory_max run elsewhere (node pools, constraints), or switch it off: nomad operator scheduler set-config -memory-oversubscription=false",
			"it is on: jobs may use more than they reserve, and a node that runs short of memory kills workers too")
	default:
		e.add("nomad memory oversubscription", OK, "", "it is off: what a worker reserves is there")
	}
	return true
}

func (e *exam) version(check, of, version, least string) {
	if older(version, least) {
		e.add(check, Failure, fmt.Sprintf("Upgrade to %s %s at least.", of, least), "%s, older than drover is tested with", version)
		return
	}
	e.add(check, OK, "", "%s", version)
}

// older compares the numbers of versions, as far as they are numbers.
func older(version, least string) bool {
	a, b := numbers(version), numbers(least)
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

func numbers(version string) (n [3]int) {
	core, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	core, _, _ = strings.Cut(core, "+")
	for i, part := range strings.SplitN(core, ".", len(n)) {
		n[i], _ = strconv.Atoi(part) // what is no number counts as 0
	}
	return n
}

func (e *exam) examineClock(of string) {
	check := "clock of " + of
	switch by := e.skews[of].most; {
	case !e.skews[of].known:
		e.add(check, Skipped, "", "%s does not say what time it is", of)
	case by.Abs() > maxSkew:
		e.add(check, Failure, "Have all machines keep time by NTP.", "it is %s apart from this machine's", by.Round(time.Second))
	default:
		e.add(check, OK, "", "it is the same as this machine's")
	}
}

// skew compares the Date of answers with the time they came.
type skew struct {
	known bool
	most  time.Duration // that is certain, with the sign of the other clock's advance
}

func (s *skew) around(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		sent := time.Now()
		resp, err := next.RoundTrip(r)
		if err != nil {
			return resp, err
		}
		date, bad := http.ParseTime(resp.Header.Get("Date"))
		if bad != nil {
			return resp, nil
		}
		// The answer was made between sent and now; Date leaves out the part of a second.
		certain := time.Duration(0)
		switch now := time.Now(); {
		case date.After(now):
			certain = date.Sub(now)
		case date.Add(time.Second).Before(sent):
			certain = -sent.Sub(date.Add(time.Second))
		}
		if !s.known || certain.Abs() < s.most.Abs() {
			s.known, s.most = true, certain
		}
		return resp, nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
