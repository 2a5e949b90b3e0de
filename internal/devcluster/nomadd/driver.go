//lint:file-ignore ST1005 the texts are those of Nomad, which clients match

package nomadd

import (
	"context"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Driver starts the tasks of one kind. Its methods are called from many
// goroutines at once.
type Driver interface {
	// Start starts a task and returns once it runs. ctx bounds the start
	// alone. An *Unrecoverable error is not tried again.
	Start(ctx context.Context, task *Task) (Process, error)
	// Layout says where a task finds its directories, given those on the host.
	Layout(host Layout) Layout
	// Close frees what the driver holds, after all its tasks have ended.
	Close() error
}

// Process is a started task.
type Process interface {
	// Wait blocks until the task has ended, its output is complete and
	// nothing of it is left, and says how; it is called once.
	Wait() Exit
	// Signal sends the task a signal; SIGKILL ends all its processes.
	Signal(sig syscall.Signal) error
	// Usage reads what the task uses now.
	Usage(ctx context.Context) (Usage, error)
}

// Layout names the three directories of a task.
type Layout struct{ Alloc, Local, Secrets string }

// Task is what a driver needs to know of a task. Config has the
// interpolations done.
type Task struct {
	AllocID   string
	JobID     string
	Name      string
	User      string
	Config    map[string]any
	Env       map[string]string
	Host      Layout
	Resources *api.AllocatedTaskResources
	Ports     []api.PortMapping
	// CPUs is how many processors the task's share is worth.
	CPUs   float64
	Stdout io.Writer
	Stderr io.Writer
	// Notify shows a message of the driver among the task's events.
	Notify func(message string)
}

// Exit says how a task ended.
type Exit struct {
	Code      int
	Signal    int
	OOMKilled bool
	// Message is what the driver says of the exit, if anything. A task with
	// a message has failed even at code 0, as in Nomad.
	Message string
}

func (e Exit) successful() bool { return e.Code == 0 && e.Signal == 0 && e.Message == "" }

// Usage is what a task uses.
type Usage struct {
	MemoryBytes uint64
	MaxBytes    uint64
	CPUTime     time.Duration
}

// Unrecoverable marks an error of Start that a restart can't mend.
type Unrecoverable struct{ Err error }

func (e *Unrecoverable) Error() string { return e.Err.Error() }

func (e *Unrecoverable) Unwrap() error { return e.Err }

var signals = map[string]syscall.Signal{
	"SIGHUP": syscall.SIGHUP, "SIGINT": syscall.SIGINT, "SIGQUIT": syscall.SIGQUIT, "SIGKILL": syscall.SIGKILL,
	"SIGUSR1": syscall.SIGUSR1, "SIGUSR2": syscall.SIGUSR2, "SIGTERM": syscall.SIGTERM, "SIGABRT": syscall.SIGABRT,
}

// signalNumber reads a kill_signal; empty means SIGINT, as for Nomad's raw_exec.
func signalNumber(name string) (syscall.Signal, error) {
	if name == "" {
		return syscall.SIGINT, nil
	}
	sig, ok := signals[strings.ToUpper(name)]
	if !ok {
		return 0, fmt.Errorf("Signal %s is not supported", name)
	}
	return sig, nil
}
