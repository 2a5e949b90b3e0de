package consul

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/work"
)

// Try is something drover does that was tried, and how it went.
type Try struct {
	Does string // in words
	Rule string // of a policy, that allows it
	Err  error
}

// Agent is what the agent that is spoken to tells of itself.
type Agent struct {
	Version string
	// CheckUpdateInterval is how late a check's new output reaches the servers.
	CheckUpdateInterval time.Duration
}

// About returns what the agent tells of itself. It returns what classify does.
func (c *Client) About(ctx context.Context) (Agent, error) {
	var self struct {
		Config      struct{ Version string }
		DebugConfig struct{ CheckUpdateInterval string }
	}
	_, err := c.once.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx))
	about := Agent{Version: self.Config.Version}
	if interval, bad := time.ParseDuration(self.DebugConfig.CheckUpdateInterval); bad == nil {
		about.CheckUpdateInterval = interval
	}
	return about, classify("read Consul's version", false, err)
}

// HasLeader returns work.ErrUnavailable unless the servers have a leader.
func (c *Client) HasLeader(ctx context.Context) error {
	var leader string
	_, err := c.once.Raw().Query("/v1/status/leader", &leader, (&api.QueryOptions{}).WithContext(ctx))
	if err == nil && leader == "" {
		return fmt.Errorf("the servers of Consul have no leader: %w", work.ErrUnavailable)
	}
	return classify("reach Consul", false, err)
}

// Examine does once all that drover does with Consul, on keys and a service of
// its own, and removes what it made.
func (c *Client) Examine(ctx context.Context, name string) (tries []Try) {
	key, prefix := c.Keys.Prefix()+"doctor/"+name, c.Keys.Prefix()
	read, write := (&api.QueryOptions{}).WithContext(ctx), (&api.WriteOptions{}).WithContext(ctx)
	try := func(does, rule string, write bool, err error) bool {
		tries = append(tries, Try{Does: does, Rule: rule, Err: classify(does, write, err)})
		return err == nil
	}
	put := &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVSet, Key: key, Value: []byte("x")}}
	ok, answer, _, err := c.once.Txn().Txn(api.TxnOps{put}, read)
	if err == nil && !ok {
		err = errors.New(answer.Errors[0].What)
	}
	if try("write keys below "+prefix, fmt.Sprintf("key_prefix %q { policy = \"write\" }", prefix), true, err) {
		defer func() {
			_, err := c.once.KV().Delete(key, write)
			try("remove keys below "+prefix, fmt.Sprintf("key_prefix %q { policy = \"write\" }", prefix), true, err)
		}()
	}
	pair, _, err := c.once.KV().Get(key, read)
	if err == nil && pair == nil && tries[0].Err == nil {
		err = errors.New("what was written is not there: the token may not read it")
	}
	try("read keys below "+prefix, fmt.Sprintf("key_prefix %q { policy = \"read\" }", prefix), false, err)

	id := "drover-doctor-" + name
	const ttl = "30s"
	service := &api.AgentServiceRegistration{
		ID: id, Name: ServiceServer, Tags: []string{"doctor"},
		Check: &api.AgentServiceCheck{CheckID: id, TTL: ttl, Status: api.HealthPassing, DeregisterCriticalServiceAfter: time.Minute.String()},
	}
	rule := fmt.Sprintf("service %q { policy = \"write\" }", ServiceServer)
	if try("register the service "+ServiceServer, rule, true, c.once.Agent().ServiceRegisterOpts(service, api.ServiceRegisterOpts{}.WithContext(ctx))) {
		defer func() {
			try("deregister the service "+ServiceServer, rule, true, c.once.Agent().ServiceDeregisterOpts(id, read))
		}()
		try("pass a check of the service "+ServiceServer, rule, true, c.once.Agent().UpdateTTLOpts(id, "doctor", api.HealthPassing, read))
	}
	session, _, err := c.once.Session().Create(&api.SessionEntry{Name: id, TTL: minSessionTTL.String(), Behavior: api.SessionBehaviorDelete}, write)
	rule = `session_prefix "" { policy = "write" }`
	if try("make a session", rule, true, err) {
		held, _, err := c.once.KV().Acquire(&api.KVPair{Key: key + "-lock", Session: session}, write)
		if err == nil && !held {
			err = errors.New("the lock was not given")
		}
		try("take a lock below "+prefix, fmt.Sprintf("key_prefix %q { policy = \"write\" }", prefix), true, err)
		_, _, err = c.once.Session().Renew(session, write)
		try("renew a session", rule, true, err)
		_, err = c.once.Session().Destroy(session, write)
		try("destroy a session", rule, true, err)
	}
	_, _, err = c.once.Health().Checks(ServiceWorker, read)
	try("read the checks of the service "+ServiceWorker, fmt.Sprintf("service_prefix %q { policy = \"read\" }, node_prefix \"\" { policy = \"read\" }", ServiceWorker), false, err)
	return tries
}
