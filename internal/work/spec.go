package work

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a specification. Task and whole specification stay well below
// Consul's 512 KiB for one value, with room for the item's history.
const (
	MaxTaskBytes    = 128 << 10
	MaxSpecBytes    = 192 << 10
	MaxPayloadBytes = 16 << 10 // Nomad's limit of a dispatch payload
	MaxPriority     = 100
	DefaultQueue    = "default"
	DefaultPriority = 50
	MaxDependencies = 100
)

// Defaults of an attempt's limits.
const (
	DefaultMemoryMB      = 4096
	DefaultCores         = 2
	DefaultPIDs          = 256
	DefaultMaxIterations = 20
	DefaultTimeout       = Duration(2 * time.Hour)
	DefaultTestTimeout   = Duration(15 * time.Minute)
	DefaultHeartbeatTTL  = Duration(2 * time.Minute)
	DefaultFenceGrace    = Duration(15 * time.Minute)
	// A call of a model, a build or a test run may be silent for long, and a call
	// that only waits uses no CPU time: agents wait ten minutes for one answer.
	DefaultSilenceTimeout = Duration(time.Hour)
	DefaultIdleTimeout    = Duration(30 * time.Minute)
	DefaultStartTimeout   = Duration(10 * time.Minute)
	DefaultQueueTimeout   = Duration(30 * 24 * time.Hour)
)

// The kinds of agents. Each has an adapter in the worker.
const (
	AgentPlain      = "plain"       // any command, see docs/agent-protocol.md
	AgentClaudeCode = "claude-code" // claude -p
	AgentCodex      = "codex"       // codex exec
)

// Agents lists every kind of agent.
func Agents() []string { return []string{AgentPlain, AgentClaudeCode, AgentCodex} }

// Modes of a Loop.
const (
	LoopOnce  = "once"  // one run; exit status 0 is done
	LoopUntil = "until" // run again until the agent says that it is done
)

// DefaultDonePhrase is how an agent with conversations says that it is done.
const DefaultDonePhrase = "<done/>"

// NoChangePhrase is how an agent with conversations says that there is nothing to change.
const NoChangePhrase = "<no-change/>"

// MinHeartbeatTTL is the shortest heartbeat TTL. The session bound to the
// check has a TTL of its own, and Consul allows none below 10 s.
const MinHeartbeatTTL = Duration(10 * time.Second)

// Spec is what a person asks for: everything an item is before drover acts on it.
type Spec struct {
	Repository   string            `json:"repository"`              // URL git can clone
	Base         string            `json:"base,omitempty"`          // branch to start from; the remote's HEAD if empty
	CloneDepth   int               `json:"clone_depth,omitempty"`   // commits of history that the agent gets, for big repositories; all of it if zero
	ClonePartial bool              `json:"clone_partial,omitempty"` // the agent gets the whole history, but the content of files only as they are now, for big repositories
	Task         string            `json:"task"`                    // text handed to the agent
	Paths        []string          `json:"paths,omitempty"`         // of the repository that an attempt has for itself, see PathSet; none if empty
	Queue        string            `json:"queue,omitempty"`         // DefaultQueue if empty
	DependsOn    []string          `json:"depends_on,omitempty"`    // ids of items that are to complete first
	UniqueKey    string            `json:"unique_key,omitempty"`    // of the item in its queue: a submission that repeats it returns the item that has it
	Priority     *int              `json:"priority,omitempty"`      // 0 to MaxPriority, higher first; DefaultPriority if absent
	Labels       map[string]string `json:"labels,omitempty"`        // for people and filters
	NotBefore    time.Time         `json:"not_before,omitzero"`     // earliest dispatch
	Image        string            `json:"image,omitempty"`         // worker image; the server's if empty
	Agent        string            `json:"agent,omitempty"`         // kind of agent; AgentPlain if empty
	Command      []string          `json:"command,omitempty"`       // the agent's command, or its program where the kind adds flags; the server's if empty
	Prompt       string            `json:"prompt,omitempty"`        // template of what the agent is told; DefaultPrompt if empty
	Loop         Loop              `json:"loop,omitzero"`           // whether the agent is run again until it is done
	Budget       Budget            `json:"budget,omitzero"`         // what the item may use, over all attempts
	Resources    Resources         `json:"resources,omitzero"`      // hard limits of the container
	Limits       Limits            `json:"limits,omitzero"`         // time and iterations
	Uncommitted  string            `json:"uncommitted,omitempty"`   // what becomes of work the agent does not commit; UncommittedCommit if empty
	Test         Test              `json:"test,omitzero"`           // how to test the agent's work
	PR           PR                `json:"pull_request,omitzero"`   // what becomes of the branch
	Retry        *RetryOverride    `json:"retry,omitempty"`         // rows of the retry table this item changes
}

