//lint:file-ignore ST1005 the texts are those of Nomad, which clients match

package nomadd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

const (
	// minMemoryMB is the least memory of a task that Nomad accepts.
	minMemoryMB = 10
)

// validate refuses what Nomad refuses, and what this server can't do.
func (s *Server) validate(job *api.Job) error {
	var problems []error
	fail := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if strings.ContainsAny(*job.ID, " \x00") {
		fail("Job ID contains a space")
	}
	if !slices.Contains([]string{"batch", "service", "sysbatch"}, *job.Type) {
		fail("Invalid job type: %q", *job.Type)
	}
	if *job.Priority < minPriority || *job.Priority > maxPriority {
		fail("Job priority must be between [%d, %d]", minPriority, maxPriority)
	}
	if len(job.Datacenters) == 0 {
		fail("Missing job datacenters")
	}
	if len(job.TaskGroups) == 0 {
		fail("Missing job task groups")
	}
	if job.ParameterizedJob != nil {
		problems = append(problems, validateParameterized(job)...)
	}
	for _, group := range job.TaskGroups {
		if *job.Type == api.JobTypeSysbatch && group.ReschedulePolicy != nil {
			fail("Task group %s validation failed: %w", deref(group.Name), errors.New("System or sysbatch jobs should not have a reschedule policy"))
		}
		for _, err := range s.validateGroup(group) {
			fail("Task group %s validation failed: %w", deref(group.Name), err)
		}
	}
	return multi(problems)
}

func validateParameterized(job *api.Job) []error {
	var problems []error
	if *job.Type != "batch" && *job.Type != "sysbatch" {
		problems = append(problems, errors.New("Parameterized job can only be used with \"batch\" or \"sysbatch\" scheduler"))
	}
	p := job.ParameterizedJob
	if !slices.Contains([]string{"", "optional", "required", "forbidden"}, p.Payload) {
		problems = append(problems, fmt.Errorf("Unknown payload requirement: %q", p.Payload))
	}
	for _, k := range p.MetaOptional {
		if slices.Contains(p.MetaRequired, k) {
			problems = append(problems, fmt.Errorf("Required and optional meta keys should be disjoint. Following keys exist in both: [%s]", k))
		}
	}
	return problems
}

func (s *Server) validateGroup(group *api.TaskGroup) []error {
	var problems []error
	if deref(group.Name) == "" {
		problems = append(problems, errors.New("Missing task group name"))
	}
	if *group.Count < 0 {
		problems = append(problems, errors.New("Task group count can't be negative"))
	}
	if len(group.Tasks) != 1 {
		return append(problems, fmt.Errorf("this server runs one task in a group, not %d", len(group.Tasks)))
	}
	problems = append(problems, networkProblems(group)...)
	task := group.Tasks[0]
	for _, err := range validateTask(group, task) {
		problems = append(problems, fmt.Errorf("Task %s validation failed: %w", task.Name, err))
	}
	return problems
}

func validateTask(group *api.TaskGroup, task *api.Task) []error {
	var problems []error
	if task.Name == "" {
		problems = append(problems, errors.New("Missing task name"))
	}
	if task.Driver == "" {
		problems = append(problems, errors.New("Missing task driver"))
	}
	if *task.KillTimeout < 0 {
		problems = append(problems, errors.New("KillTimeout must be a positive value"))
	}
	if *task.Resources.MemoryMB < minMemoryMB {
		problems = append(problems, fmt.Errorf("Resource validation failed: minimum MemoryMB value is %d; got %d", minMemoryMB, *task.Resources.MemoryMB))
	}
	if logs := *task.LogConfig.MaxFiles * *task.LogConfig.MaxFileSizeMB; *group.EphemeralDisk.SizeMB <= logs {
		problems = append(problems, fmt.Errorf("log storage (%d MB) must be less than requested disk capacity (%d MB)", logs, *group.EphemeralDisk.SizeMB))
	}
	if _, err := signalNumber(task.KillSignal); err != nil {
		problems = append(problems, err)
	}
	return problems
}

// multi joins errors in the form of Nomad's list of errors.
func multi(problems []error) error {
	if len(problems) == 0 {
		return nil
	}
	var b strings.Builder
	plural := "s"
	if len(problems) == 1 {
		plural = ""
	}
	fmt.Fprintf(&b, "%d error%s occurred:\n", len(problems), plural)
	for _, p := range problems {
		fmt.Fprintf(&b, "\t* %s\n", p)
	}
	return errors.New(b.String() + "\n")
}

// killTimeoutOf is a task's kill timeout, at most Nomad's max_kill_timeout.
func killTimeoutOf(task *api.Task) time.Duration { return min(deref(task.KillTimeout), 30*time.Second) }
