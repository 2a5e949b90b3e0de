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
	claim        work.Claim
	ttl          time.Duration
	checkID      string
	repository   string     // its work.RepositoryKey
	locking      sync.Mutex // one transaction on the attempt's lock at a time
	registration *api.AgentServiceRegistration
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
	if err := c.unclaimed(ctx, e.Attempt); err != nil {
		return nil, err
	}
	a := c.newAttempt(e, allocation)
	err := a.enter(ctx)
	if err == nil {
		err = a.take(ctx)
	}
	if err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		if left := a.Release(cleanup); left != nil {
			a.log.Warn("could not undo the claim's registration, the TTL will", "error", left)
		}
		return nil, err
	}
	return a, nil
}

func (c *Client) unclaimed(ctx context.Context, id work.AttemptID) error {
	claim, index, err := c.Claim(ctx, id)
	if err == nil && index != 0 {
		err = claimed(claim)
	}
	return err
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
		client: c, log: c.log.With(e.LogFields(allocation)...), ttl: ttl, checkID: workerCheckID(e.Attempt, allocation), repository: work.RepositoryKey(e.Spec.Repository),
		claim: work.Claim{Attempt: e.Attempt, Allocation: allocation},
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
			Notes:                          fmt.Sprintf("item %s, attempt %s: critical after %s without a sign of life from the agent", e.Item, number, ttl),
			DeregisterCriticalServiceAfter: time.Minute.String(),
		},
	}
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
func (a *Attempt) enter(ctx context.Context) error {
	if err := a.register(ctx); err != nil {
		return err
	}
	if err := a.client.passCheck(ctx, a.checkID, "starting"); err != nil {
		return err
	}
	entry := &api.SessionEntry{
		Name: "drover attempt " + string(a.claim.Attempt), Behavior: api.SessionBehaviorRelease, LockDelay: time.Millisecond,
		TTL: max(minSessionTTL, a.ttl).String(), ServiceChecks: []api.ServiceCheck{{ID: a.checkID}},
	}
	id, err := a.client.createSession(ctx, entry)
	if err != nil {
		return err
	}
	a.claim.Session = id
	info, _, err := a.client.repeat.Session().Info(id, consistent(ctx))
	if err != nil {
		return classify("read session "+id, false, err)
	}
	if info == nil {
		return fmt.Errorf("session %s ended as soon as it was made: %w", id, work.ErrUnavailable)
	}
	a.claim.Node = info.Node
	return nil
}

func (a *Attempt) register(ctx context.Context) error {
	opts := api.ServiceRegisterOpts{}.WithContext(ctx)
	return classify("register "+a.registration.ID, true, a.client.repeat.Agent().ServiceRegisterOpts(a.registration, opts))
}

// take writes the claim, unless there is one.
func (a *Attempt) take(ctx context.Context) error {
	a.claim.At = time.Now().UTC()
	made, err := a.client.create(ctx, a.client.Keys.Claim(a.claim.Attempt), a.claim)
	if made {
		return nil
	}
	if err != nil && !errors.Is(err, work.ErrUnknownOutcome) {
		return err
	}
	there, index, readErr := a.client.Claim(ctx, a.claim.Attempt)
	switch {
	case readErr != nil:
		return errors.Join(err, readErr)
	case index == 0:
		return errors.Join(err, fmt.Errorf("claim attempt %s: not stored: %w", a.claim.Attempt, work.ErrUnavailable))
	case there.Session == a.claim.Session && !there.Ended:
		return nil
	}
	return claimed(there)
}

