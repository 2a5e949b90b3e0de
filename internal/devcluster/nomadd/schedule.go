package nomadd

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"
)

const (
	notNeeded = "alloc not needed due to job update"
	migrating = "alloc is being migrated"
	updating  = "alloc is being updated due to job update"
)

// schedule processes evaluations until the server is closed, one at a time:
// those waiting in the queue, and the blocked ones each time room is freed.
func (s *Server) schedule() {
	for {
		var id string
		var changed chan struct{}
		s.state.read(func() {
			changed = s.state.changed
			if len(s.state.queue) > 0 {
				id, s.state.queue = s.state.queue[0], s.state.queue[1:]
			}
		})
		if id != "" {
			s.process(id)
			continue
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			return
		}
	}
}

// plan is what one evaluation wants done.
type plan struct {
	eval   api.Evaluation
	job    *api.Job
	stop   map[string]string
	place  []api.Allocation
	failed map[string]*api.AllocationMetric
	queued map[string]int
}

// process makes the plan of an evaluation, applies it, and starts and stops
// the allocations it names.
func (s *Server) process(evalID string) {
	p, ok := s.makePlan(evalID)
	if !ok {
		return
	}
	var started []*api.Allocation
	if len(p.place) > 0 || len(p.stop) > 0 {
		_, _ = s.state.write(eventPlan, func(t *tx) error {
			started = t.applyPlan(p)
			return nil
		})
	}
	if p.eval.Status != api.EvalStatusBlocked || len(p.failed) == 0 {
		_, _ = s.state.write(eventEvaluation, func(t *tx) error {
			t.finishEval(p)
			return nil
		})
	}
	for id := range p.stop {
		s.killAlloc(id)
	}
	for _, alloc := range started {
		s.startAlloc(alloc)
	}
}

func (s *Server) makePlan(evalID string) (*plan, bool) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	eval := s.state.evals[evalID]
	if eval == nil || (eval.Status != api.EvalStatusPending && eval.Status != api.EvalStatusBlocked) {
		return nil, false
	}
	k := key{eval.Namespace, eval.JobID}
	p := &plan{
		eval: *eval, job: s.state.jobs[k], stop: map[string]string{},
		failed: map[string]*api.AllocationMetric{}, queued: map[string]int{},
	}
	if p.job == nil || deref(p.job.Stop) {
		for _, alloc := range s.state.allocsOf(k) {
			if !terminal(alloc) {
				p.stop[alloc.ID] = notNeeded
			}
		}
		return p, true
	}
	room := s.room()
	for _, group := range p.job.TaskGroups {
		s.planGroup(p, group, room)
	}
	return p, true
}

// planGroup compares a group's allocations with its count. A batch
// allocation that ended by itself counts, as nothing is to be run again;
// so does a failed one of a service, as rescheduling isn't done here. A sysbatch
// job has one allocation on each node, of which there is one here.
func (s *Server) planGroup(p *plan, group *api.TaskGroup, room *room) {
	var have int
	var replaced []string
	for _, alloc := range s.state.allocsOf(jobKey(p.job)) {
		switch {
		case alloc.TaskGroup != *group.Name || alloc.DesiredStatus != api.AllocDesiredStatusRun:
		case deref(alloc.DesiredTransition.Migrate) && !alloc.ClientTerminalStatus():
			p.stop[alloc.ID] = migrating
			replaced = append(replaced, alloc.ID)
		case *alloc.Job.Version == *p.job.Version:
			have++
		case !alloc.ClientTerminalStatus():
			p.stop[alloc.ID] = updating
			replaced = append(replaced, alloc.ID)
		}
	}
	for n := have; n < *group.Count; n++ {
		if metric := p.failed[*group.Name]; metric != nil {
			metric.CoalescedFailures++
			p.queued[*group.Name]++
			continue
		}
		resources, metric := room.take(s.state.node, p.job, group)
		if metric != nil {
			p.failed[*group.Name] = metric
			p.queued[*group.Name]++
			continue
		}
		alloc := s.newAlloc(p, group, n, resources)
		if len(replaced) > 0 {
			alloc.PreviousAllocation, replaced = replaced[0], replaced[1:]
		}
		p.place = append(p.place, alloc)
	}
	if _, waiting := p.queued[*group.Name]; !waiting {
		p.queued[*group.Name] = 0
	}
}

