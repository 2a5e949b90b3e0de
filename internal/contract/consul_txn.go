package contract

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

const noSession = "11111111-1111-1111-1111-111111111111"

var txnCases = []consulCase{
	{"all operations take one index", func(c *consulUser) {
		results := c.commit(c.op(api.KVSet, "a", withValue("1")), c.op(api.KVSet, "b", withValue("2"), withFlags(7)))
		is(c, "results", len(results), 2)
		is(c, "index of b", results[1].ModifyIndex, results[0].ModifyIndex)
		is(c, "stored index of a", c.get("a").ModifyIndex, results[0].ModifyIndex)
		is(c, "flags of b", c.get("b").Flags, 7)
	}},
	{"the result of a write has no value", func(c *consulUser) {
		results := c.commit(c.op(api.KVSet, "a", withValue("1"), withFlags(3)))
		is(c, "key", results[0].Key, c.key("a"))
		is(c, "flags", results[0].Flags, 3)
		is(c, "length of value", len(results[0].Value), 0)
	}},
	{"later operations see earlier ones", func(c *consulUser) {
		results := c.commit(
			c.op(api.KVCheckNotExists, "a"),
			c.op(api.KVSet, "a", withValue("1")),
			c.op(api.KVGet, "a"),
			c.op(api.KVDelete, "a"),
			c.op(api.KVGetOrEmpty, "a"),
			c.op(api.KVCheckNotExists, "a"),
		)
		is(c, "results", len(results), 3)
		is(c, "value read after set", string(results[1].Value), "1")
		is(c, "index read after delete", results[2].ModifyIndex, 0)
	}},
	{"get reads and get-or-empty forgives", func(c *consulUser) {
		c.put("a", "1")
		results := c.commit(c.op(api.KVGet, "a"), c.op(api.KVGetOrEmpty, "a"), c.op(api.KVGetOrEmpty, "none", withFlags(4)))
		is(c, "results", len(results), 3)
		is(c, "value", string(results[0].Value), "1")
		is(c, "value, or empty", string(results[1].Value), "1")
		is(c, "key of the empty one", results[2].Key, c.key("none"))
		is(c, "create index of the empty one", results[2].CreateIndex, 0)
		is(c, "flags of the empty one, as asked", results[2].Flags, 4)
	}},
	{"get-tree reads a prefix, even an empty one", func(c *consulUser) {
		c.put("x/a", "1")
		c.put("x/b", "2")
		results := c.commit(c.op(api.KVGetTree, "x/"), c.op(api.KVGetTree, "none/"))
		is(c, "results", len(results), 2)
		is(c, "second value", string(results[1].Value), "2")
	}},
	{"delete-tree deletes a prefix, even an empty one", func(c *consulUser) {
		c.put("x/a", "1")
		c.put("xy", "2")
		is(c, "results", len(c.commit(c.op(api.KVDeleteTree, "x/"), c.op(api.KVDeleteTree, "none/"))), 0)
		c.sameNames(c.keys("", ""), "xy")
	}},
	{"cas makes and updates", func(c *consulUser) {
		made := c.commit(c.op(api.KVCAS, "a", withValue("1")))
		c.commit(c.op(api.KVCAS, "a", withValue("2"), atIndex(made[0].ModifyIndex)))
		is(c, "value", string(c.get("a").Value), "2")
	}},
	{"delete-cas deletes at its index, and what is not there", func(c *consulUser) {
		at := c.put("a", "1").ModifyIndex
		c.commit(c.op(api.KVDeleteCAS, "a", atIndex(at)), c.op(api.KVDeleteCAS, "none", atIndex(9)))
		if c.find("a") != nil {
			c.Error("the key is still there")
		}
	}},
	{"check-index passes at the key's index", func(c *consulUser) {
		pair := c.put("a", "1")
		results := c.commit(c.op(api.KVCheckIndex, "a", atIndex(pair.ModifyIndex)), c.op(api.KVSet, "b"))
		is(c, "results", len(results), 2)
		is(c, "length of value", len(results[0].Value), 0)
	}},
	{"check-session passes for the holder", func(c *consulUser) {
		id := c.session()
		c.acquire("leader", id, "me")
		results := c.commit(c.op(api.KVCheckSession, "leader", bySession(id)), c.op(api.KVSet, "a", withValue("1")))
		is(c, "session", results[0].Session, id)
	}},
	{"check-session without a session passes for a key nobody holds", func(c *consulUser) {
		c.put("a", "1")
		c.commit(c.op(api.KVCheckSession, "a"))
	}},
	{"many locks are taken at once", func(c *consulUser) {
		id := c.session()
		results := c.commit(c.op(api.KVLock, "a", bySession(id), withValue("1")), c.op(api.KVLock, "b", bySession(id), withValue("2")))
		for _, result := range results {
			is(c, "lock index", result.LockIndex, 1)
			is(c, "session", result.Session, id)
		}
		is(c, "value", string(c.get("b").Value), "2")
	}},
	{"unlock frees and writes", func(c *consulUser) {
		id := c.session()
		c.acquire("a", id, "mine")
		results := c.commit(c.op(api.KVUnlock, "a", bySession(id), withValue("free")))
		is(c, "session in the result", results[0].Session, "")
		is(c, "session", c.get("a").Session, "")
		is(c, "value", string(c.get("a").Value), "free")
	}},
	{"the holder locks again and writes, beside a guard at its index", func(c *consulUser) {
		id := c.session()
		made := c.commit(c.op(api.KVCAS, "guard", withValue("1")), c.op(api.KVLock, "a", bySession(id), withValue("one")))
		results := c.commit(c.op(api.KVCAS, "guard", withValue("2"), atIndex(made[0].ModifyIndex)), c.op(api.KVLock, "a", bySession(id), withValue("one, two")))
		is(c, "lock index", results[1].LockIndex, made[1].LockIndex)
		is(c, "value", string(c.get("a").Value), "one, two")
		c.sameFailures(c.fail(c.op(api.KVCAS, "guard", withValue("3"), atIndex(made[0].ModifyIndex)), c.op(api.KVLock, "a", bySession(id), withValue("three"))),
			fmt.Sprintf(`0: failed to set key %q, index is stale`, c.key("guard")))
		is(c, "value after a stale guard", string(c.get("a").Value), "one, two")
	}},
	{"a lock is given up and removed at once, by its holder alone", func(c *consulUser) {
		id, other := c.session(), c.session()
		c.acquire("a", id, "mine")
		c.fail(c.op(api.KVUnlock, "a", bySession(other)), c.op(api.KVDelete, "a"))
		is(c, "session", c.get("a").Session, id)
		c.commit(c.op(api.KVUnlock, "a", bySession(id)), c.op(api.KVDelete, "a"))
		if c.find("a") != nil {
			c.Error("the key is still there")
		}
		c.commit(c.op(api.KVLock, "a", bySession(other)))
	}},
	{"a lock that its session lost is removed at the index of that", func(c *consulUser) {
		id := c.session()
		c.acquire("a", id, "mine")
		held := c.get("a").ModifyIndex
		c.destroy(id)
		lost := c.get("a")
		is(c, "session", lost.Session, "")
		is(c, "value", string(lost.Value), "mine")
		c.fail(c.op(api.KVDeleteCAS, "a", atIndex(held)))
		c.commit(c.op(api.KVDeleteCAS, "a", atIndex(lost.ModifyIndex)))
	}},
	{"a transaction of reads may be stale or consistent", func(c *consulUser) {
		c.put("a", "1")
		for _, options := range []*api.QueryOptions{{AllowStale: true}, {RequireConsistent: true}} {
			ok, _, _, err := c.api.KV().Txn(api.KVTxnOps{c.op(api.KVGet, "a")}, options.WithContext(c.Context()))
			c.must(err, "transaction")
			is(c, "done", ok, true)
		}
	}},
	{"an empty transaction succeeds", func(c *consulUser) { is(c, "results", len(c.commit()), 0) }},
	{"writing the same again moves nothing", func(c *consulUser) {
		at := c.put("a", "1").ModifyIndex
		is(c, "modify index", c.commit(c.op(api.KVSet, "a", withValue("1")))[0].ModifyIndex, at)
	}},
}

