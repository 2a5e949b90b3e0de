package contract

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
)

var sessionCases = []consulCase{
	{"a session is as it was made, and has defaults", func(c *consulUser) {
		id, _, err := c.api.Session().Create(nil, c.write())
		c.must(err, "create session")
		c.Cleanup(func() { c.api.Session().Destroy(id, nil) })
		got := c.info(id)
		is(c, "lock delay", got.LockDelay, 15*time.Second)
		is(c, "behaviour", got.Behavior, api.SessionBehaviorRelease)
		is(c, "TTL", got.TTL, "")
		is(c, "node", got.Node, c.node())
		is(c, "node checks", fmt.Sprint(got.NodeChecks), "[serfHealth]")

		id = c.session(func(e *api.SessionEntry) {
			e.TTL, e.Behavior, e.LockDelay = "1m", api.SessionBehaviorDelete, 2*time.Second
		})
		got = c.info(id)
		is(c, "name", got.Name, c.name)
		is(c, "TTL", got.TTL, "1m")
		is(c, "behaviour", got.Behavior, api.SessionBehaviorDelete)
		is(c, "lock delay", got.LockDelay, 2*time.Second)
	}},
	{"a lock delay is read as a duration", func(c *consulUser) {
		id := c.session(func(e *api.SessionEntry) { e.LockDelay = 1500 * time.Millisecond })
		is(c, "lock delay", c.info(id).LockDelay, 1500*time.Millisecond)
	}},
	{"a small lock delay is in seconds", func(c *consulUser) {
		is(c, "lock delay", c.info(c.rawSession(map[string]any{"LockDelay": 5})).LockDelay, 5*time.Second)
		is(c, "lock delay of 0", c.info(c.rawSession(map[string]any{"LockDelay": 0})).LockDelay, 0)
	}},
	{"a session can have no checks", func(c *consulUser) {
		id, _, err := c.api.Session().CreateNoChecks(&api.SessionEntry{Name: c.name}, c.write())
		c.must(err, "create session")
		c.Cleanup(func() { c.api.Session().Destroy(id, nil) })
		is(c, "node checks", len(c.info(id).NodeChecks), 0)
	}},
	{"sessions are listed, by node too", func(c *consulUser) {
		id := c.session()
		all, _, err := c.api.Session().List(c.query())
		c.must(err, "list sessions")
		ofNode, _, err := c.api.Session().Node(c.node(), c.query())
		c.must(err, "list sessions of the node")
		ofNone, _, err := c.api.Session().Node("no-such-node", c.query())
		c.must(err, "list sessions of no node")
		isThis := func(e *api.SessionEntry) bool { return e.ID == id }
		is(c, "in the list", slices.ContainsFunc(all, isThis), true)
		is(c, "in the node's list", slices.ContainsFunc(ofNode, isThis), true)
		is(c, "sessions of no node", len(ofNone), 0)
	}},
	{"a session that was destroyed is gone, and may be destroyed again", func(c *consulUser) {
		id := c.session()
		c.destroy(id)
		c.destroy(id)
		is(c, "exists", c.sessionExists(id), false)
	}},
	{"a session is renewed", func(c *consulUser) {
		id := c.session(func(e *api.SessionEntry) { e.TTL = "1m" })
		entry, _, err := c.api.Session().Renew(id, c.write())
		c.must(err, "renew session")
		is(c, "id", entry.ID, id)
	}},
	{"renewing an unknown session finds nothing", func(c *consulUser) {
		entry, _, err := c.api.Session().Renew(noSession, c.write())
		c.must(err, "renew session")
		if entry != nil {
			c.Errorf("got %v", entry)
		}
	}},
	{"a reader of a session waits for its end", func(c *consulUser) {
		id := c.session()
		_, meta, err := c.api.Session().Info(id, c.query())
		c.must(err, "session info")
		gone := c.inBackground(func() (uint64, error) {
			at := meta.LastIndex
			for { // other sessions' changes may end the wait too
				entry, meta, err := c.api.Session().Info(id, c.after(at, longWait))
				if err != nil {
					return 0, err
				}
				if at = meta.LastIndex; entry == nil {
					return at, nil
				}
			}
		})
		if got := <-gone.after(func() { c.destroy(id) }); got <= meta.LastIndex {
			c.Errorf("index %d, want over %d", got, meta.LastIndex)
		}
	}},
	{"a session that is not renewed ends after its TTL, and within twice that", func(c *consulUser) {
		const ttl = 10 * time.Second
		began := time.Now()
		id := c.session(func(e *api.SessionEntry) { e.TTL, e.Behavior = ttl.String(), api.SessionBehaviorDelete })
		c.acquire("a", id, "mine")
		at := c.get("a").ModifyIndex
		pair, _, err := c.api.KV().Get(c.key("a"), c.after(at, longWait))
		c.must(err, "get")
		if pair != nil {
			c.Errorf("the key is still there: %v", pair)
		}
		if took := time.Since(began); took < ttl || took > 2*ttl+5*time.Second {
			c.Errorf("ended after %v", took)
		}
		is(c, "exists", c.sessionExists(id), false)
	}},
	{"a session is bound to a passing check", func(c *consulUser) {
		c.register(time.Minute)
		got := c.info(c.boundSession())
		is(c, "service checks", len(got.ServiceChecks), 1)
		is(c, "service check", got.ServiceChecks[0].ID, c.name)
		is(c, "node checks", fmt.Sprint(got.NodeChecks), "[serfHealth]")
	}},
	{"a warning check will do", func(c *consulUser) {
		c.register(time.Minute)
		c.update(api.HealthWarning, "")
		id := c.boundSession()
		c.update(api.HealthPassing, "")
		c.update(api.HealthWarning, "")
		is(c, "exists", c.sessionExists(id), true)
	}},
	{"a critical check will not", func(c *consulUser) {
		c.register(time.Minute)
		c.update(api.HealthCritical, "")
		_, _, err := c.api.Session().Create(c.boundTo(c.name), c.write())
		c.refused(err, 500, fmt.Sprintf("apply failed: Check '%s' is in critical state", c.name))
	}},
	{"an unknown check will not", func(c *consulUser) {
		_, _, err := c.api.Session().Create(c.boundTo("no-such-check"), c.write())
		c.refused(err, 500, "apply failed: Missing check 'no-such-check' registration")
		_, _, err = c.api.Session().Create(&api.SessionEntry{NodeChecks: []string{"no-such-check"}}, c.write())
		c.refused(err, 500, "apply failed: Missing check 'no-such-check' registration")
	}},
	{"a session ends in the step in which its check goes critical", func(c *consulUser) {
		c.register(time.Minute)
		id := c.boundSession()
		c.acquire("a", id, "mine")
		c.update(api.HealthCritical, "done for")
		is(c, "exists", c.sessionExists(id), false)
		is(c, "holder", c.get("a").Session, "")
		is(c, "index of the release", c.get("a").ModifyIndex, c.catalogCheck().ModifyIndex)
	}},
	{"a session ends when its check's TTL runs out", func(c *consulUser) {
		const ttl = time.Second
		c.register(ttl)
		c.update(api.HealthPassing, "alive")
		began := time.Now()
		id := c.boundSession(func(e *api.SessionEntry) { e.Behavior = api.SessionBehaviorDelete })
		c.acquire("a", id, "mine")
		pair, _, err := c.api.KV().Get(c.key("a"), c.after(c.get("a").ModifyIndex, longWait))
		c.must(err, "get")
		if pair != nil {
			c.Errorf("the key is still there: %v", pair)
		}
		if took := time.Since(began); took > 2*ttl+3*time.Second {
			c.Errorf("ended after %v", took)
		}
		is(c, "exists", c.sessionExists(id), false)
	}},
	{"a session ends when its check is deregistered", func(c *consulUser) {
		c.register(time.Minute)
		id := c.boundSession()
		c.must(c.api.Agent().ServiceDeregister(c.name), "deregister service")
		is(c, "exists", c.sessionExists(id), false)
	}},
	{"a session outlives the registration of its service again", func(c *consulUser) {
		c.register(time.Minute)
		id := c.boundSession()
		c.register(time.Minute)
		is(c, "exists", c.sessionExists(id), true)
	}},
}

