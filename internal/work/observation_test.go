package work_test

import (
	"strings"
	"testing"

	"drover/internal/work"
)

func terminated(code, signal, oom string) []work.TaskEvent {
	return []work.TaskEvent{{Type: "Started"}, {Type: work.TaskTerminated, Details: map[string]string{"exit_code": code, "signal": signal, "oom_killed": oom}}}
}

// TestEndingOfAllocation holds the traps: what Nomad's statuses and flags do not mean.
func TestEndingOfAllocation(t *testing.T) {
	for name, c := range map[string]struct {
		a      work.Allocation
		reason work.Reason
		says   string
	}{
		"oom":                   {work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Task: work.Task{Events: terminated("137", "0", "true")}}, work.ReasonOOMKilled, "out of memory"},
		"137 without oom":       {work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Task: work.Task{Events: terminated("137", "0", "false")}}, work.ReasonCrashed, "signal 9"},
		"oom beside exit 0":     {work.Allocation{ClientStatus: "complete", DesiredStatus: "run", Task: work.Task{Events: terminated("0", "0", "true")}}, work.ReasonCrashed, "before"},
		"exit 0, no result":     {work.Allocation{ClientStatus: "complete", DesiredStatus: "run", Task: work.Task{Events: terminated("0", "0", "false")}}, work.ReasonCrashed, "no result"},
		"segfault":              {work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Task: work.Task{Events: terminated("139", "0", "false")}}, work.ReasonCrashed, "signal 11"},
		"stopped, complete":     {work.Allocation{ClientStatus: "complete", DesiredStatus: "stop", Task: work.Task{Events: terminated("143", "15", "false")}}, work.ReasonKilledByOperator, "by hand"},
		"timed out, complete":   {work.Allocation{ClientStatus: "complete", DesiredStatus: "run", Description: "allocation exceeded max_run_duration", Task: work.Task{Events: terminated("137", "9", "false")}}, work.ReasonTimeout, "max_run_duration"},
		"fenced":                {work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Task: work.Task{Events: terminated("75", "0", "false")}}, work.ReasonFenced, "could not take the attempt back"},
		"fenced, a child oom":   {work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Task: work.Task{Events: terminated("75", "0", "true")}}, work.ReasonFenced, "could not take the attempt back"},
		"no Consul":             {work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Task: work.Task{Events: terminated("76", "0", "false")}}, work.ReasonStartFailed, "never reached Consul"},
		"client began anew":     {work.Allocation{ClientStatus: "complete", DesiredStatus: "run", Node: "n1", Task: work.Task{Events: append([]work.TaskEvent{{Type: work.TaskRestoreFailed}}, terminated("0", "0", "false")...)}}, work.ReasonNodeLost, "n1"},
		"killed by the client":  {work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Node: "n1", Task: work.Task{Events: append([]work.TaskEvent{{Type: work.TaskKilling, Message: "Template failed: no servers"}}, terminated("143", "15", "false")...)}}, work.ReasonNodeLost, "Template failed: no servers"},
		"given up, node down":   {work.Allocation{ClientStatus: "complete", DesiredStatus: "stop", Superseded: true, Node: "n1", Task: work.Task{Events: terminated("143", "15", "false")}}, work.ReasonNodeLost, "n1"},
		"lost":                  {work.Allocation{ClientStatus: "lost", DesiredStatus: "stop", Node: "n1"}, work.ReasonNodeLost, "n1"},
		"unknown":               {work.Allocation{ClientStatus: "unknown", DesiredStatus: "run", Node: "n1"}, work.ReasonNodeLost, "n1"},
		"drained":               {work.Allocation{ClientStatus: "complete", DesiredStatus: "stop", Draining: true, Task: work.Task{Events: terminated("143", "15", "false")}}, work.ReasonDrained, "drained"},
		"preempted":             {work.Allocation{ClientStatus: "complete", DesiredStatus: "evict", Preempted: true, Task: work.Task{Events: terminated("143", "15", "false")}}, work.ReasonPreempted, "priority"},
		"image missing":         {work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Task: work.Task{Events: []work.TaskEvent{{Type: work.TaskDriverFailure, Details: map[string]string{"driver_error": "Failed to pull `x`"}}}}}, work.ReasonStartFailed, "Failed to pull"},
		"template hook":         {work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Task: work.Task{Events: []work.TaskEvent{{Type: work.TaskHookFailed, Message: "template: no"}}}}, work.ReasonStartFailed, "template"},
		"failed without events": {work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Description: "bad"}, work.ReasonStartFailed, "bad"},
	} {
		t.Run(name, func(t *testing.T) {
			if !c.a.Ended() {
				t.Fatal("not seen as ended")
			}
			end := c.a.Ending()
			if end.Reason != c.reason || !strings.Contains(end.Detail, c.says) {
				t.Fatalf("%s: %s", end.Reason, end.Detail)
			}
		})
	}
}

// TestExitBeforeTheClaimIsAStartFailure: but who killed a process killed it.
func TestExitBeforeTheClaimIsAStartFailure(t *testing.T) {
	for _, c := range []struct {
		code, oom string
		want      work.Reason
	}{
		{"0", "false", work.ReasonStartFailed}, {"1", "false", work.ReasonStartFailed}, {"127", "false", work.ReasonStartFailed}, {"76", "false", work.ReasonStartFailed},
		{"75", "false", work.ReasonFenced}, {"137", "false", work.ReasonCrashed}, {"143", "false", work.ReasonCrashed}, {"137", "true", work.ReasonOOMKilled}, {"0", "true", work.ReasonCrashed},
	} {
		a := work.Allocation{ClientStatus: "failed", DesiredStatus: "run", Task: work.Task{Events: terminated(c.code, "0", c.oom)}}
		if got := a.Ending().Unclaimed(); got.Reason != c.want || got.Detail == "" {
			t.Errorf("exit code %s, oom %s: reason = %s (%q), want %s", c.code, c.oom, got.Reason, got.Detail, c.want)
		}
	}
}

func TestRunningAllocationHasNotEnded(t *testing.T) {
	a := work.Allocation{ClientStatus: "running", DesiredStatus: "run", Task: work.Task{State: "running", Events: []work.TaskEvent{{Type: "Started"}}}}
	if a.Ended() || !a.Running() {
		t.Fatal("a running allocation")
	}
}
