package nomad

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"drover/internal/wait"
	"drover/internal/work"
)

const (
	probeCheck = 500 * time.Millisecond
	// cleanTimeout bounds the removal of a probe after its caller has given up.
	cleanTimeout = 10 * time.Second
	// maxProbed bounds the nodes that a probe runs on.
	maxProbed = 20
	// maxProbeOutput bounds what is read of a probe's output.
	maxProbeOutput = 64 << 10
	// anyPool is the node pool of jobs that run in every pool.
	anyPool = "all"
)

// probeRunner is what a probe reserves: little, so that it finds room beside workers.
// Nomad takes 10 MB at least; git and the Go runtime need the rest.
var probeRunner = Runner{MemoryMB: 128, CPUMHz: 20, PIDs: 64}

// Probe is a job that examines the nodes.
type Probe struct {
	ID    string // of the job
	Ask   work.Probe
	Args  []string // of the worker
	Nodes []Node   // that there are; where nil, they are not known and Nomad picks one
}

// Probed is the result of a probe.
type Probed struct {
	Tries []Try // what drover does with Nomad
	Runs  []ProbeRun
	// Missed are the chosen nodes on which Nomad did not place it, and Why it did not.
	Missed []string
	Why    string
	// Full says that they have no room at the moment, which is no fault of theirs.
	Full bool
}

// ProbeRun is the run of a probe on one node.
type ProbeRun struct {
	Node   string
	Output string // standard output; where it failed, standard error
	// Failed says why it did not run to its end, empty if it did.
	Failed string
	// NoVariable says that it may not read the variable of the workers' secrets.
	NoVariable bool
}

// Probe does once all that drover does with Nomad: it registers a worker job under
// another name, dispatches it with the question as its payload, waits until the
// workers have ended on one node of each class, reads their output and removes the
// job. What the token may not do is in Tries.
func (c *Client) Probe(ctx context.Context, probe Probe) Probed {
	p := prober{Client: c, probe: probe}
	p.run(ctx)
	return p.Probed
}

// prober is a Probe under way.
type prober struct {
	*Client
	Probed
	probe Probe
}

func (p *prober) try(does, rule string, err error) bool {
	p.Tries = append(p.Tries, Try{Does: does, Rule: rule, Err: err})
	return err == nil
}

func (p *prober) run(ctx context.Context) {
	_, err := p.list(ctx)
	p.try("list jobs", "list-jobs", err)
	p.try("follow the event stream", "read-job", p.canWatch(ctx))
	runner := probeRunner
	runner.Image = p.job.Default.Image
	job, err := p.parse(ctx, p.job.variables(p.probe.ID, runner))
	if !p.try("have a job specification parsed", "parse-job", err) {
		return
	}
	chosen := chooseNodes(p.probe.Nodes, job)
	if p.probe.Nodes != nil && len(chosen) == 0 {
		p.Why = fmt.Sprintf("no node of the datacenters %s is ready and has a healthy driver", strings.Join(job.Datacenters, ", "))
		return
	}
	adapt(job, p.probe.Args, chosen)
	_, _, err = p.once.Jobs().RegisterOpts(job, nil, p.writeOpts(ctx))
	if !p.try("register a job", "submit-job", classify("register job "+p.probe.ID, true, err)) {
		return
	}
	jobs := []string{p.probe.ID}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
		defer cancel()
		var err error
		for _, id := range slices.Backward(jobs) {
			err = errors.Join(err, p.Stop(clean, id, true))
		}
		p.try("stop and remove jobs", "submit-job", err)
	}()
	child, err := p.start(ctx)
	if !p.try("dispatch a job", "dispatch-job", err) {
		return
	}
	jobs = append(jobs, child)
	allocs, err := p.await(ctx, child, max(len(chosen), 1))
	if !p.try("read a job and its allocations", "read-job", err) {
		return
	}
	p.miss(chosen, allocs)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	if len(allocs) > 0 {
		p.try("read a task's output", "read-logs", p.read(last, allocs))
	}
}

func (p *prober) start(ctx context.Context) (string, error) {
	payload, err := json.Marshal(p.probe.Ask)
	if err != nil {
		return "", fmt.Errorf("encode the probe: %w", err)
	}
	resp, _, err := p.once.Jobs().DispatchOpts(&api.DispatchOptions{JobID: p.probe.ID, Payload: payload}, p.writeOpts(ctx))
	if err != nil {
		return "", classify("dispatch "+p.probe.ID, true, err)
	}
	return resp.DispatchedJobID, nil
}

// chooseNodes returns one node of each class, pool and datacenter of those that may
// run the job, by name, at most maxProbed.
func chooseNodes(nodes []Node, job *api.Job) (chosen []Node) {
	pool := "default"
	if job.NodePool != nil && *job.NodePool != "" {
		pool = *job.NodePool
	}
	seen := map[[3]string]bool{}
	for _, n := range nodes {
		class := [3]string{n.Datacenter, n.Pool, n.Class}
		within := slices.ContainsFunc(job.Datacenters, func(glob string) bool { ok, _ := path.Match(glob, n.Datacenter); return ok })
		if n.Ready && n.Driver == "" && within && (pool == anyPool || n.Pool == pool) && !seen[class] && len(chosen) < maxProbed {
			seen[class] = true
			chosen = append(chosen, n)
		}
	}
	return chosen
}

