package main

import (
	"testing"

	consulapi "github.com/hashicorp/consul/api"

	"drover/consul"
)

func TestWhatIsLeft(t *testing.T) {
	t.Parallel()
	keys, closed := consul.NewKeys(""), map[string]bool{string(one): true, string(two): false}
	for key, want := range map[string]bool{
		keys.Item(id): false, keys.Leader(): false, keys.Results(): false, keys.Locks(): false, keys.LockGuard("h/r"): false, keys.Logs(one): false,
		keys.Claim(one): false, keys.Progress(one): false, keys.Envelope(one): false, keys.Breaker("h/r"): false,
		keys.Claim(two): true, keys.Progress(two): true, keys.Envelope(two): true, keys.Result(one): true, keys.Lock("h/r", one): true,
		keys.Breaker("h/open"): true, keys.Progress(id + ".9"): true,
	} {
		value := `{"state": "closed"}`
		if want {
			value = `{"state": "open"}`
		}
		if got := faultOf(keys, &consulapi.KVPair{Key: key, Value: []byte(value)}, closed); (got != "") != want {
			t.Errorf("fault of %s is %q, want one: %t", key, got, want)
		}
	}
}
