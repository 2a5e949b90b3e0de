package nomadd

import (
	"cmp"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

const (
	datacenter        = "dc1"
	region            = "global"
	defaultMHzPerCore = 1000

	// diskMB is what the node says of its disk, which isn't scheduled.
	diskMB = 100 * 1024
)

// registerNode makes the one node, with the namespace that always exists.
func (s *Server) registerNode() {
	host, _ := os.Hostname()
	name := cmp.Or(s.options.NodeName, host, "drover")
	cores := cmp.Or(s.options.Cores, runtime.NumCPU())
	mhz := cmp.Or(s.options.MHzPerCore, defaultMHzPerCore)
	node := &api.Node{
		ID: newID(), Name: name, Datacenter: datacenter, NodePool: "default", HTTPAddr: "127.0.0.1:4646",
		Status: api.NodeStatusReady, SchedulingEligibility: api.NodeSchedulingEligible,
		Attributes: map[string]string{
			"unique.network.ip-address": s.address(), "unique.hostname": name,
			"kernel.name": runtime.GOOS, "cpu.arch": runtime.GOARCH, "nomad.version": Version, "cpu.numcores": strconv.Itoa(cores),
		},
		Meta: map[string]string{}, Links: map[string]string{}, Drivers: map[string]*api.DriverInfo{},
		NodeResources: &api.NodeResources{
			Cpu:    api.NodeCpuResources{CpuShares: int64(cores * mhz), TotalCpuCores: uint16(cores)},
			Memory: api.NodeMemoryResources{MemoryMB: int64(cmp.Or(s.options.MemoryMB, machineMemoryMB()))},
		},
		Reserved:          &api.Resources{CPU: ptr(0), MemoryMB: ptr(0), DiskMB: ptr(0), IOPS: ptr(0)},
		ReservedResources: &api.NodeReservedResources{},
		StatusUpdatedAt:   time.Now().Unix(),
		Events:            []*api.NodeEvent{{Message: "Node registered", Subsystem: "Cluster", Timestamp: time.Now()}},
	}
	node.NodeResources.Disk.DiskMB = diskMB
	node.Resources = &api.Resources{
		CPU: ptr(int(node.NodeResources.Cpu.CpuShares)), MemoryMB: ptr(int(node.NodeResources.Memory.MemoryMB)), DiskMB: ptr(diskMB), IOPS: ptr(0),
	}
	for id := range cores {
		node.NodeResources.Cpu.ReservableCpuCores = append(node.NodeResources.Cpu.ReservableCpuCores, uint16(id))
	}
	for driver := range s.drivers {
		node.Drivers[driver] = &api.DriverInfo{Detected: true, Healthy: true, HealthDescription: "Healthy", UpdateTime: time.Now()}
		node.Attributes["driver."+driver] = "1"
	}
	_, _ = s.state.write(eventNode, func(t *tx) error {
		node.CreateIndex, node.ModifyIndex = t.index, t.index
		t.node = node
		t.namespaces["default"] = &api.Namespace{
			Name: "default", Description: "Default shared namespace", CreateIndex: t.index, ModifyIndex: t.index,
		}
		t.touch(tableNodes)
		t.touch(tableNamespaces)
		t.emit(topicNode, node.ID, "", nil, map[string]any{"Node": node})
		return nil
	})
}

// machineMemoryMB is the memory the kernel says there is.
func machineMemoryMB() int {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 4096
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kb, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			return kb / 1024
		}
	}
	return 4096
}

// nodeEnv is what ${attr…}, ${node…} and ${meta…} stand for on the node.
func nodeEnv(node *api.Node) map[string]string {
	env := map[string]string{
		"node.unique.id": node.ID, "node.unique.name": node.Name, "node.datacenter": node.Datacenter,
		"node.class": node.NodeClass, "node.pool": node.NodePool, "node.region": region,
	}
	for k, v := range node.Attributes {
		env["attr."+k] = v
	}
	for k, v := range node.Meta {
		env["meta."+k] = v
	}
	return env
}

