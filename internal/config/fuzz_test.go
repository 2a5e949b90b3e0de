package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"drover/internal/config"
	"drover/internal/work"
)

// FuzzFile reads configuration files. What is refused says so; what is valid
// gives defaults and a policy.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "http {\n}\n", "http {\n  address = \"127.0.0.1:1\"\n  token_file = \"/nowhere\"\n}\n", "worker {\n  image = \"a:1\"\n  env = { A = \"b\" }\n}\n",
		"queue \"slow\" {\n  max_in_flight = 2\n  agent = \"codex\"\n  retry {\n    backoff = [\"1s\"]\n    actions = { stuck = \"retry\" }\n  }\n}\n",
		"defaults {\n  command = [\"a\", \"b\"]\n  memory_mb = 1\n  timeout = \"1h\"\n  prompt = \"{{.Task}}\"\n}\n", "retry {\n  jitter = 0.5\n  actions = { crashed = \"fail\" }\n}\n",
		"orchestrator {\n  leader_ttl = \"1s\"\n  log_level = \"debug\"\n}\nconsul {\n  prefix = \"a/\"\n}\nnomad {\n  address = \"http://h:1\"\n}\n",
		"a = 1", "http", "http { address = \"${1 + 1}\" }", "queue \"a\" {}\nqueue \"a\" {}\n", "defaults { memory_mb = 99999999999999999999 }",
	} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "drover.hcl")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(func(string) string { return "" }, path)
		if err == nil {
			err = cfg.Validate()
		}
		if err != nil {
			if !errors.Is(err, work.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		cfg.RetryPolicy()
		if queues := cfg.Queues(); queues[work.DefaultQueue].Name != work.DefaultQueue {
			t.Fatalf("no default queue: %v", queues)
		}
		spec := work.Spec{Repository: "https://example.com/r.git", Task: "x"}.WithDefaults(cfg.Defaults())
		if err := spec.Validate(); err != nil {
			t.Fatalf("an item of defaults is not valid: %v", err)
		}
	})
}
