package nomad_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"drover/internal/devcluster/nomadd"
	"drover/internal/testkit"
	"drover/internal/work"
	"drover/jobs"
	"drover/nomad"
)

const patience = 60 * time.Second

// script is the worker of these tests: the item's task, which is in the payload, says what to do.
const script = `#!/bin/sh
echo "out of $NOMAD_META_attempt"; echo "err of $NOMAD_META_attempt" >&2
case "$(cat "$NOMAD_TASK_DIR/item.json")" in
  *'"task":"wait"'*) exec sleep 300 ;;
  *'"task":"fail"'*) exit 3 ;;
esac
`

// onBoth runs a test against the embedded Nomad and, where there is one, the real one.
func onBoth(t *testing.T, test func(t *testing.T, open func() *nomad.Client)) {
	t.Helper()
	for name, address := range map[string]func(t *testing.T) string{"embedded": func(t *testing.T) string { return testkit.EmbeddedNomad(t, nomadd.Options{}) }, "real": func(t *testing.T) string { return testkit.Nomad(t).Address() }} {
		t.Run(name, func(t *testing.T) {
			addr := address(t)
			command := filepath.Join(t.TempDir(), "worker.sh")
			if err := os.WriteFile(command, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			test(t, func() *nomad.Client { return open(t, addr, command) })
		})
	}
}

var resources = work.Resources{MemoryMB: 64, CPUMHz: 50, PIDs: 20}

func open(t *testing.T, address, command string) *nomad.Client {
	t.Helper()
	transport := cleanhttp.DefaultPooledTransport()
	t.Cleanup(transport.CloseIdleConnections)
	client, err := nomad.Open(nomad.Options{Address: address, Transport: transport, Job: nomad.Job{
		Source: jobs.WorkerRawExec, Variables: map[string]string{"command": strconv.Quote(command)},
		Default: nomad.RunnerOf(work.Spec{Resources: resources}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func envelope(task string) work.Envelope {
	item := work.NewID(time.Now())
	return work.Envelope{Item: item, Attempt: work.NewAttemptID(item, 1), Spec: work.Spec{Task: task, Resources: resources}}
}

// awaitAllocation waits until a child's first allocation is as wanted.
func awaitAllocation(t *testing.T, client *nomad.Client, child string, want func(work.Allocation) bool) work.Allocation {
	t.Helper()
	var a work.Allocation
	testkit.Eventually(t, patience, func() error {
		seen, err := client.Child(t.Context(), child)
		if err != nil || len(seen.Allocations) == 0 {
			return fmt.Errorf("%+v %v", seen, err)
		}
		if a = seen.Allocations[0]; !want(a) {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	return a
}

func dispatch(t *testing.T, client *nomad.Client, e work.Envelope) string {
	t.Helper()
	child, err := client.Dispatch(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return child
}

func TestAttemptFromDispatchToPurge(t *testing.T) {
	onBoth(t, func(t *testing.T, open func() *nomad.Client) {
		client, e := open(), envelope("fail")
		child := dispatch(t, client, e)
		a := awaitAllocation(t, client, child, work.Allocation.Ended)
		if end := a.Ending(); end.Reason != work.ReasonCrashed || *end.ExitCode != 3 || a.Attempt != e.Attempt {
			t.Fatalf("%+v", end)
		}
		for stream, want := range map[string]string{"stdout": "out of ", "stderr": "err of "} {
			testkit.Eventually(t, patience, func() error {
				data, err := client.Logs(t.Context(), a.ID, stream, 1000)
				if err != nil || string(data) != want+string(e.Attempt)+"\n" {
					return fmt.Errorf("%s: %q %v", stream, data, err)
				}
				return nil
			})
		}
		for range 2 {
			if err := client.Stop(t.Context(), child, true); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.Child(t.Context(), child); !errors.Is(err, work.ErrNotFound) {
			t.Fatal(err)
		}
		for id, want := range map[string]bool{child: true, child + "0": false} {
			if got, err := client.Deregistered(t.Context(), id); err != nil || got != want {
				t.Errorf("Deregistered(%s) = %t, %v, want %t, nil", id, got, err, want)
			}
		}
	})
}

func TestDispatchingTwiceMakesOneChild(t *testing.T) {
	onBoth(t, func(t *testing.T, open func() *nomad.Client) {
		client, e := open(), envelope("wait")
		first := dispatch(t, client, e)
		if again := dispatch(t, open(), e); again != first {
			t.Fatalf("%s and %s", first, again)
		}
		children, _, err := client.Children(t.Context())
		if err != nil || len(children) != 1 || children[0].Attempt != e.Attempt {
			t.Fatalf("%+v %v", children, err)
		}
	})
}

func TestStoppedChildEndsAndIsNotReplaced(t *testing.T) {
	onBoth(t, func(t *testing.T, open func() *nomad.Client) {
		client := open()
		child := dispatch(t, client, envelope("wait"))
		awaitAllocation(t, client, child, work.Allocation.Running)
		if err := client.Stop(t.Context(), child, false); err != nil {
			t.Fatal(err)
		}
		a := awaitAllocation(t, client, child, work.Allocation.Ended)
		if end := a.Ending(); end.Reason != work.ReasonKilledByOperator {
			t.Fatalf("%+v", end)
		}
		seen, err := client.Child(t.Context(), child)
		if err != nil || len(seen.Allocations) != 1 || !seen.Stopped {
			t.Fatalf("%+v %v", seen, err)
		}
	})
}

func TestWatchTellsEveryStepFromTheIndexOn(t *testing.T) {
	onBoth(t, func(t *testing.T, open func() *nomad.Client) {
		client, e := open(), envelope("fail")
		child := dispatch(t, client, envelope("wait")) // registers the job, and is not to be seen as ended
		awaitAllocation(t, client, child, work.Allocation.Running)
		_, index, err := client.Children(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended, done := make(chan work.Allocation, 100), make(chan error, 1)
		go func() {
			done <- client.Watch(ctx, index, func(a work.Allocation) {
				if a.Attempt == e.Attempt && a.Ended() {
					ended <- a
				}
			})
		}()
		dispatch(t, client, e)
		select {
		case a := <-ended:
			if end := a.Ending(); *end.ExitCode != 3 {
				t.Errorf("%+v", end)
			}
		case <-time.After(patience):
			t.Error("no event told of the end")
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

func TestFollowCopiesUntilTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, open func() *nomad.Client) {
		client, e := open(), envelope("wait")
		child := dispatch(t, client, e)
		a := awaitAllocation(t, client, child, work.Allocation.Running)
		var out lockedBuffer
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- client.Follow(ctx, a.ID, "stdout", 1000, &out) }()
		testkit.Eventually(t, patience, func() error {
			if got := out.String(); got != "out of "+string(e.Attempt)+"\n" {
				return fmt.Errorf("%q", got)
			}
			return nil
		})
		cancel()
		<-done
	})
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestOtherResourcesRunInAJobOfTheirOwn(t *testing.T) {
	onBoth(t, func(t *testing.T, open func() *nomad.Client) {
		client, e := open(), envelope("wait")
		e.Spec.Resources.MemoryMB = 96
		child := dispatch(t, client, e)
		if !strings.HasPrefix(child, nomad.DefaultJobID+"-") {
			t.Fatal(child)
		}
		awaitAllocation(t, client, child, work.Allocation.Running)
		if err := client.RemoveIdleRunners(t.Context(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if err := client.Stop(t.Context(), child, true); err != nil {
			t.Fatal(err)
		}
		if err := client.RemoveIdleRunners(t.Context(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		// The removed job is registered again when it is needed.
		e = envelope("fail")
		e.Spec.Resources.MemoryMB = 96
		awaitAllocation(t, client, dispatch(t, client, e), work.Allocation.Ended)
	})
}

func TestTooMuchMemorySaysWhyItWaits(t *testing.T) {
	onBoth(t, func(t *testing.T, open func() *nomad.Client) {
		client, e := open(), envelope("wait")
		e.Spec.Resources.MemoryMB = 900_000
		dispatch(t, client, e)
		testkit.Eventually(t, patience, func() error {
			children, _, err := client.Children(t.Context())
			if err != nil || len(children) != 1 || !strings.Contains(children[0].Blocked, "memory exhausted on 1 of 1 nodes") {
				return fmt.Errorf("%+v %v", children, err)
			}
			return nil
		})
	})
}

func TestWhatCanNeverSucceedIsInvalid(t *testing.T) {
	onBoth(t, func(t *testing.T, open func() *nomad.Client) {
		e := envelope(strings.Repeat("x", work.MaxPayloadBytes))
		if _, err := open().Dispatch(t.Context(), e); !errors.Is(err, work.ErrPayloadTooLarge) {
			t.Fatal(err)
		}
		bad := envelope("fail")
		bad.Spec.Resources.MemoryMB = 1 // Nomad's minimum is 10
		if _, err := open().Dispatch(t.Context(), bad); !errors.Is(err, work.ErrInvalid) {
			t.Fatal(err)
		}
	})
}

func TestUnreachableNomadIsUnavailable(t *testing.T) {
	client := open(t, "http://127.0.0.1:1", "x")
	if _, _, err := client.Children(t.Context()); !errors.Is(err, work.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := client.Dispatch(t.Context(), envelope("fail")); !errors.Is(err, work.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := nomad.Open(nomad.Options{Address: "nonsense"}); !errors.Is(err, work.ErrInvalid) {
		t.Fatal(err)
	}
}