var txnFailureCases = []consulCase{
	{"a failure undoes everything", func(c *consulUser) {
		pair := c.put("a", "1")
		id := c.session()
		c.fail(
			c.op(api.KVSet, "a", withValue("2")),
			c.op(api.KVLock, "b", bySession(id)),
			c.op(api.KVDeleteTree, ""),
			c.op(api.KVSet, "c", withValue("3")),
			c.op(api.KVGet, "none"),
		)
		c.sameNames(c.keys("", ""), "a")
		is(c, "value", string(c.get("a").Value), "1")
		is(c, "modify index", c.get("a").ModifyIndex, pair.ModifyIndex)
		_, meta := c.list("")
		is(c, "index of the prefix", meta.LastIndex, pair.ModifyIndex)
	}},
	{"every failing operation is reported, with its text", func(c *consulUser) {
		at := c.put("a", "1").ModifyIndex
		holder, other := c.session(), c.session()
		c.acquire("held", holder, "")
		a, none, held := c.key("a"), c.key("none"), c.key("held")
		c.sameFailures(c.fail(
			c.op(api.KVSet, "fine"),
			c.op(api.KVCAS, "a", atIndex(at-1)),
			c.op(api.KVDeleteCAS, "a", atIndex(at-1)),
			c.op(api.KVCheckIndex, "a", atIndex(at-1)),
			c.op(api.KVCheckIndex, "none", atIndex(1)),
			c.op(api.KVCheckSession, "none", bySession(holder)),
			c.op(api.KVCheckSession, "held", bySession(other)),
			c.op(api.KVCheckNotExists, "a"),
			c.op(api.KVGet, "none"),
			c.op(api.KVLock, "held", bySession(other)),
			c.op(api.KVUnlock, "held", bySession(other)),
			c.op(api.KVUnlock, "none", bySession(other)),
			c.op(api.KVLock, "a", bySession(noSession)),
			c.op(api.KVLock, "a"),
			c.op(api.KVUnlock, "a"),
			c.op("bogus", "a"),
		),
			fmt.Sprintf(`1: failed to set key %q, index is stale`, a),
			fmt.Sprintf(`2: failed to delete key %q, index is stale`, a),
			fmt.Sprintf(`3: failed index check for key %q, current modify index %d != %d`, a, at, at-1),
			fmt.Sprintf(`4: failed to check index, key %q doesn't exist`, none),
			fmt.Sprintf(`5: failed to check session, key %q doesn't exist`, none),
			fmt.Sprintf(`6: failed session check for key %q, current session %q != %q`, held, holder, other),
			fmt.Sprintf(`7: key %q exists`, a),
			fmt.Sprintf(`8: key %q doesn't exist`, none),
			fmt.Sprintf(`9: failed to lock key %q, lock is already held`, held),
			fmt.Sprintf(`10: failed to unlock key %q, lock isn't held, or is held by another session`, held),
			fmt.Sprintf(`11: failed to unlock key %q, lock isn't held, or is held by another session`, none),
			fmt.Sprintf(`12: invalid session %q`, noSession),
			`13: missing session`,
			`14: missing session`,
			`15: unknown KV verb "bogus"`,
		)
	}},
	{"a transaction of reads reports in the same way", func(c *consulUser) {
		c.sameFailures(c.fail(c.op(api.KVGet, "none"), c.op(api.KVGetOrEmpty, "none"), c.op("bogus", "a")),
			fmt.Sprintf(`0: key %q doesn't exist`, c.key("none")),
			`2: unknown KV verb "bogus"`)
	}},
	{"a deposed leader writes nothing", func(c *consulUser) {
		old := c.session()
		c.acquire("leader", old, "old")
		c.destroy(old)
		c.sameFailures(c.fail(c.op(api.KVCheckSession, "leader", bySession(old)), c.op(api.KVSet, "a", withValue("1"))),
			fmt.Sprintf(`0: failed session check for key %q, current session "" != %q`, c.key("leader"), old))
		if c.find("a") != nil {
			c.Error("the deposed leader wrote")
		}
	}},
	{"a key under lock delay cannot be locked", func(c *consulUser) {
		id, next := c.session(func(e *api.SessionEntry) { e.LockDelay = time.Minute }), c.session()
		c.acquire("a", id, "")
		c.destroy(id)
		// What is found before anything runs hides what would be found after.
		c.sameFailures(c.fail(c.op(api.KVLock, "a", bySession(next)), c.op(api.KVGet, "none")),
			fmt.Sprintf(`0: failed to lock key %q due to lock delay`, c.key("a")))
		c.commit(c.op(api.KVSet, "a", withValue("writes need no lock")))
	}},
	{"a key that lost its holder is locked anew at the index it was read at", func(c *consulUser) {
		id, next := c.session(), c.session()
		c.acquire("a", id, "old")
		c.put("guard", "1")
		held := c.get("a").ModifyIndex
		c.destroy(id)
		lost, guard := c.get("a"), c.get("guard")
		is(c, "holder", lost.Session, "")
		is(c, "the index has moved", lost.ModifyIndex > held, true)
		c.eventually(func() bool { // the lock delay is a millisecond
			ok, answer, _, err := c.api.KV().Txn(api.KVTxnOps{
				c.op(api.KVCAS, "guard", withValue("2"), atIndex(guard.ModifyIndex)),
				c.op(api.KVCheckIndex, "a", atIndex(lost.ModifyIndex)),
				c.op(api.KVLock, "a", withValue("new"), bySession(next)),
			}, c.query())
			c.must(err, "transaction")
			if ok {
				is(c, "index in the first result", answer.Results[0].ModifyIndex, c.get("guard").ModifyIndex)
			}
			return ok
		})
		is(c, "holder", c.get("a").Session, next)
		is(c, "value", string(c.get("a").Value), "new")
		c.sameFailures(c.fail(c.op(api.KVDeleteCAS, "a", atIndex(lost.ModifyIndex))),
			fmt.Sprintf(`0: failed to delete key %q, index is stale`, c.key("a")))
	}},
	{"an operation needs a key", func(c *consulUser) {
		c.sameFailures(c.fail(&api.KVTxnOp{Verb: api.KVSet}, &api.KVTxnOp{Verb: api.KVGet}, c.op(api.KVGet, "none")),
			"0: Must provide key", "1: Must provide key")
	}},
	{"all or none of many locks are taken", func(c *consulUser) {
		holder, other := c.session(), c.session()
		c.acquire("b", holder, "")
		c.sameFailures(c.fail(c.op(api.KVLock, "a", bySession(other)), c.op(api.KVLock, "b", bySession(other))),
			fmt.Sprintf(`1: failed to lock key %q, lock is already held`, c.key("b")))
		if c.find("a") != nil {
			c.Error("the first of the locks was taken")
		}
	}},
}

