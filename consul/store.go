package consul

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/work"
)

// blockingWait is how long a blocking query waits for a change. Consul adds up
// to a sixteenth of it.
const blockingWait = 60 * time.Second

// checkPrefix begins the id of every worker's TTL check: drover:<attempt>:<allocation>.
const checkPrefix = "drover:"

// healthPrefix begins the id of every worker's check of /health, in the same way. No session hangs from it.
const healthPrefix = "drover-health:"

// ServiceWorker is the service name of all workers.
const ServiceWorker = "drover-worker"

// Items returns every stored item, in the order of their ids.
// It returns work.ErrUnavailable.
func (c *Client) Items(ctx context.Context) ([]work.Item, error) {
	return list[work.Item](ctx, c, c.Keys.Items())
}

// Queues returns what is stored of queues.
// It returns work.ErrUnavailable.
func (c *Client) Queues(ctx context.Context) ([]work.QueueRecord, error) {
	return list[work.QueueRecord](ctx, c, c.Keys.Queues())
}

// Breakers returns every stored breaker.
// It returns work.ErrUnavailable.
func (c *Client) Breakers(ctx context.Context) ([]work.Breaker, error) {
	return list[work.Breaker](ctx, c, c.Keys.Breakers())
}

// Claims returns every claim.
// It returns work.ErrUnavailable.
func (c *Client) Claims(ctx context.Context) ([]work.Claim, error) {
	return list[work.Claim](ctx, c, c.Keys.Claims())
}

// Claim returns an attempt's claim and its index. Without one it returns a zero
// claim and index 0. It returns work.ErrUnavailable.
func (c *Client) Claim(ctx context.Context, a work.AttemptID) (work.Claim, uint64, error) {
	claim, index, err := get[work.Claim](ctx, c, c.Keys.Claim(a))
	if claim == nil {
		return work.Claim{Attempt: a}, 0, err
	}
	return *claim, index, err
}

// Progress returns how far an attempt has come, nil if it said nothing yet.
// It returns work.ErrUnavailable.
func (c *Client) Progress(ctx context.Context, a work.AttemptID) (*work.Progress, error) {
	p, _, err := get[work.Progress](ctx, c, c.Keys.Progress(a))
	return p, err
}

// Result returns an attempt's result that waits to be applied, nil if there is
// none. It returns work.ErrUnavailable.
func (c *Client) Result(ctx context.Context, a work.AttemptID) (*work.Result, error) {
	r, _, err := get[work.Result](ctx, c, c.Keys.Result(a))
	return r, err
}

// Logs returns the kept output of an attempt, nil if none is kept.
// It returns work.ErrUnavailable.
func (c *Client) Logs(ctx context.Context, a work.AttemptID) (*work.KeptLogs, error) {
	pair, _, err := c.repeat.KV().Get(c.Keys.Logs(a), consistent(ctx))
	if err != nil || pair == nil {
		return nil, classify("read kept logs of attempt "+string(a), false, err)
	}
	var logs work.KeptLogs
	if err := unzipJSON(pair.Value, &logs); err != nil {
		return nil, fmt.Errorf("kept logs of attempt %s: %w", a, err)
	}
	return &logs, nil
}

// Results waits until the results that wait to be applied are others than at
// index, at most a minute, and returns them with their index. Index 0 answers
// at once. It returns work.ErrUnavailable.
func (c *Client) Results(ctx context.Context, index uint64) ([]work.Result, uint64, error) {
	opts := (&api.QueryOptions{WaitIndex: index, WaitTime: blockingWait}).WithContext(ctx)
	pairs, meta, err := c.once.KV().List(c.Keys.Results(), opts)
	if err != nil {
		return nil, 0, classify("watch results", false, err)
	}
	results, err := decode[work.Result](c, pairs)
	return results, nextIndex(index, meta.LastIndex), err
}

// Heartbeats waits like Results for the workers' checks.
func (c *Client) Heartbeats(ctx context.Context, index uint64) ([]work.Heartbeat, uint64, error) {
	opts := (&api.QueryOptions{WaitIndex: index, WaitTime: blockingWait}).WithContext(ctx)
	checks, meta, err := c.once.Health().Checks(ServiceWorker, opts)
	if err != nil {
		return nil, 0, classify("watch heartbeats", false, err)
	}
	var beats []work.Heartbeat
	for _, check := range checks {
		rest, ok := strings.CutPrefix(check.CheckID, checkPrefix)
		if !ok {
			continue
		}
		id, _, _ := strings.Cut(rest, ":")
		attempt, err := work.ParseAttemptID(id)
		if err != nil {
			continue
		}
		beats = append(beats, work.Heartbeat{
			Attempt: attempt, Critical: check.Status == api.HealthCritical, Silent: check.Status == api.HealthWarning,
			Output: check.Output, At: registeredAt(check.Notes),
		})
	}
	return beats, nextIndex(index, meta.LastIndex), nil
}

// registeredAt returns the time that the notes of a worker's check end with, zero
// if they name none: Consul passes changed notes on at once, unlike a changed output.
func registeredAt(notes string) time.Time {
	_, text, _ := strings.Cut(notes, notesAsOf)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}
	}
	return at
}

// notesAsOf comes before the time of a registration in the notes of a worker's check.
const notesAsOf = "; as of "

