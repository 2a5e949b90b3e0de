package contract

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// longWait bounds a blocking query that is expected to be answered before.
	longWait = time.Minute

	// soon is enough for what follows within a second or two, and too short for a server's periodic repairs.
	soon = 15 * time.Second
)

// Consul runs the suite of what drover needs of a Consul server: the KV and its transactions, sessions and locks,
// checks and the catalog. open returns a client of the server under test; it is called once a case, and cases run in
// parallel. The server must have check_update_interval = "0s", and should have no other user.
func Consul(t *testing.T, open func(t *testing.T) *api.Client) {
	var ran atomic.Int64
	t.Cleanup(func() { fmt.Printf("contract consul server=%s cases=%d\n", path.Base(t.Name()), ran.Load()) })
	for _, subject := range []struct {
		name  string
		cases []consulCase
	}{
		{"kv", kvCases},
		{"cas", casCases},
		{"list", listCases},
		{"blocking", blockingCases},
		{"txn", txnCases},
		{"txn failures", txnFailureCases},
		{"sessions", sessionCases},
		{"locks", lockCases},
		{"checks", checkCases},
		{"catalog", catalogCases},
		{"limits", limitCases},
		{"errors", errorCases},
	} {
		t.Run(subject.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range subject.cases {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.run(newConsulUser(t, open(t)))
					ran.Add(1)
				})
			}
		})
	}
}

// consulCase is one promise.
type consulCase struct {
	name string
	run  func(c *consulUser)
}

// consulUser is one case's client, with keys and names of its own, and the calls whose failure ends the case.
type consulUser struct {
	*testing.T
	api    *api.Client
	prefix string // of this case's keys, with a slash at the end
	name   string // for this case's services and checks
}

func newConsulUser(t *testing.T, client *api.Client) *consulUser {
	name := "contract-" + rand.Text()
	c := &consulUser{T: t, api: client, prefix: name + "/", name: name}
	t.Cleanup(func() {
		if _, err := client.KV().DeleteTree(c.prefix, nil); err != nil {
			t.Errorf("clean up keys: %v", err)
		}
	})
	return c
}

func (c *consulUser) key(name string) string { return c.prefix + name }

// query is options for a read that ends with the case.
func (c *consulUser) query() *api.QueryOptions { return (&api.QueryOptions{}).WithContext(c.Context()) }

// after is options for a read that blocks until something is newer than index.
func (c *consulUser) after(index uint64, wait time.Duration) *api.QueryOptions {
	return (&api.QueryOptions{WaitIndex: index, WaitTime: wait}).WithContext(c.Context())
}

func (c *consulUser) write() *api.WriteOptions { return (&api.WriteOptions{}).WithContext(c.Context()) }

func (c *consulUser) must(err error, what string) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s: %v", what, err)
	}
}

func (c *consulUser) put(name, value string) *api.KVPair {
	c.Helper()
	_, err := c.api.KV().Put(&api.KVPair{Key: c.key(name), Value: []byte(value)}, c.write())
	c.must(err, "put "+name)
	return c.get(name)
}

// get reads a key that must exist.
func (c *consulUser) get(name string) *api.KVPair {
	c.Helper()
	pair := c.find(name)
	if pair == nil {
		c.Fatalf("key %s does not exist", name)
	}
	return pair
}

// find reads a key, nil when it does not exist.
func (c *consulUser) find(name string) *api.KVPair {
	c.Helper()
	pair, _, err := c.api.KV().Get(c.key(name), c.query())
	c.must(err, "get "+name)
	return pair
}

func (c *consulUser) delete(name string) {
	c.Helper()
	_, err := c.api.KV().Delete(c.key(name), c.write())
	c.must(err, "delete "+name)
}

// index is the index of a key or of its absence.
func (c *consulUser) index(name string) uint64 {
	c.Helper()
	_, meta, err := c.api.KV().Get(c.key(name), c.query())
	c.must(err, "get "+name)
	return meta.LastIndex
}