// Resources are the hard limits of an attempt's container. Zero means the server's default.
type Resources struct {
	MemoryMB    int `json:"memory_mb,omitempty"`     // MiB, no swap
	MemoryMaxMB int `json:"memory_max_mb,omitempty"` // ceiling to which memory grows after an OOM; no growth if zero
	Cores       int `json:"cores,omitempty"`         // whole CPUs, reserved
	CPUMHz      int `json:"cpu_mhz,omitempty"`       // share of CPU instead of cores
	PIDs        int `json:"pids,omitempty"`
}

// Limits bound an attempt. Zero means the server's default.
type Limits struct {
	MaxIterations  int      `json:"max_iterations,omitempty"`  // runs of the agent, over all attempts
	Timeout        Duration `json:"timeout,omitempty"`         // wall clock of one attempt
	HeartbeatTTL   Duration `json:"heartbeat_ttl,omitempty"`   // without a heartbeat for so long the worker counts as gone
	FenceGrace     Duration `json:"fence_grace,omitempty"`     // for so long the agent of a worker that lost its session may go on
	SilenceTimeout Duration `json:"silence_timeout,omitempty"` // without any output for so long the agent is ended, whatever CPU time it uses
	IdleTimeout    Duration `json:"idle_timeout,omitempty"`    // the same where none of its processes uses CPU time either
	StartTimeout   Duration `json:"start_timeout,omitempty"`   // from dispatch to a running container
	QueueTimeout   Duration `json:"queue_timeout,omitempty"`   // from submission to a first dispatch
}

// Loop says how often an attempt runs the agent.
type Loop struct {
	Mode       string `json:"mode,omitempty"`        // LoopOnce if empty
	DonePhrase string `json:"done_phrase,omitempty"` // a line of the agent's last message that says it is done; DefaultDonePhrase if empty
}

// Budget bounds what an item uses over all its attempts. Zero is no bound.
// Iterations are bounded by Limits.
type Budget struct {
	Tokens  int64    `json:"tokens,omitempty"`   // read and written
	CostUSD float64  `json:"cost_usd,omitempty"` // as far as the agent states it
	Time    Duration `json:"time,omitempty"`     // wall clock; Limits.Timeout bounds each attempt
}

// Test says how the agent's work is tested. No command means no test.
type Test struct {
	Command string   `json:"command,omitempty"` // run by sh -c in the repository
	Timeout Duration `json:"timeout,omitempty"`
	JUnit   string   `json:"junit,omitempty"` // pattern of the JUnit XML reports that the command writes, as in target/surefire-reports/*.xml; ** is any number of directories
}

// Pull request providers.
const (
	ProviderGitHub      = "github"       // GitHub's REST API
	ProviderRequestPull = "request-pull" // the text of git request-pull, for plain remotes
	ProviderNone        = "none"         // push the branch, nothing more
)

// PR says what becomes of the pushed branch.
type PR struct {
	Provider  string   `json:"provider,omitempty"` // guessed from the repository's host if empty
	APIURL    string   `json:"api_url,omitempty"`  // REST root of a GitHub Enterprise Server; GitHub's own if empty
	Title     string   `json:"title,omitempty"`    // template over PRData; first line of the task if empty
	Body      string   `json:"body,omitempty"`     // template over PRData; DefaultPRBody if empty
	Draft     string   `json:"draft,omitempty"`    // DraftOnFailure if empty
	Labels    []string `json:"labels,omitempty"`
	Reviewers []string `json:"reviewers,omitempty"`
}

