package consul_test

import (
	"errors"
	"testing"

	"github.com/hashicorp/consul/api"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
)

// guarded is a real Consul with ACLs, and clients with the shipped policies.
type guarded struct {
	*testkit.ACLs
	t      *testing.T
	tokens map[string]string
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{ACLs: testkit.ConsulWithACLs(t), t: t, tokens: map[string]string{"nobody": ""}}
	for _, name := range []string{"server", "worker", "operator"} {
		g.tokens[name] = g.Token(name, testkit.Shipped(t, "consul/policies/"+name+".hcl"))
	}
	return g
}

func (g *guarded) open(name string) *consul.Client {
	g.t.Helper()
	return openWith(g.t, consul.Options{Address: g.Address, Token: g.tokens[name]})
}

// TestShippedPoliciesAreEnough has a worker and a server do, each with its own
// policy, what they do to each other's things: the server cleans up after a worker
// that is gone.
func TestShippedPoliciesAreEnough(t *testing.T) {
	g := newGuarded(t)
	ctx := t.Context()
	server, worker := g.open("server"), g.open("worker")
	term := lead(t, server, "a")
	item := newItem("x")
	envelope := work.Envelope{Item: item.ID, Attempt: work.NewAttemptID(item.ID, 1), Spec: item.Spec}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(term.Commit(ctx, work.Change{PutItem: item}, work.Change{PutEnvelope: &envelope}))
	fetched, err := worker.Envelope(ctx, envelope.Attempt)
	if err != nil || fetched.Item != item.ID {
		t.Fatalf("%+v %v", fetched, err)
	}
	attempt, err := worker.ClaimAttempt(ctx, envelope, "alloc")
	must(err)
	paths, err := work.NewPathSet("src")
	must(err)
	_, err = attempt.Lock(ctx, paths, 0, nil)
	must(err)
	must(attempt.Beat(ctx, "works", false))
	endSession(t, server, attempt)
	mustRegain(t, attempt)
	must(attempt.SaveProgress(ctx, work.Progress{Attempt: envelope.Attempt}))
	must(attempt.Report(ctx, work.Result{Attempt: envelope.Attempt, Allocation: "alloc", Reason: work.ReasonStuck, Detail: "x"}))

	beats, _, err := server.Heartbeats(ctx, 0)
	if err != nil || len(beats) != 1 || beats[0].Critical {
		t.Errorf("heartbeats: %+v %v", beats, err)
	}
	locks, _, err := server.Locks(ctx, 0)
	if err != nil || len(locks) != 1 {
		t.Errorf("locks: %+v %v", locks, err)
	}
	claim, _, err := server.Claim(ctx, envelope.Attempt)
	must(err)
	live, err := server.Sessions(ctx)
	if err != nil || !live[claim.Session] {
		t.Errorf("sessions: %v %v, want %s among them", live, err, claim.Session)
	}
	must(server.EndSession(ctx, claim))
	must(server.EndSession(ctx, claim)) // with ACLs, Consul has another answer for what is gone
	if services, err := g.Admin.Agent().Services(); err != nil || len(services) != 1 {
		t.Errorf("after the end only the server is a service: %v %v", services, err)
	}
	if address, err := g.open("operator").LeaderAddress(ctx); err != nil || address != "a" {
		t.Errorf("who leads, for an operator: %q %v", address, err)
	}
}

// TestShippedPoliciesAllowNoMore tries what a worker and an operator may not do.
func TestShippedPoliciesAllowNoMore(t *testing.T) {
	g := newGuarded(t)
	for _, key := range []string{"leader", "items/i", "tokens/t", "claims/c"} {
		if _, err := g.Admin.KV().Put(&api.KVPair{Key: "drover/" + key, Value: []byte("x")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	gone := api.CatalogRegistration{Node: "gone", Address: "127.0.0.9", Service: &api.AgentService{ID: "w", Service: consul.ServiceWorker}}
	if _, err := g.Admin.Catalog().Register(&gone, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		who, does string
		allowed   bool
		do        func(*api.Client) error
	}{
		{"worker", "write a claim", true, write("claims/c")},
		{"worker", "write what a probe writes", true, write("probes/p")},
		{"worker", "write an item", false, write("items/i")},
		{"worker", "write who leads", false, write("leader")},
		{"worker", "write an envelope", false, write("envelopes/e")},
		{"worker", "write a queue", false, write("queues/q")},
		{"worker", "write a breaker", false, write("breakers/b")},
		{"worker", "write a client's token", false, write("tokens/t")},
		{"worker", "write something else", false, writeAt("other/key")},
		{"worker", "read an item", false, read("items/i")},
		{"worker", "read a client's token", false, read("tokens/t")},
		{"worker", "register a server", false, enlist("drover")},
		{"operator", "read an item", true, read("items/i")},
		{"operator", "read a client's token", false, read("tokens/t")},
		{"operator", "write an item", false, write("items/i")},
		{"operator", "register a worker", false, enlist("drover-worker")},
		{"server", "read a client's token", true, read("tokens/t")},
		{"server", "remove the worker of a node that is gone", true, func(c *api.Client) error {
			_, err := c.Catalog().Deregister(&api.CatalogDeregistration{Node: "gone", ServiceID: "w"}, nil)
			return err
		}},
		{"server", "write something else", false, writeAt("other/key")},
		{"server", "register something else", false, enlist("other")},
		{"nobody", "read an item", false, read("items/i")},
		{"nobody", "write a claim", false, write("claims/c")},
	} {
		if err := c.do(g.Client(g.tokens[c.who])); (err == nil) != c.allowed {
			t.Errorf("%s: %s: %v, allowed is %v", c.who, c.does, err, c.allowed)
		}
	}
}

func write(key string) func(*api.Client) error { return writeAt("drover/" + key) }

func writeAt(key string) func(*api.Client) error {
	return func(c *api.Client) error {
		_, err := c.KV().Put(&api.KVPair{Key: key, Value: []byte("y")}, nil)
		return err
	}
}

func read(key string) func(*api.Client) error {
	return func(c *api.Client) error {
		pair, _, err := c.KV().Get("drover/"+key, nil)
		if err == nil && pair == nil {
			return errors.New("it is not there")
		}
		return err
	}
}

func enlist(service string) func(*api.Client) error {
	return func(c *api.Client) error {
		return c.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: service + "-x", Name: service})
	}
}
