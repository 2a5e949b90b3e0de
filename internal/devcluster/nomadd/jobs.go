//lint:file-ignore ST1005 the texts are those of Nomad, which clients match

package nomadd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

const (
	jobPending = "pending"
	jobRunning = "running"
	jobDead    = "dead"

	// maxJobVersions is Nomad's job_tracked_versions.
	maxJobVersions = 6

	triggerRegister   = "job-register"
	triggerDeregister = "job-deregister"
	triggerQueued     = "queued-allocs"
	triggerAllocStop  = "alloc-stop"
)

// job serves /v1/job/<id>[/<what>]. IDs hold slashes, so the path is taken
// apart from its end, as Nomad does.
func (s *Server) job(w http.ResponseWriter, r *http.Request) (any, error) {
	rest := strings.TrimPrefix(r.URL.Path, "/v1/job/")
	reads := map[string]func(http.ResponseWriter, *http.Request, key) (any, error){
		"/allocations": s.jobAllocs, "/evaluations": s.jobEvals, "/summary": s.jobSummary, "/versions": s.jobVersions,
		"/deployments": s.jobDeployments, "/deployment": s.jobDeployment, "/submission": s.jobSubmission,
	}
	writes := map[string]func(http.ResponseWriter, *http.Request, key) (any, error){
		"/dispatch": s.dispatch, "/dispatch/payload": s.dispatchPayload, "/evaluate": s.evaluateJob, "/plan": s.planJob,
	}
	isWrite := r.Method == http.MethodPut || r.Method == http.MethodPost
	for suffix, h := range reads {
		if id, ok := strings.CutSuffix(rest, suffix); ok {
			if r.Method != http.MethodGet {
				return nil, coded(http.StatusMethodNotAllowed, "Invalid method")
			}
			return h(w, r, key{namespaceOf(r), id})
		}
	}
	for suffix, h := range writes {
		if id, ok := strings.CutSuffix(rest, suffix); ok {
			if !isWrite {
				return nil, coded(http.StatusMethodNotAllowed, "Invalid method")
			}
			return h(w, r, key{namespaceOf(r), id})
		}
	}
	switch {
	case r.Method == http.MethodGet:
		return s.readJob(w, r, key{namespaceOf(r), rest})
	case r.Method == http.MethodDelete:
		return s.deregisterJob(w, r, key{namespaceOf(r), rest})
	case isWrite:
		return s.registerJob(w, r)
	default:
		return nil, coded(http.StatusMethodNotAllowed, "Invalid method")
	}
}

func (s *Server) listJobs(w http.ResponseWriter, r *http.Request) (any, error) {
	withMeta, _ := strconv.ParseBool(r.URL.Query().Get("meta"))
	return s.query(w, r, func() (any, uint64, error) {
		jobs := s.state.jobsWhere(func(j *api.Job) bool { return inNamespace(r, *j.Namespace) && hasPrefix(r, *j.ID) })
		stubs := make([]*api.JobListStub, 0, len(jobs))
		for _, job := range jobs {
			stub := s.jobStub(job)
			if withMeta {
				stub.Meta = job.Meta
			}
			stubs = append(stubs, stub)
		}
		return stubs, s.state.tables[tableJobs], nil
	})
}

func (s *Server) jobStub(job *api.Job) *api.JobListStub {
	return &api.JobListStub{
		ID: *job.ID, ParentID: deref(job.ParentID), Name: *job.Name, Namespace: *job.Namespace,
		Datacenters: job.Datacenters, Type: *job.Type, Priority: *job.Priority,
		Periodic: job.IsPeriodic(), ParameterizedJob: job.IsParameterized(), Stop: deref(job.Stop),
		Status: deref(job.Status), StatusDescription: deref(job.StatusDescription), JobSummary: s.state.summary(job),
		CreateIndex: *job.CreateIndex, ModifyIndex: *job.ModifyIndex, JobModifyIndex: *job.JobModifyIndex,
		SubmitTime: *job.SubmitTime,
	}
}

