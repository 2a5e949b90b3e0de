package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/wait"
	"drover/internal/work"
)

// ServiceServer is the service name of all servers.
const ServiceServer = "drover"

// minSessionTTL is Consul's session_ttl_min.
const minSessionTTL = 10 * time.Second

// Leader says who leads.
type Leader struct {
	ID      string `json:"id"`
	Address string `json:"address"` // where its API answers
}

// Candidate is a server that wants to lead.
type Candidate struct {
	Leader
	// TTL is how long a leader that fell silent keeps the lock. The session is
	// bound to a TTL check, which Consul ends on time; a session's own TTL runs
	// up to twice as long and is only the net below.
	TTL     time.Duration
	Version string
	// Health says what keeps the server from answering calls, nil if nothing does.
	// It is told to Consul; nil means that it is always well.
	Health func(ctx context.Context) error
}

// Term is one server's time as leader.
type Term struct {
	client  *Client
	who     Candidate
	session string
	checkID string
	ctx     context.Context
	cancel  context.CancelCauseFunc
	commits chan *commit
	maxOps  atomic.Int64  // operations that this Consul takes in a transaction
	fence   atomic.Uint64 // see fence.go
	raised  uint64        // how often the fence was raised
	fencing sync.Mutex    // guards raised, and moving the fence
	closed  chan struct{} // closed when no commit can be answered any more
	tasks   sync.WaitGroup
	resign  sync.Once
}

// Lead waits until the candidate leads and returns its term. The term ends with
// ctx, by Resign, or when Consul lets another lead.
// It returns work.ErrFormat when what is stored is not for this version, the
// context's cause, work.ErrUnavailable or work.ErrUnknownOutcome; the caller tries
// again.
func (c *Client) Lead(ctx context.Context, who Candidate) (*Term, error) {
	t := &Term{client: c, who: who, checkID: "drover:server:" + who.ID, commits: make(chan *commit), closed: make(chan struct{})}
	t.maxOps.Store(maxOps)
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	if err := t.enter(); err != nil {
		t.leave()
		return nil, err
	}
	t.tasks.Go(t.keepAlive)
	if who.Health != nil {
		t.tasks.Go(t.tellHealth)
	}
	err := t.acquire()
	if err == nil {
		err = t.readFence(t.ctx)
	}
	if err == nil {
		err = t.takeOver()
	}
	if err == nil {
		err = t.keepFolders()
	}
	if err != nil {
		t.cancel(err)
		t.tasks.Wait()
		t.leave()
		return nil, err
	}
	t.tagLeader()
	t.tasks.Go(func() { t.runCommits(t.ctx) })
	return t, nil
}

// keepFolders makes the keys of the folders that a leader watches: a watch of a
// folder in which no key was ever written wakes with every write in all of Consul
// (1.14.11, agent/consul/state/kvs.go).
func (t *Term) keepFolders() error {
	keys := t.client.Keys
	return t.send(t.ctx, api.TxnOps{set(keys.Results(), nil), set(keys.Locks(), nil)})
}

// Context ends with the term; its cause says why.
func (t *Term) Context() context.Context { return t.ctx }

// Resign ends the term and lets another server lead at once. Doing it twice
// changes nothing.
func (t *Term) Resign() {
	t.resign.Do(func() {
		t.cancel(work.ErrFenced)
		t.tasks.Wait()
		close(t.closed)
		t.leave()
	})
}

func (t *Term) lose(cause error) { t.cancel(cause) }

// enter registers the candidate's service with its TTL check, and makes the
// session that is bound to it.
func (t *Term) enter() error {
	if err := t.register(); err != nil {
		return err
	}
	if err := t.client.passCheck(t.ctx, t.checkID, "candidate"); err != nil {
		return err
	}
	entry := &api.SessionEntry{
		Name: "drover server " + t.who.ID, Behavior: api.SessionBehaviorRelease, LockDelay: time.Millisecond,
		TTL: max(t.client.timing.MinSessionTTL, 2*t.who.TTL).String(), ServiceChecks: []api.ServiceCheck{{ID: t.checkID}},
	}
	id, err := t.client.createSession(t.ctx, entry)
	t.session = id
	return err
}

// acquire waits for the leader's lock.
func (t *Term) acquire() error {
	key := t.client.Keys.Leader()
	var index uint64
	for {
		if ok, err := t.lock(t.ctx); err != nil || ok {
			return err
		}
		opts := (&api.QueryOptions{WaitIndex: index, WaitTime: blockingWait}).WithContext(t.ctx)
		held, meta, err := t.client.once.KV().Get(key, opts)
		switch {
		case err != nil:
			return classify("watch the leader lock", false, err)
		case held != nil && held.Session == t.session:
			return nil
		case held == nil || held.Session == "":
			index = 0 // free, perhaps under lock delay: try again
			if err := wait.For(t.ctx, lockPause); err != nil {
				return err
			}
		default:
			index = nextIndex(index, meta.LastIndex)
		}
	}
}

