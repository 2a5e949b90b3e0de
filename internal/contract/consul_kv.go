package contract

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

var kvCases = []consulCase{
	{"a value comes back with flags and indexes", func(c *consulUser) {
		_, err := c.api.KV().Put(&api.KVPair{Key: c.key("a"), Value: []byte("one"), Flags: 42}, c.write())
		c.must(err, "put")
		pair := c.get("a")
		is(c, "value", string(pair.Value), "one")
		is(c, "flags", pair.Flags, 42)
		is(c, "lock index", pair.LockIndex, 0)
		is(c, "session", pair.Session, "")
		is(c, "modify index of a new key", pair.ModifyIndex, pair.CreateIndex)
	}},
	{"an update keeps the create index and moves the modify index", func(c *consulUser) {
		first := c.put("a", "one")
		second := c.put("a", "two")
		is(c, "create index", second.CreateIndex, first.CreateIndex)
		if second.ModifyIndex <= first.ModifyIndex {
			c.Errorf("modify index went from %d to %d", first.ModifyIndex, second.ModifyIndex)
		}
	}},
	{"writing the same again moves nothing", func(c *consulUser) {
		first := c.put("a", "one")
		is(c, "modify index", c.put("a", "one").ModifyIndex, first.ModifyIndex)
	}},
	{"other flags are a change", func(c *consulUser) {
		first := c.put("a", "one")
		_, err := c.api.KV().Put(&api.KVPair{Key: c.key("a"), Value: []byte("one"), Flags: 1}, c.write())
		c.must(err, "put")
		if c.get("a").ModifyIndex == first.ModifyIndex {
			c.Error("modify index did not move")
		}
	}},
	{"an empty value is no value", func(c *consulUser) {
		is(c, "length of value", len(c.put("a", "").Value), 0)
	}},
	{"a missing key has an index and a leader", func(c *consulUser) {
		pair, meta, err := c.api.KV().Get(c.key("none"), c.query())
		c.must(err, "get")
		if pair != nil {
			c.Errorf("found %v", pair)
		}
		if meta.LastIndex == 0 || !meta.KnownLeader || meta.LastContact != 0 {
			c.Errorf("meta %+v, want an index, a known leader, no time since contact", meta)
		}
	}},
	{"a key's index is its modify index", func(c *consulUser) {
		pair := c.put("a", "one")
		c.put("b", "two")
		is(c, "index", c.index("a"), pair.ModifyIndex)
	}},
	{"a missing key's index is that of the last change of any key", func(c *consulUser) {
		pair := c.put("a", "one")
		if got := c.index("none"); got < pair.ModifyIndex {
			c.Errorf("index %d, want at least %d", got, pair.ModifyIndex)
		}
	}},
	{"a deleted key is gone, twice too", func(c *consulUser) {
		c.put("a", "one")
		c.delete("a")
		c.delete("a")
		if pair := c.find("a"); pair != nil {
			c.Errorf("found %v", pair)
		}
	}},
	{"a key made again has a new create index", func(c *consulUser) {
		first := c.put("a", "one")
		c.delete("a")
		if second := c.put("a", "one"); second.CreateIndex <= first.CreateIndex {
			c.Errorf("create index went from %d to %d", first.CreateIndex, second.CreateIndex)
		}
	}},
	{"keys of letters, digits and ,_./-?&= are taken", func(c *consulUser) {
		const all = "abcdefghijklmnopqrstuvwxyz/ABCDEFGHIJKLMNOPQRSTUVWXYZ/0123456789/a,b_c.d-e?f&g=h"
		is(c, "value", string(c.put(all, "one").Value), "one")
		is(c, "key", c.get(all).Key, c.key(all))
		c.delete(all)
	}},
	{"other keys are refused by name, or come back", func(c *consulUser) {
		for _, odd := range []string{"repo with space", "a:b", "a@b", "a#b", "ünïcode", "a%41", "a%2e%2e/b"} {
			_, err := c.api.KV().Put(&api.KVPair{Key: c.key(odd), Value: []byte("one")}, c.write())
			switch {
			case err != nil && !strings.Contains(err.Error(), "invalid key name"):
				c.Errorf("put %q: %v, want it done, or refused as an invalid key name", odd, err)
			case err == nil:
				is(c, "key", c.get(odd).Key, c.key(odd))
			}
		}
	}},
	{"reads may be stale or consistent", func(c *consulUser) {
		c.put("a", "one")
		for _, options := range []*api.QueryOptions{{AllowStale: true}, {RequireConsistent: true}} {
			pair, _, err := c.api.KV().Get(c.key("a"), options.WithContext(c.Context()))
			c.must(err, "get")
			is(c, "value", string(pair.Value), "one")
		}
	}},
	{"a token is accepted", func(c *consulUser) {
		options := &api.WriteOptions{Token: "anything"}
		_, err := c.api.KV().Put(&api.KVPair{Key: c.key("a")}, options.WithContext(c.Context()))
		c.must(err, "put with a token")
	}},
}

