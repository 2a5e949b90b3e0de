package nomadd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
)

const (
	taskPending = "pending"
	taskRunning = "running"
	taskDead    = "dead"

	// maxTaskEvents is how many events of a task Nomad keeps.
	maxTaskEvents = 10

	noRestarts      = "Policy allows no restarts"
	unrecoverable   = "Error was unrecoverable"
	withinPolicy    = "Restart within policy"
	restartJitter   = 0.25
	restartModeFail = "fail"
)

// runner lives as long as its allocation's task does.
type runner struct {
	server *Server
	alloc  *api.Allocation
	task   *api.Task
	dir    string

	killing chan struct{}
	kill    sync.Once
	done    chan struct{}
	// dropped, under the server's lock, has the directory removed after the end.
	dropped bool

	mu      sync.Mutex
	state   api.TaskState
	process Process
	// sampled and sampledAt are the CPU time at the last look at the usage.
	sampled   time.Duration
	sampledAt time.Time
}

func (s *Server) allocDir(id string) string { return filepath.Join(s.options.DataDir, id) }

// startAlloc starts the runner of a newly placed allocation.
func (s *Server) startAlloc(alloc *api.Allocation) {
	group := alloc.Job.LookupTaskGroup(alloc.TaskGroup)
	r := &runner{
		server: s, alloc: alloc, task: group.Tasks[0], dir: s.allocDir(alloc.ID),
		killing: make(chan struct{}), done: make(chan struct{}), state: api.TaskState{State: taskPending},
	}
	s.mu.Lock()
	s.runners[alloc.ID] = r
	s.mu.Unlock()
	s.work.Go(func() {
		r.run(group)
		close(r.done)
		s.mu.Lock()
		dropped := r.dropped
		s.mu.Unlock()
		if dropped {
			s.removeRunner(r)
		}
	})
}

// dropAllocs ends allocations that the state has forgotten, and removes what
// is left of them once they have ended.
func (s *Server) dropAllocs(ids []string) {
	for _, id := range ids {
		r := s.runnerOf(id)
		if r == nil {
			continue
		}
		s.mu.Lock()
		r.dropped = true
		s.mu.Unlock()
		r.kill.Do(func() { close(r.killing) })
		select {
		case <-r.done:
			s.removeRunner(r)
		default:
		}
	}
}

func (s *Server) removeRunner(r *runner) {
	s.mu.Lock()
	delete(s.runners, r.alloc.ID)
	s.mu.Unlock()
	if err := os.RemoveAll(r.dir); err != nil {
		s.logger.Warn("remove an allocation's directory", "alloc", r.alloc.ID, "error", err)
	}
}

func (s *Server) runnerOf(allocID string) *runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runners[allocID]
}

// killAlloc begins to end an allocation's task; it doesn't wait.
func (s *Server) killAlloc(id string) {
	if r := s.runnerOf(id); r != nil {
		r.kill.Do(func() { close(r.killing) })
	}
}

// run takes the task through its life, with restarts as its policy allows.
func (r *runner) run(group *api.TaskGroup) {
	r.report(taskEvent("Received", "Task received by client"), taskEvent("Task Setup", "Building Task Directory", "message", "Building Task Directory"))
	policy := restarts{policy: cmp.Or(r.task.RestartPolicy, group.RestartPolicy)}
	for {
		exit, err := r.attempt()
		if r.stopped() {
			r.end(false, taskEvent("Killed", "Task successfully killed"))
			return
		}
		delay, reason, again := policy.next(exit, err)
		if !again {
			r.conclude(exit, err, reason)
			return
		}
		r.restart(delay, reason)
		select {
		case <-time.After(delay):
		case <-r.killing:
			r.end(false, taskEvent("Killing", "Sent interrupt"), taskEvent("Killed", "Task successfully killed"))
			return
		case <-r.server.ctx.Done():
			return
		}
	}
}

func (r *runner) stopped() bool {
	select {
	case <-r.killing:
		return true
	case <-r.server.ctx.Done():
		return true
	default:
		return false
	}
}

func (r *runner) restart(delay time.Duration, reason string) {
	r.mu.Lock()
	r.state.State, r.state.Restarts, r.state.LastRestart = taskPending, r.state.Restarts+1, time.Now()
	r.mu.Unlock()
	r.report(taskEvent("Restarting", fmt.Sprintf("Task restarting in %v", delay),
		"start_delay", strconv.FormatInt(int64(delay), 10), "restart_reason", reason))
}

// conclude reports the end of a task that isn't started again. The task has
// failed unless it ended by itself with success.
func (r *runner) conclude(exit Exit, err error, reason string) {
	if err == nil && exit.successful() {
		r.end(false)
		return
	}
	r.end(true, taskEvent("Not Restarting", reason, "restart_reason", reason, "fails_task", "true"))
}

