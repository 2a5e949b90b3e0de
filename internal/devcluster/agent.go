package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopTimeout is how long an agent may take to end what it runs.
const stopTimeout = 30 * time.Second

// agent is a running process of Consul or Nomad.
type agent struct {
	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

// consulAgent starts Consul in memory. Checks reach the catalog at once, as
// drover advises for real clusters.
func consulAgent(binary, dir string, http int, others []int) (*agent, error) {
	return startAgent("consul", dir, binary,
		"agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn",
		"-http-port="+strconv.Itoa(http), "-server-port="+strconv.Itoa(others[0]), "-serf-lan-port="+strconv.Itoa(others[1]),
		"-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", `-hcl=check_update_interval = "0s"`)
}

// nomadConfig keeps Nomad from asking clouds that are not there, from removing
// images that nobody could pull again, and from looking for another Consul.
const nomadConfig = `
bind_addr = "127.0.0.1"
ports {
  http = %d
  rpc  = %d
  serf = %d
}
client {
  options = { "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean" }
}
consul {
  address          = %q
  auto_advertise   = false
  server_auto_join = false
  client_auto_join = false
}
plugin "docker" {
  config {
    gc {
      image = false
    }
    extra_labels = ["job_id", "task_name"]
  }
}
plugin "raw_exec" {
  config {
    enabled = true
  }
}
`

func nomadAgent(binary, dir, consul string, http int, others []int) (*agent, error) {
	file := filepath.Join(dir, "nomad.hcl")
	config := fmt.Sprintf(nomadConfig, http, others[0], others[1], strings.TrimPrefix(consul, "http://"))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return startAgent("nomad", dir, binary, "agent", "-dev", "-log-level=WARN", "-config="+file)
}

// startAgent runs an agent whose temporary files are below dir: a Nomad in dev
// mode leaves some behind.
func startAgent(name, dir, binary string, args ...string) (*agent, error) {
	a := &agent{name: name, log: filepath.Join(dir, name+".log"), exited: make(chan struct{})}
	log, err := os.Create(a.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	a.cmd = exec.Command(binary, args...)
	a.cmd.Stdout, a.cmd.Stderr, a.cmd.Env = log, log, append(environment(os.Environ()), "TMPDIR="+dir)
	// An interrupt from the keyboard is for us, who end things in their order.
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %s: %w", binary, err)
	}
	go func() {
		defer close(a.exited)
		_ = a.cmd.Wait() // ended by a signal; what went wrong before is in the log
	}()
	return a, nil
}

// environment leaves out what would point an agent at another cluster, and the
// certificate bundle that Nomad's AWS client does not start with.
func environment(env []string) []string {
	var kept []string
	for _, pair := range env {
		name, _, _ := strings.Cut(pair, "=")
		family, _, _ := strings.Cut(name, "_")
		if name != "AWS_CA_BUNDLE" && family != "CONSUL" && family != "NOMAD" && family != "DROVER" {
			kept = append(kept, pair)
		}
	}
	return kept
}

// await waits until the agent is ready, and gives up when it has ended.
func (a *agent) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-a.exited:
			return errors.New(a.name + " ended at once")
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w)", a.name, err, context.Cause(ctx))
		}
	}
}

// stop interrupts the agent and waits for its end. A Nomad in dev mode ends what it runs first.
func (a *agent) stop() error {
	_ = a.cmd.Process.Signal(os.Interrupt) // fails when it has ended already
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-a.exited:
		return nil
	case <-timer.C:
	}
	_ = a.cmd.Process.Kill() // as above
	<-a.exited
	return fmt.Errorf("%s did not stop within %s of an interrupt", a.name, stopTimeout)
}

// logEnd returns the end of the agent's log, on one line.
func (a *agent) logEnd() string {
	const most = 1000
	data, err := os.ReadFile(a.log)
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(data[max(0, len(data)-most):])), " ")
}