// DecodeSpec reads one specification from JSON, strictly.
// It returns ErrInvalid.
func DecodeSpec(text []byte) (spec Spec, err error) {
	if len(text) > MaxSpecBytes {
		return spec, fmt.Errorf("read item: it is over %d bytes: %w", MaxSpecBytes, ErrInvalid)
	}
	if err := DecodeStrict(text, &spec); err != nil {
		return Spec{}, fmt.Errorf("read item: %w", err)
	}
	return spec, nil
}

var (
	queueName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)
	scpRemote = regexp.MustCompile(`^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^\s]+$`)
	labelKey  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,62})$`)
)

// validUniqueKey takes at most 256 characters, none of them a space or unseen.
func validUniqueKey(key string) bool {
	const most = 256
	return utf8.RuneCountInString(key) <= most &&
		!strings.ContainsFunc(key, func(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.C, r) })
}

// ValidQueueName reports whether name can name a queue.
func ValidQueueName(name string) bool { return queueName.MatchString(name) }

// Validate checks everything that can be known without looking at a cluster
// and names every fault at once. The error wraps ErrInvalid.
func (s Spec) Validate() error {
	var faults []string
	bad := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	s.validateText(bad)
	s.validateNumbers(bad)
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", strings.Join(faults, "; "), ErrInvalid)
}

func (s Spec) validateText(bad func(string, ...any)) {
	switch {
	case s.Repository == "":
		bad("repository is missing: give the URL to clone")
	case !ValidRepository(s.Repository):
		bad("repository %q: give an https, http, ssh, git or file URL without a password in it", RedactURL(s.Repository))
	}
	switch {
	case strings.TrimSpace(s.Task) == "":
		bad("task is missing: say what the agent is to do")
	case len(s.Task) > MaxTaskBytes:
		bad("task has %d bytes, at most %d are allowed", len(s.Task), MaxTaskBytes)
	}
	if s.Queue != "" && !ValidQueueName(s.Queue) {
		bad("queue %q: use lower-case letters, digits, dot, dash and underscore, at most 64", s.Queue)
	}
	if _, err := path.Match(s.Test.JUnit, ""); err != nil || path.IsAbs(s.Test.JUnit) || slices.Contains(strings.Split(s.Test.JUnit, "/"), "..") {
		bad("test.junit %q: give a pattern of paths below the repository, as in build/**/*.xml", s.Test.JUnit)
	}
	if _, err := NewPathSet(s.Paths...); err != nil {
		bad("paths: %s", strings.TrimSuffix(err.Error(), ": "+ErrInvalid.Error()))
	}
	s.validateRelations(bad)
	if fault := baseFault(s.Base); fault != "" {
		bad("base %q: %s", s.Base, fault)
	}
	for key, value := range s.Labels {
		if !labelKey.MatchString(key) || len(value) > 256 {
			bad("label %q: keys take letters, digits, dot, dash, slash and underscore (64), values 256 bytes", key)
		}
	}
	if len(s.Labels) > 32 {
		bad("%d labels, at most 32 are allowed", len(s.Labels))
	}
	if s.Agent != "" && !slices.Contains(Agents(), s.Agent) {
		bad("agent %q: use one of %s", s.Agent, strings.Join(Agents(), ", "))
	}
	if mode := s.Loop.Mode; mode != "" && mode != LoopOnce && mode != LoopUntil {
		bad("loop.mode %q: use %s or %s", mode, LoopOnce, LoopUntil)
	}
	switch s.Uncommitted {
	case "", UncommittedCommit, UncommittedFail, UncommittedIgnore:
	default:
		bad("uncommitted %q: use %s, %s or %s", s.Uncommitted, UncommittedCommit, UncommittedFail, UncommittedIgnore)
	}
	if strings.Contains(s.Loop.DonePhrase, "\n") {
		bad("loop.done_phrase is to be one line")
	}
	if s.Prompt != "" { // the default one fits any task
		if err := CheckPrompt(s); err != nil {
			bad("prompt: %v", err)
		}
	}
	switch s.PR.Provider {
	case "", ProviderGitHub, ProviderRequestPull, ProviderNone:
	default:
		bad("pull_request.provider %q: use %s, %s or %s", s.PR.Provider, ProviderGitHub, ProviderRequestPull, ProviderNone)
	}
	switch s.PR.Draft {
	case "", DraftOnFailure, DraftAlways, DraftNever:
	default:
		bad("pull_request.draft %q: use %s, %s or %s", s.PR.Draft, DraftOnFailure, DraftAlways, DraftNever)
	}
	if s.PR.Title+s.PR.Body != "" { // the default ones fit any task
		if _, _, err := s.PR.Text(PRData{Task: s.Task, Labels: s.Labels}); err != nil {
			bad("%v", err)
		}
	}
}

func (s Spec) validateRelations(bad func(string, ...any)) {
	for _, id := range s.DependsOn {
		if !ValidID(id) {
			bad("depends_on %q is not a work item's id", id)
		}
	}
	if len(s.DependsOn) > MaxDependencies {
		bad("%d dependencies, at most %d are allowed", len(s.DependsOn), MaxDependencies)
	}
	if s.UniqueKey != "" && !validUniqueKey(s.UniqueKey) {
		bad("unique_key %q: use at most 256 characters without spaces", s.UniqueKey)
	}
}

func (s Spec) validateNumbers(bad func(string, ...any)) {
	if p := s.Priority; p != nil && (*p < 0 || *p > MaxPriority) {
		bad("priority %d: use 0 to %d", *p, MaxPriority)
	}
	for name, v := range map[string]int{
		"resources.memory_mb": s.Resources.MemoryMB, "resources.memory_max_mb": s.Resources.MemoryMaxMB,
		"resources.cores": s.Resources.Cores, "resources.cpu_mhz": s.Resources.CPUMHz,
		"resources.pids": s.Resources.PIDs, "clone_depth": s.CloneDepth, "limits.max_iterations": s.Limits.MaxIterations,
	} {
		if v < 0 {
			bad("%s %d: must not be negative", name, v)
		}
	}
	if s.CloneDepth > 0 && s.ClonePartial {
		bad("clone: give clone_depth or clone_partial, not both")
	}
	if s.Budget.Tokens < 0 || s.Budget.CostUSD < 0 || s.Budget.Time < 0 {
		bad("budget: must not be negative")
	}
	r := s.Resources
	if r.MemoryMaxMB > 0 && r.MemoryMaxMB < r.MemoryMB {
		bad("resources.memory_max_mb %d is below memory_mb %d", r.MemoryMaxMB, r.MemoryMB)
	}
	if r.Cores > 0 && r.CPUMHz > 0 {
		bad("resources: give cores or cpu_mhz, not both")
	}
	if ttl := s.Limits.HeartbeatTTL; ttl != 0 && ttl < MinHeartbeatTTL {
		bad("limits.heartbeat_ttl %s: at least %s", ttl, MinHeartbeatTTL)
	}
	if s.Retry != nil {
		if err := s.Retry.Validate(); err != nil {
			bad("retry: %v", err)
		}
	}
}

// ValidRepository reports whether git can clone from a URL that holds no password.
func ValidRepository(repository string) bool {
	if scpRemote.MatchString(repository) {
		return true
	}
	u, err := url.Parse(repository)
	if err != nil || strings.ContainsAny(repository, " \t\n") {
		return false
	}
	if _, hasPassword := u.User.Password(); hasPassword {
		return false
	}
	switch u.Scheme {
	case "https", "http", "ssh", "git":
		return u.Host != "" && strings.Trim(u.Path, "/") != ""
	case "file":
		return u.Path != ""
	}
	return false
}

// RedactURL returns a URL with any password in it replaced.
func RedactURL(s string) string {
	if u, err := url.Parse(s); err == nil && u.User != nil {
		return u.Redacted()
	}
	return s
}

// Defaults fill what a specification leaves open.
type Defaults struct {
	Image     string
	Agent     string
	Command   []string // of agents of the kind Agent
	Prompt    string
	Loop      Loop
	Budget    Budget
	Resources Resources
	Limits    Limits
	// Uncommitted is what becomes of work the agent does not commit.
	Uncommitted string
	Test        Test
	PR          PR
}

// NewDefaults returns drover's own defaults.
func NewDefaults() Defaults {
	return Defaults{
		Resources: Resources{MemoryMB: DefaultMemoryMB, Cores: DefaultCores, PIDs: DefaultPIDs},
		Limits: Limits{
			MaxIterations: DefaultMaxIterations, Timeout: DefaultTimeout, HeartbeatTTL: DefaultHeartbeatTTL, FenceGrace: DefaultFenceGrace,
			SilenceTimeout: DefaultSilenceTimeout, IdleTimeout: DefaultIdleTimeout,
			StartTimeout: DefaultStartTimeout, QueueTimeout: DefaultQueueTimeout,
		},
		Test: Test{Timeout: DefaultTestTimeout},
	}
}

// WithAgent returns the defaults of a queue that names an agent of its own. An
// empty agent changes nothing.
func (d Defaults) WithAgent(agent string, command []string) Defaults {
	if agent == "" {
		return d
	}
	if len(command) > 0 || agent != or(d.Agent, AgentPlain) {
		d.Command = command
	}
	d.Agent = agent
	return d
}

// WithDefaults returns the specification with every open field filled, so that
// a stored item does not change its meaning with the server's configuration.
func (s Spec) WithDefaults(d Defaults) Spec {
	s.Queue = or(s.Queue, DefaultQueue)
	if s.Priority == nil {
		p := DefaultPriority
		s.Priority = &p
	}
	s.Image = or(s.Image, d.Image)
	agent := or(d.Agent, AgentPlain)
	s.Agent = or(s.Agent, agent)
	if len(s.Command) == 0 && s.Agent == agent {
		s.Command = d.Command
	}
	s.Prompt = or(s.Prompt, d.Prompt)
	s.Loop.Mode = or(s.Loop.Mode, d.Loop.Mode, LoopOnce)
	s.Loop.DonePhrase = or(s.Loop.DonePhrase, d.Loop.DonePhrase, DefaultDonePhrase)
	s.Budget.Tokens = or(s.Budget.Tokens, d.Budget.Tokens)
	s.Budget.CostUSD = or(s.Budget.CostUSD, d.Budget.CostUSD)
	s.Budget.Time = or(s.Budget.Time, d.Budget.Time)
	s.Resources = s.Resources.withDefaults(d.Resources)
	s.Limits = s.Limits.withDefaults(d.Limits)
	s.Uncommitted = or(s.Uncommitted, d.Uncommitted, UncommittedCommit)
	s.Test.Timeout = or(s.Test.Timeout, d.Test.Timeout)
	provider, apiURL := guessProvider(s.Repository)
	s.PR.Provider = or(s.PR.Provider, d.PR.Provider, provider)
	s.PR.APIURL = or(s.PR.APIURL, d.PR.APIURL, apiURL)
	s.PR.Draft = or(s.PR.Draft, d.PR.Draft, DraftOnFailure)
	return s
}

func (r Resources) withDefaults(d Resources) Resources {
	if r.Cores == 0 && r.CPUMHz == 0 {
		r.Cores, r.CPUMHz = d.Cores, d.CPUMHz
	}
	if r.MemoryMB == 0 {
		r.MemoryMB = d.MemoryMB
		if r.MemoryMaxMB > 0 {
			r.MemoryMB = min(r.MemoryMB, r.MemoryMaxMB)
		}
	}
	r.MemoryMaxMB = or(r.MemoryMaxMB, d.MemoryMaxMB)
	r.PIDs = or(r.PIDs, d.PIDs)
	return r
}

func (l Limits) withDefaults(d Limits) Limits {
	l.MaxIterations = or(l.MaxIterations, d.MaxIterations)
	l.Timeout = or(l.Timeout, d.Timeout)
	l.HeartbeatTTL = or(l.HeartbeatTTL, d.HeartbeatTTL)
	l.FenceGrace = or(l.FenceGrace, d.FenceGrace)
	l.SilenceTimeout = or(l.SilenceTimeout, d.SilenceTimeout)
	l.IdleTimeout = or(l.IdleTimeout, d.IdleTimeout)
	l.StartTimeout = or(l.StartTimeout, d.StartTimeout)
	l.QueueTimeout = or(l.QueueTimeout, d.QueueTimeout)
	return l
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	const limit = 72
	if r := []rune(line); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return line
}

func or[T comparable](values ...T) T {
	var zero T
	for _, v := range values {
		if v != zero {
			return v
		}
	}
	return zero
}