// attempt runs the task once: an error means that it was not started. Its
// Terminated event is kept back for the report that also has what follows.
func (r *runner) attempt() (Exit, error) {
	process, err := r.start()
	if err != nil {
		r.note(taskEvent("Driver Failure", err.Error(), "driver_error", err.Error()))
		return Exit{}, err
	}
	r.mu.Lock()
	r.process = process
	r.state.State, r.state.StartedAt = taskRunning, time.Now().UTC()
	r.mu.Unlock()
	r.report(taskEvent("Started", "Task started by client"))

	ended := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() { r.killer(process, ended) })
	exit := process.Wait()
	close(ended)
	killer.Wait()
	r.mu.Lock()
	r.process = nil
	r.mu.Unlock()
	r.note(terminated(exit))
	return exit, nil
}

// killer ends the task when it is asked for: with the task's signal first,
// by SIGKILL once the kill timeout is over, and at once when the server closes.
func (r *runner) killer(process Process, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-r.server.ctx.Done():
		_ = process.Signal(syscall.SIGKILL)
		return
	case <-r.killing:
	}
	timeout := killTimeoutOf(r.task)
	r.report(taskEvent("Killing", fmt.Sprintf("Sent interrupt. Waiting %v before force killing", timeout), "kill_timeout", timeout.String()))
	sig, _ := signalNumber(r.task.KillSignal)
	_ = process.Signal(sig)
	select {
	case <-ended:
	case <-time.After(timeout):
		_ = process.Signal(syscall.SIGKILL)
	case <-r.server.ctx.Done():
		_ = process.Signal(syscall.SIGKILL)
	}
}

// start prepares the allocation's directory and starts the driver.
func (r *runner) start() (Process, error) {
	driver := r.server.drivers[r.task.Driver]
	host := r.layout()
	if err := r.prepare(host); err != nil {
		return nil, &Unrecoverable{err}
	}
	env, err := r.environment(host, driver.Layout(host))
	if err != nil {
		return nil, &Unrecoverable{err}
	}
	logs := r.task.LogConfig
	task := &Task{
		AllocID: r.alloc.ID, JobID: r.alloc.JobID, Name: r.task.Name, User: r.task.User, Env: env, Host: host,
		Config:    interpolateAny(r.task.Config, r.symbols(env)).(map[string]any),
		Resources: r.alloc.AllocatedResources.Tasks[r.task.Name], CPUs: r.cpus(), Ports: r.alloc.AllocatedResources.Shared.Ports,
		Stdout: newLogFile(r.logPath("stdout"), *logs.MaxFiles, *logs.MaxFileSizeMB<<20),
		Stderr: newLogFile(r.logPath("stderr"), *logs.MaxFiles, *logs.MaxFileSizeMB<<20),
		Notify: func(message string) { r.report(taskEvent("Driver", message, "driver_message", message)) },
	}
	ctx, cancel := context.WithCancel(r.server.ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-r.killing:
			cancel()
		case <-stop:
		}
	}()
	return driver.Start(ctx, task)
}

func (r *runner) cpus() float64 {
	cpu := r.server.node().NodeResources.Cpu
	return float64(r.alloc.AllocatedResources.Tasks[r.task.Name].Cpu.CpuShares) * float64(cpu.TotalCpuCores) / float64(cpu.CpuShares)
}

func (r *runner) layout() Layout {
	task := filepath.Join(r.dir, r.task.Name)
	return Layout{Alloc: filepath.Join(r.dir, "alloc"), Local: filepath.Join(task, "local"), Secrets: filepath.Join(task, "secrets")}
}

func (r *runner) logPath(kind string) string {
	return filepath.Join(r.dir, "alloc", "logs", r.task.Name+"."+kind)
}

// prepare makes the task's directories, with the dispatch payload in its file.
func (r *runner) prepare(host Layout) error {
	for _, dir := range []string{filepath.Join(host.Alloc, "logs"), filepath.Join(host.Alloc, "tmp"), filepath.Join(host.Alloc, "data"), host.Local, host.Secrets} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return fmt.Errorf("make the task's directory: %w", err)
		}
		// The task may run as any user; the umask would keep it out.
		if err := os.Chmod(dir, 0o777); err != nil {
			return fmt.Errorf("open the task's directory: %w", err)
		}
	}
	if r.task.DispatchPayload == nil || len(r.alloc.Job.Payload) == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(host.Local, r.task.DispatchPayload.File), r.alloc.Job.Payload, 0o644)
}

// note adds events to the task's state without reporting it.
func (r *runner) note(events ...*api.TaskEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Concat(r.state.Events, events)
	r.state.Events = all[max(0, len(all)-maxTaskEvents):]
}

// report adds events and reports the task's whole state to the server.
func (r *runner) report(events ...*api.TaskEvent) {
	r.note(events...)
	r.mu.Lock()
	state := r.state
	r.mu.Unlock()
	status, description := clientStatus(state)
	r.server.updateAlloc(r.alloc.ID, status, description, map[string]*api.TaskState{r.task.Name: &state})
}

