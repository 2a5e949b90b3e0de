package memory

import (
	"os"
	"path/filepath"
	"testing"
)

const (
	v1Control = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
	v2Events  = "low 0\nhigh 0\nmax 41\noom 2\noom_kill 3\noom_group_kill 0\n"
	peak      = "104857600\n"
	cpuMount  = "35 32 0:30 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
)

// machine writes files below a new root.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestOwnGroupIsFoundAndRead(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"v1 on the host": {
			"proc/self/cgroup":    "5:cpu,cpuacct:/\n4:memory:/nomad/task\n0::/\n",
			"proc/self/mountinfo": cpuMount + "36 32 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			"sys/fs/cgroup/memory/nomad/task/memory.oom_control":        v1Control,
			"sys/fs/cgroup/memory/nomad/task/memory.max_usage_in_bytes": peak,
			"sys/fs/cgroup/memory/memory.oom_control":                   "oom_kill 99\n",
		},
		"v1 in a container": {
			"proc/self/cgroup":                               "4:memory:/docker/abc\n",
			"proc/self/mountinfo":                            "36 32 0:31 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			"sys/fs/cgroup/memory/memory.oom_control":        v1Control,
			"sys/fs/cgroup/memory/memory.max_usage_in_bytes": peak,
		},
		"v2 on the host": {
			"proc/self/cgroup":    "0::/nomad.slice/task.scope\n",
			"proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			"sys/fs/cgroup/nomad.slice/task.scope/memory.events": v2Events,
			"sys/fs/cgroup/nomad.slice/task.scope/memory.peak":   peak,
		},
		"v2 in a container": {
			"proc/self/cgroup":            "0::/\n",
			"proc/self/mountinfo":         "30 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
			"sys/fs/cgroup/memory.events": v2Events,
			"sys/fs/cgroup/memory.peak":   peak,
		},
		"both, memory in v1": {
			"proc/self/cgroup": "4:memory:/a\n0::/a\n",
			"proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n" +
				"36 32 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			"sys/fs/cgroup/memory/a/memory.oom_control":        v1Control,
			"sys/fs/cgroup/memory/a/memory.max_usage_in_bytes": peak,
		},
	} {
		t.Run(name, func(t *testing.T) {
			group, err := open(machine(t, files))
			if err != nil {
				t.Fatal(err)
			}
			usage, err := group.Usage()
			if err != nil || usage != (Usage{OOMKills: 3, PeakMB: 100}) {
				t.Errorf("%+v %v", usage, err)
			}
		})
	}
}

func TestMachineWithoutCountersIsReported(t *testing.T) {
	if group, err := open(machine(t, map[string]string{"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": cpuMount})); err == nil {
		t.Errorf("found %+v", group)
	}
	var none *Group
	if usage, err := none.Usage(); err != nil || usage != (Usage{}) {
		t.Errorf("%+v %v", usage, err)
	}
}

func TestKernelWithoutPeakStillCountsKills(t *testing.T) {
	group, err := open(machine(t, map[string]string{
		"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
		"sys/fs/cgroup/memory.events": v2Events,
	}))
	if err != nil {
		t.Fatal(err)
	}
	if usage, err := group.Usage(); err != nil || usage != (Usage{OOMKills: 3}) {
		t.Errorf("%+v %v", usage, err)
	}
}
