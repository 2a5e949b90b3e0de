package work

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// QueueState is whether a queue takes items and runs them.
type QueueState string

// The states of a queue.
const (
	QueueActive   QueueState = "active"   // takes items and runs them
	QueuePaused   QueueState = "paused"   // takes items and dispatches none; what runs goes on
	QueueDraining QueueState = "draining" // takes no item and runs those it has
)

// QueueStates lists every QueueState.
func QueueStates() []QueueState { return []QueueState{QueueActive, QueuePaused, QueueDraining} }

// QueueSettings are what a queue has of its own. A nil or empty field says
// nothing: the server's is taken, or there is no limit.
type QueueSettings struct {
	MaxInFlight    *int           `json:"max_in_flight,omitempty"`     // attempts at a time; 0 is no limit of its own
	Rate           *float64       `json:"rate,omitempty"`              // dispatches a minute; 0 is no limit
	Burst          *int           `json:"burst,omitempty"`             // dispatches that may come together after a quiet while; 1 if nil
	TokensPerHour  *int64         `json:"tokens_per_hour,omitempty"`   // read and written; 0 is no limit
	CostUSDPerHour *float64       `json:"cost_usd_per_hour,omitempty"` // as far as agents state it; 0 is no limit
	Image          string         `json:"image,omitempty"`
	Agent          string         `json:"agent,omitempty"`   // kind of agent of items that name none
	Command        []string       `json:"command,omitempty"` // of these agents
	Resources      *Resources     `json:"resources,omitempty"`
	Retry          *RetryOverride `json:"retry,omitempty"` // rows of the retry table
	Unknown        Unknown        `json:"-"`
}

// queueFields are the fields of QueueSettings by their JSON names, and how each is emptied.
var queueFields = map[string]func(*QueueSettings){
	"max_in_flight":     func(s *QueueSettings) { s.MaxInFlight = nil },
	"rate":              func(s *QueueSettings) { s.Rate = nil },
	"burst":             func(s *QueueSettings) { s.Burst = nil },
	"tokens_per_hour":   func(s *QueueSettings) { s.TokensPerHour = nil },
	"cost_usd_per_hour": func(s *QueueSettings) { s.CostUSDPerHour = nil },
	"image":             func(s *QueueSettings) { s.Image = "" },
	"agent":             func(s *QueueSettings) { s.Agent, s.Command = "", nil },
	"resources":         func(s *QueueSettings) { s.Resources = nil },
	"retry":             func(s *QueueSettings) { s.Retry = nil },
}

