//lint:file-ignore ST1005 the texts are those of Nomad, which clients match

package nomadd

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"
)

const (
	// maxPayloadBytes is Nomad's DispatchPayloadSizeLimit.
	maxPayloadBytes = 16 * 1024

	minPriority = 1
	maxPriority = 100
)

type dispatchRequest struct {
	JobID            string
	Payload          []byte
	Meta             map[string]string
	IdPrefixTemplate string
	Priority         int
}

// dispatch serves PUT /v1/job/<id>/dispatch.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, k key) (any, error) {
	var request dispatchRequest
	if err := decode(r, &request); err != nil {
		return nil, err
	}
	if request.JobID != "" && request.JobID != k.id {
		return nil, coded(http.StatusBadRequest, "Job ID does not match")
	}
	return s.dispatchChild(w, r, k, request)
}

// dispatchPayload serves PUT /v1/job/<id>/dispatch/payload, whose body is the payload itself.
func (s *Server) dispatchPayload(w http.ResponseWriter, r *http.Request, k key) (any, error) {
	payload, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, coded(http.StatusBadRequest, err.Error())
	}
	return s.dispatchChild(w, r, k, dispatchRequest{Payload: payload})
}

func (s *Server) dispatchChild(w http.ResponseWriter, r *http.Request, k key, request dispatchRequest) (any, error) {
	token := r.URL.Query().Get("idempotency_token")
	var answer api.JobDispatchResponse
	var index uint64
	_, err := s.state.write(eventJobRegistered, func(t *tx) error {
		parent, err := t.parent(k)
		if err != nil {
			return err
		}
		request.Priority = cmp.Or(request.Priority, *parent.Priority)
		if err := request.check(parent); err != nil {
			return err
		}
		if twin := t.jobs[key{k.namespace, t.tokens[tokenKey(k.namespace, k.id, token)]}]; token != "" && twin != nil {
			answer = api.JobDispatchResponse{DispatchedJobID: *twin.ID, JobCreateIndex: *twin.CreateIndex}
			index = *twin.ModifyIndex
			return nil
		}
		child := request.child(parent, token)
		t.register(child)
		if token != "" {
			t.tokens[tokenKey(k.namespace, k.id, token)] = *child.ID
		}
		eval := evalOf(child, newID(), triggerRegister)
		t.putEval(eval)
		index = t.index
		answer = api.JobDispatchResponse{DispatchedJobID: *child.ID, EvalID: eval.ID, EvalCreateIndex: index, JobCreateIndex: index}
		return nil
	})
	if err != nil {
		return nil, err
	}
	writeMeta(w, index)
	return answer, nil
}

// parent looks a parameterized job up, with Nomad's texts when it is none.
func (t *tx) parent(k key) (*api.Job, error) {
	job := t.jobs[k]
	switch {
	case job == nil:
		return nil, errors.New("parameterized job not found")
	case !job.IsParameterized():
		return nil, fmt.Errorf("Specified job %q is not a parameterized job", k.id)
	case deref(job.Stop):
		return nil, fmt.Errorf("Specified job %q is stopped", k.id)
	}
	return job, nil
}

func (d *dispatchRequest) check(parent *api.Job) error {
	switch {
	case parent.ParameterizedJob.Payload == "required" && len(d.Payload) == 0:
		return fmt.Errorf("Payload is not provided but required by parameterized job")
	case parent.ParameterizedJob.Payload == "forbidden" && len(d.Payload) > 0:
		return fmt.Errorf("Payload provided but forbidden by parameterized job")
	case len(d.Payload) > maxPayloadBytes:
		return fmt.Errorf("Payload exceeds maximum size; %d > %d", len(d.Payload), maxPayloadBytes)
	}
	if keys := d.unpermitted(parent.ParameterizedJob); len(keys) > 0 {
		return fmt.Errorf("Dispatch request included unpermitted metadata keys: %v", keys)
	}
	if keys := d.missing(parent.ParameterizedJob); len(keys) > 0 {
		return fmt.Errorf("Dispatch did not provide required meta keys: %v", keys)
	}
	if d.Priority < minPriority || d.Priority > maxPriority {
		return fmt.Errorf("dispatch job priority must be between [%d, %d]", minPriority, maxPriority)
	}
	return nil
}

func (d *dispatchRequest) unpermitted(p *api.ParameterizedJobConfig) []string {
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(d.Meta)) {
		if !slices.Contains(p.MetaRequired, k) && !slices.Contains(p.MetaOptional, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

func (d *dispatchRequest) missing(p *api.ParameterizedJobConfig) []string {
	var keys []string
	for _, k := range p.MetaRequired {
		if _, given := d.Meta[k]; !given {
			keys = append(keys, k)
		}
	}
	return keys
}

func (d *dispatchRequest) child(parent *api.Job, token string) *api.Job {
	child := *parent
	child.ID = ptr(d.childID(*parent.ID))
	child.Name = child.ID
	child.ParentID = parent.ID
	child.Dispatched = true
	child.DispatchIdempotencyToken = ptr(token)
	child.Priority = ptr(d.Priority)
	child.Meta = maps.Clone(parent.Meta)
	if child.Meta == nil {
		child.Meta = map[string]string{}
	}
	maps.Copy(child.Meta, d.Meta)
	child.Payload = d.Payload
	return &child
}

func (d *dispatchRequest) childID(parent string) string {
	prefix := ""
	if d.IdPrefixTemplate != "" {
		prefix = d.IdPrefixTemplate + "-"
	}
	return fmt.Sprintf("%s/dispatch-%s%d-%s", parent, prefix, time.Now().Unix(), newID()[:8])
}
