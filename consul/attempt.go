package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"drover/internal/work"
)

// maxMetaBytes is Consul's limit of one value of a service's meta.
const maxMetaBytes = 512

// Attempt is a worker's hold on its attempt: a service with a TTL check, a
// session bound to that check, and the claim that names both.
type Attempt struct {
	client       *Client
	log          hclog.Logger
	id           work.AttemptID
	ttl          time.Duration
	checkID      string
	repository   string // its work.RepositoryKey
	registration *api.AgentServiceRegistration
	presence     *presence

	mu    sync.Mutex
	claim work.Claim // guarded by mu

	locking sync.Mutex      // one transaction on the attempt's claim or lock at a time; guards what follows
	index   uint64          // of the claim's key, since this process wrote it
	next    work.Claim      // made for a session that takes the place of the lost one
	tried   map[string]bool // sessions of claims that this process may have written
	holds   bool            // paths were granted, and nothing was done to give all of them up
}

// Envelope returns an envelope that did not fit a dispatch payload.
// It returns work.ErrNotFound and work.ErrUnavailable.
func (c *Client) Envelope(ctx context.Context, a work.AttemptID) (work.Envelope, error) {
	e, _, err := get[work.Envelope](ctx, c, c.Keys.Envelope(a))
	if err == nil && e == nil {
		err = fmt.Errorf("envelope of attempt %s: %w", a, work.ErrNotFound)
	}
	if err != nil {
		return work.Envelope{}, err
	}
	return *e, nil
}

// ClaimAttempt binds the attempt to one allocation, for as long as it beats
// within its heartbeat TTL. Nothing is left behind when it fails.
//
// It returns work.ErrClaimed when another allocation has the attempt or it has
// ended, and work.ErrUnavailable or work.ErrUnknownOutcome, after which the
// caller may try again.
func (c *Client) ClaimAttempt(ctx context.Context, e work.Envelope, allocation string) (*Attempt, error) {
	index, err := c.unclaimed(ctx, e.Attempt)
	if err != nil {
		return nil, err
	}
	a := c.newAttempt(e, allocation)
	entered, err := a.enter(ctx, "starting")
	if err == nil {
		err = a.take(ctx, entered, index)
	}
	if err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		if left := a.Release(cleanup); left != nil {
			a.log.Warn("could not undo the claim's registration, the TTL will", "error", left)
		}
		return nil, err
	}
	c.tries.Delete(entered.Session)
	return a, nil
}

// unclaimed returns the index at which a claim may be written: 0 where there is
// none, or that of a claim which an earlier try of this process left.
func (c *Client) unclaimed(ctx context.Context, id work.AttemptID) (index uint64, err error) {
	claim, index, err := c.Claim(ctx, id)
	if err == nil && index != 0 && !c.leftByTry(claim) {
		err = claimed(claim)
	}
	return index, err
}

// leftByTry reports whether this process wrote an open claim in a try that ended
// without an answer.
func (c *Client) leftByTry(claim work.Claim) bool {
	_, tried := c.tries.Load(claim.Session)
	return tried && !claim.Ended
}

func claimed(claim work.Claim) error {
	by := "allocation " + claim.Allocation
	if claim.Ended {
		by = "it has ended"
	}
	return fmt.Errorf("claim attempt %s: %s: %w", claim.Attempt, by, work.ErrClaimed)
}

func (c *Client) newAttempt(e work.Envelope, allocation string) *Attempt {
	number := strconv.Itoa(e.Attempt.Number())
	ttl := e.Spec.Limits.HeartbeatTTL.Std()
	if e.Format < work.StoredFormat {
		c = c.amongOlder()
	}
	a := &Attempt{
		client: c, log: c.log.With(e.LogFields(allocation)...), id: e.Attempt, ttl: ttl, checkID: workerCheckID(e.Attempt, allocation), repository: work.RepositoryKey(e.Spec.Repository),
		claim: work.Claim{Attempt: e.Attempt, Allocation: allocation}, tried: map[string]bool{},
	}
	a.registration = &api.AgentServiceRegistration{
		ID: workerServiceID(e.Attempt, allocation), Name: ServiceWorker,
		Tags: []string{"item-" + e.Item, "attempt-" + number},
		Meta: map[string]string{
			"item": e.Item, "attempt": number, "allocation": allocation,
			"repository": shown(place(e.Spec.Repository)), "branch": shown(e.Branch),
		},
		Check: &api.AgentServiceCheck{
			CheckID: a.checkID, Name: "worker heartbeat", TTL: ttl.String(), Status: api.HealthPassing,
			Notes:                          fmt.Sprintf("item %s, attempt %s: critical after %s without a heartbeat of the worker, warning while its agent is silent", e.Item, number, ttl),
			DeregisterCriticalServiceAfter: time.Minute.String(),
		},
	}
	a.presence = newPresence(c, *a.registration)
	a.registration.Address, a.registration.Port, a.registration.Checks = c.healthCheck(e.Attempt, allocation)
	return a
}