// create writes a key that does not exist yet, and reports whether it did.
// It returns work.ErrUnavailable or work.ErrUnknownOutcome.
func (c *Client) create(ctx context.Context, key string, v any) (bool, error) {
	data, err := work.EncodeStored(v)
	if err != nil {
		return false, fmt.Errorf("encode %s: %w", key, err)
	}
	op := &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: key, Value: data, Index: 0}}
	ok, answer, _, err := c.once.Txn().Txn(api.TxnOps{op}, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return false, classify("create "+key, true, err)
	}
	if !ok && len(answer.Errors) > 0 && !strings.Contains(answer.Errors[0].What, "index is stale") {
		return false, fmt.Errorf("create %s: %s: %w", key, answer.Errors[0].What, work.ErrInvalid)
	}
	return ok, nil
}

// Claim returns what the attempt is claimed with.
func (a *Attempt) Claim() work.Claim { return a.claim }

// Beat passes the check with output for people, then renews the session: in
// this order, so that a success proves that the session was there after the
// check's TTL had begun anew. An agent that has lost the check, by a restart, is
// given it again.
//
// It returns work.ErrSessionLost when the session is gone, and
// work.ErrUnavailable or work.ErrUnknownOutcome, after which it may be repeated.
func (a *Attempt) Beat(ctx context.Context, output string) error {
	query := (&api.QueryOptions{}).WithContext(ctx)
	err := classify("pass check "+a.checkID, false, a.client.repeat.Agent().UpdateTTLOpts(a.checkID, output, api.HealthPassing, query))
	if errors.Is(err, work.ErrNotFound) {
		a.log.Warn("Consul's agent forgot the worker and is told again")
		err = a.register(ctx)
	}
	if err != nil {
		return err
	}
	entry, _, err := a.client.repeat.Session().Renew(a.claim.Session, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return classify("renew session "+a.claim.Session, false, err)
	}
	if entry == nil {
		return fmt.Errorf("session %s of attempt %s: %w", a.claim.Session, a.claim.Attempt, work.ErrSessionLost)
	}
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
	pair := &api.KVPair{Key: a.client.Keys.Progress(a.claim.Attempt), Value: data}
	_, err = a.client.repeat.KV().Put(pair, (&api.WriteOptions{}).WithContext(ctx))
	return classify("write "+pair.Key, true, err)
}

// Report stores the attempt's result, which is then the leader's to apply. It may be repeated.
// It returns work.ErrConflict when there is another allocation's result, and
// work.ErrUnavailable or work.ErrUnknownOutcome.
func (a *Attempt) Report(ctx context.Context, r work.Result) error {
	made, err := a.client.create(ctx, a.client.Keys.Result(a.claim.Attempt), r.Bounded())
	if made {
		return nil
	}
	if err != nil && !errors.Is(err, work.ErrUnknownOutcome) {
		return err
	}
	there, readErr := a.client.Result(ctx, a.claim.Attempt)
	claim, _, claimErr := a.client.Claim(ctx, a.claim.Attempt) // after the result: the leader ends the claim as it takes the result
	switch {
	case claimErr != nil || readErr != nil:
		return errors.Join(err, claimErr, readErr)
	case there != nil && there.Allocation == r.Allocation:
		return nil
	case there != nil:
		return fmt.Errorf("report attempt %s: allocation %s has reported: %w", a.claim.Attempt, there.Allocation, work.ErrConflict)
	}
	if claim.Ended {
		return nil // the leader has applied it, or ended the attempt without it; a second one would tell nothing new
	}
	return errors.Join(err, fmt.Errorf("report attempt %s: not stored: %w", a.claim.Attempt, work.ErrUnavailable))
}

// Release ends the session and removes the service with its check; the claim
// stays. Doing it twice changes nothing.
// It returns work.ErrUnavailable or work.ErrUnknownOutcome.
func (a *Attempt) Release(ctx context.Context) error {
	var errs []error
	if a.claim.Session != "" {
		_, err := a.client.repeat.Session().Destroy(a.claim.Session, (&api.WriteOptions{}).WithContext(ctx))
		errs = append(errs, classify("destroy session "+a.claim.Session, true, err))
	}
	id := a.registration.ID
	err := classify("deregister "+id, true, a.client.repeat.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx)))
	if !errors.Is(err, work.ErrNotFound) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
