package nomadd

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/hashicorp/nomad/api"
)

func (s *Server) listAllocs(w http.ResponseWriter, r *http.Request) (any, error) {
	withStates := r.URL.Query().Get("task_states") != "false"
	withResources, _ := strconv.ParseBool(r.URL.Query().Get("resources"))
	return s.query(w, r, func() (any, uint64, error) {
		list := stubs(s.state.allocsWhere(func(a *api.Allocation) bool { return inNamespace(r, a.Namespace) && hasPrefix(r, a.ID) }))
		for _, stub := range list {
			if !withStates {
				stub.TaskStates = nil
			}
			if withResources {
				stub.AllocatedResources = s.state.allocs[stub.ID].AllocatedResources
			}
		}
		return list, s.state.tables[tableAllocs], nil
	})
}

func stubs(allocs []*api.Allocation) []*api.AllocationListStub {
	out := make([]*api.AllocationListStub, 0, len(allocs))
	for _, a := range allocs {
		stub := a.Stub()
		stub.AllocatedResources = nil
		out = append(out, stub)
	}
	return out
}

func (s *Server) readAlloc(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		alloc := s.state.allocs[r.PathValue("id")]
		if alloc == nil || !inNamespace(r, alloc.Namespace) {
			return nil, s.state.tables[tableAllocs], coded(http.StatusNotFound, "alloc not found")
		}
		return alloc, alloc.ModifyIndex, nil
	})
}

// stopAlloc serves PUT /v1/allocation/<id>/stop; a replacement is placed.
func (s *Server) stopAlloc(w http.ResponseWriter, r *http.Request) (any, error) {
	evalID := newID()
	index, err := s.state.write(eventAllocationDesired, func(t *tx) error {
		alloc := t.allocs[r.PathValue("id")]
		if alloc == nil {
			return coded(http.StatusNotFound, "alloc not found")
		}
		t.stopRequested(alloc, evalID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	writeMeta(w, index)
	return map[string]any{"EvalID": evalID, "Index": index}, nil
}

func (s *Server) listEvals(w http.ResponseWriter, r *http.Request) (any, error) {
	status, job := r.URL.Query().Get("status"), r.URL.Query().Get("job")
	return s.query(w, r, func() (any, uint64, error) {
		return s.state.evalsWhere(func(e *api.Evaluation) bool {
			return inNamespace(r, e.Namespace) && hasPrefix(r, e.ID) &&
				(status == "" || status == e.Status) && (job == "" || job == e.JobID)
		}), s.state.tables[tableEvals], nil
	})
}

func (s *Server) readEval(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		eval := s.state.evals[r.PathValue("id")]
		if eval == nil || !inNamespace(r, eval.Namespace) {
			return nil, s.state.tables[tableEvals], coded(http.StatusNotFound, "eval not found")
		}
		return eval, eval.ModifyIndex, nil
	})
}

func (s *Server) evalAllocs(w http.ResponseWriter, r *http.Request) (any, error) {
	return s.query(w, r, func() (any, uint64, error) {
		return stubs(s.state.allocsWhere(func(a *api.Allocation) bool { return a.EvalID == r.PathValue("id") })), s.state.tables[tableAllocs], nil
	})
}

// allocStats serves /v1/client/allocation/<id>/stats of a running task.
func (s *Server) allocStats(_ http.ResponseWriter, r *http.Request) (any, error) {
	id := r.PathValue("id")
	run := s.knownRunner(id)
	if run == nil {
		return nil, coded(http.StatusNotFound, fmt.Sprintf("Unknown allocation %q", id))
	}
	usage, err := run.stats(r.Context())
	if err != nil {
		return nil, err
	}
	return usage, nil
}

// knownRunner is the runner of an allocation that the state still has.
func (s *Server) knownRunner(id string) *runner {
	var known bool
	s.state.read(func() { known = s.state.allocs[id] != nil })
	if !known {
		return nil
	}
	return s.runnerOf(id)
}