// QueueFields lists the names that Unset takes.
func QueueFields() []string {
	names := make([]string, 0, len(queueFields))
	for name := range queueFields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Unset returns the settings without some fields, by their JSON names. Agent and
// command go together. It returns ErrInvalid for a name that is none.
func (s QueueSettings) Unset(fields ...string) (QueueSettings, error) {
	for _, name := range fields {
		empty := queueFields[name]
		if empty == nil {
			return s, fmt.Errorf("queues have no field %q: use one of %s: %w", name, strings.Join(QueueFields(), ", "), ErrInvalid)
		}
		empty(&s)
	}
	return s, nil
}

// With returns the settings with those fields of over that say something in
// place of their own. Agent and command go together; resources and rows of the
// retry table are taken one by one.
func (s QueueSettings) With(over QueueSettings) QueueSettings {
	s.MaxInFlight = or(over.MaxInFlight, s.MaxInFlight)
	s.Rate = or(over.Rate, s.Rate)
	s.Burst = or(over.Burst, s.Burst)
	s.TokensPerHour = or(over.TokensPerHour, s.TokensPerHour)
	s.CostUSDPerHour = or(over.CostUSDPerHour, s.CostUSDPerHour)
	s.Image = or(over.Image, s.Image)
	if over.Agent != "" {
		s.Agent, s.Command = over.Agent, over.Command
	}
	if r := over.Resources; r != nil {
		merged := *r
		if s.Resources != nil {
			merged = r.withDefaults(*s.Resources)
		}
		s.Resources = &merged
	}
	s.Retry = s.Retry.with(over.Retry)
	return s
}

// with returns the override with the rows of over in place of its own.
func (o *RetryOverride) with(over *RetryOverride) *RetryOverride {
	if o == nil || over == nil {
		return or(over, o)
	}
	merged := *o
	merged.Actions = map[Reason]Action{}
	for _, rows := range []map[Reason]Action{o.Actions, over.Actions} {
		for reason, action := range rows {
			merged.Actions[reason] = action
		}
	}
	if len(over.Backoff) > 0 {
		merged.Backoff = over.Backoff
	}
	if len(over.RequeueBackoff) > 0 {
		merged.RequeueBackoff = over.RequeueBackoff
	}
	merged.MaxRetries = or(over.MaxRetries, o.MaxRetries)
	merged.MaxRequeues = or(over.MaxRequeues, o.MaxRequeues)
	return &merged
}

// Fault is what is wrong with a field.
type Fault struct{ Field, What string }

// Faults returns what is wrong with the settings.
func (s QueueSettings) Faults() (faults []Fault) {
	bad := func(field, format string, args ...any) {
		faults = append(faults, Fault{field, fmt.Sprintf(format, args...)})
	}
	for _, n := range []struct {
		field string
		least float64
		value float64
	}{
		{"max_in_flight", 0, number(s.MaxInFlight)}, {"rate", 0, number(s.Rate)}, {"burst", 0, number(s.Burst)},
		{"tokens_per_hour", 0, number(s.TokensPerHour)}, {"cost_usd_per_hour", 0, number(s.CostUSDPerHour)},
	} {
		if !(n.value >= 0) { // NaN is not, either
			bad(n.field, "is %v, must be at least 0", n.value)
		}
	}
	if s.Agent != "" && !slices.Contains(Agents(), s.Agent) {
		bad("agent", "%q: use one of %s", s.Agent, strings.Join(Agents(), ", "))
	}
	if len(s.Command) > 0 && s.Agent == "" {
		bad("command", "say which kind of agent it is: %s", strings.Join(Agents(), ", "))
	}
	if r := s.Resources; r != nil {
		Spec{Resources: *r}.validateNumbers(func(format string, args ...any) { bad("resources", format, args...) })
	}
	if s.Retry != nil {
		if err := s.Retry.Validate(); err != nil {
			bad("retry", "%s", strings.TrimSuffix(err.Error(), ": "+ErrInvalid.Error()))
		}
	}
	return faults
}

// Validate names every fault at once. The error wraps ErrInvalid.
func (s QueueSettings) Validate() error {
	var texts []string
	for _, f := range s.Faults() {
		texts = append(texts, f.Field+": "+f.What)
	}
	if len(texts) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", strings.Join(texts, "; "), ErrInvalid)
}

// number returns what p points to, 0 if it is nil.
func number[T int | int64 | float64](p *T) float64 {
	if p == nil {
		return 0
	}
	return float64(*p)
}

// WithQueue returns the defaults of the items of a queue.
func (d Defaults) WithQueue(s QueueSettings) Defaults {
	d = d.WithAgent(s.Agent, s.Command)
	d.Image = or(s.Image, d.Image)
	if s.Resources != nil {
		d.Resources = s.Resources.withDefaults(d.Resources)
	}
	return d
}

// QueueRecord is what is stored of a queue: what operators set, and what has to
// outlive the leader. A queue needs none.
type QueueRecord struct {
	Name     string        `json:"name"`
	Settings QueueSettings `json:"settings,omitzero"` // in place of the configuration's, field by field
	State    QueueState    `json:"state,omitempty"`   // QueueActive if empty
	By       string        `json:"by,omitempty"`      // who set the state
	Since    time.Time     `json:"since,omitzero"`    // of the state
	Slow     Slowdown      `json:"slow,omitzero"`
	Unknown  Unknown       `json:"-"`
}

// Bounds of a slow-down.
const (
	// FirstSlowdown is how long a queue waits when a limit is hit that names no
	// reset. It doubles with every further one, up to RetryPolicy.RateLimitWait.
	FirstSlowdown = time.Minute
	// MaxSlowdown bounds how long the word of one agent holds up a whole queue.
	// Should the limit still hold then, the next one to say so extends it.
	MaxSlowdown = 24 * time.Hour
)

// Slowdown says that a queue waits because an attempt of it hit a limit of a
// model or of a forge.
type Slowdown struct {
	Until   time.Time `json:"until,omitzero"`
	Strikes int       `json:"strikes,omitempty"` // limits hit without a stated reset since an attempt last got on
	Attempt AttemptID `json:"attempt,omitempty"` // that hit the limit which counts
	Detail  string    `json:"detail,omitempty"`  // what it said
	At      time.Time `json:"at,omitzero"`
}

// Limited returns the slow-down after an attempt hit a limit: until the stated
// reset, or else for a pause that grows up to longest. A shorter one never
// shortens a longer one.
func (s Slowdown) Limited(a AttemptID, end Ending, longest time.Duration, now time.Time) Slowdown {
	next := Slowdown{Until: end.RetryAt, Strikes: s.Strikes, Attempt: a, Detail: cut(end.Detail, maxCauseBytes), At: now}
	if !next.Until.After(now) {
		pause := FirstSlowdown
		for range s.Strikes {
			pause = min(2*pause, longest)
		}
		next.Until, next.Strikes = now.Add(pause), s.Strikes+1
	}
	if latest := now.Add(MaxSlowdown); next.Until.After(latest) {
		next.Until = latest
	}
	if s.Until.After(next.Until) {
		s.Strikes = next.Strikes
		return s
	}
	return next
}

// Progressed returns the slow-down after an attempt that was dispatched at a
// time ended otherwise than by a limit: one that began after the last limit was
// hit shows that it is over.
func (s Slowdown) Progressed(dispatched time.Time) Slowdown {
	if s.Strikes > 0 && dispatched.After(s.Until) {
		s.Strikes = 0
	}
	return s
}
