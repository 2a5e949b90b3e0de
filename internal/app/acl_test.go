package app_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/internal/testkit"
	"drover/internal/work"
)

// TestShippedPoliciesCarryAnItem runs items on a real Consul that refuses what no
// policy allows: the server, the workers and a person each have the token that
// drover ships the policy of.
func TestShippedPoliciesCarryAnItem(t *testing.T) {
	acls := testkit.ConsulWithACLs(t)
	carriesItems(t, acls, servers{consul: acls.Address, nomad: embeddedNomad(t)})
}

// TestShippedPoliciesCarryAnItemOnNomad has a real Nomad refuse as much.
func TestShippedPoliciesCarryAnItemOnNomad(t *testing.T) {
	nomad, management := testkit.NomadWithACLs(t)
	acls := testkit.ConsulWithACLs(t)
	token := testkit.NomadToken(t, nomad, "server", testkit.Shipped(t, "nomad/policies/server.hcl"))
	s := carriesItems(t, acls, servers{consul: acls.Address, nomad: nomad.Address(), nomadToken: management}, "NOMAD_TOKEN="+token)

	if out, err := s.droverWith(s.env, "doctor", "--config", s.config); err != nil {
		t.Errorf("the doctor, with the server's tokens: %v\n%s", err, out)
	}
	own := filepath.Join(s.bin, "own.hcl")
	if err := os.WriteFile(own, []byte("worker {\n  secrets_path = \"nomad/jobs/drover-worker\"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := s.droverWith(s.env, "doctor", "--config", s.config, "--config", own); err == nil || !strings.Contains(out, work.AdviseVariable) {
		t.Errorf("the doctor, where the secrets are one job's own: %v\n%s", err, out)
	}
}

// carriesItems has a server with the shipped policies of Consul, and more in its
// environment, complete items.
func carriesItems(t *testing.T, acls *testkit.ACLs, on servers, env ...string) *spine {
	t.Helper()
	token := func(name string) string {
		return acls.Token(name, testkit.Shipped(t, "consul/policies/"+name+".hcl"))
	}
	s := newSpineOn(t, on)
	s.prefix = "drover/" // which the policies are about
	s.secrets = "nomad/jobs"
	s.worker += fmt.Sprintf("\n  secrets_path = %q", s.secrets)
	s.writeConfig()
	s.env = append(env, "CONSUL_HTTP_TOKEN="+token("server"))
	s.giveWorkers(map[string]string{"CONSUL_HTTP_TOKEN": token("worker")})
	s.start()

	ids := s.submitSpecs([]work.Spec{
		{Task: "commits=2", Paths: []string{"src"}},
		{Task: "commits=2 " + strings.Repeat("x", 20<<10)},            // goes by reference
		{Task: "commits=2", Resources: work.Resources{MemoryMB: 300}}, // runs in a job of its own
	})
	for _, id := range ids {
		if err := s.verify(id, 2); err != nil {
			t.Error(err)
		}
	}
	testkit.Eventually(t, patience, func() error {
		services, err := acls.Admin.Agent().Services()
		if err != nil || len(services) != 1 {
			return fmt.Errorf("services besides the server's: %v %v", services, err)
		}
		return s.nothingLeft()
	})

	person := []string{"CONSUL_HTTP_ADDR=" + s.consul, "CONSUL_HTTP_TOKEN=" + token("operator")}
	if out, err := s.droverWith(person, "list"); err != nil || !strings.Contains(out, ids[0]) {
		t.Errorf("the server that a person's token finds: %v\n%s", err, out)
	}
	return s
}