func (c *consulUser) info(id string) *api.SessionEntry {
	c.Helper()
	entry, _, err := c.api.Session().Info(id, c.query())
	c.must(err, "session info")
	if entry == nil {
		c.Fatalf("session %s does not exist", id)
	}
	return entry
}

// rawSession makes a session from JSON that consul/api would not write.
func (c *consulUser) rawSession(body map[string]any) string {
	c.Helper()
	var made struct{ ID string }
	_, err := c.api.Raw().Write("/v1/session/create", body, &made, c.write())
	c.must(err, "create session")
	c.Cleanup(func() { c.api.Session().Destroy(made.ID, nil) })
	return made.ID
}

func (c *consulUser) node() string {
	c.Helper()
	name, err := c.api.Agent().NodeName()
	c.must(err, "node name")
	return name
}

func (c *consulUser) boundTo(check string) *api.SessionEntry {
	return &api.SessionEntry{LockDelay: time.Millisecond, ServiceChecks: []api.ServiceCheck{{ID: check}}}
}

// boundSession makes a session that ends with this case's check.
func (c *consulUser) boundSession(options ...func(*api.SessionEntry)) string {
	c.Helper()
	bind := func(e *api.SessionEntry) { e.ServiceChecks = c.boundTo(c.name).ServiceChecks }
	return c.session(append(options, bind)...)
}