var casCases = []consulCase{
	{"index 0 makes a key that does not exist", func(c *consulUser) {
		is(c, "done", c.cas("a", "one", 0), true)
		is(c, "value", string(c.get("a").Value), "one")
	}},
	{"index 0 leaves a key that exists", func(c *consulUser) {
		c.put("a", "one")
		is(c, "done", c.cas("a", "two", 0), false)
		is(c, "value", string(c.get("a").Value), "one")
	}},
	{"the current index updates", func(c *consulUser) {
		is(c, "done", c.cas("a", "two", c.put("a", "one").ModifyIndex), true)
		is(c, "value", string(c.get("a").Value), "two")
	}},
	{"a stale index does not", func(c *consulUser) {
		first := c.put("a", "one")
		c.put("a", "two")
		is(c, "done", c.cas("a", "three", first.ModifyIndex), false)
		is(c, "value", string(c.get("a").Value), "two")
	}},
	{"an index of a key that does not exist does not", func(c *consulUser) {
		is(c, "done", c.cas("a", "one", 1), false)
	}},
	{"the same value succeeds and moves nothing", func(c *consulUser) {
		first := c.put("a", "one")
		is(c, "done", c.cas("a", "one", first.ModifyIndex), true)
		is(c, "modify index", c.get("a").ModifyIndex, first.ModifyIndex)
	}},
	{"one of many rivals wins", func(c *consulUser) {
		pair := c.put("a", "one")
		wins := make(chan bool, 8)
		for range cap(wins) {
			go func() {
				ok, _, err := c.api.KV().CAS(&api.KVPair{Key: pair.Key, Value: []byte("two"), ModifyIndex: pair.ModifyIndex}, c.write())
				if err != nil {
					c.Errorf("cas: %v", err)
				}
				wins <- ok
			}()
		}
		won := 0
		for range cap(wins) {
			if <-wins {
				won++
			}
		}
		is(c, "winners", won, 1)
	}},
	{"delete at the current index deletes", func(c *consulUser) {
		pair := c.put("a", "one")
		is(c, "done", c.deleteCAS("a", pair.ModifyIndex), true)
		if c.find("a") != nil {
			c.Error("the key is still there")
		}
	}},
	{"delete at a stale index does not", func(c *consulUser) {
		pair := c.put("a", "one")
		is(c, "done", c.deleteCAS("a", pair.ModifyIndex-1), false)
		c.get("a")
	}},
	{"delete of a key that does not exist succeeds at any index", func(c *consulUser) {
		is(c, "done", c.deleteCAS("a", 1), true)
	}},
}

func (c *consulUser) cas(name, value string, at uint64) bool {
	c.Helper()
	ok, _, err := c.api.KV().CAS(&api.KVPair{Key: c.key(name), Value: []byte(value), ModifyIndex: at}, c.write())
	c.must(err, "cas "+name)
	return ok
}

func (c *consulUser) deleteCAS(name string, at uint64) bool {
	c.Helper()
	ok, _, err := c.api.KV().DeleteCAS(&api.KVPair{Key: c.key(name), ModifyIndex: at}, c.write())
	c.must(err, "delete-cas "+name)
	return ok
}

