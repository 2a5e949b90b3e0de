package doctor

import (
	"context"
	"fmt"
	"strings"

	"drover/internal/config"
	"drover/internal/work"
	"drover/nomad"
)

func (e *exam) examineNodes(ctx context.Context) {
	driver := e.Config.Worker.Driver
	nodes, err := e.nomad.Nodes(ctx, driver)
	if err != nil {
		e.add("nodes", Skipped, `Give the token node { policy = "read" }, should you want to know.`, "%v", err)
		return
	}
	e.nodes = append([]nomad.Node{}, nodes...)
	var ready []nomad.Node
	for _, n := range nodes {
		if n.Ready {
			ready = append(ready, n)
		}
	}
	if len(ready) == 0 {
		e.add("nodes", Failure, "Start Nomad clients, or make theirs eligible: nomad node status, nomad node eligibility -enable NODE.", "none of %d is ready and takes jobs", len(nodes))
		return
	}
	e.add("nodes", OK, "", "%d of %d are ready and take jobs", len(ready), len(nodes))
	e.examineDriver(ready, driver)
	if driver == config.DriverDocker {
		e.examineCgroups(ready)
	}
	e.examineRoom(ready)
}

func (e *exam) examineDriver(nodes []nomad.Node, driver string) {
	var bad []string
	for _, n := range nodes {
		if n.Driver != "" {
			bad = append(bad, n.Name+": "+n.Driver)
		}
	}
	do := "See to the driver on the nodes: nomad node status -verbose NODE tells its health."
	switch len(bad) {
	case 0:
		e.add("driver "+driver, OK, "", "it is healthy on every node")
	case len(nodes):
		e.add("driver "+driver, Failure, do, "no node can run workers: %s", strings.Join(bad, "; "))
	default:
		e.add("driver "+driver, Warning, do, "%d of %d nodes can't run workers: %s", len(bad), len(nodes), strings.Join(bad, "; "))
	}
}

func (e *exam) examineCgroups(nodes []nomad.Node) {
	var old, silent []string
	for _, n := range nodes {
		switch n.Cgroups {
		case "v2":
		case "":
			silent = append(silent, n.Name)
		default:
			old = append(old, n.Name)
		}
	}
	switch {
	case len(old) > 0:
		e.add("cgroups", Warning, "Boot these nodes with cgroup v2 (systemd.unified_cgroup_hierarchy=1).",
			"v1 on %s: workers see that memory ran out by a counter, and not which process was killed", strings.Join(old, ", "))
	case len(silent) > 0:
		e.add("cgroups", Skipped, "", "%s do not say which version they have", strings.Join(silent, ", "))
	default:
		e.add("cgroups", OK, "", "v2 on every node")
	}
}

// examineRoom compares the nodes with what items ask for that ask for nothing.
func (e *exam) examineRoom(nodes []nomad.Node) {
	want := work.Spec{}.WithDefaults(e.Config.Defaults()).Resources
	asks := fmt.Sprintf("%d MB and %d cores", want.MemoryMB, want.Cores)
	if want.CPUMHz > 0 {
		asks = fmt.Sprintf("%d MB and %d MHz", want.MemoryMB, want.CPUMHz)
	}
	fits := 0
	var biggest nomad.Node
	for _, n := range nodes {
		if n.MemoryMB >= int64(want.MemoryMB) && n.Cores >= want.Cores && n.CPUMHz >= int64(want.CPUMHz) {
			fits++
		}
		if n.MemoryMB > biggest.MemoryMB {
			biggest = n
		}
	}
	if fits == 0 {
		e.add("room", Failure, "Lower the block defaults of the configuration (memory_mb, cores or cpu_mhz), or add bigger nodes.",
			"an item that asks for nothing else gets %s, which no node has; the biggest, %s, has %d MB and %d cores", asks, biggest.Name, biggest.MemoryMB, biggest.Cores)
		return
	}
	e.add("room", OK, "", "%d of %d nodes have the %s that an item gets by default", fits, len(nodes), asks)
}