func (c *consulUser) sameFailures(got api.TxnErrors, want ...string) {
	c.Helper()
	if found := txnTexts(got); !slices.Equal(found, want) {
		c.Errorf("failures\n\t%s\nwant\n\t%s", strings.Join(found, "\n\t"), strings.Join(want, "\n\t"))
	}
}

var limitCases = []consulCase{
	{"a transaction has up to 128 operations", func(c *consulUser) {
		c.commit(c.manyOps(128)...)
		_, _, _, err := c.api.KV().Txn(c.manyOps(129), c.query())
		if err == nil || !strings.Contains(err.Error(), "Transaction contains too many operations (129 > 128)") {
			c.Errorf("129 operations: %v", err)
		}
	}},
	{"a transaction's body has up to 512 KiB", func(c *consulUser) {
		_, _, _, err := c.api.KV().Txn(api.KVTxnOps{c.op(api.KVSet, "a", withValue(strings.Repeat("x", 400_000)))}, c.query())
		if err == nil || !strings.Contains(err.Error(), "too large, max size: 524288 bytes") {
			c.Errorf("transaction of 400,000 bytes: %v", err)
		}
	}},
	{"a value has up to 512 KiB", func(c *consulUser) {
		const limit = 512 * 1024
		is(c, "length", len(c.put("a", strings.Repeat("x", limit)).Value), limit)
		_, err := c.api.KV().Put(&api.KVPair{Key: c.key("b"), Value: make([]byte, limit+1)}, c.write())
		c.refused(err, 413, "Request body(524289 bytes) too large, max size: 524288 bytes. "+
			"See https://www.consul.io/docs/agent/config/config-files#kv_max_value_size.")
	}},
	{"a session's TTL is from 10 s to 24 h", func(c *consulUser) {
		_, _, err := c.api.Session().Create(&api.SessionEntry{TTL: "9s"}, c.write())
		c.refused(err, 500, "Invalid Session TTL '9000000000', must be between [10s=24h0m0s]")
		_, _, err = c.api.Session().Create(&api.SessionEntry{TTL: "25h"}, c.write())
		c.refused(err, 500, "Invalid Session TTL '90000000000000', must be between [10s=24h0m0s]")
		_, _, err = c.api.Session().Create(&api.SessionEntry{TTL: "soon"}, c.write())
		c.refused(err, 500, `Session TTL 'soon' invalid: time: invalid duration "soon"`)
	}},
	{"a check's output has up to 4096 bytes", func(c *consulUser) {
		c.register(time.Minute)
		c.update(api.HealthPassing, strings.Repeat("x", 5000))
		is(c, "output", c.agentCheck().Output, strings.Repeat("x", 4096)+" ... (captured 4096 of 5000 bytes)")
	}},
}

// manyOps writes one key many times, so that little is left to clean up.
func (c *consulUser) manyOps(count int) api.KVTxnOps {
	list := make(api.KVTxnOps, count)
	for i := range list {
		list[i] = c.op(api.KVSet, "a", withValue("1"))
	}
	return list
}