// summary counts the allocations of a job by group, and its children.
func (s *store) summary(job *api.Job) *api.JobSummary {
	out := &api.JobSummary{
		JobID: *job.ID, Namespace: *job.Namespace, Summary: map[string]api.TaskGroupSummary{},
		Children: &api.JobChildrenSummary{}, CreateIndex: *job.CreateIndex, ModifyIndex: *job.ModifyIndex,
	}
	for _, group := range job.TaskGroups {
		out.Summary[*group.Name] = api.TaskGroupSummary{}
	}
	for _, alloc := range s.allocsOf(jobKey(job)) {
		counts := out.Summary[alloc.TaskGroup]
		switch alloc.ClientStatus {
		case api.AllocClientStatusPending:
			counts.Starting++
		case api.AllocClientStatusRunning:
			counts.Running++
		case api.AllocClientStatusComplete:
			counts.Complete++
		case api.AllocClientStatusFailed:
			counts.Failed++
		}
		out.Summary[alloc.TaskGroup] = counts
	}
	for _, id := range s.jobEvals[jobKey(job)] {
		if eval := s.evals[id]; eval.Status == api.EvalStatusBlocked {
			for group, n := range eval.QueuedAllocations {
				counts := out.Summary[group]
				counts.Queued = n
				out.Summary[group] = counts
			}
		}
	}
	if job.IsParameterized() {
		s.countChildren(job, out.Children)
	}
	return out
}

func (s *store) countChildren(parent *api.Job, into *api.JobChildrenSummary) {
	for _, job := range s.jobs {
		if deref(job.ParentID) != *parent.ID || *job.Namespace != *parent.Namespace {
			continue
		}
		switch deref(job.Status) {
		case jobPending:
			into.Pending++
		case jobRunning:
			into.Running++
		case jobDead:
			into.Dead++
		}
	}
}

func (s *Server) readJob(w http.ResponseWriter, r *http.Request, k key) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		job := s.state.jobs[k]
		if job == nil {
			return nil, s.state.tables[tableJobs], coded(http.StatusNotFound, "job not found")
		}
		return job, *job.ModifyIndex, nil
	})
}

func (s *Server) jobSummary(w http.ResponseWriter, r *http.Request, k key) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		job := s.state.jobs[k]
		if job == nil {
			return nil, s.state.tables[tableJobs], coded(http.StatusNotFound, "job not found")
		}
		return s.state.summary(job), max(*job.ModifyIndex, s.state.tables[tableAllocs]), nil
	})
}

func (s *Server) jobVersions(w http.ResponseWriter, r *http.Request, k key) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		versions := s.state.versions[k]
		if len(versions) == 0 {
			return nil, s.state.tables[tableJobs], coded(http.StatusNotFound, "job versions not found")
		}
		return map[string]any{"Versions": versions, "Diffs": []any{}}, *versions[0].ModifyIndex, nil
	})
}

func (s *Server) jobAllocs(w http.ResponseWriter, r *http.Request, k key) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		return stubs(s.state.allocsOf(k)), s.state.tables[tableAllocs], nil
	})
}

func (s *Server) jobEvals(w http.ResponseWriter, r *http.Request, k key) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		return s.state.evalsWhere(func(e *api.Evaluation) bool { return e.Namespace == k.namespace && e.JobID == k.id }),
			s.state.tables[tableEvals], nil
	})
}

func (s *Server) jobDeployments(w http.ResponseWriter, r *http.Request, _ key) (any, error) {
	return empty(w, r)
}

func (s *Server) jobDeployment(w http.ResponseWriter, _ *http.Request, _ key) (any, error) {
	queryMeta(w, 1)
	return json.RawMessage("null"), nil
}

func (s *Server) jobSubmission(http.ResponseWriter, *http.Request, key) (any, error) {
	return nil, coded(http.StatusNotFound, "job source not found")
}

