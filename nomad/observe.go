package nomad

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"drover/internal/work"
)

// list returns the worker jobs and all their children.
func (c *Client) list(ctx context.Context) ([]*api.JobListStub, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q := c.readOpts(ctx)
	q.Prefix = c.job.ID
	stubs, _, err := c.repeat.Jobs().ListOptions(&api.JobListOptions{Fields: &api.JobListFields{Meta: true}}, q)
	if err != nil {
		return nil, classify("list jobs", false, err)
	}
	var jobs []*api.JobListStub
	for _, stub := range stubs {
		if c.job.owns(stub.ID) {
			jobs = append(jobs, stub)
		}
	}
	return jobs, nil
}

// Children returns every child of the worker jobs with its allocations, and the
// index from which Watch goes on. It returns work.ErrUnavailable.
func (c *Client) Children(ctx context.Context) ([]work.Child, uint64, error) {
	allocs, index, err := c.allocations(ctx)
	if err != nil {
		return nil, 0, err
	}
	jobs, err := c.list(ctx)
	if err != nil {
		return nil, 0, err
	}
	var children []work.Child
	for _, job := range jobs {
		if job.ParentID == "" {
			continue
		}
		child := work.Child{
			ID: job.ID, Parent: job.ParentID, Status: job.Status, Stopped: job.Stop,
			Submitted: time.Unix(0, job.SubmitTime), Allocations: allocs[job.ID],
		}
		child.Attempt, child.ByHand = attemptOf(job.ID)
		if job.Status == "pending" {
			if child.Blocked, err = c.blocked(ctx, job.ID); err != nil {
				return nil, 0, err
			}
		}
		children = append(children, child)
	}
	return children, index, nil
}

// Child returns one child with its allocations.
// It returns work.ErrNotFound when Nomad has no such job, and work.ErrUnavailable.
func (c *Client) Child(ctx context.Context, id string) (work.Child, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	job, _, err := c.repeat.Jobs().Info(id, c.readOpts(ctx))
	if err != nil {
		return work.Child{}, classify("read child "+id, false, err)
	}
	stubs, _, err := c.repeat.Jobs().Allocations(id, true, c.readOpts(ctx))
	if err != nil {
		return work.Child{}, classify("read allocations of child "+id, false, err)
	}
	child := work.Child{ID: id}
	child.Attempt, child.ByHand = attemptOf(id)
	if job.ParentID != nil && job.Status != nil && job.Stop != nil {
		child.Parent, child.Status, child.Stopped = *job.ParentID, *job.Status, *job.Stop
	}
	if child.Status == "pending" && len(stubs) == 0 {
		if child.Blocked, err = c.blocked(ctx, id); err != nil {
			return work.Child{}, err
		}
	}
	sort.Slice(stubs, func(i, j int) bool { return stubs[i].CreateIndex < stubs[j].CreateIndex })
	for _, stub := range stubs {
		child.Allocations = append(child.Allocations, fromStub(stub))
	}
	return child, nil
}

// triggerDeregister is the trigger of the evaluation that stops a removed job.
const triggerDeregister = "job-deregister"

// Deregistered reports whether somebody removed a child that Nomad does not know
// any more. A purged job leaves nothing but its evaluations (2.0.5); of one that was
// lost with Nomad's state, or collected as garbage, those are gone as well.
// It returns work.ErrUnavailable.
func (c *Client) Deregistered(ctx context.Context, child string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	evals, _, err := c.repeat.Jobs().Evaluations(child, c.readOpts(ctx))
	if err != nil {
		return false, classify("read evaluations of "+child, false, err)
	}
	return slices.ContainsFunc(evals, func(e *api.Evaluation) bool { return e.TriggeredBy == triggerDeregister }), nil
}

