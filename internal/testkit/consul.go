package testkit

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// ConsulAddressVariable names the environment variable with the host and port of a running Consul that the tests are
// to use. It must have check_update_interval = "0s".
const ConsulAddressVariable = "DROVER_TEST_CONSUL_ADDR"

const (
	consulStartTimeout = 30 * time.Second
	consulStopTimeout  = 10 * time.Second
	consulStartTries   = 3 // another process may take a port between finding it free and using it
)

// Consul returns a client of a real Consul, see ConsulAddress.
func Consul(t testing.TB, config ...string) *api.Client {
	t.Helper()
	return ConsulClient(t, ConsulAddress(t, config...))
}

// ConsulClient returns a client of the Consul at a host and port. Its connections are closed with the test.
func ConsulClient(t testing.TB, address string) *api.Client {
	t.Helper()
	const none = "" // no token: there are no ACLs, but for ConsulWithACLs
	return consulClient(t, address, none)
}

func consulClient(t testing.TB, address, token string) *api.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(&api.Config{Address: address, Token: token, HttpClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatalf("make a client of consul at %s: %v", address, err)
	}
	return client
}

// ConsulAddress returns the host and port of a real Consul: the one in ConsulAddressVariable, or else one started for
// this test from ConsulBinary, in memory, with each config applied (HCL, such as `check_update_interval = "0s"`).
// Without either the test is skipped, see SkipWithout.
func ConsulAddress(t testing.TB, config ...string) string {
	t.Helper()
	if address := os.Getenv(ConsulAddressVariable); address != "" {
		return address
	}
	binary := ConsulBinary(t)
	var failed error
	for range consulStartTries {
		address, err := startConsul(t, binary, config)
		if err == nil {
			return address
		}
		failed = errors.Join(failed, err)
	}
	t.Fatalf("start consul: %v", failed)
	return ""
}

// ConsulBinary returns the path of the consul executable: from PATH, or build/bin under the module root. Without one
// the test is skipped, see SkipWithout.
func ConsulBinary(t testing.TB) string {
	t.Helper()
	if path, err := exec.LookPath("consul"); err == nil {
		return path
	}
	path := filepath.Join(ModuleRoot(t), "build", "bin", "consul")
	if _, err := os.Stat(path); err != nil {
		SkipWithout(t, "consul", "not on PATH, and no build/bin/consul (make consul builds it)")
	}
	return path
}

func startConsul(t testing.TB, binary string, config []string) (string, error) {
	t.Helper()
	ports := FreePorts(t, 3)
	address := "127.0.0.1:" + strconv.Itoa(ports[0])
	args := []string{
		"agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=error",
		"-http-port=" + strconv.Itoa(ports[0]),
		"-server-port=" + strconv.Itoa(ports[1]),
		"-serf-lan-port=" + strconv.Itoa(ports[2]),
		"-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1",
	}
	for _, hcl := range config {
		args = append(args, "-hcl="+hcl)
	}
	var log bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("run %s: %w", binary, err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // stopped by a signal; what went wrong before is in the log
	}()
	t.Cleanup(func() { stopConsul(t, cmd, exited) })

	client := ConsulClient(t, address)
	up := false
	Eventually(t, consulStartTimeout, func() error {
		select {
		case <-exited:
			return nil
		default:
		}
		err := consulReady(client)
		up = err == nil
		return err
	})
	if !up {
		return "", fmt.Errorf("consul ended at once:\n%s", log.String())
	}
	return address, nil
}

// consulReady tells whether there is a leader that has entered its own node: before that no session can be made.
func consulReady(client *api.Client) error {
	checks, _, err := client.Health().State(api.HealthPassing, nil)
	if err != nil {
		return err
	}
	if len(checks) == 0 {
		return errors.New("consul has no healthy node yet")
	}
	return nil
}

func stopConsul(t testing.TB, cmd *exec.Cmd, exited <-chan struct{}) {
	_ = cmd.Process.Signal(os.Interrupt) // fails when it has ended already
	select {
	case <-exited:
	case <-time.After(consulStopTimeout):
		t.Errorf("consul did not stop within %v of an interrupt", consulStopTimeout)
		_ = cmd.Process.Kill() // as above
		<-exited
	}
}