// lockPause keeps a candidate from hammering on a lock under lock delay.
const lockPause = 100 * time.Millisecond

// keepAlive passes the check well within its TTL. Trust is counted from before
// the last request that succeeded: when it runs out, the term is over, whatever
// Consul thinks.
func (t *Term) keepAlive() {
	trusted := time.Now().Add(t.who.TTL)
	tick := time.NewTicker(t.who.TTL / 4)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
		}
		started := time.Now()
		switch err := t.renew(trusted); {
		case err == nil:
			trusted = started.Add(t.who.TTL)
		case errors.Is(err, work.ErrSessionLost) || !time.Now().Before(trusted):
			t.lose(fmt.Errorf("leadership lost: %w: %w", err, work.ErrFenced))
			return
		default:
			t.client.log.Warn("leadership not renewed, trying again", "left", time.Until(trusted).Round(time.Millisecond), "error", err)
		}
	}
}

// renew passes the check and renews the session, in the time that is left.
func (t *Term) renew(deadline time.Time) error {
	ctx, cancel := context.WithDeadline(t.ctx, deadline)
	defer cancel()
	if err := t.client.passCheck(ctx, t.checkID, "server "+t.who.Address); err != nil {
		return err
	}
	entry, _, err := t.client.repeat.Session().Renew(t.session, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return classify("renew the leader's session", true, err)
	}
	if entry == nil {
		return fmt.Errorf("session %s: %w", t.session, work.ErrSessionLost)
	}
	return nil
}

// leaveTimeout bounds how long a server that stops waits for Consul. The TTL is the net below.
const leaveTimeout = 3 * time.Second

// leave gives the lock up first, because destroying the session would impose
// its lock delay, and removes what enter made.
func (t *Term) leave() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), leaveTimeout)
	defer cancel()
	write, query := (&api.WriteOptions{}).WithContext(ctx), (&api.QueryOptions{}).WithContext(ctx)
	var errs []error
	if t.session != "" {
		pair := &api.KVPair{Key: t.client.Keys.Leader(), Session: t.session}
		_, _, err := t.client.once.KV().Release(pair, write)
		_, destroyed := t.client.once.Session().Destroy(t.session, write)
		errs = append(errs, err, destroyed)
	}
	errs = append(errs, t.client.once.Agent().ServiceDeregisterOpts(t.serviceID(), query))
	if err := errors.Join(errs...); err != nil {
		t.client.log.Warn("could not leave cleanly, the TTL will", "error", err)
	}
}

// Leader returns who leads.
// It returns work.ErrNoLeader when nobody does, and work.ErrUnavailable.
func (c *Client) Leader(ctx context.Context) (Leader, error) {
	pair, _, err := c.once.KV().Get(c.Keys.Leader(), (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return Leader{}, classify("read the leader", false, err)
	}
	if pair == nil || pair.Session == "" {
		return Leader{}, work.ErrNoLeader
	}
	var leader Leader
	if err := json.Unmarshal(pair.Value, &leader); err != nil {
		return Leader{}, fmt.Errorf("read the leader: %v: %w", err, work.ErrInvalid)
	}
	return leader, nil
}

// passCheck passes a TTL check. It returns work.ErrSessionLost when the agent
// does not know the check: an agent that restarted without its state, and the
// session bound to the check is gone.
func (c *Client) passCheck(ctx context.Context, checkID, output string) error {
	err := c.repeat.Agent().UpdateTTLOpts(checkID, output, api.HealthPassing, (&api.QueryOptions{}).WithContext(ctx))
	err = classify("pass check "+checkID, false, err)
	if errors.Is(err, work.ErrNotFound) {
		return fmt.Errorf("%w: %w", err, work.ErrSessionLost)
	}
	return err
}

// sessionTries bounds the wait for a freshly registered check to reach the servers.
const sessionTries = 50

// createSession makes a session. A check that was registered a moment ago may
// not have reached the servers yet, so "missing" and "critical" are tried again.
func (c *Client) createSession(ctx context.Context, entry *api.SessionEntry) (string, error) {
	for try := 1; ; try++ {
		id, _, err := c.once.Session().Create(entry, (&api.WriteOptions{}).WithContext(ctx))
		if err == nil {
			return id, nil
		}
		err = classify("create session "+entry.Name, true, err)
		if try == sessionTries || !retrySession(err) {
			return "", err
		}
		if err := wait.For(ctx, lockPause); err != nil {
			return "", err
		}
	}
}

func retrySession(err error) bool {
	text := err.Error()
	return strings.Contains(text, "Missing check") || strings.Contains(text, "is in critical state")
}
