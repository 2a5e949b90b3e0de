package work

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Child is what Nomad says about the dispatched job of one attempt.
type Child struct {
	ID          string    // job id
	Parent      string    // job id of the parameterized job
	Attempt     AttemptID // empty if its name has not the form Nomad gives
	ByHand      bool      // dispatched by a person, not by drover
	Status      string    // pending, running or dead
	Stopped     bool      // deregistered by someone
	Submitted   time.Time
	Blocked     string // why it can't be placed, empty if it can
	Allocations []Allocation
}

// Running reports whether a worker of the child may still work. Of no child none does.
func (c *Child) Running() bool {
	return c != nil && slices.ContainsFunc(c.Allocations, func(a Allocation) bool { return !a.Ended() })
}

// Allocation is what Nomad says about one allocation of a child.
type Allocation struct {
	ID            string
	Child         string    // job id
	Attempt       AttemptID // empty if the child was not dispatched by drover
	Node          string    // name
	ClientStatus  string
	DesiredStatus string
	Description   string // of the client, or the desired one
	Preempted     bool
	Draining      bool // asked to move: node drain, or someone stopped the allocation
	Superseded    bool // Nomad itself gave it up, because it had lost the node
	Created       time.Time
	Modified      time.Time
	ModifyIndex   uint64
	Task          Task
}

// Task is the state of an allocation's worker task.
type Task struct {
	State    string // pending, running or dead
	Failed   bool
	Started  time.Time
	Finished time.Time
	Events   []TaskEvent
}

// TaskEvent is one line of a task's history. Nomad keeps the last ten.
type TaskEvent struct {
	Type    string
	Message string
	At      time.Time
	Details map[string]string
}

// MissesVariable reports whether the task waits for a Nomad variable that it may not
// read; one that does not exist keeps no worker from starting.
func (e TaskEvent) MissesVariable() bool {
	return e.Type == taskTemplate && strings.Contains(e.Message, "nomad.var.")
}

// AdviseVariable is what to do about a task that MissesVariable: with ACLs a job may read
// nomad/jobs and what is named after itself (nomad/acl/acl.go, matchingVariablesCapabilitySet).
const AdviseVariable = `With ACLs, Nomad lets a job read the variables nomad/jobs and nomad/jobs/<its own name> alone, and items of another image or size than the default run in jobs of other names: keep the workers' secrets at nomad/jobs, in a namespace of drover's own, and set worker.secrets_path = "nomad/jobs".`

// Task event types, as Nomad names them.
const (
	TaskTerminated     = "Terminated"
	TaskKilling        = "Killing"
	TaskDriverFailure  = "Driver Failure"
	TaskSetupFailure   = "Setup Failure"
	taskTemplate       = "Template"
	TaskHookFailed     = "Task hook failed"
	TaskInvalid        = "Failed Validation"
	TaskArtifactFailed = "Failed Artifact Download"
	TaskRestoreFailed  = "Failed Restoring Task"
)

// Allocation client and desired statuses, as Nomad names them.
const (
	ClientPending  = "pending"
	ClientRunning  = "running"
	ClientComplete = "complete"
	ClientFailed   = "failed"
	ClientLost     = "lost"
	ClientUnknown  = "unknown"
	DesiredRun     = "run"
	DesiredStop    = "stop"
	DesiredEvict   = "evict"
)

// Signals of a killed process, as exit codes above 128 report them.
const (
	exitSignalBase = 128
	sigKill        = 9
)

// Unclaimed returns the end of an attempt that no worker claimed: whatever process
// ended, it was not at work. What killed it stays what it was.
func (e Ending) Unclaimed() Ending {
	if e.Reason == ReasonCrashed && e.ExitCode != nil && e.Signal == 0 && !e.OOMKilled {
		e.Reason, e.Detail = ReasonStartFailed, fmt.Sprintf("exited with code %d before its worker claimed the attempt", *e.ExitCode)
	}
	return e
}

// Ended reports whether the allocation will do no more work, or can't be trusted to.
func (a Allocation) Ended() bool { return a.Settled() || a.terminated() != nil }

// Settled reports whether Nomad has said its last word about the allocation. It
// tells that a task terminated a moment before it knows what that makes of the
// allocation.
func (a Allocation) Settled() bool {
	switch a.ClientStatus {
	case ClientComplete, ClientFailed, ClientLost, ClientUnknown:
		return true
	}
	return false
}

// Running reports whether the task's process runs.
func (a Allocation) Running() bool {
	return a.ClientStatus == ClientRunning && a.Task.State == "running"
}

