package consuld_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"drover/internal/testkit"
)

// TestStrictestRuleOfKeysHolds: what Consul 1.21.5 and 1.22.0 refuse, and later ones
// still do, is refused in every call that names a key.
func TestStrictestRuleOfKeysHolds(t *testing.T) {
	kv := testkit.ConsulClient(t, testkit.EmbeddedConsul(t)).KV()
	refused := func(call, key string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "invalid key name") {
			t.Errorf("%s %q: error = %v, want a refusal of the name", call, key, err)
		}
	}
	odd := []string{"a:b", "a b", " a", "a ", "é", "a%2e%2e/b", "a~", "a@b"}
	for _, key := range odd {
		_, _, err := kv.Get(key, nil)
		refused("get", key, err)
		_, _, err = kv.List(key, nil)
		refused("list", key, err)
		_, err = kv.Put(&api.KVPair{Key: key}, nil)
		refused("put", key, err)
	}
	for _, key := range append(odd, "a/../b", "../a", "a/..") { // elsewhere, a path's dots are resolved before Consul sees them
		for _, verb := range []api.KVOp{api.KVSet, api.KVCAS} {
			_, answer, _, err := kv.Txn(api.KVTxnOps{{Verb: verb, Key: key}}, nil)
			if err == nil && len(answer.Errors) > 0 {
				err = errors.New(answer.Errors[0].What)
			}
			refused(string(verb)+" in a transaction", key, err)
		}
	}
	if pairs, _, err := kv.List("", nil); err != nil || len(pairs) != 0 {
		t.Errorf("stored %v, %v, want nothing", pairs, err)
	}
}
