package consuld_test

import (
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/consul/api"

	"drover/internal/contract"
	"drover/internal/devcluster/consuld"
	"drover/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestContract(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		server := consuld.New(consuld.Options{})
		t.Cleanup(server.Close)
		contract.Consul(t, func(t *testing.T) *api.Client { return inMemory(t, server) })
	})
	t.Run("embedded-http", func(t *testing.T) {
		t.Parallel()
		address := overHTTP(t)
		contract.Consul(t, func(t *testing.T) *api.Client { return testkit.ConsulClient(t, address) })
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		address := testkit.ConsulAddress(t, `check_update_interval = "0s"`)
		contract.Consul(t, func(t *testing.T) *api.Client { return testkit.ConsulClient(t, address) })
	})
}

func inMemory(t *testing.T, server *consuld.Server) *api.Client {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: "consul.embedded", HttpClient: server.Client()})
	if err != nil {
		t.Fatalf("make a client of the embedded consul: %v", err)
	}
	return client
}

// overHTTP serves an embedded server on a loopback port and returns its address.
func overHTTP(t *testing.T) string {
	t.Helper()
	server := consuld.New(consuld.Options{})
	listener := httptest.NewServer(server)
	t.Cleanup(func() {
		server.Close() // first: a blocking query would hold up the listener's close
		listener.Close()
	})
	return listener.Listener.Addr().String()
}