func (s *Server) listNodes(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		node := s.state.node
		if !hasPrefix(r, node.ID) {
			return []any{}, s.state.tables[tableNodes], nil
		}
		stub := &api.NodeListStub{
			ID: node.ID, Name: node.Name, Address: "127.0.0.1", Datacenter: node.Datacenter, NodePool: node.NodePool, Version: Version,
			Status: node.Status, SchedulingEligibility: node.SchedulingEligibility, Drivers: node.Drivers,
			Attributes: node.Attributes, NodeResources: node.NodeResources, ReservedResources: &api.NodeReservedResources{},
			CreateIndex: node.CreateIndex, ModifyIndex: node.ModifyIndex,
		}
		return []*api.NodeListStub{stub}, s.state.tables[tableNodes], nil
	})
}

// readNode serves /v1/node/<id>. The address of the node is the one the
// request came to, so that a client that dials nodes comes back here.
func (s *Server) readNode(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		if s.state.node.ID != r.PathValue("id") {
			return nil, s.state.tables[tableNodes], coded(http.StatusNotFound, "node not found")
		}
		node := *s.state.node
		if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			node.HTTPAddr = addr.String()
		}
		return &node, node.ModifyIndex, nil
	})
}

func (s *Server) nodeAllocs(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		return s.state.allocsWhere(func(a *api.Allocation) bool { return a.NodeID == r.PathValue("id") }), s.state.tables[tableAllocs], nil
	})
}

func (s *Server) member() map[string]any {
	return map[string]any{
		"Name": s.state.node.Name + "." + region, "Addr": "127.0.0.1", "Port": 4648, "Status": "alive",
		"Tags":        map[string]string{"role": "nomad", "region": region, "dc": datacenter, "build": Version, "port": "4647"},
		"ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2, "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
	}
}

func (s *Server) agentSelf(http.ResponseWriter, *http.Request) (any, error) {
	return map[string]any{
		"config": map[string]any{
			"Region": region, "Datacenter": datacenter, "NodeName": s.state.node.Name,
			"Version": map[string]string{"Version": Version}, "ACL": map[string]any{"Enabled": false},
		},
		"member": s.member(),
		"stats":  map[string]any{"nomad": map[string]string{"server": "true", "leader": "true"}, "client": map[string]string{"node_id": s.state.node.ID}},
	}, nil
}

func (s *Server) agentMembers(http.ResponseWriter, *http.Request) (any, error) {
	return map[string]any{"ServerName": s.state.node.Name, "ServerRegion": region, "ServerDC": datacenter, "Members": []any{s.member()}}, nil
}

func (s *Server) agentHealth(http.ResponseWriter, *http.Request) (any, error) {
	ok := map[string]any{"ok": true, "message": "ok"}
	return map[string]any{"client": ok, "server": maps.Clone(ok)}, nil
}

func (s *Server) leader(w http.ResponseWriter, _ *http.Request) (any, error) {
	return "127.0.0.1:4647", nil
}

func (s *Server) peers(w http.ResponseWriter, _ *http.Request) (any, error) {
	return []string{"127.0.0.1:4647"}, nil
}

func (s *Server) regions(http.ResponseWriter, *http.Request) (any, error) {
	return []string{region}, nil
}

func (s *Server) clientStats(http.ResponseWriter, *http.Request) (any, error) {
	total := uint64(s.state.node.NodeResources.Memory.MemoryMB) << 20
	return api.HostStats{Memory: &api.HostMemoryStats{Total: total}, CPUTicksConsumed: 0}, nil
}

func (s *Server) listNamespaces(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		return sorted(s.state.namespaces, func(n *api.Namespace) bool { return hasPrefix(r, n.Name) },
			func(a, b *api.Namespace) int { return strings.Compare(a.Name, b.Name) }), s.state.tables[tableNamespaces], nil
	})
}

func (s *Server) readNamespace(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		n := s.state.namespaces[r.PathValue("name")]
		if n == nil {
			return nil, s.state.tables[tableNamespaces], coded(http.StatusNotFound, "Namespace not found")
		}
		return n, n.ModifyIndex, nil
	})
}

func (s *Server) putNamespace(w http.ResponseWriter, r *http.Request) (any, error) {
	var namespace api.Namespace
	if err := decode(r, &namespace); err != nil {
		return nil, err
	}
	index, err := s.state.write(eventNamespace, func(t *tx) error {
		namespace.CreateIndex, namespace.ModifyIndex = t.index, t.index
		if known := t.namespaces[namespace.Name]; known != nil {
			namespace.CreateIndex = known.CreateIndex
		}
		t.namespaces[namespace.Name] = &namespace
		t.touch(tableNamespaces)
		return nil
	})
	writeMeta(w, index)
	return nil, err
}
