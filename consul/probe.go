package consul

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
)

// ProbeWorker does once what a worker does with Consul, below a name of its own:
// it registers a service with a TTL check, passes it, makes a session bound to
// it, writes a key below that session, reads it and removes everything. What a
// probe that is killed leaves goes with the session and the check's TTL.
func (c *Client) ProbeWorker(ctx context.Context, name string) []Try {
	p := &workerProbe{Client: c, ctx: ctx, id: "drover-probe-" + name, key: c.Keys.Probe(name)}
	if p.register() {
		defer p.deregister()
		if p.makeSession() {
			p.useKey()
			p.destroySession()
		}
	}
	return p.tries
}

// workerProbe collects the tries of ProbeWorker. Its deferred clean-up appends to them too.
type workerProbe struct {
	*Client
	ctx     context.Context
	id, key string
	session string
	tries   []Try
}

const (
	probeTTL     = 30 * time.Second
	sessionsRule = `session_prefix "" { policy = "write" }`
)

var workerRule = fmt.Sprintf("service %q { policy = \"write\" }", ServiceWorker)

func (p *workerProbe) try(does, rule string, write bool, err error) bool {
	p.tries = append(p.tries, Try{Does: does, Rule: rule, Err: classify(does, write, err)})
	return err == nil
}

func (p *workerProbe) read() *api.QueryOptions   { return (&api.QueryOptions{}).WithContext(p.ctx) }
func (p *workerProbe) write() *api.WriteOptions  { return (&api.WriteOptions{}).WithContext(p.ctx) }
func (p *workerProbe) keyRule(act string) string { return keyRule(p.Keys.Probes(), act) }

func keyRule(prefix, policy string) string {
	return fmt.Sprintf("key_prefix %q { policy = %q }", prefix, policy)
}

// register registers the service and passes its check. The check's name keeps it
// apart from a heartbeat.
func (p *workerProbe) register() bool {
	service := &api.AgentServiceRegistration{
		ID: p.id, Name: ServiceWorker, Tags: []string{"probe"},
		Check: &api.AgentServiceCheck{
			CheckID: p.id, Name: "probe", TTL: probeTTL.String(), Status: api.HealthPassing, DeregisterCriticalServiceAfter: time.Minute.String(),
		},
	}
	err := p.once.Agent().ServiceRegisterOpts(service, api.ServiceRegisterOpts{}.WithContext(p.ctx))
	if !p.try("register the service "+ServiceWorker, workerRule, true, err) {
		return false
	}
	return p.try("pass a check of the service "+ServiceWorker, workerRule, true, p.once.Agent().UpdateTTLOpts(p.id, "probe", api.HealthPassing, p.read()))
}

func (p *workerProbe) deregister() {
	p.try("deregister the service "+ServiceWorker, workerRule, true, p.once.Agent().ServiceDeregisterOpts(p.id, p.read()))
}

func (p *workerProbe) makeSession() bool {
	id, err := p.createSession(p.ctx, &api.SessionEntry{
		Name: p.id, TTL: max(minSessionTTL, probeTTL).String(), Behavior: api.SessionBehaviorDelete, LockDelay: time.Millisecond,
		ServiceChecks: []api.ServiceCheck{{ID: p.id}},
	})
	p.session = id
	return p.try("make a session", sessionsRule, true, err)
}

func (p *workerProbe) destroySession() {
	_, err := p.once.Session().Destroy(p.session, p.write())
	p.try("destroy a session", sessionsRule, true, err)
}

func (p *workerProbe) useKey() {
	held, _, err := p.once.KV().Acquire(&api.KVPair{Key: p.key, Value: []byte("probe"), Session: p.session}, p.write())
	if err == nil && !held {
		err = errors.New("the lock was not granted")
	}
	if !p.try("write keys below "+p.Keys.Probes(), p.keyRule("write"), true, err) {
		return
	}
	pair, _, err := p.once.KV().Get(p.key, p.read())
	if err == nil && pair == nil {
		err = errors.New("the key that was written is not there: the token may not read it")
	}
	p.try("read keys below "+p.Keys.Probes(), p.keyRule("read"), false, err)
	_, err = p.once.KV().Delete(p.key, p.write())
	p.try("remove keys below "+p.Keys.Probes(), p.keyRule("write"), true, err)
	_, _, err = p.once.Session().Renew(p.session, p.write())
	p.try("renew a session", sessionsRule, true, err)
}