// Of the check of /health.
const healthInterval, healthTimeout = 10 * time.Second, 5 * time.Second

// healthCheck returns where a worker's /health is, and the check that looks at it:
// for people, for it decides nothing. The heartbeat does.
func (c *Client) healthCheck(a work.AttemptID, allocation string) (host string, port int, checks api.AgentServiceChecks) {
	host, text, err := net.SplitHostPort(c.health)
	if err != nil {
		return "", 0, nil // there is none
	}
	if port, err = strconv.Atoi(text); err != nil {
		return "", 0, nil
	}
	return host, port, api.AgentServiceChecks{{
		CheckID: healthCheckID(a, allocation), Name: "worker health", HTTP: "http://" + c.health + "/health",
		Interval: healthInterval.String(), Timeout: healthTimeout.String(), Status: api.HealthPassing,
		Notes: "the worker answers and holds its attempt; that the agent is alive is said by the heartbeat",
	}}
}

// place is a repository's host and path, without scheme, user or password.
func place(repository string) string {
	if u, err := url.Parse(repository); err == nil && u.Host != "" {
		return u.Host + u.Path
	}
	return work.RedactURL(repository)
}

func shown(s string) string { return s[:min(maxMetaBytes, len(s))] }

// enter registers the service with its check, and makes the session bound to it.
//
// The session's own TTL is not below the check's, is renewed by the same beat,
// and runs out at the servers after twice its length: so it never ends a session
// whose check still passes, and ends one whose agent died with its check at most
// a TTL later than the check would have.
//
// A session that is gone leaves the attempt's lock behind without a holder, for
// work.LockDelay: see lostLocks.
func (a *Attempt) enter(ctx context.Context, output string) (work.Claim, error) {
	entered := a.Claim()
	if err := a.register(ctx); err != nil {
		return entered, err
	}
	if err := a.client.passCheck(ctx, a.checkID, output); err != nil {
		return entered, err
	}
	entry := &api.SessionEntry{
		Name: "drover attempt " + string(a.id), Behavior: api.SessionBehaviorRelease, LockDelay: time.Millisecond,
		TTL: max(a.client.timing.MinSessionTTL, a.ttl).String(), ServiceChecks: []api.ServiceCheck{{ID: a.checkID}},
	}
	id, err := a.client.createSession(ctx, entry)
	if err != nil {
		return entered, err
	}
	a.tried[id] = true
	entered.Session, entered.At = id, time.Now().UTC()
	info, _, err := a.client.repeat.Session().Info(id, consistent(ctx))
	if err != nil {
		return entered, classify("read session "+id, false, err)
	}
	if info == nil {
		return entered, fmt.Errorf("session %s ended as soon as it was made: %w", id, work.ErrUnavailable)
	}
	entered.Node = info.Node
	return entered, nil
}

func (a *Attempt) register(ctx context.Context) error {
	opts := api.ServiceRegisterOpts{}.WithContext(ctx)
	return classify("register "+a.registration.ID, true, a.client.repeat.Agent().ServiceRegisterOpts(a.registration, opts))
}

// take writes the claim over what was at an index, unless that has changed.
func (a *Attempt) take(ctx context.Context, entered work.Claim, over uint64) error {
	a.client.tries.Store(entered.Session, true)
	made, index, err := a.client.write(ctx, a.client.Keys.Claim(a.id), over, entered)
	if made {
		a.adopt(entered, index)
		return nil
	}
	if err != nil && !errors.Is(err, work.ErrUnknownOutcome) {
		return err
	}
	there, index, readErr := a.client.Claim(ctx, a.id)
	switch {
	case readErr != nil:
		return errors.Join(err, readErr)
	case index == 0:
		return errors.Join(err, fmt.Errorf("claim attempt %s: not stored: %w", a.id, work.ErrUnavailable))
	case there.Session == entered.Session && !there.Ended:
		a.adopt(there, index)
		return nil
	case a.client.leftByTry(there):
		return errors.Join(err, fmt.Errorf("claim attempt %s: an earlier try was stored meanwhile: %w", a.id, work.ErrUnavailable))
	}
	return claimed(there)
}

// adopt takes note of a claim that this process has written.
func (a *Attempt) adopt(claim work.Claim, index uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.claim, a.index, a.next = claim, index, work.Claim{}
}

