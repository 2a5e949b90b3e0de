package nomad

import (
	"context"
	"fmt"
	"sort"

	"github.com/hashicorp/nomad/api"
)

// Try is something drover does that was tried, and how it went.
type Try struct {
	Does string // in words
	Rule string // of a policy, that allows it
	Err  error
}

// Node is a client, as far as it matters to workers.
type Node struct {
	ID         string
	Name       string
	Class      string
	Pool       string
	Datacenter string
	Version    string
	Ready      bool   // and eligible
	Cgroups    string // version: v1 or v2; empty if it does not say
	MemoryMB   int64
	Cores      int
	CPUMHz     int64
	// Driver says what is wrong with the worker's driver, empty if it is healthy.
	Driver string
}

// Version returns the version of the agent that is spoken to.
// It returns what classify does.
func (c *Client) Version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var self struct {
		Config struct{ Version struct{ Version string } }
	}
	_, err := c.once.Raw().Query("/v1/agent/self", &self, c.readOpts(ctx))
	return self.Config.Version.Version, classify("read Nomad's version", false, err)
}

// Nodes returns every client that is not down, with the health of a driver.
func (c *Client) Nodes(ctx context.Context, driver string) ([]Node, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q := c.readOpts(ctx)
	q.Params = map[string]string{"resources": "true", "os": "true"}
	stubs, _, err := c.repeat.Nodes().List(q)
	if err != nil {
		return nil, classify("list nodes", false, err)
	}
	var nodes []Node
	for _, stub := range stubs {
		if stub.Status == api.NodeStatusDown {
			continue
		}
		full, _, err := c.repeat.Nodes().Info(stub.ID, c.readOpts(ctx))
		if err != nil {
			return nil, classify("read node "+stub.Name, false, err)
		}
		nodes = append(nodes, nodeOf(full, driver))
	}
	sort.Slice(nodes, func(i, j int) bool { return nodes[i].Name < nodes[j].Name })
	return nodes, nil
}

func nodeOf(n *api.Node, driver string) Node {
	node := Node{
		ID: n.ID, Name: n.Name, Class: n.NodeClass, Pool: n.NodePool, Datacenter: n.Datacenter,
		Version: n.Attributes["nomad.version"], Cgroups: n.Attributes["unique.cgroup.version"],
		Ready: n.Status == api.NodeStatusReady && n.SchedulingEligibility == api.NodeSchedulingEligible && !n.Drain,
	}
	if version := n.Attributes["os.cgroups.version"]; version != "" {
		node.Cgroups = "v" + version
	}
	if r := n.NodeResources; r != nil {
		node.MemoryMB, node.CPUMHz, node.Cores = r.Memory.MemoryMB, r.Cpu.CpuShares, len(r.Cpu.ReservableCpuCores)
	}
	switch info := n.Drivers[driver]; {
	case info == nil || !info.Detected:
		node.Driver = "it has no driver " + driver
	case !info.Healthy:
		node.Driver = fmt.Sprintf("its driver %s is not healthy: %s", driver, info.HealthDescription)
	}
	return node
}

// Oversubscription reports whether jobs may use more memory than they reserve.
func (c *Client) Oversubscription(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, _, err := c.once.Operator().SchedulerGetConfiguration(c.readOpts(ctx))
	if err != nil {
		return false, classify("read the scheduler's configuration", false, err)
	}
	return answer.SchedulerConfig.MemoryOversubscriptionEnabled, nil
}