// session makes a session without a TTL and, unless an option says otherwise, with the shortest lock delay. It ends
// with the case.
func (c *consulUser) session(options ...func(*api.SessionEntry)) string {
	c.Helper()
	entry := &api.SessionEntry{Name: c.name, LockDelay: time.Millisecond}
	for _, option := range options {
		option(entry)
	}
	id, _, err := c.api.Session().Create(entry, c.write())
	c.must(err, "create session")
	c.Cleanup(func() {
		if _, err := c.api.Session().Destroy(id, nil); err != nil {
			c.Errorf("clean up session: %v", err)
		}
	})
	return id
}

func (c *consulUser) destroy(session string) {
	c.Helper()
	_, err := c.api.Session().Destroy(session, c.write())
	c.must(err, "destroy session")
}

// sessionExists tells whether the server still knows a session.
func (c *consulUser) sessionExists(id string) bool {
	c.Helper()
	entry, _, err := c.api.Session().Info(id, c.query())
	c.must(err, "session info")
	return entry != nil
}

// acquire tries to lock a key.
func (c *consulUser) acquire(name, session, value string) bool {
	c.Helper()
	ok, _, err := c.api.KV().Acquire(&api.KVPair{Key: c.key(name), Session: session, Value: []byte(value)}, c.write())
	c.must(err, "acquire "+name)
	return ok
}

func (c *consulUser) release(name, session, value string) bool {
	c.Helper()
	ok, _, err := c.api.KV().Release(&api.KVPair{Key: c.key(name), Session: session, Value: []byte(value)}, c.write())
	c.must(err, "release "+name)
	return ok
}

// op is one operation of a transaction on a key of this case.
func (c *consulUser) op(verb api.KVOp, name string, options ...func(*api.KVTxnOp)) *api.KVTxnOp {
	op := &api.KVTxnOp{Verb: verb, Key: c.key(name)}
	for _, option := range options {
		option(op)
	}
	return op
}

func withValue(v string) func(*api.KVTxnOp)  { return func(op *api.KVTxnOp) { op.Value = []byte(v) } }
func withFlags(n uint64) func(*api.KVTxnOp)  { return func(op *api.KVTxnOp) { op.Flags = n } }
func atIndex(n uint64) func(*api.KVTxnOp)    { return func(op *api.KVTxnOp) { op.Index = n } }
func bySession(id string) func(*api.KVTxnOp) { return func(op *api.KVTxnOp) { op.Session = id } }

// commit runs a transaction that must succeed.
func (c *consulUser) commit(list ...*api.KVTxnOp) []*api.KVPair {
	c.Helper()
	ok, answer, _, err := c.api.KV().Txn(api.KVTxnOps(list), c.query())
	c.must(err, "transaction")
	if !ok {
		c.Fatalf("transaction failed: %v", txnTexts(answer.Errors))
	}
	return answer.Results
}

// fail runs a transaction that must fail, and returns its errors.
func (c *consulUser) fail(list ...*api.KVTxnOp) api.TxnErrors {
	c.Helper()
	ok, answer, _, err := c.api.KV().Txn(api.KVTxnOps(list), c.query())
	c.must(err, "transaction")
	if ok {
		c.Fatal("transaction succeeded, want it to fail")
	}
	if len(answer.Results) != 0 {
		c.Errorf("a failed transaction has %d results, want none", len(answer.Results))
	}
	return answer.Errors
}

func txnTexts(list api.TxnErrors) []string {
	var all []string
	for _, e := range list {
		all = append(all, fmt.Sprintf("%d: %s", e.OpIndex, e.What))
	}
	return all
}

// refused checks that a call failed with a status and a text.
func (c *consulUser) refused(err error, status int, text string) {
	c.Helper()
	var refusal api.StatusError
	if !errors.As(err, &refusal) {
		c.Fatalf("error %v, want status %d", err, status)
	}
	if refusal.Code != status || refusal.Body != text {
		c.Errorf("status %d %q, want %d %q", refusal.Code, refusal.Body, status, text)
	}
}

// is compares what was found with what is promised.
func is[T comparable](c *consulUser, what string, got, want T) {
	c.Helper()
	if got != want {
		c.Errorf("%s is %v, want %v", what, got, want)
	}
}

// atLeast checks an index that others may move further.
func (c *consulUser) atLeast(got, want uint64) {
	c.Helper()
	if got < want {
		c.Errorf("index %d, want at least %d", got, want)
	}
}
