package doctor_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/internal/config"
	"drover/internal/contract"
	"drover/internal/doctor"
	"drover/internal/testkit"
	"drover/internal/work"
)

// TestConsulOnTheLoopbackAlone: a Consul that listens as consul agent -dev does
// answers the server, while no worker reaches it. That is one failure, found in
// seconds, which says what to change.
func TestConsulOnTheLoopbackAlone(t *testing.T) {
	for name, prepare := range map[string]func(p *patient){
		"embedded Nomad, raw_exec": func(*patient) {},
		"real Nomad, raw_exec":     func(p *patient) { p.onRealNomad() },
		"real Nomad, docker":       func(p *patient) { p.onRealNomad(); p.inDocker() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			_, port, err := net.SplitHostPort(testkit.ConsulAddress(t))
			if err != nil {
				t.Fatal(err)
			}
			p.options.Config.Consul.Address = "127.0.0.1:" + port
			p.options.Config.Worker.ConsulAddr = net.JoinHostPort(machineAddress(t), port)
			p.options.Repositories, p.options.Config.ItemDefaults.PRProvider = nil, work.ProviderNone
			prepare(p)
			began := time.Now()
			found := p.findings()
			t.Logf("found in %s", time.Since(began).Round(time.Millisecond))
			var failures []doctor.Finding
			for _, f := range found {
				if f.Status == doctor.Failure {
					failures = append(failures, f)
				}
			}
			if len(failures) != 1 {
				t.Fatalf("%d failures, want 1:\n%s", len(failures), listed(found))
			}
			f := failures[0]
			for _, want := range []string{p.options.Config.Worker.ConsulAddr, "connection refused"} {
				if !strings.Contains(f.Says, want) {
					t.Errorf("the failure says %q, want %q in it", f.Says, want)
				}
			}
			for _, want := range []string{"client_addr", "worker.consul_addr"} {
				if !strings.Contains(f.Do, want) {
					t.Errorf("the advice is %q, want %q in it", f.Do, want)
				}
			}
			if left := p.nomad.read("/v1/jobs?prefix=drover-doctor"); !strings.HasPrefix(left, "[]") {
				t.Errorf("left in Nomad: %s", left)
			}
		})
	}
}

// onRealNomad puts a real Nomad in the place of the embedded one.
func (p *patient) onRealNomad() {
	p.t.Helper()
	client := testkit.Nomad(p.t)
	p.nomad = newProxy(p.t, client.Address())
	p.options.Config.Nomad.Address = p.nomad.URL
}

// inDocker runs the worker in a container of the bridge network.
func (p *patient) inDocker() {
	p.t.Helper()
	data, err := os.ReadFile(workerBinary)
	if err != nil {
		p.t.Fatal(err)
	}
	entry := filepath.Join(p.t.TempDir(), "testtask") // the image's entry point
	if err := os.WriteFile(entry, data, 0o755); err != nil {
		p.t.Fatal(err)
	}
	image, err := contract.BuildTestImage(p.t, entry)
	if err != nil {
		testkit.SkipWithout(p.t, "docker", err.Error())
	}
	p.options.Config.Worker.Driver, p.options.Config.Worker.Image = config.DriverDocker, image
}

// machineAddress is an IPv4 address of this machine that is not the loopback's.
func machineAddress(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			return ip.IP.String()
		}
	}
	t.Fatal(fmt.Errorf("this machine has no address besides the loopback's: %v", addresses))
	return ""
}