func (r *runner) end(failed bool, events ...*api.TaskEvent) {
	if r.server.ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	r.state.State, r.state.Failed, r.state.FinishedAt = taskDead, failed, time.Now().UTC()
	r.mu.Unlock()
	r.report(events...)
}

func clientStatus(state api.TaskState) (status, description string) {
	switch {
	case state.State == taskDead && state.Failed:
		return api.AllocClientStatusFailed, "Failed tasks"
	case state.State == taskRunning:
		return api.AllocClientStatusRunning, "Tasks are running"
	case state.State == taskPending:
		return api.AllocClientStatusPending, "No tasks have started"
	default:
		return api.AllocClientStatusComplete, "All tasks have completed"
	}
}

// stats reads what the running task uses, in the shape of the client's endpoint.
func (r *runner) stats(ctx context.Context) (*api.AllocResourceUsage, error) {
	r.mu.Lock()
	process := r.process
	r.mu.Unlock()
	out := &api.AllocResourceUsage{
		ResourceUsage: &api.ResourceUsage{MemoryStats: &api.MemoryStats{}, CpuStats: &api.CpuStats{}},
		Tasks:         map[string]*api.TaskResourceUsage{}, Timestamp: time.Now().UnixNano(),
	}
	if process == nil {
		return out, nil
	}
	usage, err := process.Usage(ctx)
	if err != nil {
		return nil, err
	}
	out.ResourceUsage.MemoryStats = &api.MemoryStats{
		RSS: usage.MemoryBytes, Usage: usage.MemoryBytes, MaxUsage: usage.MaxBytes, Measured: []string{"RSS", "Usage", "Max Usage"},
	}
	out.ResourceUsage.CpuStats = &api.CpuStats{Percent: r.cpuPercent(usage.CPUTime), Measured: []string{"Percent"}}
	out.Tasks[r.task.Name] = &api.TaskResourceUsage{ResourceUsage: out.ResourceUsage, Timestamp: out.Timestamp}
	return out, nil
}

// cpuPercent is the share of one processor used since the last look.
func (r *runner) cpuPercent(used time.Duration) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	since := r.sampledAt
	if since.IsZero() {
		since = r.state.StartedAt
	}
	share := 100 * float64(used-r.sampled) / float64(max(now.Sub(since), 1))
	r.sampled, r.sampledAt = used, now
	return share
}

// taskEvent makes a task event; details are pairs of a name and a value.
func taskEvent(kind, display string, details ...string) *api.TaskEvent {
	e := &api.TaskEvent{Type: kind, Time: time.Now().UnixNano(), DisplayMessage: display, Details: map[string]string{}}
	for pair := range slices.Chunk(details, 2) {
		e.Details[pair[0]] = pair[1]
	}
	return e
}

func terminated(exit Exit) *api.TaskEvent {
	display := fmt.Sprintf("Exit Code: %d", exit.Code)
	details := map[string]string{
		"exit_code": strconv.Itoa(exit.Code), "signal": strconv.Itoa(exit.Signal), "oom_killed": strconv.FormatBool(exit.OOMKilled),
	}
	if exit.Signal != 0 {
		display += fmt.Sprintf(", Signal: %d", exit.Signal)
	}
	if exit.Message != "" {
		display += fmt.Sprintf(", Exit Message: %q", exit.Message)
		details["exit_message"] = exit.Message
	}
	e := taskEvent("Terminated", display)
	maps.Copy(e.Details, details)
	return e
}

// restarts counts the restarts of a task against its policy.
type restarts struct {
	policy *api.RestartPolicy
	count  int
	since  time.Time
}

// next says whether an ended task is started again, after which delay, and why.
func (p *restarts) next(exit Exit, err error) (time.Duration, string, bool) {
	attempts := *p.policy.Attempts
	switch {
	case err == nil && exit.successful():
		return 0, "", false
	case attempts == 0:
		return 0, noRestarts, false
	}
	if _, fatal := errors.AsType[*Unrecoverable](err); fatal {
		return 0, unrecoverable, false
	}
	now := time.Now()
	if now.After(p.since.Add(*p.policy.Interval)) {
		p.count, p.since = 0, now
	}
	p.count++
	if p.count <= attempts {
		delay := *p.policy.Delay
		return delay + time.Duration(rand.Float64()*restartJitter*float64(delay)), withinPolicy, true
	}
	if *p.policy.Mode == restartModeFail {
		return 0, fmt.Sprintf("Exceeded allowed attempts %d in interval %v and mode is \"fail\"", attempts, *p.policy.Interval), false
	}
	return p.since.Add(*p.policy.Interval).Sub(now), "Exceeded allowed attempts, applying a delay", true
}