func (s *Server) newAlloc(p *plan, group *api.TaskGroup, n int, resources *api.AllocatedResources) api.Allocation {
	task := group.Tasks[0]
	flat := *task.Resources
	flat.CPU, flat.DiskMB = ptr(int(resources.Tasks[task.Name].Cpu.CpuShares)), group.EphemeralDisk.SizeMB
	return api.Allocation{
		//lint:ignore SA1019 the nomad command still reads the flat resources
		Resources: &flat, TaskResources: map[string]*api.Resources{task.Name: task.Resources},
		ID: newID(), EvalID: p.eval.ID, Namespace: *p.job.Namespace, JobID: *p.job.ID, Job: p.job,
		Name: fmt.Sprintf("%s.%s[%d]", *p.job.ID, *group.Name, n), TaskGroup: *group.Name,
		NodeID: s.state.node.ID, NodeName: s.state.node.Name, AllocatedResources: resources,
		DesiredStatus: api.AllocDesiredStatusRun, ClientStatus: api.AllocClientStatusPending,
		Metrics: &api.AllocationMetric{NodesEvaluated: 1, NodesInPool: 1, NodesAvailable: map[string]int{s.state.node.Datacenter: 1}},
	}
}

func (t *tx) applyPlan(p *plan) []*api.Allocation {
	var started []*api.Allocation
	for _, id := range slices.Sorted(maps.Keys(p.stop)) {
		alloc := *t.allocs[id]
		alloc.DesiredStatus, alloc.DesiredDescription = api.AllocDesiredStatusStop, p.stop[id]
		t.putAlloc(alloc)
	}
	for _, alloc := range p.place {
		if previous, ok := t.allocs[alloc.PreviousAllocation]; ok {
			linked := *previous
			linked.NextAllocation = alloc.ID
			t.allocs[previous.ID] = &linked
		}
		t.putAlloc(alloc)
		started = append(started, t.allocs[alloc.ID])
	}
	return started
}

// finishEval marks an evaluation complete. What couldn't be placed is left
// to a new, blocked evaluation; without such, one that waited is cancelled.
func (t *tx) finishEval(p *plan) {
	eval := p.eval
	if t.evals[eval.ID] == nil {
		return
	}
	eval.Status, eval.QueuedAllocations = api.EvalStatusComplete, p.queued
	eval.FailedTGAllocs = p.failed
	if len(p.failed) == 0 {
		eval.FailedTGAllocs = nil
		t.cancelBlocked(eval)
		t.putEval(eval)
		return
	}
	if *p.job.Type == api.JobTypeSysbatch {
		// Nomad names no blocked evaluation, and counts a node that is filtered as none to place on.
		for group, metric := range p.failed {
			if metric.NodesFiltered > 0 {
				eval.QueuedAllocations[group] = 0
			}
		}
		t.putEval(eval)
		return
	}
	blocked := evalOf(p.job, newID(), triggerQueued)
	blocked.Status = api.EvalStatusBlocked
	blocked.PreviousEval, blocked.FailedTGAllocs, blocked.QueuedAllocations = eval.ID, p.failed, p.queued
	blocked.StatusDescription = "created to place remaining allocations"
	eval.BlockedEval = blocked.ID
	t.putEval(blocked)
	t.putEval(eval)
}

func (t *tx) cancelBlocked(successful api.Evaluation) {
	for _, id := range t.jobEvals[key{successful.Namespace, successful.JobID}] {
		if eval := *t.evals[id]; eval.ID != successful.ID && eval.Status == api.EvalStatusBlocked {
			eval.Status = api.EvalStatusCancelled
			eval.StatusDescription = fmt.Sprintf("evaluation %q successful", successful.ID)
			t.putEval(eval)
		}
	}
}

// unblock queues the blocked evaluations again, oldest first, as an
// allocation's end gave room back.
func (t *tx) unblock() {
	blocked := t.evalsWhere(func(e *api.Evaluation) bool { return e.Status == api.EvalStatusBlocked })
	slices.Reverse(blocked)
	slices.SortStableFunc(blocked, func(a, b *api.Evaluation) int { return b.Priority - a.Priority })
	for _, eval := range blocked {
		if !slices.Contains(t.queue, eval.ID) {
			t.queue = append(t.queue, eval.ID)
		}
	}
}

// room is what the node still has to give.
type room struct {
	memoryMB int64
	cpu      int64
	cores    map[uint16]bool
	ports    map[int]bool // taken
	perCore  int64
}

func (s *Server) room() *room {
	node := s.state.node
	free := &room{
		memoryMB: node.NodeResources.Memory.MemoryMB, cpu: node.NodeResources.Cpu.CpuShares,
		cores: map[uint16]bool{}, ports: map[int]bool{}, perCore: node.NodeResources.Cpu.CpuShares / int64(node.NodeResources.Cpu.TotalCpuCores),
	}
	for _, id := range node.NodeResources.Cpu.ReservableCpuCores {
		free.cores[id] = true
	}
	for _, alloc := range s.state.allocs {
		if !alloc.ClientTerminalStatus() {
			free.use(alloc.AllocatedResources)
		}
	}
	return free
}

func (f *room) use(resources *api.AllocatedResources) {
	for _, port := range resources.Shared.Ports {
		f.ports[port.Value] = true
	}
	for _, task := range resources.Tasks {
		f.memoryMB -= task.Memory.MemoryMB
		f.cpu -= task.Cpu.CpuShares
		for _, id := range task.Cpu.ReservedCores {
			delete(f.cores, id)
		}
	}
}

