package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

// nomadStart bounds the wait for a new agent to have a ready node.
const nomadStart = 60 * time.Second

// Nomad returns a client of a real Nomad: the one at DROVER_TEST_NOMAD_ADDR,
// or a development agent started for this test. Where there is neither the
// test is skipped, unless DROVER_TEST_MUST_RUN names nomad.
func Nomad(t testing.TB) *api.Client {
	t.Helper()
	if addr := os.Getenv("DROVER_TEST_NOMAD_ADDR"); addr != "" {
		return nomadClient(t, addr)
	}
	return startNomad(t, "", func(*api.Client) error { return nil })
}

// NomadWithACLs starts a real Nomad that refuses what no policy allows, and returns
// a client that may do everything, and its token. Without one the test is skipped, as for Nomad.
func NomadWithACLs(t testing.TB) (admin *api.Client, management string) {
	t.Helper()
	admin = startNomad(t, "acl {\n  enabled = true\n}\n", func(client *api.Client) error {
		token, _, err := client.ACLTokens().Bootstrap(nil)
		if err == nil {
			management = token.SecretID
			client.SetSecretID(management)
		}
		return err
	})
	return admin, management
}

// NomadToken returns a token of a Nomad with ACLs that may do what rules allow.
func NomadToken(t testing.TB, admin *api.Client, name, rules string) string {
	t.Helper()
	if _, err := admin.ACLPolicies().Upsert(&api.ACLPolicy{Name: name, Rules: rules}, nil); err != nil {
		t.Fatalf("create policy %s: %v", name, err)
	}
	token, _, err := admin.ACLTokens().Create(&api.ACLToken{Name: name, Type: "client", Policies: []string{name}}, nil)
	if err != nil {
		t.Fatalf("create a token with policy %s: %v", name, err)
	}
	return token.SecretID
}

func nomadClient(t testing.TB, addr string) *api.Client {
	t.Helper()
	client, err := api.NewClient(&api.Config{Address: addr})
	if err != nil {
		t.Fatalf("make a client of nomad at %s: %v", addr, err)
	}
	return client
}

// NomadBinary is the path of the nomad command; without one the test is
// skipped, unless DROVER_TEST_MUST_RUN names nomad.
func NomadBinary(t testing.TB) string {
	t.Helper()
	binary, err := exec.LookPath("nomad")
	if err != nil {
		SkipWithout(t, "nomad", "it is not on the PATH")
	}
	return binary
}

// startNomad starts a development agent on free ports of the loopback, with more
// configuration, and waits until its node is ready. What is to be done first is
// tried until it works. The agent ends with the test.
func startNomad(t testing.TB, more string, first func(*api.Client) error) *api.Client {
	t.Helper()
	binary := NomadBinary(t)
	ports := FreePorts(t, 3)
	dir := t.TempDir()
	config := filepath.Join(dir, "agent.hcl")
	if err := os.WriteFile(config, []byte(nomadConfig(filepath.Join(dir, "data"), ports)+more), 0o600); err != nil {
		t.Fatal(err)
	}
	logPath := filepath.Join(dir, "agent.log")
	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	agent := exec.Command(binary, "agent", "-dev", "-config="+config)
	agent.Stdout, agent.Stderr = log, log
	agent.Env = slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, "AWS_CA_BUNDLE=") })
	if err := agent.Start(); err != nil {
		t.Fatalf("start nomad: %v", err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Signal(syscall.SIGINT)
		_ = agent.Wait()
		_ = log.Close()
		unmountBelow(t, dir)
	})
	client := nomadClient(t, fmt.Sprintf("http://127.0.0.1:%d", ports[0]))
	err = eventually(func() error { return first(client) })
	if err == nil {
		err = eventually(func() error { return nodeReady(client) })
	}
	if err != nil {
		text, _ := os.ReadFile(logPath)
		t.Fatalf("nomad at %s does not work: %v; its log ends with\n%s", client.Address(), err, text[max(0, len(text)-2000):])
	}
	return client
}

func nomadConfig(dataDir string, ports []int) string {
	return fmt.Sprintf(`
bind_addr = "127.0.0.1"
data_dir  = %q
disable_update_check = true
ports {
  http = %d
  rpc  = %d
  serf = %d
}
client {
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
}
plugin "docker" {
  config {
    volumes {
      enabled = true
    }
    gc {
      image = false
    }
  }
}
`, dataDir, ports[0], ports[1], ports[2])
}

// eventually waits until f works, and returns its last error if that takes too long.
func eventually(f func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(nomadStart); ; <-tick.C {
		if err := f(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func nodeReady(client *api.Client) error {
	nodes, _, err := client.Nodes().List(nil)
	if err != nil {
		return err
	}
	if len(nodes) == 0 || nodes[0].Status != "ready" {
		return errors.New("no node is ready")
	}
	return nil
}

// unmountBelow detaches what an agent that ended has left mounted for its
// tasks, such as their directories of secrets, so that dir can be removed.
func unmountBelow(t testing.TB, dir string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Errorf("look for mounts below %s: %v", dir, err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[1], dir+"/") {
			continue
		}
		if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", fields[1], err)
		}
	}
}
