package nomadd

import (
	"net/http"
	"os"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// systemGC serves PUT /v1/system/gc: dead jobs go, with the evaluations and
// allocations of these and of purged ones, and the logs on disk. The events
// tell of the jobs alone, as the real server's do.
func (s *Server) systemGC(w http.ResponseWriter, _ *http.Request) (any, error) {
	var gone []string
	_, err := s.state.write(eventJobsDeregistered, func(t *tx) error {
		for _, job := range t.jobsWhere(t.collectable) {
			t.deleteJob(job)
		}
		for k := range t.jobEvals {
			if t.jobs[k] != nil || t.busy(k) {
				continue
			}
			gone = append(gone, t.jobAllocs[k]...)
			t.forget(k)
		}
		return nil
	})
	for _, id := range gone {
		s.forgetRunner(id)
	}
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

// forgetRunner waits for a finished runner's last step and removes its directory.
func (s *Server) forgetRunner(allocID string) {
	if r := s.runnerOf(allocID); r != nil {
		<-r.done
		s.mu.Lock()
		delete(s.runners, allocID)
		s.mu.Unlock()
	}
	if err := os.RemoveAll(s.allocDir(allocID)); err != nil {
		s.logger.Warn("remove an allocation's directory", "alloc", allocID, "error", err)
	}
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
