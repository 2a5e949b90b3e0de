package testkit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
)

// NomadNetwork is a Nomad and a Consul with a server each and several clients, every client in a network namespace of
// its own. A bridge of the host joins them, on addresses of 198.18.0.0/15, which RFC 2544 keeps for such tests.
type NomadNetwork struct {
	Host          string // address of the host on the bridge, which every client reaches
	ConsulAddress string // host and port of Consul's server
	Nomad         *nomadapi.Client
	Consul        *consulapi.Client
	Clients       []*NomadNode

	bridge string
	dir    string
}

// NomadNode is a client of a NomadNetwork.
type NomadNode struct {
	Name  string // of the node in Nomad and in Consul
	space string // network namespace
	link  string // the host's end of its link
}

// NewNomadNetwork starts a network with so many clients. serverHCL is more configuration of Nomad's block server. The
// test is skipped without root, ip or nomad; all of it ends with the test.
func NewNomadNetwork(t testing.TB, clients int, serverHCL string) *NomadNetwork {
	t.Helper()
	nomad, consul := NomadBinary(t), ConsulBinary(t)
	if _, err := exec.LookPath("ip"); err != nil || os.Getuid() != 0 {
		SkipWithout(t, "nomad", "network namespaces need root and ip, of iproute2")
	}
	third := rand.IntN(256)
	n := &NomadNetwork{Host: fmt.Sprintf("198.18.%d.1", third), bridge: fmt.Sprintf("drn%d", third), dir: t.TempDir()}
	t.Cleanup(func() { n.remove(t) })
	n.ip(t, "link", "add", n.bridge, "type", "bridge")
	n.ip(t, "addr", "add", n.Host+"/24", "dev", n.bridge)
	n.ip(t, "link", "set", n.bridge, "up")
	ports := FreePorts(t, 6)
	n.startServers(t, nomad, consul, ports, serverHCL)
	for i := range clients {
		n.addClient(t, i, nomad, consul, ports)
	}
	Eventually(t, nomadStart, func() error { return n.ready(clients) })
	return n
}

func (n *NomadNetwork) ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// remove ends what the clients' tasks have left, and the network.
func (n *NomadNetwork) remove(t testing.TB) {
	KillMentioning(n.dir)
	unmountBelow(t, n.dir)
	for _, c := range n.Clients { // a test that failed early may not have all of it
		pids, _ := exec.Command("ip", "netns", "pids", c.space).Output() // such as agents whose worker was killed
		for _, field := range strings.Fields(string(pids)) {
			if pid, err := strconv.Atoi(field); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			}
		}
		_ = exec.Command("ip", "link", "del", c.link).Run()
		_ = exec.Command("ip", "netns", "del", c.space).Run()
	}
	_ = exec.Command("ip", "link", "del", n.bridge).Run() // as above
}

// KillMentioning kills the processes whose command line has a text.
func KillMentioning(text string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well-formed
	for _, path := range paths {
		line, err := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path))) // written by the kernel
		if err == nil && strings.Contains(string(line), text) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

const gossipHCL = `-hcl=gossip_lan { probe_interval = "500ms" probe_timeout = "200ms" suspicion_mult = 3 }`

func (n *NomadNetwork) startServers(t testing.TB, nomad, consul string, ports []int, serverHCL string) {
	t.Helper()
	n.run(t, "consul", consul, "agent", "-server", "-bootstrap-expect=1", "-node=server", "-data-dir="+filepath.Join(n.dir, "consul"),
		"-bind="+n.Host, "-client="+n.Host, "-log-level=warn",
		"-http-port="+strconv.Itoa(ports[0]), "-server-port="+strconv.Itoa(ports[1]), "-serf-lan-port="+strconv.Itoa(ports[2]),
		"-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", `-hcl=check_update_interval = "0s"`, gossipHCL)
	n.ConsulAddress = fmt.Sprintf("%s:%d", n.Host, ports[0])
	n.Consul = ConsulClient(t, n.ConsulAddress)
	Eventually(t, consulStartTimeout, func() error { return consulReady(n.Consul) })

	config := fmt.Sprintf("bind_addr = %q\ndata_dir = %q\ndisable_update_check = true\nports {\n  http = %d\n  rpc  = %d\n  serf = %d\n}\nserver {\n  enabled = true\n  bootstrap_expect = 1\n  %s\n}\n%s",
		n.Host, filepath.Join(n.dir, "nomad"), ports[3], ports[4], ports[5], serverHCL, aloneHCL)
	n.run(t, "nomad", nomad, "agent", "-log-level=INFO", "-config="+n.file(t, "nomad.hcl", config))
	n.Nomad = nomadClient(t, fmt.Sprintf("http://%s:%d", n.Host, ports[3]))
	Eventually(t, nomadStart, func() error {
		leader, err := n.Nomad.Status().Leader()
		if err == nil && leader == "" {
			err = errors.New("nomad has no leader")
		}
		return err
	})
}

// aloneHCL keeps Nomad from looking for a Consul of its own.
const aloneHCL = `
consul {
  auto_advertise   = false
  server_auto_join = false
  client_auto_join = false
}
`