// Sessions returns the ids of all sessions that live, by a consistent read. A token
// that may not see all of them gets an error: a worker would seem lost.
// It returns work.ErrUnavailable and work.ErrInvalid.
func (c *Client) Sessions(ctx context.Context) (map[string]bool, error) {
	entries, meta, err := c.once.Session().List(consistent(ctx))
	if err != nil {
		return nil, classify("list sessions", false, err)
	}
	if meta.ResultsFilteredByACLs {
		return nil, fmt.Errorf("list sessions: the token of drover's server may not read all of them, it needs session_prefix \"\" { policy = \"write\" }: %w", work.ErrInvalid)
	}
	live := make(map[string]bool, len(entries))
	for _, entry := range entries {
		live[entry.ID] = true
	}
	return live, nil
}

// Progresses returns how far all attempts have come whose progress is stored.
// It returns work.ErrUnavailable.
func (c *Client) Progresses(ctx context.Context) ([]work.Progress, error) {
	return list[work.Progress](ctx, c, c.Keys.ProgressFolder())
}

// EndSession destroys an ended attempt's session and removes its service. What it
// had still locked is free after work.LockDelay. Doing it twice changes nothing.
// It returns work.ErrUnavailable.
func (c *Client) EndSession(ctx context.Context, claim work.Claim) error {
	if claim.Session == "" {
		return nil
	}
	if err := c.endSession(ctx, claim.Session, claim.Attempt); err != nil {
		return err
	}
	return c.removeWorkerService(ctx, claim)
}

// removeWorkerService removes the attempt's service from the catalog. The agent
// that registered it would put it back, so where that agent is ours it is asked
// itself; elsewhere the check's own deregistration time is the net below.
func (c *Client) removeWorkerService(ctx context.Context, claim work.Claim) error {
	id := workerServiceID(claim.Attempt, claim.Allocation)
	query := (&api.QueryOptions{}).WithContext(ctx)
	if _, _, err := c.repeat.Agent().Service(id, query); err == nil {
		err = classify("deregister "+id, true, c.repeat.Agent().ServiceDeregisterOpts(id, query))
		if errors.Is(err, work.ErrNotFound) {
			return nil // the worker did so itself meanwhile
		}
		return err
	}
	if claim.Node == "" {
		return nil
	}
	dereg := &api.CatalogDeregistration{Node: claim.Node, ServiceID: id}
	_, err := c.once.Catalog().Deregister(dereg, (&api.WriteOptions{}).WithContext(ctx))
	if isUnknownService(err) {
		return nil
	}
	return classify("deregister "+id, true, err)
}

// isUnknownService reports whether the catalog has refused to remove what is not
// there: it does so with ACLs, as an error of its own (500) that Consul's agents
// tell by its text, too (vetDeregisterWithACL, agent/local/state.go).
func isUnknownService(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && status.Code == http.StatusInternalServerError && strings.Contains(status.Body, "Unknown service ID")
}

// workerServiceID names an attempt's service instance. It holds the allocation,
// so that a second allocation of the attempt can't touch the first one's check.
func workerServiceID(a work.AttemptID, allocation string) string {
	return ServiceWorker + "-" + string(a) + "-" + shortID(allocation)
}

// workerCheckID names the TTL check of workerServiceID's instance.
func workerCheckID(a work.AttemptID, allocation string) string {
	return checkPrefix + string(a) + ":" + shortID(allocation)
}

// healthCheckID names the check of /health of workerServiceID's instance.
func healthCheckID(a work.AttemptID, allocation string) string {
	return healthPrefix + string(a) + ":" + shortID(allocation)
}

// shortID is how Nomad shows an id to people.
func shortID(id string) string {
	const shown = 8
	return id[:min(shown, len(id))]
}

func consistent(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// nextIndex keeps to Consul's rule that an index which went backwards, or is
// zero, is to be taken anew.
func nextIndex(before, after uint64) uint64 {
	if after < before {
		return 0
	}
	return max(after, 1)
}

func get[T any](ctx context.Context, c *Client, key string) (*T, uint64, error) {
	pair, _, err := c.repeat.KV().Get(key, consistent(ctx))
	if err != nil || pair == nil {
		return nil, 0, classify("read "+key, false, err)
	}
	v, err := work.DecodeStored[T](pair.Value)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %v: %w", key, err, work.ErrInvalid)
	}
	return &v, pair.ModifyIndex, nil
}

func list[T any](ctx context.Context, c *Client, folder string) ([]T, error) {
	pairs, _, err := c.repeat.KV().List(folder, consistent(ctx))
	if err != nil {
		return nil, classify("list "+folder, false, err)
	}
	return decode[T](c, pairs)
}

// decode reads every pair. One that can't be read was not written by drover:
// it is reported and passed over, so that it can't stop the rest.
func decode[T any](c *Client, pairs api.KVPairs) ([]T, error) {
	out := make([]T, 0, len(pairs))
	for _, pair := range pairs {
		if strings.HasSuffix(pair.Key, "/") {
			continue // the folder itself
		}
		v, err := work.DecodeStored[T](pair.Value)
		if err != nil {
			c.log.Error("key can't be read and is passed over", "key", pair.Key, "error", err)
			continue
		}
		out = append(out, v)
	}
	return out, nil
}

func zipJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	if err := json.NewEncoder(zw).Encode(v); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func unzipJSON(data []byte, v any) error {
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return json.NewDecoder(io.LimitReader(zr, maxLogsBytes)).Decode(v)
}
