package nomadd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
)

// key names an object that lives in a namespace.
type key struct{ namespace, id string }

// table names a set of objects with an index of its own, as the
// X-Nomad-Index of a list is the index of its table.
type table int

const (
	tableJobs table = iota
	tableEvals
	tableAllocs
	tableNodes
	tableVariables
	tableNamespaces
)

// store holds the state. Objects in it are never changed, only replaced, so
// that a reader may keep what it got after the lock is gone.
type store struct {
	mu      sync.Mutex
	index   uint64
	tables  map[table]uint64
	changed chan struct{}

	jobs       map[key]*api.Job
	versions   map[key][]*api.Job
	tokens     map[key]string
	evals      map[string]*api.Evaluation
	jobEvals   map[key][]string
	allocs     map[string]*api.Allocation
	jobAllocs  map[key][]string
	variables  map[key]*api.Variable
	namespaces map[string]*api.Namespace
	node       *api.Node

	queue  []string
	events eventLog
}

func newStore(eventBuffer int) *store {
	return &store{
		index:      1,
		tables:     map[table]uint64{},
		changed:    make(chan struct{}),
		jobs:       map[key]*api.Job{},
		versions:   map[key][]*api.Job{},
		tokens:     map[key]string{},
		evals:      map[string]*api.Evaluation{},
		jobEvals:   map[key][]string{},
		allocs:     map[string]*api.Allocation{},
		jobAllocs:  map[key][]string{},
		variables:  map[key]*api.Variable{},
		namespaces: map[string]*api.Namespace{},
		events:     eventLog{limit: eventBuffer},
	}
}

