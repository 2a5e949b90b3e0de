package testkit

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/consul/api"
)

// management is the token that may do everything on a Consul of ConsulWithACLs.
const management = "8f246b77-f3e1-ff88-5b48-8ec93abf3e05"

// ACLs are those of a real Consul where nothing is allowed without a token.
type ACLs struct {
	Address string
	Admin   *api.Client // may do everything
	t       testing.TB
}

// ConsulWithACLs starts a real Consul that refuses what no policy allows. Without
// one the test is skipped, see SkipWithout.
func ConsulWithACLs(t testing.TB) *ACLs {
	t.Helper()
	// While it starts, who has no token is the administrator, so that it can be seen to be up.
	address := ConsulAddress(t, `check_update_interval = "0s"`, `acl {
		enabled        = true
		default_policy = "deny"
		tokens {
			initial_management = "`+management+`"
			agent              = "`+management+`"
			default            = "`+management+`"
		}
	}`)
	a := &ACLs{Address: address, t: t}
	a.Admin = a.Client(management)
	if _, err := a.Admin.Agent().UpdateDefaultACLToken("", nil); err != nil {
		t.Fatalf("take the rights of who has no token: %v", err)
	}
	return a
}

// Client returns a client with a token.
func (a *ACLs) Client(token string) *api.Client {
	a.t.Helper()
	return consulClient(a.t, a.Address, token)
}

// Token returns a token that may do what rules allow.
func (a *ACLs) Token(name, rules string) string {
	a.t.Helper()
	policy, _, err := a.Admin.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
	if err != nil {
		a.t.Fatalf("create policy %s: %v", name, err)
	}
	token, _, err := a.Admin.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	if err != nil {
		a.t.Fatalf("create a token with policy %s: %v", name, err)
	}
	return token.SecretID
}

// Shipped returns a policy that drover ships, by its path from the module's root.
func Shipped(t testing.TB, path string) string {
	t.Helper()
	rules, err := os.ReadFile(filepath.Join(ModuleRoot(t), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(rules)
}
