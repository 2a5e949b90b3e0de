package consuld_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/devcluster/consuld"
)

// inBubble runs a test with a server whose time is the bubble's.
func inBubble(t *testing.T, test func(t *testing.T, client *api.Client)) {
	synctest.Test(t, func(t *testing.T) {
		server := consuld.New(consuld.Options{})
		defer server.Close()
		test(t, inMemory(t, server))
	})
}

// passTime lets time pass in the bubble.
func passTime(d time.Duration) { <-time.After(d) }

func register(t *testing.T, client *api.Client, reapAfter string) {
	t.Helper()
	err := client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "worker",
		Check: &api.AgentServiceCheck{
			CheckID: "heartbeat", TTL: "120s", Status: api.HealthPassing, DeregisterCriticalServiceAfter: reapAfter,
		},
	})
	if err != nil {
		t.Fatalf("register service: %v", err)
	}
}

// instances counts the instances of the service that register registers.
func instances(t *testing.T, client *api.Client) int {
	t.Helper()
	entries, _, err := client.Health().Service("worker", "", false, nil)
	if err != nil {
		t.Fatalf("health of the service: %v", err)
	}
	return len(entries)
}

func sessionExists(t *testing.T, client *api.Client, id string) bool {
	t.Helper()
	entry, _, err := client.Session().Info(id, nil)
	if err != nil {
		t.Fatalf("session info: %v", err)
	}
	return entry != nil
}

func TestSessionEndsAfterTwiceItsTTL(t *testing.T) {
	inBubble(t, func(t *testing.T, client *api.Client) {
		id, _, err := client.Session().Create(&api.SessionEntry{TTL: "30s"}, nil)
		if err != nil {
			t.Fatalf("create session: %v", err)
		}
		for range 10 {
			passTime(59 * time.Second)
			if _, _, err := client.Session().Renew(id, nil); err != nil {
				t.Fatalf("renew session: %v", err)
			}
		}
		passTime(59 * time.Second)
		if !sessionExists(t, client, id) {
			t.Error("the session ended before twice its TTL")
		}
		passTime(2 * time.Second)
		if sessionExists(t, client, id) {
			t.Error("the session outlived twice its TTL")
		}
	})
}

func TestSessionEndsAtItsChecksTTL(t *testing.T) {
	inBubble(t, func(t *testing.T, client *api.Client) {
		register(t, client, "")
		entry := &api.SessionEntry{ServiceChecks: []api.ServiceCheck{{ID: "heartbeat"}}, LockDelay: 20 * time.Second}
		id, _, err := client.Session().Create(entry, nil)
		if err != nil {
			t.Fatalf("create session: %v", err)
		}
		if ok, _, err := client.KV().Acquire(&api.KVPair{Key: "lock", Session: id}, nil); !ok || err != nil {
			t.Fatalf("acquire: %v, %v", ok, err)
		}
		pair, _, err := client.KV().Get("lock", nil)
		if err != nil {
			t.Fatalf("get: %v", err)
		}
		began := time.Now()
		if _, _, err := client.KV().Get("lock", &api.QueryOptions{WaitIndex: pair.ModifyIndex}); err != nil {
			t.Fatalf("wait for the release: %v", err)
		}
		if took := time.Since(began); took != 120*time.Second {
			t.Errorf("released after %v, want 2m0s", took)
		}

		next, _, err := client.Session().Create(nil, nil)
		if err != nil {
			t.Fatalf("create session: %v", err)
		}
		for _, step := range []struct {
			wait time.Duration
			want bool
		}{{0, false}, {20*time.Second - 1, false}, {1, true}} {
			passTime(step.wait)
			ok, _, err := client.KV().Acquire(&api.KVPair{Key: "lock", Session: next}, nil)
			if err != nil || ok != step.want {
				t.Errorf("acquire %v after the release: %v, %v, want %v", time.Since(began)-120*time.Second, ok, err, step.want)
			}
		}
	})
}

