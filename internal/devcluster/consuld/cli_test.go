package consuld_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/testkit"
)

// cli runs the real consul CLI against a server.
type cli struct {
	*testing.T
	binary, address string
}

func newCLI(t *testing.T) *cli {
	return &cli{t, testkit.ConsulBinary(t), overHTTP(t)}
}

func (c *cli) try(args ...string) (string, error) {
	cmd := exec.CommandContext(c.Context(), c.binary, args...)
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+c.address)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		c.Logf("consul %s: %s", strings.Join(args, " "), stderr.String())
	}
	return stdout.String(), err
}

func (c *cli) run(args ...string) string {
	c.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.Fatalf("consul %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (c *cli) prints(want string, args ...string) {
	c.Helper()
	if got := c.run(args...); got != want {
		c.Errorf("consul %s printed %q, want %q", strings.Join(args, " "), got, want)
	}
}

func (c *cli) mentions(want string, args ...string) {
	c.Helper()
	if got := c.run(args...); !strings.Contains(got, want) {
		c.Errorf("consul %s printed %q, want %q in it", strings.Join(args, " "), got, want)
	}
}

func TestCLIReadsAndWritesKeys(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	c.prints("Success! Data written to: drover/a\n", "kv", "put", "drover/a", "one")
	c.prints("one\n", "kv", "get", "drover/a")
	c.mentions("ModifyIndex", "kv", "get", "-detailed", "drover/a")
	c.run("kv", "put", "-flags=7", "drover/b/c", "two")
	c.prints("drover/a\ndrover/b/\n", "kv", "get", "-keys", "-separator=/", "drover/")
	c.prints("drover/a:one\ndrover/b/c:two\n", "kv", "get", "-recurse", "drover/")

	var exported []struct {
		Key   string
		Flags uint64
	}
	if err := json.Unmarshal([]byte(c.run("kv", "export", "drover/")), &exported); err != nil {
		t.Fatalf("parse the export: %v", err)
	}
	if len(exported) != 2 || exported[1].Key != "drover/b/c" || exported[1].Flags != 7 {
		t.Errorf("exported %+v, want both keys, the second with flags 7", exported)
	}

	if _, err := c.try("kv", "put", "-cas", "-modify-index=1", "drover/a", "three"); err == nil {
		t.Error("a put at a stale index succeeded")
	}
	c.prints("Success! Deleted key: drover/a\n", "kv", "delete", "drover/a")
	if _, err := c.try("kv", "get", "drover/a"); err == nil {
		t.Error("a deleted key was read")
	}
	c.prints("Success! Deleted keys with prefix: drover/\n", "kv", "delete", "-recurse", "drover/")
	c.prints("", "kv", "get", "-recurse", "drover/")
}

func TestCLILockRunsItsChildAlone(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	log := filepath.Join(t.TempDir(), "log")
	client := testkit.ConsulClient(t, c.address)
	gate := filepath.Join(filepath.Dir(log), "gate")
	if err := exec.CommandContext(t.Context(), "mkfifo", gate).Run(); err != nil {
		t.Fatalf("make a pipe: %v", err)
	}
	holding := make(chan error, 1)
	go func() {
		_, err := c.try("lock", "drover/lock", "echo first >> "+log+"; cat "+gate)
		holding <- err
	}()
	testkit.Eventually(t, 30*time.Second, func() error {
		_, err := os.Stat(log)
		return err
	})
	if pair, _, err := client.KV().Get("drover/lock/.lock", nil); err != nil || pair == nil || pair.Session == "" {
		t.Errorf("the lock's key is %v, %v, want it held", pair, err)
	}
	if _, err := c.try("lock", "-try=200ms", "drover/lock", "echo never >> "+log); err == nil {
		t.Error("the lock was taken twice")
	}
	if err := os.WriteFile(gate, []byte("go\n"), 0o600); err != nil {
		t.Fatalf("let the first holder go: %v", err)
	}
	if err := <-holding; err != nil {
		t.Errorf("consul lock: %v", err)
	}
	c.run("lock", "drover/lock", "echo second >> "+log)
	if got, err := os.ReadFile(log); err != nil || string(got) != "first\nsecond\n" {
		t.Errorf("the children wrote %q, %v", got, err)
	}
	if pairs, _, err := client.KV().List("drover/lock", nil); err != nil || len(pairs) != 0 {
		t.Errorf("left behind %v, %v", pairs, err)
	}
}

func TestCLIReadsTheCatalog(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	client := testkit.ConsulClient(t, c.address)
	err := client.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "drover-worker", Tags: []string{"busy"}})
	if err != nil {
		t.Fatalf("register service: %v", err)
	}
	c.prints("consul\ndrover-worker\n", "catalog", "services")
	c.mentions("busy", "catalog", "services", "-tags")
	c.mentions("127.0.0.1", "catalog", "nodes", "-service=drover-worker")
	c.prints("dc1\n", "catalog", "datacenters")
	c.mentions("alive", "members")
	file := filepath.Join(t.TempDir(), "service.json")
	if err := os.WriteFile(file, []byte(`{"service":{"name":"other","port":80}}`), 0o600); err != nil {
		t.Fatalf("write a service definition: %v", err)
	}
	c.prints("Registered service: other\n", "services", "register", file)
	c.prints("Deregistered service: other\n", "services", "deregister", "-id=other")
}
