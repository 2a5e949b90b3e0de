package main_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"drover/internal/work"
)

// TestAgentLocksPaths has an agent call the commands, beside an attempt of another item.
func TestAgentLocksPaths(t *testing.T) {
	t.Parallel()
	c := newContainer(t, `
says() { echo "$1 exits with $2"; }
`+binary+` lock src 'docs/*.md'; says lock $?
`+binary+` lock --wait 0s other/x src/new; says refused $?
`+binary+` lock -o json --wait 100ms other; says refused-json $?
`+binary+` lock ../x; says bad $?
`+binary+` lock; says none $?
echo x >x; git add -A; git commit -qm one
`+binary+` locks; says locks $?
`+binary+` unlock src; says unlock $?
`+binary+` unlock src; says again $?
`+binary+` unlock; says unlock-none $?
`+binary+` locks -o json; says locks-json $?
`)
	item := work.NewID(time.Now())
	other, err := c.client.ClaimAttempt(t.Context(), work.Envelope{Format: work.StoredFormat, Item: item, Attempt: work.NewAttemptID(item, 1), Spec: c.envelope.Spec}, "other")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Release(context.Background()) }() // the server ends with the test
	paths, err := work.NewPathSet("other")
	if err == nil {
		_, err = other.Lock(t.Context(), paths, 0, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.command().Run(); err != nil {
		t.Fatalf("%v\n%s", err, &c.out)
	}
	out := c.out.String()
	for _, says := range []string{
		"lock exits with 0", "src\theld by this attempt since 20", "refused exits with 3", "path other/x is held by item " + item + ", attempt 1, since 20",
		"refused-json exits with 3", `"item": "` + item + `"`, "bad exits with 2", ".. is not allowed", "none exits with 2", "locks exits with 0",
		"other\theld by item " + item + ", attempt 1 since 20", "unlock exits with 0", "again exits with 4", "unlock-none exits with 2", "locks-json exits with 0",
	} {
		if !strings.Contains(out, says) {
			t.Errorf("not said: %s", says)
		}
	}
	if strings.Contains(out, "src/new\t") {
		t.Error("a part of a refused request was taken")
	}
	if r := c.result(); r.Reason != work.ReasonCompleted {
		t.Errorf("result %+v", r)
	}
	if locks, _, err := c.client.Locks(t.Context(), 0); err != nil || len(locks) != 1 || locks[0].Item != item {
		t.Errorf("left %+v, %v", locks, err)
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestLocksWithoutAWorker(t *testing.T) {
	t.Parallel()
	for says, env := range map[string]string{"is not set": "", "does not answer": "DROVER_LOCK_SOCKET=/nonexistent"} {
		cmd := exec.Command(binary, "locks")
		cmd.Env = []string{env}
		out, err := cmd.CombinedOutput()
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), says) {
			t.Errorf("%v: %s", err, out)
		}
	}
	if out, err := exec.Command(binary, "lock", "--help").Output(); err != nil || !strings.Contains(string(out), "EXIT STATUS") {
		t.Errorf("%v: %s", err, out)
	}
}