var lockCases = []consulCase{
	{"a free key is locked, and the value written", func(c *consulUser) {
		id := c.session()
		is(c, "acquired", c.acquire("a", id, "mine"), true)
		pair := c.get("a")
		is(c, "session", pair.Session, id)
		is(c, "lock index", pair.LockIndex, 1)
		is(c, "value", string(pair.Value), "mine")
	}},
	{"a key that is held is not", func(c *consulUser) {
		c.acquire("a", c.session(), "mine")
		is(c, "acquired", c.acquire("a", c.session(), "theirs"), false)
		is(c, "value", string(c.get("a").Value), "mine")
	}},
	{"the holder may lock again, and the lock index stays", func(c *consulUser) {
		id := c.session()
		c.acquire("a", id, "one")
		is(c, "acquired again", c.acquire("a", id, "two"), true)
		is(c, "lock index", c.get("a").LockIndex, 1)
		at := c.get("a").ModifyIndex
		is(c, "acquired with the same value", c.acquire("a", id, "two"), true)
		is(c, "modify index", c.get("a").ModifyIndex, at)
	}},
	{"a release frees and writes", func(c *consulUser) {
		id := c.session()
		c.acquire("a", id, "mine")
		is(c, "released", c.release("a", id, "free"), true)
		pair := c.get("a")
		is(c, "session", pair.Session, "")
		is(c, "value", string(pair.Value), "free")
		is(c, "lock index", pair.LockIndex, 1)
	}},
	{"only the holder releases, and once", func(c *consulUser) {
		id, other := c.session(), c.session()
		c.acquire("a", id, "mine")
		is(c, "released by another", c.release("a", other, ""), false)
		is(c, "released", c.release("a", id, ""), true)
		is(c, "released again", c.release("a", id, ""), false)
		is(c, "released a key that is not there", c.release("none", id, ""), false)
	}},
	{"each new hold raises the lock index", func(c *consulUser) {
		id := c.session()
		for hold := uint64(1); hold <= 3; hold++ {
			c.acquire("a", id, "mine")
			is(c, "lock index", c.get("a").LockIndex, hold)
			c.release("a", id, "mine")
		}
	}},
	{"a released key has no lock delay", func(c *consulUser) {
		id := c.session(func(e *api.SessionEntry) { e.LockDelay = time.Minute })
		c.acquire("a", id, "")
		c.release("a", id, "")
		is(c, "acquired", c.acquire("a", c.session(), ""), true)
	}},
	{"a plain write leaves the holder and forgets the lock index", func(c *consulUser) {
		id := c.session()
		c.acquire("a", id, "mine")
		pair := c.put("a", "theirs")
		is(c, "session", pair.Session, id)
		is(c, "lock index", pair.LockIndex, 0)
		is(c, "released", c.release("a", id, ""), true)
	}},
	{"a delete takes a lock away", func(c *consulUser) {
		id := c.session()
		c.acquire("a", id, "mine")
		c.delete("a")
		is(c, "acquired by another", c.acquire("a", c.session(), ""), true)
	}},
	{"the end of a session releases its keys, and keeps their values", func(c *consulUser) {
		id := c.session()
		c.acquire("a", id, "mine")
		c.acquire("b", id, "mine too")
		c.destroy(id)
		for _, name := range []string{"a", "b"} {
			is(c, "holder of "+name, c.get(name).Session, "")
			is(c, "lock index of "+name, c.get(name).LockIndex, 1)
		}
		is(c, "value", string(c.get("b").Value), "mine too")
		is(c, "index of both", c.get("a").ModifyIndex, c.get("b").ModifyIndex)
	}},
	{"the end of a session deletes its keys, if it is made so", func(c *consulUser) {
		id := c.session(func(e *api.SessionEntry) { e.Behavior = api.SessionBehaviorDelete })
		c.acquire("a", id, "mine")
		c.put("b", "not held")
		c.destroy(id)
		c.sameNames(c.keys("", ""), "b")
	}},
	{"a lock delay follows a destroyed session, and ends", func(c *consulUser) {
		const delay = time.Second
		id, next := c.session(func(e *api.SessionEntry) { e.LockDelay = delay }), c.session()
		c.acquire("a", id, "mine")
		destroyed := time.Now()
		c.destroy(id)
		is(c, "acquired at once", c.acquire("a", next, ""), false)
		c.eventually(func() bool { return c.acquire("a", next, "") })
		if took := time.Since(destroyed); took < delay {
			c.Errorf("acquired after %v, the lock delay is %v", took, delay)
		}
	}},
	{"an unknown session cannot lock", func(c *consulUser) {
		_, _, err := c.api.KV().Acquire(&api.KVPair{Key: c.key("a"), Session: noSession}, c.write())
		c.refused(err, 500, fmt.Sprintf("raft apply failed: invalid session %q", noSession))
		_, _, err = c.api.KV().Acquire(&api.KVPair{Key: c.key("a")}, c.write())
		c.refused(err, 500, "raft apply failed: missing session")
	}},
	{"consul/api's Lock is won, lost, and won by the next", func(c *consulUser) {
		first := c.lock()
		lost, err := first.Lock(c.Context().Done())
		c.must(err, "lock")
		c.destroy(c.get("lock").Session)
		select {
		case <-lost:
		case <-time.After(longWait):
			c.Fatal("the holder did not hear of the end of its session")
		}
		c.must(first.Unlock(), "give up the lost lock") // ends its renewals
		second := c.lock()
		_, err = second.Lock(c.Context().Done())
		c.must(err, "lock after the loss")
		c.must(second.Unlock(), "unlock")
	}},
}

func (c *consulUser) lock() *api.Lock {
	c.Helper()
	lock, err := c.api.LockOpts(&api.LockOptions{
		Key: c.key("lock"), SessionTTL: "10s", LockDelay: time.Millisecond,
	})
	c.must(err, "make lock")
	return lock
}

// eventually waits until something is so, soon.
func (c *consulUser) eventually(so func() bool) {
	c.Helper()
	deadline := time.After(soon)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !so() {
		select {
		case <-ticker.C:
		case <-deadline:
			c.Fatal("it did not come to be")
		}
	}
}
