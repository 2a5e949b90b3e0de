package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"drover/internal/config"
	"drover/internal/testkit"
)

func TestKillEndsAllProcessesOfTheAllocationAlone(t *testing.T) {
	t.Parallel()
	d := &drover{driver: config.DriverRawExec, worker: filepath.Join(t.TempDir(), "drover-worker")}
	const victim, other = "0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"
	first, second, bystander := sleep(t, victim), sleep(t, victim), sleep(t, other)
	want := []int{first.Process.Pid, second.Process.Pid}
	slices.Sort(want)
	if got := d.processes(victim); !slices.Equal(got, want) {
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
	if got := d.processes(other); !slices.Contains(got, bystander.Process.Pid) {
		t.Error("the process of another allocation was killed")
	}
}

func TestWorkerIsFoundByItsAgent(t *testing.T) {
	t.Parallel()
	const allocation = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	d := &drover{driver: config.DriverRawExec, worker: filepath.Join(t.TempDir(), "drover-worker")}
	if err := os.Symlink(shell, d.worker); err != nil {
		t.Fatal(err)
	}
	worker := exec.CommandContext(t.Context(), d.worker, "-c", "TASK=/alloc/"+allocation+"/task.txt sleep 60; true")
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, func() error { // until its child runs a program of its own
		if got := d.workers(); !slices.Equal(got, []int{worker.Process.Pid}) {
			return fmt.Errorf("workers are %v, want %d alone", got, worker.Process.Pid)
		}
		return nil
	})
	testkit.Eventually(t, 10*time.Second, func() error {
		if got := d.processes(allocation); len(got) != 2 || !slices.Contains(got, worker.Process.Pid) {
			return fmt.Errorf("processes are %v, want %d and its child", got, worker.Process.Pid)
		}
		return nil
	})
	if err := d.kill(t.Context(), allocation); err != nil {
		t.Error(err)
	}
	if err := worker.Wait(); err == nil {
		t.Error("the worker ended well, want a kill")
	}
	testkit.Eventually(t, 10*time.Second, func() error { return d.gone(allocation) }) // its child is reaped by another
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