func TestCriticalServiceIsDeregisteredAfterAMinuteAtLeast(t *testing.T) {
	inBubble(t, func(t *testing.T, client *api.Client) {
		register(t, client, "10s")
		passTime(120*time.Second + 59*time.Second)
		if got := instances(t, client); got != 1 {
			t.Errorf("%d instances 59 s after the check went critical, want 1", got)
		}
		passTime(32 * time.Second)
		if got := instances(t, client); got != 0 {
			t.Errorf("%d instances 91 s after the check went critical, want 0", got)
		}
	})
}

func TestServiceOutlivesItsCheckByDefault(t *testing.T) {
	inBubble(t, func(t *testing.T, client *api.Client) {
		register(t, client, "")
		passTime(time.Hour)
		if got := instances(t, client); got != 1 {
			t.Errorf("%d instances, want 1", got)
		}
	})
}

func TestAntiEntropyRestoresWhatTheCatalogLost(t *testing.T) {
	inBubble(t, func(t *testing.T, client *api.Client) {
		register(t, client, "")
		node, err := client.Agent().NodeName()
		if err != nil {
			t.Fatalf("node name: %v", err)
		}
		if _, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: node, ServiceID: "worker"}, nil); err != nil {
			t.Fatalf("deregister from the catalog: %v", err)
		}
		if got := instances(t, client); got != 0 {
			t.Errorf("%d instances after the deregistration, want 0", got)
		}
		passTime(61 * time.Second)
		if got := instances(t, client); got != 1 {
			t.Errorf("%d instances a minute later, want 1", got)
		}
	})
}

func TestTombstonesAreForgottenAfterFifteenMinutes(t *testing.T) {
	inBubble(t, func(t *testing.T, client *api.Client) {
		index := func() uint64 {
			_, meta, err := client.KV().List("x/", nil)
			if err != nil {
				t.Fatalf("list: %v", err)
			}
			return meta.LastIndex
		}
		for _, key := range []string{"x/a", "y"} {
			if _, err := client.KV().Put(&api.KVPair{Key: key}, nil); err != nil {
				t.Fatalf("put %s: %v", key, err)
			}
		}
		if _, err := client.KV().Delete("x/a", nil); err != nil {
			t.Fatalf("delete: %v", err)
		}
		deleted := index()
		if _, err := client.KV().Put(&api.KVPair{Key: "y", Value: []byte("later")}, nil); err != nil {
			t.Fatalf("put: %v", err)
		}
		passTime(14 * time.Minute)
		if got := index(); got != deleted {
			t.Errorf("index %d, want %d of the deletion", got, deleted)
		}
		passTime(2 * time.Minute)
		if got := index(); got <= deleted {
			t.Errorf("index %d, want that of the table, over %d", got, deleted)
		}
	})
}

func TestBlockingQueryWaitsFiveMinutesByDefault(t *testing.T) {
	inBubble(t, func(t *testing.T, client *api.Client) {
		began := time.Now()
		if _, _, err := client.KV().Get("none", &api.QueryOptions{WaitIndex: 1 << 40}); err != nil {
			t.Fatalf("get: %v", err)
		}
		if took := time.Since(began); took < 5*time.Minute || took > 5*time.Minute+20*time.Second {
			t.Errorf("took %v, want 5 minutes and up to a sixteenth", took)
		}
	})
}

func TestBlockingQueryEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T, client *api.Client) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := client.KV().Get("none", (&api.QueryOptions{WaitIndex: 1 << 40}).WithContext(ctx))
		if err == nil {
			t.Error("the query ended without an error, want that of its context")
		}
	})
}

func TestCloseEndsBlockingQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := consuld.New(consuld.Options{})
		client := inMemory(t, server)
		began := time.Now()
		done := make(chan error)
		go func() {
			_, _, err := client.KV().Get("none", &api.QueryOptions{WaitIndex: 1 << 40})
			done <- err
		}()
		synctest.Wait()
		server.Close()
		server.Close()
		if err := <-done; err != nil {
			t.Errorf("get: %v", err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the query ended %v after the close", took)
		}
	})
}