// adapt makes a worker job one that runs with other arguments, on all of some nodes.
// Jobs of that type have nothing that says where else to run.
func adapt(job *api.Job, args []string, nodes []Node) {
	for _, group := range job.TaskGroups {
		for _, task := range group.Tasks {
			task.Config["args"] = args
		}
	}
	if len(nodes) == 0 {
		return
	}
	ids := make([]string, len(nodes))
	for i, n := range nodes {
		ids[i] = regexp.QuoteMeta(n.ID)
	}
	job.Type = new(api.JobTypeSysbatch)
	job.Constraints = append(job.Constraints, api.NewConstraint("${node.unique.id}", "regexp", "^("+strings.Join(ids, "|")+")$"))
	job.Reschedule, job.Update, job.Migrate, job.Affinities, job.Spreads = nil, nil, nil, nil, nil
	for _, group := range job.TaskGroups {
		group.ReschedulePolicy, group.Disconnect, group.Update, group.Migrate = nil, nil, nil, nil
		group.Affinities, group.Spreads = nil, nil
		for _, task := range group.Tasks {
			task.Affinities = nil
		}
	}
}

// await waits until the probe has ended wherever Nomad placed it, or ctx has, and
// returns its allocations. The error is one of reading.
func (p *prober) await(ctx context.Context, child string, want int) (allocs []work.Allocation, err error) {
	for {
		// The evaluations first: what a completed one placed is in the list that is read after it.
		decided, err := p.decided(ctx, child)
		var seen work.Child
		if err == nil {
			seen, err = p.Child(ctx, child)
		}
		if err != nil && ctx.Err() == nil {
			return nil, err
		}
		if err == nil {
			allocs = seen.Allocations
		}
		ended := 0
		for _, a := range allocs {
			if a.Ended() || missesVariable(a) {
				ended++
			}
		}
		if ended == len(allocs) && (ended >= want || decided) {
			return allocs, nil
		}
		if wait.For(ctx, probeCheck) != nil {
			return allocs, nil
		}
	}
}

// decided reports whether Nomad has processed every evaluation of the probe, and
// notes why it did not place all of it. A probe that would have to wait for room is
// decided.
func (p *prober) decided(ctx context.Context, child string) (bool, error) {
	evals, _, err := p.repeat.Jobs().Evaluations(child, p.readOpts(ctx))
	if err != nil {
		return false, classify("read evaluations of "+child, false, err)
	}
	done := len(evals) > 0
	p.Why, p.Full = "Nomad has not decided where to place it", false
	for _, eval := range evals {
		done = done && eval.Status != api.EvalStatusPending
		for _, metric := range eval.FailedTGAllocs {
			p.Why, p.Full = placement(metric), metric.NodesExhausted > 0
		}
	}
	return done, nil
}

// miss notes the chosen nodes that have no allocation.
func (p *prober) miss(chosen []Node, allocs []work.Allocation) {
	for _, n := range chosen {
		if !slices.ContainsFunc(allocs, func(a work.Allocation) bool { return a.Node == n.Name }) {
			p.Missed = append(p.Missed, n.Name)
		}
	}
}

func missesVariable(a work.Allocation) bool {
	return len(a.Task.Events) > 0 && a.Task.Events[len(a.Task.Events)-1].MissesVariable()
}

// read appends how each allocation ended, with what it printed, by node.
func (p *prober) read(ctx context.Context, allocs []work.Allocation) error {
	var errs []error
	for _, a := range allocs {
		run, end := ProbeRun{Node: a.Node}, a.Ending()
		stream := "stdout"
		switch {
		case a.Ended() && end.ExitCode != nil && *end.ExitCode == 0:
		case a.Ended():
			run.Failed, stream = end.Detail, "stderr"
		default:
			run.NoVariable, stream = missesVariable(a), ""
			run.Failed = "it did not come to its end in time: " + newest(a)
		}
		if end.ExitCode == nil {
			stream = "" // it never ran
		}
		if stream != "" {
			data, err := p.Logs(ctx, a.ID, stream, maxProbeOutput)
			errs, run.Output = append(errs, err), string(data)
		}
		p.Runs = append(p.Runs, run)
	}
	slices.SortFunc(p.Runs, func(a, b ProbeRun) int { return strings.Compare(a.Node, b.Node) })
	return errors.Join(errs...)
}

// newest is the last that Nomad tells of an allocation's task.
func newest(a work.Allocation) string {
	if len(a.Task.Events) == 0 {
		return "Nomad tells nothing of it"
	}
	e := a.Task.Events[len(a.Task.Events)-1]
	return e.Type + " " + e.Message
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
