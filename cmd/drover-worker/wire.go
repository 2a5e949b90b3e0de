package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"drover/consul"
	"drover/internal/work"
	"drover/internal/worker"
	"drover/internal/worker/launch"
	"drover/internal/worker/redact"
)

// payloadFile is where the job puts the dispatch payload, in the task's directory.
const payloadFile = "item.json"

// workDirectory is the worker's own, in the task's directory.
const workDirectory = "work"

// agentDirVariable names the agent's directory, where the agent is another user
// than the worker.
const agentDirVariable = "DROVER_AGENT_DIR"

// run wires the worker to Consul and to the first process, runs it and returns
// the exit status.
func run(ctx context.Context, environ []string, stdout, stderr io.Writer) int {
	redactor := redact.FromEnviron(environ)
	out, errs := redactor.Writer(stdout), redactor.Writer(stderr)
	var lastWord string
	defer func() {
		if lastWord != "" {
			fmt.Fprintln(errs, "drover-worker:", lastWord)
		}
		_, _ = out.Flush(), errs.Flush() // nobody reads any more
	}()
	env := variables(environ)
	watch, err := observe(ctx, env, errs)
	if err != nil {
		fmt.Fprintln(errs, "drover-worker:", err)
		return exitFailed
	}
	defer watch.close()
	log := watch.log
	host, _ := os.Hostname() // outside of Nomad alone
	dir, err := filepath.Abs(env["NOMAD_TASK_DIR"])
	if err != nil {
		log.Error("find the task's directory", "error", err)
		return exitFailed
	}
	launcher, err := launch.Connect(launcherFile)
	if err != nil {
		log.Error("reach the first process", "error", err)
		return exitFailed
	}
	defer launcher.Close()
	self, err := os.Executable()
	if err != nil {
		log.Error("find own program", "error", err)
		return exitFailed
	}
	if env[agentDirVariable] == "" {
		log.Warn("the agent is not isolated: it runs as the worker's own user, and could read what the worker can; " +
			"a container that runs as root, with the capabilities setuid, setgid and kill, has users of their own for both")
	}
	var at string // where Consul is looked for
	err = worker.Run(ctx, worker.Options{
		Payload: filepath.Join(dir, payloadFile), Allocation: cmp.Or(env["NOMAD_ALLOC_ID"], host), Dir: filepath.Join(dir, workDirectory),
		AgentDir: env[agentDirVariable], Agent: launcher, CountReports: []string{self, countArgument},
		Job: env["NOMAD_JOB_ID"], KVPrefix: env["DROVER_KV_PREFIX"],
		Health: healthAddress(env), Registry: watch.registry, Tracer: watch.traces.Tracer(),
		Environ: environ, Stdout: out, Stderr: errs, Redactor: redactor, Logger: log,
		Open: func(prefix string) (worker.Store, error) {
			client, err := consul.Open(consul.Options{Prefix: prefix, Logger: log, Health: reachableHealth(env), Instrument: watch.backends.Around("consul")})
			if err != nil {
				return nil, err
			}
			at = client.Address()
			return store{client}, nil
		},
	})
	if err != nil {
		log.Error("no result", "error", err)
	}
	if errors.Is(err, worker.ErrNoConsul) {
		lastWord = noConsul(at, err)
	}
	return exitStatus(err)
}

// exitStatus is how the worker's end is told to Nomad.
func exitStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, worker.ErrFenced):
		return work.WorkerExitFenced
	case errors.Is(err, worker.ErrNoConsul):
		return work.WorkerExitNoConsul
	}
	return exitFailed
}

// noConsul says where Consul was looked for, what came of it, and what to do.
func noConsul(address string, err error) string {
	var dial *net.OpError
	switch {
	case errors.As(err, &dial):
		return fmt.Sprintf("Consul at %s does not answer: %s; the node's Consul agent must listen on an address that containers reach", address, strings.TrimPrefix(dial.Err.Error(), "connect: "))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("Consul at %s does not answer in time; the node's Consul agent must listen on an address that containers reach, and reach its servers", address)
	}
	return fmt.Sprintf("Consul at %s can't be used: %v; its servers must have a leader", address, err)
}

// healthAddress is where /health and /metrics are served: as the environment
// says, or else on the port that Nomad gave the job under the label health.
func healthAddress(env map[string]string) string {
	if address := env["DROVER_HEALTH_ADDR"]; address != "" {
		return address
	}
	if port := env["NOMAD_PORT_health"]; port != "" {
		return ":" + port
	}
	return ""
}

// reachableHealth is where others reach that: as the environment says, or where
// Nomad's node passes the port on. It is empty where nobody can tell.
func reachableHealth(env map[string]string) string {
	address := cmp.Or(env["DROVER_HEALTH_ADDR"], env["NOMAD_HOST_ADDR_health"], env["NOMAD_ADDR_health"])
	if host, _, err := net.SplitHostPort(address); err != nil || host == "" || net.ParseIP(host).IsUnspecified() {
		return ""
	}
	return address
}

// store makes a Consul client the worker's store.
type store struct{ *consul.Client }

func (s store) Claim(ctx context.Context, e work.Envelope, allocation string) (worker.Claim, error) {
	return s.ClaimAttempt(ctx, e, allocation)
}
