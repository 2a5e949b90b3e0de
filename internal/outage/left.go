package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"

	"drover/consul"
	"drover/internal/work"
)

// left returns an error that names everything in Consul, in Nomad and among the processes that is left of attempts.
func (w *world) left(ctx context.Context) error {
	return errors.Join(w.leftKeys(ctx), w.leftSessions(ctx), w.leftServices(ctx), w.leftChildren(ctx), w.leftProcesses())
}

// leftKeys finds results, locks, claims and breakers that are not closed, and progress and envelopes without a closed
// claim: those go with it, some time later.
func (w *world) leftKeys(ctx context.Context) error {
	keys := consul.NewKeys("")
	pairs, _, err := w.consulAPI.KV().List(keys.Prefix(), (&consulapi.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return err
	}
	closed := map[string]bool{} // attempts
	for _, pair := range pairs {
		var claim work.Claim
		if attempt, ok := strings.CutPrefix(pair.Key, keys.Claims()); ok && json.Unmarshal(pair.Value, &claim) == nil {
			closed[attempt] = claim.Ended
		}
	}
	var errs []error
	for _, pair := range pairs {
		if fault := faultOf(keys, pair, closed); fault != "" {
			errs = append(errs, fmt.Errorf("consul: key %s: %s: %s", pair.Key, fault, pair.Value))
		}
	}
	return errors.Join(errs...)
}

// faultOf says why a key should not be there, nothing if it may.
func faultOf(keys consul.Keys, pair *consulapi.KVPair, closed map[string]bool) string {
	below := func(folder string) bool { return strings.HasPrefix(pair.Key, folder) && pair.Key != folder }
	attempt := pair.Key[strings.LastIndexByte(pair.Key, '/')+1:]
	switch {
	case below(keys.Results()):
		return "a result that no leader has taken"
	case below(keys.Locks()) && !strings.HasSuffix(pair.Key, "/guard"):
		return "a lock"
	case below(keys.Claims()) && !closed[attempt]:
		return "a claim that is not closed"
	case (below(keys.ProgressFolder()) || below(keys.Envelopes())) && !closed[attempt]:
		return "of an attempt whose claim is not closed"
	case below(keys.Breakers()):
		var breaker work.Breaker
		if err := json.Unmarshal(pair.Value, &breaker); err != nil || !breaker.Closed() {
			return "a breaker that is not closed"
		}
	}
	return ""
}

// leftSessions finds the sessions of attempts; those of servers are named otherwise.
func (w *world) leftSessions(ctx context.Context) error {
	sessions, _, err := w.consulAPI.Session().List((&consulapi.QueryOptions{}).WithContext(ctx))
	errs := []error{err}
	for _, s := range sessions {
		if strings.Contains(s.Name, "attempt") {
			errs = append(errs, fmt.Errorf("consul: session %s, %s", s.ID, s.Name))
		}
	}
	return errors.Join(errs...)
}

func (w *world) leftServices(ctx context.Context) error {
	services, _, err := w.consulAPI.Catalog().Service(consul.ServiceWorker, "", (&consulapi.QueryOptions{}).WithContext(ctx))
	errs := []error{err}
	for _, s := range services {
		errs = append(errs, fmt.Errorf("consul: service %s", s.ServiceID))
	}
	return errors.Join(errs...)
}

func (w *world) leftChildren(ctx context.Context) error {
	jobs, _, err := w.nomadAPI.Jobs().List((&nomadapi.QueryOptions{}).WithContext(ctx))
	errs := []error{err}
	for _, job := range jobs {
		if job.ParentID != "" {
			errs = append(errs, fmt.Errorf("nomad: child %s (%s)", job.ID, job.Status))
		}
	}
	return errors.Join(errs...)
}

// leftProcesses finds workers; an agent is known by the working directory that its worker gave it.
func (w *world) leftProcesses() error {
	var errs []error
	for _, pid := range pids() {
		if args := arguments(pid); len(args) > 0 && args[0] == w.worker {
			errs = append(errs, fmt.Errorf("process %d: %s", pid, strings.Join(args, " ")))
		}
	}
	return errors.Join(errs...)
}
