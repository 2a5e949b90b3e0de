package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// clusterTimeout is how long servers that all run may take to agree on a leader.
const clusterTimeout = time.Minute

// ConsulCluster is a cluster of real Consul servers on loopback, each of which can be killed and paused. Only the test's
// own goroutine may use it.
type ConsulCluster struct{ Servers []*ConsulServer }

// ConsulServer is one server of a cluster. It keeps its state on disk.
type ConsulServer struct {
	Address string // host and port of its HTTP API
	args    []string
	log     string // file
	cmd     *exec.Cmd
	client  *api.Client
}

// NewConsulCluster starts count servers, with each config applied (HCL), and waits until they have a leader. They end
// with the test.
func NewConsulCluster(t testing.TB, count int, config ...string) *ConsulCluster {
	t.Helper()
	binary := ConsulBinary(t)
	ports := FreePorts(t, 3*count)
	port := func(server, which int) string { return strconv.Itoa(ports[3*server+which]) }
	c := &ConsulCluster{}
	for i := range count {
		dir := t.TempDir()
		s := &ConsulServer{Address: "127.0.0.1:" + port(i, 0), log: filepath.Join(dir, "log"), args: []string{
			binary, "agent", "-server", fmt.Sprint("-bootstrap-expect=", count), fmt.Sprint("-node=s", i), "-data-dir=" + filepath.Join(dir, "data"),
			"-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=error", "-http-port=" + port(i, 0), "-server-port=" + port(i, 1), "-serf-lan-port=" + port(i, 2),
			"-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-retry-interval=1s",
			"-hcl=performance { raft_multiplier = 1 }", "-hcl=autopilot { cleanup_dead_servers = false }", `-hcl=check_update_interval = "0s"`,
		}}
		for _, hcl := range config {
			s.args = append(s.args, "-hcl="+hcl)
		}
		for other := range count {
			s.args = append(s.args, "-retry-join=127.0.0.1:"+port(other, 2))
		}
		s.client = ConsulClient(t, s.Address)
		c.Servers = append(c.Servers, s)
		t.Cleanup(s.Kill)
	}
	c.Heal(t)
	return c
}

// Heal starts and continues every server, and waits until each takes sessions.
func (c *ConsulCluster) Heal(t testing.TB) {
	t.Helper()
	for _, s := range c.Servers {
		s.Continue()
		s.Start(t)
	}
	for _, s := range c.Servers {
		Eventually(t, clusterTimeout, func() error {
			if err := s.ready(); err != nil {
				log, _ := os.ReadFile(s.log) // it helps, if it is there
				return fmt.Errorf("consul at %s: %w\n%s", s.Address, err, log)
			}
			return nil
		})
	}
}

// ready tells whether the server's own node is healthy in the catalog, so that sessions can be made through it.
func (s *ConsulServer) ready() error {
	id, _, err := s.client.Session().Create(&api.SessionEntry{Name: "is it ready", TTL: "10s"}, nil)
	if err != nil {
		return err
	}
	_, err = s.client.Session().Destroy(id, nil)
	return err
}

// Leader returns the server that leads, as another one that answers says; nil if none does.
func (c *ConsulCluster) Leader() *ConsulServer {
	for _, s := range c.Servers {
		self, err := s.client.Agent().Self()
		if err != nil {
			continue
		}
		if stats, ok := self["Stats"]["consul"].(map[string]any); ok && stats["leader"] == "true" {
			return s
		}
	}
	return nil
}

// Start starts the server unless it runs.
func (s *ConsulServer) Start(t testing.TB) {
	t.Helper()
	if s.cmd != nil {
		return
	}
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the server has it then
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start consul at %s: %v", s.Address, err)
	}
	s.cmd = cmd
}

// Kill ends the server as kill -9 does. It may be paused, and may not run.
func (s *ConsulServer) Kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill() // it is its end that counts
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// Pause stops the server in its tracks, by SIGSTOP; its connections stay.
func (s *ConsulServer) Pause() { s.signal(syscall.SIGSTOP) }

// Continue has a paused server go on as if nothing had been.
func (s *ConsulServer) Continue() { s.signal(syscall.SIGCONT) }

func (s *ConsulServer) signal(signal syscall.Signal) {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(signal) // one that has ended is found by ready
	}
}