// addClient makes a namespace with a link to the bridge, and starts a client of Consul and one of Nomad in it.
func (n *NomadNetwork) addClient(t testing.TB, i int, nomad, consul string, ports []int) {
	t.Helper()
	const inside = "eth0"
	c := &NomadNode{Name: fmt.Sprintf("client-%d", i), space: fmt.Sprintf("%s-%d", n.bridge, i), link: fmt.Sprintf("%sv%d", n.bridge, i)}
	n.Clients = append(n.Clients, c)
	address := strings.TrimSuffix(n.Host, "1") + strconv.Itoa(10+i)
	n.ip(t, "netns", "add", c.space)
	n.ip(t, "link", "add", c.link, "type", "veth", "peer", "name", inside, "netns", c.space)
	n.ip(t, "link", "set", c.link, "master", n.bridge, "up")
	n.ip(t, "-n", c.space, "addr", "add", address+"/24", "dev", inside)
	n.ip(t, "-n", c.space, "link", "set", inside, "up")
	n.ip(t, "-n", c.space, "link", "set", "lo", "up")
	n.ip(t, "-n", c.space, "route", "add", "default", "via", n.Host) // Nomad fingerprints the interface that has it

	within := []string{"nsenter", "--net=/var/run/netns/" + c.space} // unlike ip netns exec it leaves the mounts as they are
	n.run(t, c.Name+"-consul", append(within, consul, "agent", "-node="+c.Name, "-data-dir="+filepath.Join(n.dir, c.Name+"-consul"),
		"-bind="+address, "-client="+address, "-retry-join="+fmt.Sprintf("%s:%d", n.Host, ports[2]), "-retry-interval=1s", "-log-level=warn",
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", `-hcl=check_update_interval = "0s"`, gossipHCL)...)
	config := fmt.Sprintf(`
bind_addr = %q
name      = %q
data_dir  = %q
disable_update_check = true
client {
  enabled           = true
  servers           = ["%s:%d"]
  cpu_total_compute = 2000
  memory_total_mb   = 2048
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
    "driver.allowlist"     = "raw_exec"
  }
}
plugin "raw_exec" {
  config {
    enabled = true
  }
}
%s`, address, c.Name, filepath.Join(n.dir, c.Name), n.Host, ports[4], aloneHCL)
	n.run(t, c.Name+"-nomad", append(within, nomad, "agent", "-log-level=INFO", "-config="+n.file(t, c.Name+".hcl", config))...)
}

func (n *NomadNetwork) file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a program until the test ends. What it prints is shown when the test has failed.
func (n *NomadNetwork) run(t testing.TB, name string, args ...string) {
	t.Helper()
	path := filepath.Join(n.dir, name+".log")
	log, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the program has it then
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, "AWS_CA_BUNDLE=") })
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // Nomad would wait for its tasks
		_ = cmd.Wait()
		if t.Failed() {
			const most = 3000
			text, _ := os.ReadFile(path)
			t.Logf("%s:\n%s", name, text[max(0, len(text)-most):])
		}
	})
}

func (n *NomadNetwork) ready(clients int) error {
	nodes, _, err := n.Nomad.Nodes().List(nil)
	if err != nil {
		return err
	}
	ready := 0
	for _, node := range nodes {
		if node.Status == nomadapi.NodeStatusReady {
			ready++
		}
	}
	members, _, err := n.Consul.Health().State(consulapi.HealthPassing, nil)
	if err == nil && (ready != clients || len(members) != clients+1) {
		err = fmt.Errorf("%d of %d nodes are ready in nomad, %d of %d agents in consul", ready, clients, len(members), clients+1)
	}
	return err
}

// Client returns the client of that name.
func (n *NomadNetwork) Client(t testing.TB, name string) *NomadNode {
	t.Helper()
	for _, c := range n.Clients {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no client is named %q", name)
	return nil
}

// Cut cuts a client off: what it sends and what is sent to it is lost, without a word.
func (n *NomadNetwork) Cut(t testing.TB, c *NomadNode) {
	t.Helper()
	n.ip(t, "link", "set", c.link, "down")
}

// Mend undoes Cut.
func (n *NomadNetwork) Mend(t testing.TB, c *NomadNode) {
	t.Helper()
	n.ip(t, "link", "set", c.link, "up")
}

// NodeStatus returns how Nomad's server sees a client.
func (n *NomadNetwork) NodeStatus(c *NomadNode) (string, error) {
	nodes, _, err := n.Nomad.Nodes().List(nil)
	for _, node := range nodes {
		if node.Name == c.Name {
			return node.Status, nil
		}
	}
	return "", errors.Join(err, fmt.Errorf("nomad knows no node %s", c.Name))
}

// nodeTimeout is how long Nomad may take to see that a client is gone, or back.
const nodeTimeout = 3 * time.Minute

// AwaitNode waits until Nomad's server sees a client so.
func (n *NomadNetwork) AwaitNode(t testing.TB, c *NomadNode, want string) {
	t.Helper()
	Eventually(t, nodeTimeout, func() error {
		got, err := n.NodeStatus(c)
		if err == nil && got != want {
			err = fmt.Errorf("node %s is %s, want %s", c.Name, got, want)
		}
		return err
	})
}
