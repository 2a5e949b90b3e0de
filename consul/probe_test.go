package consul_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"drover/consul"
	"drover/internal/testkit"
)

// TestProbeWorker does what a worker does, and leaves nothing.
func TestProbeWorker(t *testing.T) {
	for name, address := range map[string]func(testing.TB) string{
		"embedded": testkit.EmbeddedConsul,
		"real":     func(t testing.TB) string { return testkit.ConsulAddress(t) },
	} {
		t.Run(name, func(t *testing.T) {
			at := address(t)
			tries := openWith(t, consul.Options{Address: at}).ProbeWorker(t.Context(), "one")
			if failed := failures(tries); len(failed) > 0 || len(tries) < 8 {
				t.Errorf("failed %q of %d tries, want none of 8", failed, len(tries))
			}
			wantNothingLeft(t, testkit.ConsulClient(t, at))
		})
	}
}

// TestProbeWorkerWithThePolicy: the policy that is shipped for workers is enough, and what one lacks is named.
func TestProbeWorkerWithThePolicy(t *testing.T) {
	g := newGuarded(t)
	if failed := failures(g.open("worker").ProbeWorker(t.Context(), "one")); len(failed) > 0 {
		t.Errorf("with the worker's policy failed %q, want nothing", failed)
	}
	shipped := testkit.Shipped(t, "consul/policies/worker.hcl")
	for name, resource := range map[string]string{"service": `service "drover-worker"`, "session": `session_prefix ""`, "keys": `key_prefix "drover/probes/"`} {
		rule := resource + ` { policy = "write" }`
		without := strings.Replace(shipped, resource+" {\n  policy = \"write\"\n}", resource+" {\n  policy = \"read\"\n}", 1)
		if without == shipped {
			t.Fatalf("the policy has no %s", resource)
		}
		client := openWith(t, consul.Options{Address: g.Address, Token: g.Token("without-"+name, without)})
		if failed := failures(client.ProbeWorker(t.Context(), "two")); len(failed) == 0 || failed[0] != rule {
			t.Errorf("without %s failed %q, want first %q", resource, failed, rule)
		}
	}
	wantNothingLeft(t, g.Admin)
}

func failures(tries []consul.Try) (rules []string) {
	for _, try := range tries {
		if try.Err != nil {
			rules = append(rules, try.Rule)
		}
	}
	return rules
}

func wantNothingLeft(t *testing.T, client *api.Client) {
	t.Helper()
	keys, _, err := client.KV().Keys("drover/", "", nil)
	if err != nil || len(keys) > 0 {
		t.Errorf("keys left: %q %v", keys, err)
	}
	services, err := client.Agent().Services()
	if err != nil || len(services) > 0 {
		t.Errorf("services left: %v %v", services, err)
	}
	sessions, _, err := client.Session().List(nil)
	if err != nil || len(sessions) > 0 {
		t.Errorf("sessions left: %v %v", sessions, err)
	}
}
