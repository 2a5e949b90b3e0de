package main

import (
	"os/exec"
	"slices"
	"testing"

	"drover/internal/config"
)

func TestKillEndsAllProcessesOfTheAllocationAlone(t *testing.T) {
	t.Parallel()
	d := &drover{driver: config.DriverRawExec}
	const victim, other = "0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"
	first, second, bystander := sleep(t, victim), sleep(t, victim), sleep(t, other)
	if got, want := processes(victim), []int{first.Process.Pid, second.Process.Pid}; !sameSet(got, want) {
		t.Fatalf("processes of the allocation are %v, want %v", got, want)
	}
	if err := d.gone(victim); err == nil {
		t.Error("an allocation with processes counts as gone")
	}
	if err := d.kill(t.Context(), victim); err != nil {
		t.Fatal(err)
	}
	for _, killed := range []*exec.Cmd{first, second} {
		if err := killed.Wait(); err == nil || killed.ProcessState.ExitCode() != -1 {
			t.Errorf("a process of the allocation ended with %v, want a signal", killed.ProcessState)
		}
	}
	if err := d.gone(victim); err != nil {
		t.Error(err)
	}
	if got := processes(other); !slices.Contains(got, bystander.Process.Pid) {
		t.Error("the process of another allocation was killed")
	}
}

// sleep starts a process of an allocation, which ends with the test at the latest.
func sleep(t *testing.T, allocation string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.Env = []string{"NOMAD_ALLOC_ID=" + allocation}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Wait() // killed with the test's context
		}
	})
	return cmd
}

func sameSet(a, b []int) bool {
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}
