package nomadd

import (
	"net/http"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// systemGC serves PUT /v1/system/gc: dead jobs go, with their allocations and
// the logs on disk, and the evaluations of all jobs that are gone.
func (s *Server) systemGC(http.ResponseWriter, *http.Request) (any, error) {
	var gone []string
	_, err := s.state.write(eventJobsDeregistered, func(t *tx) error {
		for _, job := range t.jobsWhere(t.collectable) {
			gone = append(gone, t.deleteJob(job)...)
		}
		for k := range t.jobEvals {
			if t.jobs[k] == nil && !t.busy(k) {
				t.forgetEvals(k)
			}
		}
		return nil
	})
	s.dropAllocs(gone)
	return nil, err
}

func (s *store) collectable(job *api.Job) bool {
	return deref(job.Status) == jobDead && !s.busy(jobKey(job))
}

// busy tells whether anything of a job is still to happen.
func (s *store) busy(k key) bool {
	for _, id := range s.jobEvals[k] {
		if status := s.evals[id].Status; status == api.EvalStatusPending || status == api.EvalStatusBlocked {
			return true
		}
	}
	for _, alloc := range s.allocsOf(k) {
		if !alloc.ClientTerminalStatus() {
			return true
		}
	}
	return false
}

// search serves /v1/search: the identifiers that begin with a prefix, in the
// contexts that commands look up.
func (s *Server) search(w http.ResponseWriter, r *http.Request) (any, error) {
	var request struct{ Prefix, Context string }
	if err := decode(r, &request); err != nil {
		return nil, err
	}
	const limit = 20
	answer := map[string]any{}
	matches, truncated := map[string][]string{}, map[string]bool{}
	add := func(kind, namespace, id string) {
		switch {
		case request.Context != "" && request.Context != "all" && request.Context != kind:
		case !inNamespace(r, namespace) || !strings.HasPrefix(id, request.Prefix):
		case len(matches[kind]) == limit:
			truncated[kind] = true
		default:
			matches[kind] = append(matches[kind], id)
		}
	}
	s.state.read(func() {
		for _, job := range s.state.jobsWhere(func(*api.Job) bool { return true }) {
			add("jobs", *job.Namespace, *job.ID)
		}
		for id, alloc := range s.state.allocs {
			add("allocs", alloc.Namespace, id)
		}
		for id, eval := range s.state.evals {
			add("evals", eval.Namespace, id)
		}
		add("nodes", namespaceOf(r), s.state.node.ID)
		queryMeta(w, s.state.index)
	})
	answer["Matches"], answer["Truncations"] = matches, truncated
	return answer, nil
}