var listCases = []consulCase{
	{"a prefix lists its keys in order, with values", func(c *consulUser) {
		for _, name := range []string{"x/b", "x/a/1", "x/c", "y"} {
			c.put(name, "value of "+name)
		}
		pairs, _ := c.list("x/")
		var got []string
		for _, pair := range pairs {
			name := strings.TrimPrefix(pair.Key, c.prefix)
			got = append(got, name)
			is(c, "value of "+name, string(pair.Value), "value of "+name)
		}
		c.sameNames(got, "x/a/1", "x/b", "x/c")
	}},
	{"a prefix is of the text, not of path elements", func(c *consulUser) {
		c.put("item", "1")
		c.put("items/a", "2")
		pairs, _ := c.list("item")
		is(c, "keys", len(pairs), 2)
	}},
	{"keys come without values, up to a separator", func(c *consulUser) {
		for _, name := range []string{"x/a/1", "x/a/2", "x/b", "x/c/d/3"} {
			c.put(name, "v")
		}
		c.sameNames(c.keys("x/", ""), "x/a/1", "x/a/2", "x/b", "x/c/d/3")
		c.sameNames(c.keys("x/", "/"), "x/a/", "x/b", "x/c/")
		c.sameNames(c.keys("x", "/"), "x/")
	}},
	{"an empty prefix of the store lists nothing", func(c *consulUser) {
		pairs, meta := c.list("none/")
		is(c, "keys", len(pairs), 0)
		if meta.LastIndex == 0 {
			c.Error("index is 0")
		}
		c.sameNames(c.keys("none/", ""))
	}},
	{"a prefix's index is its last change", func(c *consulUser) {
		c.put("x/a", "1")
		last := c.put("x/b", "1")
		c.put("y", "1")
		_, meta := c.list("x/")
		is(c, "index", meta.LastIndex, last.ModifyIndex)
	}},
	{"a deletion moves a prefix's index", func(c *consulUser) {
		c.put("x/a", "1")
		last := c.put("x/b", "1")
		c.delete("x/a")
		_, meta := c.list("x/")
		if meta.LastIndex <= last.ModifyIndex {
			c.Errorf("index %d, want over %d", meta.LastIndex, last.ModifyIndex)
		}
		c.put("y", "1")
		_, later := c.list("x/")
		is(c, "index after a change elsewhere", later.LastIndex, meta.LastIndex)
	}},
	{"the index of a prefix that was emptied stays at its last deletion", func(c *consulUser) {
		last := c.put("x/a", "1")
		c.delete("x/a")
		_, meta := c.list("x/")
		if meta.LastIndex <= last.ModifyIndex {
			c.Errorf("index %d, want over %d", meta.LastIndex, last.ModifyIndex)
		}
		c.put("y", "1")
		_, later := c.list("x/")
		is(c, "index after a change elsewhere", later.LastIndex, meta.LastIndex)
	}},
	{"a tree is deleted whole", func(c *consulUser) {
		for _, name := range []string{"x/a", "x/b/c", "xy", "y"} {
			c.put(name, "1")
		}
		_, err := c.api.KV().DeleteTree(c.key("x/"), c.write())
		c.must(err, "delete tree")
		c.sameNames(c.keys("", ""), "xy", "y")
	}},
}

func (c *consulUser) list(prefix string) (api.KVPairs, *api.QueryMeta) {
	c.Helper()
	pairs, meta, err := c.api.KV().List(c.key(prefix), c.query())
	c.must(err, "list "+prefix)
	return pairs, meta
}

// keys lists this case's keys by their own names.
func (c *consulUser) keys(prefix, separator string) []string {
	c.Helper()
	keys, _, err := c.api.KV().Keys(c.key(prefix), separator, c.query())
	c.must(err, "list keys of "+prefix)
	for i, key := range keys {
		keys[i] = strings.TrimPrefix(key, c.prefix)
	}
	return keys
}

func (c *consulUser) sameNames(got []string, want ...string) {
	c.Helper()
	if !slices.Equal(got, want) {
		c.Errorf("keys %q, want %q", got, want)
	}
}