// Ending says why the allocation ended, from what Nomad knows alone. Client
// status by itself never tells success: a killed or timed-out task ends
// "complete" too. The earliest cause wins: what was done to the allocation
// comes before how its process took it.
func (a Allocation) Ending() Ending {
	end := Ending{Allocation: a.ID, Node: a.Node, Reason: ReasonCrashed, Events: a.eventLines()}
	term := a.terminated()
	if term != nil {
		end.ExitCode, end.Signal = exitOf(term)
		end.OOMKilled = term.Details["oom_killed"] == "true"
	}
	switch {
	case a.ClientStatus == ClientLost || a.ClientStatus == ClientUnknown:
		end.Reason, end.Detail = ReasonNodeLost, fmt.Sprintf("node %s was lost: %s", a.Node, orText(a.Description, "no word from it"))
	case a.Preempted || a.DesiredStatus == DesiredEvict:
		end.Reason, end.Detail = ReasonPreempted, fmt.Sprintf("Nomad took the room on node %s for a job of higher priority", a.Node)
	case strings.Contains(a.Description, "max_run_duration"):
		end.Reason, end.Detail = ReasonTimeout, "Nomad ended it: "+a.Description
	case a.Draining:
		end.Reason, end.Detail = ReasonDrained, fmt.Sprintf("node %s was drained, or the allocation was stopped to be moved", a.Node)
	case a.DesiredStatus == DesiredStop && a.Superseded:
		end.Reason, end.Detail = ReasonNodeLost, fmt.Sprintf("Nomad lost node %s for a while and ended what ran there", a.Node)
	case a.DesiredStatus == DesiredStop:
		end.Reason, end.Detail = ReasonKilledByOperator, "the Nomad job was stopped by hand"
	case a.has(TaskRestoreFailed):
		end.Reason, end.Detail = ReasonNodeLost, fmt.Sprintf("Nomad's client on node %s was started anew and its container was gone", a.Node)
	case term != nil && a.has(TaskKilling):
		end.Reason, end.Detail = ReasonNodeLost, fmt.Sprintf("Nomad's client on node %s ended it, and nobody had asked for that: %s", a.Node, a.killedBecause())
	case term == nil:
		end.Reason, end.Detail = ReasonStartFailed, a.startFailure()
	default:
		end.Reason, end.Detail = processEnding(end)
	}
	return end
}

// processEnding tells an ended process's story when nobody asked it to end and
// it left no result. 137 alone is any SIGKILL, not only the kernel's.
func processEnding(end Ending) (Reason, string) {
	code := *end.ExitCode
	switch {
	case code == WorkerExitFenced: // whatever the kernel had killed below it before
		return ReasonFenced, fmt.Sprintf("its worker lost its Consul session and could not take the attempt back (exit code %d)", code)
	case code == WorkerExitNoConsul:
		return ReasonStartFailed, fmt.Sprintf("its worker never reached Consul (exit code %d)", code)
	case end.OOMKilled && code == 0:
		return ReasonCrashed, "ended without a result; the kernel had killed a process of it for memory before"
	case end.OOMKilled:
		return ReasonOOMKilled, fmt.Sprintf("killed by the kernel: out of memory (exit code %d)", code)
	case end.Signal == sigKill:
		return ReasonCrashed, fmt.Sprintf("killed by signal %d with no word of memory: SIGKILL by someone, or an out-of-memory kill that Docker missed (exit code %d)", end.Signal, code)
	case end.Signal != 0:
		return ReasonCrashed, fmt.Sprintf("killed by signal %d (exit code %d)", end.Signal, code)
	}
	return ReasonCrashed, fmt.Sprintf("exited with code %d and left no result", code)
}

func (a Allocation) has(event string) bool {
	return slices.ContainsFunc(a.Task.Events, func(e TaskEvent) bool { return e.Type == event })
}

// killedBecause returns what Nomad's client says of why it ended the task.
func (a Allocation) killedBecause() string {
	for _, e := range a.Task.Events {
		if e.Type == TaskKilling && e.Message != "" {
			return e.Message
		}
	}
	return "no reason given"
}

func (a Allocation) terminated() *TaskEvent {
	for i := len(a.Task.Events) - 1; i >= 0; i-- {
		if a.Task.Events[i].Type == TaskTerminated {
			return &a.Task.Events[i]
		}
	}
	return nil
}

func (a Allocation) startFailure() string {
	for i := len(a.Task.Events) - 1; i >= 0; i-- {
		e := a.Task.Events[i]
		switch e.Type {
		case TaskDriverFailure:
			return "the driver could not start it: " + orText(e.Details["driver_error"], e.Message)
		case TaskSetupFailure, TaskHookFailed, TaskInvalid, TaskArtifactFailed:
			return fmt.Sprintf("%s: %s", strings.ToLower(e.Type), orText(e.Message, "no message"))
		}
	}
	return fmt.Sprintf("ended before its process started: %s", orText(a.Description, a.ClientStatus))
}

func (a Allocation) eventLines() []string {
	lines := make([]string, 0, len(a.Task.Events))
	for _, e := range a.Task.Events {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.At.UTC().Format(time.RFC3339), e.Type, e.Message)))
	}
	return lines
}

func exitOf(e *TaskEvent) (code *int, signal int) {
	c, _ := strconv.Atoi(e.Details["exit_code"])
	signal, _ = strconv.Atoi(e.Details["signal"])
	if signal == 0 && c > exitSignalBase && c < exitSignalBase+65 {
		signal = c - exitSignalBase
	}
	return &c, signal
}

func orText(s, other string) string {
	if s = strings.TrimSpace(s); s != "" {
		return s
	}
	return other
}
