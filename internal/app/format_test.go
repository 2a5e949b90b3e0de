package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	consulapi "github.com/hashicorp/consul/api"

	"drover/consul"
	"drover/internal/control"
	"drover/internal/testkit"
)

// TestServerThatDoesNotKnowTheFormatDoesNotLead: it says so, and leads once the
// format is one that it knows.
func TestServerThatDoesNotKnowTheFormatDoesNotLead(t *testing.T) {
	s := newSpine(t)
	kv, key := testkit.ConsulClient(t, s.consul).KV(), consul.NewKeys(s.prefix).Format()
	if _, err := kv.Put(&consulapi.KVPair{Key: key, Value: []byte(`{"format":99,"version":"9"}`)}, nil); err != nil {
		t.Fatal(err)
	}
	server := s.start()
	want := func(status int, reason string) {
		t.Helper()
		testkit.Eventually(t, patience, func() error {
			resp, err := (&http.Client{Transport: s.transport}).Get("http://" + s.address + "/health")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			var health control.Health
			if err := json.NewDecoder(resp.Body).Decode(&health); err != nil {
				return err
			}
			said := slices.ContainsFunc(health.Reasons, func(r string) bool { return strings.Contains(r, reason) })
			if resp.StatusCode != status || reason != "" && !said {
				return fmt.Errorf("health is %d, %q; want %d with %q", resp.StatusCode, health.Reasons, status, reason)
			}
			return nil
		})
	}
	want(http.StatusServiceUnavailable, "format is 99, written by drover 9")
	if pair, _, err := kv.Get(consul.NewKeys(s.prefix).Leader(), nil); err != nil || pair != nil {
		t.Errorf("the leader's key is %v, %v; want none", pair, err)
	}
	if _, err := kv.Delete(key, nil); err != nil {
		t.Fatal(err)
	}
	want(http.StatusOK, "")
	server.kill()
	if log := server.log.String(); strings.Count(log, "this server does not lead") != 1 {
		t.Errorf("the log says %d times that the server does not lead, want once", strings.Count(log, "this server does not lead"))
	}
}