// read calls fn under the lock.
func (s *store) read(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

// wait calls fn until the index it returns is over minIndex, ctx ends, or
// the timeout has passed; fn runs under the lock, again after each change.
func (s *store) wait(ctx context.Context, minIndex uint64, timeout time.Duration, fn func() uint64) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		s.mu.Lock()
		index, changed := fn(), s.changed
		s.mu.Unlock()
		if index > minIndex {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// tx is one write: everything put in it carries one index, and its events
// are published together, as those of one Raft operation are.
type tx struct {
	*store
	kind    string
	events  []event
	touched []key
}

// write runs fn as one write whose events are of the given type. An error
// of fn must come before its first change.
func (s *store) write(kind string, fn func(*tx) error) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index++
	t := &tx{store: s, kind: kind}
	if err := fn(t); err != nil {
		s.index--
		return 0, err
	}
	for _, k := range t.touched {
		t.refreshStatus(k)
	}
	s.publish(t)
	return s.index, nil
}

func (s *store) publish(t *tx) {
	if len(t.events) > 0 {
		s.events.append(batch{index: s.index, events: t.events})
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (t *tx) touch(tab table) { t.tables[tab] = t.index }

func (t *tx) putJob(job *api.Job) {
	k := jobKey(job)
	job.ModifyIndex = ptr(t.index)
	t.jobs[k] = job
	if vs := t.versions[k]; len(vs) > 0 && *vs[0].Version == *job.Version {
		vs[0] = job
	} else {
		t.versions[k] = slices.Insert(slices.Clone(vs), 0, job)
		t.versions[k] = t.versions[k][:min(len(t.versions[k]), maxJobVersions)]
	}
	t.touch(tableJobs)
	t.touched = append(t.touched, k)
	t.emit(topicJob, *job.ID, *job.Namespace, nil, map[string]any{"Job": job, "Deleted": false})
}

// deleteJob forgets a job with its allocations: like the real server, it
// tells nothing of their end. It returns their IDs.
func (t *tx) deleteJob(job *api.Job) []string {
	k := jobKey(job)
	gone := t.jobAllocs[k]
	for _, id := range gone {
		delete(t.allocs, id)
	}
	delete(t.jobAllocs, k)
	t.touch(tableAllocs)
	for _, id := range t.jobEvals[k] {
		if eval := *t.evals[id]; eval.Status == api.EvalStatusPending {
			eval.Status, eval.StatusDescription = api.EvalStatusComplete, fmt.Sprintf("job %s deleted", k.id)
			t.putEval(eval)
		}
	}
	delete(t.jobs, k)
	delete(t.versions, k)
	if job.DispatchIdempotencyToken != nil && job.ParentID != nil {
		delete(t.tokens, tokenKey(k.namespace, *job.ParentID, *job.DispatchIdempotencyToken))
	}
	t.touch(tableJobs)
	t.emit(topicJob, *job.ID, *job.Namespace, nil, map[string]any{"Job": job, "Deleted": true})
	t.unblock()
	return gone
}

func (t *tx) putEval(eval api.Evaluation) {
	k := key{eval.Namespace, eval.JobID}
	if _, known := t.evals[eval.ID]; !known {
		eval.CreateIndex, eval.CreateTime = t.index, time.Now().UnixNano()
		t.jobEvals[k] = append(t.jobEvals[k], eval.ID)
	}
	eval.ModifyIndex, eval.ModifyTime = t.index, time.Now().UnixNano()
	t.evals[eval.ID] = &eval
	if eval.Status == api.EvalStatusPending {
		t.queue = append(t.queue, eval.ID)
	}
	t.touch(tableEvals)
	t.touched = append(t.touched, k)
	t.emit(topicEvaluation, eval.ID, eval.Namespace, []string{eval.JobID, eval.DeploymentID}, map[string]any{"Evaluation": &eval})
}

func (t *tx) putAlloc(alloc api.Allocation) {
	k := key{alloc.Namespace, alloc.JobID}
	if _, known := t.allocs[alloc.ID]; !known {
		alloc.CreateIndex, alloc.CreateTime = t.index, time.Now().UnixNano()
		t.jobAllocs[k] = append(t.jobAllocs[k], alloc.ID)
	}
	alloc.ModifyIndex, alloc.ModifyTime = t.index, time.Now().UnixNano()
	t.allocs[alloc.ID] = &alloc
	t.touch(tableAllocs)
	t.touched = append(t.touched, k)
	bare := alloc
	bare.Job = nil
	t.emit(topicAllocation, alloc.ID, alloc.Namespace, []string{alloc.JobID, alloc.DeploymentID}, map[string]any{"Allocation": &bare})
}

// forgetEvals removes the evaluations of a job that is gone; like the real
// garbage collection it publishes nothing about them.
func (t *tx) forgetEvals(k key) {
	for _, id := range t.jobEvals[k] {
		delete(t.evals, id)
	}
	delete(t.jobEvals, k)
	t.touch(tableEvals)
}

func (t *tx) emit(topic, id, namespace string, filterKeys []string, payload map[string]any) {
	t.events = append(t.events, event{
		Topic: topic, Type: t.kind, Key: id, Namespace: namespace,
		FilterKeys: filterKeys, Index: t.index, Payload: payload,
	})
}

// refreshStatus gives a job the status its evaluations and allocations
// imply. A change is a new ModifyIndex of the job, and an event.
func (t *tx) refreshStatus(k key) {
	job := t.jobs[k]
	if job == nil {
		return
	}
	status := t.jobStatus(job)
	if status == deref(job.Status) {
		return
	}
	next := *job
	next.Status = &status
	t.putJob(&next)
}

func (s *store) jobStatus(job *api.Job) string {
	if job.IsParameterized() || job.IsPeriodic() {
		if deref(job.Stop) {
			return jobDead
		}
		return jobRunning
	}
	k := jobKey(job)
	for _, id := range s.jobAllocs[k] {
		if !terminal(s.allocs[id]) {
			return jobRunning
		}
	}
	for _, id := range s.jobEvals[k] {
		if status := s.evals[id].Status; status == api.EvalStatusPending || status == api.EvalStatusBlocked {
			return jobPending
		}
	}
	if len(s.jobEvals[k]) > 0 || deref(job.Stop) {
		return jobDead
	}
	return jobPending
}

// jobsWhere lists the jobs for which keep holds, sorted by ID.
func (s *store) jobsWhere(keep func(*api.Job) bool) []*api.Job {
	return sorted(s.jobs, keep, func(a, b *api.Job) int { return cmp.Compare(*a.ID, *b.ID) })
}

// allocsWhere lists the allocations for which keep holds, newest first.
func (s *store) allocsWhere(keep func(*api.Allocation) bool) []*api.Allocation {
	return sorted(s.allocs, keep, func(a, b *api.Allocation) int {
		return cmp.Or(cmp.Compare(b.CreateIndex, a.CreateIndex), cmp.Compare(a.Name, b.Name))
	})
}

// evalsWhere lists the evaluations for which keep holds, newest first.
func (s *store) evalsWhere(keep func(*api.Evaluation) bool) []*api.Evaluation {
	return sorted(s.evals, keep, func(a, b *api.Evaluation) int {
		return cmp.Or(cmp.Compare(b.CreateIndex, a.CreateIndex), cmp.Compare(a.ID, b.ID))
	})
}

func (s *store) allocsOf(k key) []*api.Allocation {
	var out []*api.Allocation
	for _, id := range s.jobAllocs[k] {
		out = append(out, s.allocs[id])
	}
	return out
}

func sorted[K comparable, V any](m map[K]V, keep func(V) bool, less func(a, b V) int) []V {
	out := make([]V, 0, len(m))
	for _, v := range m {
		if keep(v) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, less)
	return out
}

// terminal tells whether an allocation needs nothing more: it ended, or was
// told to and its node need not be waited for.
func terminal(a *api.Allocation) bool {
	return a.DesiredStatus == api.AllocDesiredStatusStop || a.DesiredStatus == api.AllocDesiredStatusEvict || a.ClientTerminalStatus()
}

func jobKey(job *api.Job) key { return key{*job.Namespace, *job.ID} }

func tokenKey(namespace, parent, token string) key { return key{namespace, parent + "\x00" + token} }

func ptr[T any](v T) *T { return &v }

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