// write writes a key that is at an index, 0 for one that does not exist yet. It
// reports whether it did, and the key's index then.
// It returns work.ErrUnavailable or work.ErrUnknownOutcome.
func (c *Client) write(ctx context.Context, key string, over uint64, v any) (made bool, index uint64, err error) {
	data, err := work.EncodeStored(v)
	if err != nil {
		return false, 0, fmt.Errorf("encode %s: %w", key, err)
	}
	op := &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: key, Value: data, Index: over}}
	ok, answer, _, err := c.once.Txn().Txn(api.TxnOps{op}, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return false, 0, classify("write "+key, true, err)
	}
	switch {
	case ok && len(answer.Results) > 0 && answer.Results[0].KV != nil:
		return true, answer.Results[0].KV.ModifyIndex, nil
	case ok:
		return false, 0, fmt.Errorf("write %s: Consul answers without an index: %w", key, work.ErrUnknownOutcome)
	case len(answer.Errors) > 0 && !strings.Contains(answer.Errors[0].What, "index is stale"):
		return false, 0, fmt.Errorf("write %s: %s: %w", key, answer.Errors[0].What, work.ErrInvalid)
	}
	return false, 0, nil
}

// Claim returns what the attempt is claimed with.
func (a *Attempt) Claim() work.Claim {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.claim
}

func (a *Attempt) session() string { return a.Claim().Session }

// Beat passes the check with output for people, or, while the agent is silent,
// sets it to warning, which ends no session. Then it renews the session: in this
// order, so that a success proves that the session was there after the check's
// TTL had begun anew. An agent that has lost the check, by a restart, is given it
// again.
//
// It returns work.ErrSessionLost when the session is gone, and
// work.ErrUnavailable or work.ErrUnknownOutcome, after which it may be repeated.
func (a *Attempt) Beat(ctx context.Context, output string, silent bool) error {
	status := api.HealthPassing
	if silent {
		status = api.HealthWarning
	}
	query := (&api.QueryOptions{}).WithContext(ctx)
	err := classify("pass check "+a.checkID, false, a.client.repeat.Agent().UpdateTTLOpts(a.checkID, output, status, query))
	if errors.Is(err, work.ErrNotFound) {
		a.log.Warn("Consul's agent forgot the worker and is told again")
		err = a.register(ctx)
	}
	if err != nil {
		return err
	}
	session := a.session()
	entry, _, err := a.client.repeat.Session().Renew(session, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return classify("renew session "+session, false, err)
	}
	if entry == nil {
		return a.gone("renew")
	}
	a.presence.show(ctx, output)
	return nil
}

// SaveProgress stores how far the attempt has come. It may be repeated.
// It returns work.ErrUnavailable or work.ErrUnknownOutcome.
func (a *Attempt) SaveProgress(ctx context.Context, p work.Progress) error {
	if p.Finished != nil {
		bounded := p.Finished.Bounded()
		p.Finished = &bounded
	}
	data, err := work.EncodeStored(p)
	if err != nil {
		return fmt.Errorf("encode progress: %w", err)
	}
	pair := &api.KVPair{Key: a.client.Keys.Progress(a.id), Value: data}
	_, err = a.client.repeat.KV().Put(pair, (&api.WriteOptions{}).WithContext(ctx))
	return classify("write "+pair.Key, true, err)
}

// Report stores the attempt's result, which is then the leader's to apply. It may be repeated.
// It returns work.ErrConflict when there is another allocation's result, and
// work.ErrUnavailable or work.ErrUnknownOutcome.
func (a *Attempt) Report(ctx context.Context, r work.Result) error {
	made, _, err := a.client.write(ctx, a.client.Keys.Result(a.id), 0, r.Bounded())
	if made {
		return nil
	}
	if err != nil && !errors.Is(err, work.ErrUnknownOutcome) {
		return err
	}
	there, readErr := a.client.Result(ctx, a.id)
	claim, _, claimErr := a.client.Claim(ctx, a.id) // after the result: the leader ends the claim as it takes the result
	switch {
	case claimErr != nil || readErr != nil:
		return errors.Join(err, claimErr, readErr)
	case there != nil && there.Allocation == r.Allocation:
		return nil
	case there != nil:
		return fmt.Errorf("report attempt %s: allocation %s has reported: %w", a.id, there.Allocation, work.ErrConflict)
	}
	if claim.Ended {
		return nil // the leader has applied it, or ended the attempt without it; a second one would tell nothing new
	}
	return errors.Join(err, fmt.Errorf("report attempt %s: not stored: %w", a.id, work.ErrUnavailable))
}

// Release ends the session and removes the service with its check; the claim
// stays. Doing it twice changes nothing.
// It returns work.ErrUnavailable or work.ErrUnknownOutcome.
func (a *Attempt) Release(ctx context.Context) error {
	a.locking.Lock()
	defer a.locking.Unlock()
	var errs []error
	for session := range a.tried {
		errs = append(errs, a.client.endSession(ctx, session, a.id))
	}
	id := a.registration.ID
	err := classify("deregister "+id, true, a.client.repeat.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx)))
	if !errors.Is(err, work.ErrNotFound) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