// take gives a group its resources, or says why the node can't.
func (f *room) take(node *api.Node, job *api.Job, group *api.TaskGroup) (*api.AllocatedResources, *api.AllocationMetric) {
	metric := &api.AllocationMetric{NodesEvaluated: 1, NodesInPool: 1, NodesAvailable: map[string]int{node.Datacenter: 1}}
	if !slices.ContainsFunc(job.Datacenters, func(glob string) bool { ok, _ := path.Match(glob, node.Datacenter); return ok }) {
		return nil, &api.AllocationMetric{NodesAvailable: map[string]int{}}
	}
	task := group.Tasks[0]
	if reason := filtered(node, job, group, task); reason != "" {
		metric.NodesFiltered, metric.ConstraintFiltered = 1, map[string]int{reason: 1}
		return nil, metric
	}
	want := f.wanted(task.Resources)
	if dimension := f.lacking(task.Resources, want); dimension != "" {
		metric.NodesExhausted, metric.DimensionExhausted = 1, map[string]int{dimension: 1}
		return nil, metric
	}
	shared, ok := f.takePorts(group, node.Attributes["unique.network.ip-address"])
	if !ok {
		metric.NodesExhausted, metric.DimensionExhausted = 1, map[string]int{"network: port collision": 1}
		return nil, metric
	}
	shared.DiskMB = int64(*group.EphemeralDisk.SizeMB)
	resources := &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{task.Name: want}, Shared: shared}
	f.use(resources)
	return resources, nil
}

func (f *room) wanted(r *api.Resources) *api.AllocatedTaskResources {
	want := &api.AllocatedTaskResources{
		Cpu:    api.AllocatedCpuResources{CpuShares: int64(deref(r.CPU))},
		Memory: api.AllocatedMemoryResources{MemoryMB: int64(*r.MemoryMB), MemoryMaxMB: int64(deref(r.MemoryMaxMB))},
	}
	if cores := deref(r.Cores); cores > 0 {
		free := slices.Sorted(maps.Keys(f.cores))
		want.Cpu.ReservedCores = free[:min(cores, len(free))]
		want.Cpu.CpuShares = int64(cores) * f.perCore
	}
	return want
}

func (f *room) lacking(r *api.Resources, want *api.AllocatedTaskResources) string {
	switch {
	case len(want.Cpu.ReservedCores) < deref(r.Cores):
		return "cores"
	case want.Cpu.CpuShares > f.cpu:
		return "cpu"
	case want.Memory.MemoryMB > f.memoryMB:
		return "memory"
	}
	return ""
}

// filtered names the constraint that the node doesn't meet, if any.
func filtered(node *api.Node, job *api.Job, group *api.TaskGroup, task *api.Task) string {
	if driver := node.Drivers[task.Driver]; driver == nil || !driver.Healthy {
		return "missing drivers"
	}
	for _, c := range slices.Concat(job.Constraints, group.Constraints, task.Constraints) {
		if !meets(nodeEnv(node), c) {
			return fmt.Sprintf("%s %s %s", c.LTarget, c.Operand, c.RTarget)
		}
	}
	return ""
}

func meets(env map[string]string, c *api.Constraint) bool {
	left, right := interpolate(c.LTarget, env), interpolate(c.RTarget, env)
	switch c.Operand {
	case "=", "==", "is", "":
		return left == right
	case "!=", "not":
		return left != right
	case "distinct_hosts":
		// The one node has no alternative; a second allocation would be exhausted there.
		return true
	case "is_set":
		return left != c.LTarget
	case "is_not_set":
		return left == c.LTarget
	case "regexp":
		matched, err := regexp.MatchString(right, left)
		return err == nil && matched
	default:
		return false
	}
}

// finished records that an allocation gave its room back.
func (t *tx) finished(alloc api.Allocation) {
	t.putAlloc(alloc)
	if alloc.ClientTerminalStatus() {
		t.unblock()
	}
}

// updateAlloc replaces an allocation's client side, as the client's report does.
func (s *Server) updateAlloc(id, status, description string, states map[string]*api.TaskState) {
	_, _ = s.state.write(eventAllocation, func(t *tx) error {
		known := t.allocs[id]
		if known == nil {
			return nil
		}
		alloc := *known
		alloc.ClientStatus, alloc.ClientDescription, alloc.TaskStates = status, description, states
		t.finished(alloc)
		return nil
	})
}

// stopRequested asks for an allocation to be stopped and replaced.
func (t *tx) stopRequested(known *api.Allocation, evalID string) {
	alloc := *known
	alloc.DesiredTransition.Migrate = ptr(true)
	t.putAlloc(alloc)
	if job := t.jobs[key{alloc.Namespace, alloc.JobID}]; job != nil {
		eval := evalOf(job, evalID, triggerAllocStop)
		eval.CreateTime = time.Now().UnixNano()
		t.putEval(eval)
	}
}