var blockingCases = []consulCase{
	{"a read of a key waits for its change", func(c *consulUser) {
		at := c.put("a", "one").ModifyIndex
		answer := c.inBackground(func() (uint64, error) {
			pair, meta, err := c.api.KV().Get(c.key("a"), c.after(at, longWait))
			if err != nil {
				return 0, err
			}
			if pair == nil || string(pair.Value) != "two" {
				return 0, fmt.Errorf("got %v, want the new value", pair)
			}
			return meta.LastIndex, nil
		})
		c.stillWaiting(answer)
		is(c, "index", <-answer.after(func() { c.put("a", "two") }), c.get("a").ModifyIndex)
	}},
	{"a read of a missing key waits for its birth", func(c *consulUser) {
		at := c.index("a")
		answer := c.inBackground(func() (uint64, error) {
			// Other keys' changes may end the wait, with nothing found: that is no news.
			for {
				pair, meta, err := c.api.KV().Get(c.key("a"), c.after(at, longWait))
				if err != nil {
					return 0, err
				}
				if at = meta.LastIndex; pair != nil {
					return at, nil
				}
			}
		})
		is(c, "index", <-answer.after(func() { c.put("a", "one") }), c.get("a").ModifyIndex)
	}},
	{"a read of a key waits for its deletion", func(c *consulUser) {
		at := c.put("a", "one").ModifyIndex
		answer := c.inBackground(func() (uint64, error) {
			pair, meta, err := c.api.KV().Get(c.key("a"), c.after(at, longWait))
			if err != nil {
				return 0, err
			}
			if pair != nil {
				return 0, fmt.Errorf("got %v, want nothing", pair)
			}
			return meta.LastIndex, nil
		})
		if got := <-answer.after(func() { c.delete("a") }); got <= at {
			c.Errorf("index %d, want over %d", got, at)
		}
	}},
	{"a read of a prefix waits for a new key under it", func(c *consulUser) {
		at := c.put("x/a", "1").ModifyIndex
		answer := c.waitForPrefix("x/", at)
		c.put("y", "1")
		c.stillWaiting(answer)
		is(c, "index", <-answer.after(func() { c.put("x/b", "1") }), c.get("x/b").ModifyIndex)
	}},
	{"a read of keys alone waits, too", func(c *consulUser) {
		c.put("x/a", "1")
		_, meta, err := c.api.KV().Keys(c.key("x/"), "", c.query())
		c.must(err, "keys")
		seen := c.inBackground(func() (uint64, error) {
			_, meta, err := c.api.KV().Keys(c.key("x/"), "", c.after(meta.LastIndex, longWait))
			if err != nil {
				return 0, err
			}
			return meta.LastIndex, nil
		})
		c.atLeast(<-seen.after(func() { c.put("x/a", "2") }), meta.LastIndex+1)
	}},
	{"a read of a prefix waits for a deletion under it", func(c *consulUser) {
		c.put("x/a", "1")
		at := c.put("x/b", "1").ModifyIndex
		answer := c.waitForPrefix("x/", at)
		if got := <-answer.after(func() { c.delete("x/a") }); got <= at {
			c.Errorf("index %d, want over %d", got, at)
		}
	}},
	{"a read of a prefix waits for the deletion of the tree", func(c *consulUser) {
		at := c.put("x/a", "1").ModifyIndex
		answer := c.waitForPrefix("x/", at)
		got := <-answer.after(func() {
			_, err := c.api.KV().DeleteTree(c.key("x/"), c.write())
			c.must(err, "delete tree")
		})
		if got <= at {
			c.Errorf("index %d, want over %d", got, at)
		}
	}},
	{"a transaction wakes a reader once, with all of it", func(c *consulUser) {
		at := c.put("x/a", "1").ModifyIndex
		answer := c.waitForPrefix("x/", at)
		done := answer.after(func() {
			c.commit(c.op(api.KVSet, "x/a", withValue("2")), c.op(api.KVSet, "x/b", withValue("2")))
		})
		is(c, "index", <-done, c.get("x/b").ModifyIndex)
		is(c, "index of both", c.get("x/a").ModifyIndex, c.get("x/b").ModifyIndex)
	}},
	{"writing the same again wakes nobody", func(c *consulUser) {
		at := c.put("a", "one").ModifyIndex
		answer := c.waitForPrefix("a", at)
		c.put("a", "one")
		c.stillWaiting(answer)
		<-answer.after(func() { c.put("a", "two") })
	}},
	{"an older index is answered at once", func(c *consulUser) {
		at := c.put("a", "one").ModifyIndex
		_, meta, err := c.api.KV().Get(c.key("a"), c.after(at-1, longWait))
		c.must(err, "get")
		is(c, "index", meta.LastIndex, at)
	}},
	{"a wait ends in time with what is there", func(c *consulUser) {
		at := c.put("a", "one").ModifyIndex
		began := time.Now()
		pair, meta, err := c.api.KV().Get(c.key("a"), c.after(at, 200*time.Millisecond))
		c.must(err, "get")
		is(c, "value", string(pair.Value), "one")
		is(c, "index", meta.LastIndex, at)
		if took := time.Since(began); took < 200*time.Millisecond {
			c.Errorf("came back after %v", took)
		}
	}},
	{"a session's end wakes the readers of its locks", func(c *consulUser) {
		id := c.session()
		is(c, "acquired", c.acquire("a", id, "mine"), true)
		answer := c.waitForPrefix("a", c.get("a").ModifyIndex)
		is(c, "index", <-answer.after(func() { c.destroy(id) }), c.get("a").ModifyIndex)
		is(c, "holder", c.get("a").Session, "")
	}},
}

// pending is the index that a read in the background will return.
type pending struct{ answer chan uint64 }

// inBackground runs a blocking read; the case waits for it.
func (c *consulUser) inBackground(read func() (uint64, error)) pending {
	p := pending{make(chan uint64, 1)}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		at, err := read()
		if err != nil {
			c.Errorf("blocking read: %v", err)
		}
		p.answer <- at
	}()
	c.Cleanup(func() { <-finished })
	return p
}

func (c *consulUser) waitForPrefix(prefix string, at uint64) pending {
	return c.inBackground(func() (uint64, error) {
		_, meta, err := c.api.KV().List(c.key(prefix), c.after(at, longWait))
		if err != nil {
			return 0, err
		}
		return meta.LastIndex, nil
	})
}

// after makes a change and returns the channel of the answer.
func (p pending) after(change func()) <-chan uint64 {
	change()
	return p.answer
}

// stillWaiting checks that a read was not answered, after time enough for a wrong answer.
func (c *consulUser) stillWaiting(p pending) {
	c.Helper()
	select {
	case got := <-p.answer:
		c.Fatalf("answered with index %d, want it to wait", got)
	case <-time.After(100 * time.Millisecond):
	}
}