// registerJob serves PUT /v1/jobs: it makes or replaces a job.
func (s *Server) registerJob(w http.ResponseWriter, r *http.Request) (any, error) {
	var request api.JobRegisterRequest
	if err := decode(r, &request); err != nil {
		return nil, err
	}
	job := request.Job
	if err := s.admit(job, r); err != nil {
		return nil, err
	}
	answer := api.JobRegisterResponse{}
	index, err := s.state.write(eventJobRegistered, func(t *tx) error {
		if err := t.checkRegister(&request); err != nil {
			return err
		}
		t.register(job)
		if !job.IsParameterized() && !job.IsPeriodic() {
			answer.EvalID = newID()
			t.putEval(evalOf(job, answer.EvalID, triggerRegister))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if answer.EvalID != "" {
		answer.EvalCreateIndex = index
	}
	answer.JobModifyIndex = index
	writeMeta(w, index)
	return answer, nil
}

// admit completes a job with Nomad's defaults and validates it.
func (s *Server) admit(job *api.Job, r *http.Request) error {
	if job == nil {
		return coded(http.StatusBadRequest, "Job must be specified")
	}
	if deref(job.ID) == "" {
		return coded(http.StatusBadRequest, "Job ID hasn't been provided")
	}
	if deref(job.Namespace) == "" {
		job.Namespace = ptr(namespaceOf(r))
	}
	job.Canonicalize()
	return s.validate(job)
}

func (t *tx) checkRegister(request *api.JobRegisterRequest) error {
	if t.namespaces[*request.Job.Namespace] == nil {
		return fmt.Errorf("job %q is in nonexistent namespace %q", *request.Job.ID, *request.Job.Namespace)
	}
	known := t.jobs[jobKey(request.Job)]
	if known != nil && known.IsParameterized() != request.Job.IsParameterized() {
		return fmt.Errorf("cannot update %s job to being %s", kindOf(known), kindOf(request.Job))
	}
	if !request.EnforceIndex {
		return nil
	}
	switch {
	case known == nil && request.JobModifyIndex != 0:
		return fmt.Errorf("Enforcing job modify index %d: job does not exist", request.JobModifyIndex)
	case known != nil && request.JobModifyIndex == 0:
		return fmt.Errorf("Enforcing job modify index 0: job already exists")
	case known != nil && *known.JobModifyIndex != request.JobModifyIndex:
		return fmt.Errorf("Enforcing job modify index %d: job exists with conflicting job modify index: %d",
			request.JobModifyIndex, *known.JobModifyIndex)
	}
	return nil
}

// kindOf names a job as Nomad's texts about changing it do.
func kindOf(job *api.Job) string {
	if job.IsParameterized() {
		return "parameterized"
	}
	return "non-parameterized"
}

// register stores a job as its next version, or as the same version when
// nothing of its specification differs.
func (t *tx) register(job *api.Job) {
	job.SubmitTime = ptr(time.Now().UnixNano())
	job.Status, job.StatusDescription, job.Stable = ptr(jobPending), ptr(""), ptr(false)
	job.CreateIndex, job.JobModifyIndex, job.Version = ptr(t.index), ptr(t.index), ptr(uint64(0))
	if known := t.jobs[jobKey(job)]; known != nil {
		job.CreateIndex, job.Version, job.Status = known.CreateIndex, known.Version, known.Status
		if !sameSpec(known, job) {
			job.Version = ptr(*known.Version + 1)
		}
	}
	t.putJob(job)
}

// sameSpec compares two jobs without what the server itself sets.
func sameSpec(a, b *api.Job) bool {
	bare := func(j *api.Job) string {
		c := *j
		c.CreateIndex, c.ModifyIndex, c.JobModifyIndex, c.Version = nil, nil, nil, nil
		c.SubmitTime, c.Status, c.StatusDescription, c.Stable = nil, nil, nil, nil
		data, err := json.Marshal(&c)
		if err != nil {
			return err.Error()
		}
		return string(data)
	}
	return bare(a) == bare(b)
}

func evalOf(job *api.Job, id, trigger string) api.Evaluation {
	return api.Evaluation{
		ID: id, Namespace: *job.Namespace, JobID: *job.ID, Priority: *job.Priority, Type: *job.Type,
		TriggeredBy: trigger, Status: api.EvalStatusPending, JobModifyIndex: deref(job.JobModifyIndex),
	}
}

func (s *Server) validateJob(_ http.ResponseWriter, r *http.Request) (any, error) {
	var request api.JobValidateRequest
	if err := decode(r, &request); err != nil {
		return nil, err
	}
	answer := api.JobValidateResponse{DriverConfigValidated: true}
	if err := s.admit(request.Job, r); err != nil {
		answer.Error, answer.ValidationErrors = err.Error(), []string{err.Error()}
	}
	return answer, nil
}

// planJob tells whether a job would be a change; placements are not simulated.
func (s *Server) planJob(w http.ResponseWriter, r *http.Request, _ key) (any, error) {
	var request api.JobPlanRequest
	if err := decode(r, &request); err != nil {
		return nil, err
	}
	if err := s.admit(request.Job, r); err != nil {
		return nil, err
	}
	answer := api.JobPlanResponse{Annotations: &api.PlanAnnotations{DesiredTGUpdates: map[string]*api.DesiredUpdates{}}}
	s.state.read(func() {
		known := s.state.jobs[jobKey(request.Job)]
		kind := "Added"
		if known != nil {
			answer.JobModifyIndex, kind = *known.JobModifyIndex, "Edited"
			if sameSpec(known, request.Job) {
				kind = "None"
			}
		}
		answer.Diff = &api.JobDiff{Type: kind, ID: *request.Job.ID}
		writeMeta(w, s.state.index)
	})
	return answer, nil
}

// deregisterJob serves DELETE /v1/job/<id>: it stops the job's allocations,
// and with purge=true forgets job and allocations at once. An unknown job is no error.
func (s *Server) deregisterJob(w http.ResponseWriter, r *http.Request, k key) (any, error) {
	purge, err := strconv.ParseBool(r.URL.Query().Get("purge"))
	if r.URL.Query().Get("purge") != "" && err != nil {
		return nil, fmt.Errorf("Failed to parse value of %q (%v) as a bool: %v", "purge", r.URL.Query().Get("purge"), err)
	}
	var known bool
	s.state.read(func() { known = s.state.jobs[k] != nil })
	if !known {
		writeMeta(w, 0)
		return api.JobDeregisterResponse{}, nil
	}
	answer := api.JobDeregisterResponse{}
	var gone []string
	index, err := s.state.write(eventJobDeregistered, func(t *tx) error {
		job := t.jobs[k]
		if job == nil {
			return nil
		}
		if purge {
			gone = t.deleteJob(job)
		} else {
			t.stopJob(job)
		}
		if !job.IsParameterized() && !job.IsPeriodic() {
			answer.EvalID = newID()
			eval := evalOf(job, answer.EvalID, triggerDeregister)
			eval.Type = "service"
			t.putEval(eval)
		}
		return nil
	})
	s.dropAllocs(gone)
	answer.EvalCreateIndex, answer.JobModifyIndex = index, index
	writeMeta(w, index)
	return answer, err
}

func (t *tx) stopJob(job *api.Job) {
	stopped := *job
	stopped.Stop = ptr(true)
	stopped.SubmitTime = ptr(time.Now().UnixNano())
	stopped.JobModifyIndex = ptr(t.index)
	stopped.Version = ptr(*job.Version + 1)
	t.putJob(&stopped)
}

func (s *Server) evaluateJob(w http.ResponseWriter, _ *http.Request, k key) (any, error) {
	id := newID()
	index, err := s.state.write(eventEvaluation, func(t *tx) error {
		job := t.jobs[k]
		switch {
		case job == nil:
			return fmt.Errorf("job not found")
		case job.IsPeriodic():
			return fmt.Errorf("can't evaluate periodic job")
		case job.IsParameterized():
			return fmt.Errorf("can't evaluate parameterized job")
		}
		t.putEval(evalOf(job, id, triggerRegister))
		return nil
	})
	if err != nil {
		return nil, err
	}
	writeMeta(w, index)
	return api.JobRegisterResponse{EvalID: id, EvalCreateIndex: index, JobModifyIndex: index}, nil
}
