package nomad

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

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
	Name     string
	Version  string
	Ready    bool   // and eligible
	Cgroups  string // version: v1 or v2; empty if it does not say
	MemoryMB int64
	Cores    int
	CPUMHz   int64
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
		Name: n.Name, Version: n.Attributes["nomad.version"], Cgroups: n.Attributes["unique.cgroup.version"],
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

// Secret returns a value of a Nomad variable, empty if it is not there.
func (c *Client) Secret(ctx context.Context, path, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	variable, _, err := c.once.Variables().Peek(path, c.readOpts(ctx))
	if err != nil || variable == nil {
		return "", classify("read variable "+path, false, err)
	}
	return variable.Items[name], nil
}

// Probed is what became of a worker that was run to see whether one can be.
type Probed struct {
	Tries  []Try
	Output string // of the worker
	// Failed says why it did not run to its end, empty if it did.
	Failed string
	// NoVariable says that it may not read the variable of the workers' secrets.
	NoVariable bool
}

const (
	probeCheck = 500 * time.Millisecond
	// cleanTimeout bounds the removal of a probe after its caller has given up.
	cleanTimeout = 10 * time.Second
)

// Probe does once all that drover does with Nomad: it registers a worker job
// under another name, dispatches it with arguments in place of an attempt, waits
// for its end, reads its output and removes it. What it may not do is in Tries.
func (c *Client) Probe(ctx context.Context, name string, args ...string) (p Probed) {
	try := func(does, rule string, err error) bool {
		p.Tries = append(p.Tries, Try{Does: does, Rule: rule, Err: err})
		return err == nil
	}
	_, err := c.list(ctx)
	try("list jobs", "list-jobs", err)
	try("follow the event stream", "read-job", c.canWatch(ctx))
	job, err := c.parse(ctx, c.job.variables(name, c.job.Default))
	if !try("have a job specification parsed", "parse-job", err) {
		return p
	}
	for _, group := range job.TaskGroups {
		for _, task := range group.Tasks {
			task.Config["args"] = args
		}
	}
	_, _, err = c.once.Jobs().RegisterOpts(job, nil, c.writeOpts(ctx))
	if !try("register a job", "submit-job", classify("register job "+name, true, err)) {
		return p
	}
	children := []string{name}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
		defer cancel()
		for _, id := range children {
			err = errors.Join(err, c.Stop(clean, id, true))
		}
		try("stop and remove jobs", "submit-job", err)
	}()
	resp, _, err := c.once.Jobs().DispatchOpts(&api.DispatchOptions{JobID: name}, c.writeOpts(ctx))
	if !try("dispatch a job", "dispatch-job", classify("dispatch "+name, true, err)) {
		return p
	}
	children = append(children, resp.DispatchedJobID)
	alloc, err := c.await(ctx, resp.DispatchedJobID, &p)
	if !try("read a job and its allocations", "read-job", err) || p.Failed != "" {
		return p
	}
	data, err := c.Logs(ctx, alloc, "stdout", 64<<10)
	p.Output = string(data)
	try("read a task's output", "read-logs", err)
	return p
}

// canWatch opens the event stream and closes it.
func (c *Client) canWatch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := c.once.Raw().Response("/v1/event/stream?topic=Allocation:*", c.readOpts(ctx))
	if err != nil {
		return classify("open event stream", false, err)
	}
	return body.Close()
}

// await waits for the end of a probe and returns its allocation. Why it did not
// come to its end is in p; the error is one of reading.
func (c *Client) await(ctx context.Context, child string, p *Probed) (string, error) {
	for last := "Nomad has not decided where to place it"; ; {
		seen, err := c.Child(ctx, child)
		if err != nil && ctx.Err() == nil {
			return "", err
		}
		if seen.Blocked != "" {
			last = seen.Blocked
		}
		if len(seen.Allocations) > 0 {
			a := seen.Allocations[0]
			end := a.Ending()
			switch {
			case a.Ended() && end.ExitCode != nil && *end.ExitCode == 0:
				return a.ID, nil
			case a.Ended():
				p.Failed = end.Detail
				return a.ID, nil
			case len(a.Task.Events) > 0:
				event := a.Task.Events[len(a.Task.Events)-1]
				last = fmt.Sprintf("on node %s: %s %s", a.Node, event.Type, event.Message)
				if event.MissesVariable() {
					p.Failed, p.NoVariable = "it waits "+last, true
					return a.ID, nil
				}
			}
		}
		select {
		case <-time.After(probeCheck):
		case <-ctx.Done():
			p.Failed = "it did not come to its end in time: " + last
			return "", nil
		}
	}
}
