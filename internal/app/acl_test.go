package app_test

import (
	"fmt"
	"os"
	"os/exec"
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
	token := func(name string) string {
		return acls.Token(name, testkit.Shipped(t, "consul/policies/"+name+".hcl"))
	}
	s := newSpineOn(t, acls.Address)
	s.prefix = "drover/" // which the policies are about
	s.writeConfig()
	s.env = []string{"CONSUL_HTTP_TOKEN=" + token("server")}
	s.giveWorkers("CONSUL_HTTP_TOKEN", token("worker"))
	s.start()

	ids := s.submitSpecs([]work.Spec{
		{Task: "commits=2", Paths: []string{"src"}},
		{Task: "commits=2 " + strings.Repeat("x", 20<<10)}, // goes by reference
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

	person := exec.Command(filepath.Join(s.bin, "drover"), "list")
	person.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+s.consul, "CONSUL_HTTP_TOKEN="+token("operator"), "DROVER_TOKEN="+spineToken)
	if out, err := person.CombinedOutput(); err != nil || !strings.Contains(string(out), ids[0]) {
		t.Errorf("the server that a person's token finds: %v\n%s", err, out)
	}
}

// giveWorkers has the environment of workers hold one more secret.
func (s *spine) giveWorkers(name, value string) {
	s.t.Helper()
	const path = "nomad/jobs/drover-worker"
	secrets, _, err := s.nomadClient().Variables().Read(path, nil)
	if err == nil {
		secrets.Items[name] = value
		_, _, err = s.nomadClient().Variables().Update(secrets, nil)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
