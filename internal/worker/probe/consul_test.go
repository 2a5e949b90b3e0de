package probe_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"drover/internal/work"
	"drover/internal/worker/probe"
)

// TestConsulThatWorkersDoNotReach is one failure, whose advice fits the address and the error.
func TestConsulThatWorkersDoNotReach(t *testing.T) {
	refused := fmt.Errorf("reach Consul: dial tcp: %w", syscall.ECONNREFUSED)
	for name, c := range map[string]struct {
		address string
		err     error
		advice  string
	}{
		"nothing listens":        {"10.0.0.5:8500", refused, "client_addr"},
		"nothing listens, a URL": {"https://10.0.0.5:8501", refused, "client_addr"},
		"a host's name":          {"consul.internal:8500", refused, "client_addr"},
		"the loopback":           {"127.0.0.1:8500", refused, "a container's loopback is its own"},
		"the loopback, a URL":    {"http://localhost:8500", refused, "a container's loopback is its own"},
		"the loopback, IPv6":     {"[::1]:8500", refused, "a container's loopback is its own"},
		"packets are dropped":    {"10.0.0.5:8500", errors.New("context deadline exceeded"), "firewall"},
		"TLS":                    {"10.0.0.5:8500", errors.New("server gave HTTP response to HTTPS client"), "CONSUL_HTTP_SSL"},
		"no leader":              {"127.0.0.1:8500", errors.New("the servers of Consul have no leader"), "raft list-peers"},
		"no address":             {"", refused, "CONSUL_HTTP_ADDR"},
	} {
		found := probe.Run(t.Context(), probe.Options{
			Env: map[string]string{"CONSUL_HTTP_ADDR": c.address}, Consul: away{c.err}, Dir: t.TempDir(), Redact: same,
		})
		var failures []work.Finding
		for _, f := range found {
			if f.Status == work.FindingFailure {
				failures = append(failures, f)
			}
		}
		if len(failures) != 1 || !strings.Contains(failures[0].Says, c.address) || !strings.Contains(failures[0].Do, c.advice) {
			t.Errorf("%s: failures %+v, want one with %q and the advice %q", name, failures, c.address, c.advice)
		}
	}
}