// allocations returns the allocations of all children, by child, oldest first.
func (c *Client) allocations(ctx context.Context) (map[string][]work.Allocation, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stubs, meta, err := c.repeat.Allocations().List(c.readOpts(ctx))
	if err != nil {
		return nil, 0, classify("list allocations", false, err)
	}
	sort.Slice(stubs, func(i, j int) bool { return stubs[i].CreateIndex < stubs[j].CreateIndex })
	byChild := map[string][]work.Allocation{}
	for _, stub := range stubs {
		if c.job.owns(stub.JobID) {
			byChild[stub.JobID] = append(byChild[stub.JobID], fromStub(stub))
		}
	}
	return byChild, meta.LastIndex, nil
}

// supersededBecause are the scheduler's descriptions of allocations that it gives
// up after their node was lost or disconnected (scheduler/reconciler, scheduler/util.go).
var supersededBecause = []string{"node is down", "node is disconnected", "client reconnect", "node is tainted"}

// fromStub translates an allocation. The stub says in words alone whether it is
// being moved off its node.
func fromStub(stub *api.AllocationListStub) work.Allocation {
	a := work.Allocation{
		ID: stub.ID, Child: stub.JobID, Node: stub.NodeName, ClientStatus: stub.ClientStatus, DesiredStatus: stub.DesiredStatus,
		Preempted: stub.PreemptedByAllocation != "", Created: time.Unix(0, stub.CreateTime), Modified: time.Unix(0, stub.ModifyTime),
		ModifyIndex: stub.ModifyIndex,
		Draining:    strings.Contains(stub.DesiredDescription, "migrat"),
		Superseded:  slices.ContainsFunc(supersededBecause, func(why string) bool { return strings.Contains(stub.DesiredDescription, why) }),
	}
	a.Description = stub.ClientDescription
	if stub.ClientStatus == api.AllocClientStatusLost || stub.ClientStatus == api.AllocClientStatusUnknown {
		a.Description = stub.DesiredDescription
	}
	a.Attempt, _ = attemptOf(stub.JobID)
	a.Task = taskOf(stub.TaskStates)
	return a
}

func taskOf(states map[string]*api.TaskState) work.Task {
	state := states[taskName]
	if state == nil {
		return work.Task{}
	}
	task := work.Task{State: state.State, Failed: state.Failed, Started: state.StartedAt, Finished: state.FinishedAt}
	for _, e := range state.Events {
		message := e.DisplayMessage
		if message == "" {
			message = e.Message
		}
		task.Events = append(task.Events, work.TaskEvent{Type: e.Type, Message: message, At: time.Unix(0, e.Time), Details: e.Details})
	}
	return task
}

// blocked says why a child can't be placed, from its newest blocked evaluation.
func (c *Client) blocked(ctx context.Context, child string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	evals, _, err := c.repeat.Jobs().Evaluations(child, c.readOpts(ctx))
	if err != nil {
		return "", classify("read evaluations of "+child, false, err)
	}
	var newest *api.Evaluation
	for _, eval := range evals {
		if len(eval.FailedTGAllocs) > 0 && (newest == nil || eval.ModifyIndex > newest.ModifyIndex) {
			newest = eval
		}
	}
	if newest == nil {
		return "", nil
	}
	for _, metric := range newest.FailedTGAllocs {
		return placement(metric), nil
	}
	return "", nil
}

// placement says in a sentence why no node was good enough.
func placement(m *api.AllocationMetric) string {
	var why []string
	for dimension, nodes := range m.DimensionExhausted {
		why = append(why, fmt.Sprintf("%s exhausted on %d of %d nodes", dimension, nodes, m.NodesEvaluated))
	}
	for constraint, nodes := range m.ConstraintFiltered {
		why = append(why, fmt.Sprintf("constraint %q excludes %d of %d nodes", constraint, nodes, m.NodesEvaluated))
	}
	if len(why) == 0 {
		return fmt.Sprintf("Nomad found no node for it: %d evaluated, %d filtered, %d exhausted", m.NodesEvaluated, m.NodesFiltered, m.NodesExhausted)
	}
	sort.Strings(why)
	return "Nomad can't place it: " + strings.Join(why, ", ")
}
