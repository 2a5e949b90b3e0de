package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"drover/internal/devcluster/nomadd"
)

// nomad is a server that goes away and comes back, while what it has started runs on.
type nomad interface {
	start() error
	kill() error
	fault() error
	close() error // also ends what it has started
}

// embedded is the Nomad of drover dev. It keeps its state in memory and its tasks are its children, so it is not killed:
// its listener and every connection are closed, which to all others is the same.
type embedded struct {
	address string
	server  *nomadd.Server

	mu   sync.Mutex
	http *http.Server // nil while it is away
	done chan struct{}
}

// Room for every attempt that is in flight, on any machine.
const nodeMemoryMB, nodeCores = 64 << 10, 64

func newEmbedded(dir, address string) (*embedded, error) {
	server, err := nomadd.New(nomadd.Options{
		DataDir: filepath.Join(dir, "nomad"), NodeName: "outage", MemoryMB: nodeMemoryMB, Cores: nodeCores,
		Drivers: map[string]nomadd.Driver{"raw_exec": &nomadd.RawExec{}},
	})
	if err != nil {
		return nil, fmt.Errorf("make the embedded nomad: %w", err)
	}
	return &embedded{address: address, server: server}, nil
}

func (e *embedded) start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.http != nil {
		return nil
	}
	listener, err := net.Listen("tcp", e.address)
	if err != nil {
		return fmt.Errorf("serve the embedded nomad: %w", err)
	}
	server := &http.Server{Handler: e.server, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	e.http, e.done = server, done
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until it is closed
	}()
	return nil
}

func (e *embedded) kill() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.http == nil {
		return nil
	}
	err := e.http.Close()
	<-e.done
	e.http = nil
	return err
}

func (e *embedded) fault() error { return nil }

func (e *embedded) close() error { return errors.Join(e.kill(), e.server.Close()) }

// realNomad is an agent that is server and client, and keeps its state on disk. Its tasks survive it.
type realNomad struct {
	*process
	dir string
}

// realConfig keeps Nomad from asking clouds that are not there. Tasks of raw_exec are not children of the agent but of
// executors that outlive it.
const realConfig = `
bind_addr = "127.0.0.1"
data_dir  = %q
disable_update_check = true
ports {
  http = %d
  rpc  = %d
  serf = %d
}
advertise { # Nomad takes no loopback address that it has to guess
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
server {
  enabled          = true
  bootstrap_expect = 1
}
client {
  enabled = true
  servers = ["127.0.0.1:%[3]d"]
  memory_total_mb   = %[5]d
  cpu_total_compute = 64000
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
    "driver.allowlist"     = "raw_exec"
  }
}
consul {
  auto_advertise   = false
  server_auto_join = false
  client_auto_join = false
}
plugin "raw_exec" {
  config {
    enabled = true
  }
}
`

func newRealNomad(binary, dir string, ports []int) (*realNomad, error) {
	data := filepath.Join(dir, "nomad")
	file := filepath.Join(dir, "nomad.hcl")
	config := fmt.Sprintf(realConfig, data, ports[0], ports[1], ports[2], nodeMemoryMB)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return &realNomad{process: newProcess(dir, "nomad", clean(os.Environ()), binary, "agent", "-log-level=WARN", "-config="+file), dir: data}, nil
}

// close ends the agent and what it left: the executors and logs of its tasks, and their mounts.
func (n *realNomad) close() error {
	err := n.stop()
	for _, pid := range append(processesOf(n.dir), holders(n.dir)...) {
		err = errors.Join(err, kill(pid))
	}
	return errors.Join(err, unmountBelow(n.dir))
}
