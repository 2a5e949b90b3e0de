package devcluster_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"drover/internal/devcluster"
	"drover/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func start(t *testing.T, opts devcluster.Options) *devcluster.Cluster {
	t.Helper()
	c, err := devcluster.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for _, address := range []string{c.ConsulAddr, c.NomadAddr} {
			if conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://")); err == nil {
				conn.Close()
				t.Errorf("%s still answers", address)
			}
		}
	})
	return c
}

// used checks that both servers answer, and that nothing failed.
func used(t *testing.T, c *devcluster.Cluster) {
	t.Helper()
	var leader string
	get(t, c.ConsulAddr+"/v1/status/leader", &leader)
	var nodes []struct{ Status string }
	get(t, c.NomadAddr+"/v1/nodes", &nodes)
	if leader == "" || len(nodes) != 1 || nodes[0].Status != "ready" {
		t.Errorf("consul's leader %q, nomad's nodes %v", leader, nodes)
	}
	select {
	case err := <-c.Failed():
		t.Error(err)
	default:
	}
}

func get(t *testing.T, url string, into any) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

func TestEmbeddedClusterStartsAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	c := start(t, devcluster.Options{Embedded: true})
	used(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	nothingIn(t, dir)
}

func TestClusterIsServedWhereItIsWanted(t *testing.T) {
	free := testkit.FreePorts(t, 2)
	consul, nomad := address(free[0]), address(free[1])
	c := start(t, devcluster.Options{Embedded: true, Consul: consul, Nomad: nomad})
	if c.ConsulAddr != "http://"+consul || c.NomadAddr != "http://"+nomad {
		t.Errorf("served at %s and %s", c.ConsulAddr, c.NomadAddr)
	}
	used(t, c)
	if _, err := devcluster.Start(t.Context(), devcluster.Options{Embedded: true, Consul: consul}); err == nil {
		t.Error("a second cluster started at the same address")
	}
}

func address(port int) string { return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String() }

func TestInstalledAgentsAreUsed(t *testing.T) {
	consul := testkit.ConsulBinary(t)
	nomad, err := exec.LookPath("nomad")
	if err != nil {
		testkit.SkipWithout(t, "nomad", "not on PATH")
	}
	t.Setenv("PATH", filepath.Dir(consul)+":"+filepath.Dir(nomad)+":/usr/bin:/bin:/usr/sbin:/sbin")
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	c := start(t, devcluster.Options{})
	used(t, c)
	if c.ConsulKind != "consul agent -dev" || c.NomadKind != "nomad agent -dev" {
		t.Errorf("kinds %q and %q", c.ConsulKind, c.NomadKind)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	nothingIn(t, dir)
}

func nothingIn(t *testing.T, dir string) {
	t.Helper()
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAnAgentThatEndsAtOnceIsReported(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho no such luck >&2\nexit 1\n"
	write(t, filepath.Join(dir, "consul"), script)
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	_, err := devcluster.Start(t.Context(), devcluster.Options{})
	if err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("got %v", err)
	}
}

func TestAnAgentThatDiesIsReported(t *testing.T) {
	consul := testkit.ConsulBinary(t)
	t.Setenv("PATH", filepath.Dir(consul)+":/usr/bin:/bin")
	c := start(t, devcluster.Options{})
	if err := child(t, "consul").Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-c.Failed(); !strings.Contains(err.Error(), "consul ended") {
		t.Errorf("got %v", err)
	}
}

// child finds the process of that name that this one started.
func child(t *testing.T, name string) *os.Process {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		if strings.Contains(string(status), "Name:\t"+name+"\n") && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			process, err := os.FindProcess(pid)
			if err != nil {
				t.Fatal(err)
			}
			return process
		}
	}
	t.Fatalf("no %s runs", name)
	return nil
}

func write(t *testing.T, path, text string) {
	t.Helper()
	const executable = 0o755
	if err := os.WriteFile(path, []byte(text), executable); err != nil {
		t.Fatal(err)
	}
}
