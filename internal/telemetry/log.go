package telemetry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"

	"drover/internal/work"
)

// recentLines is how many lines of the log are kept in memory.
const recentLines = 1000

// LogOptions say how a program logs.
type LogOptions struct {
	Name       string // of the program
	Output     io.Writer
	JSON       bool
	Level      string            // of subsystems that have none of their own
	Levels     map[string]string // by subsystem
	Subsystems []string
	// Redact takes secrets out of a text, besides what has the form of one; may be nil.
	Redact func(string) string
}

// Logs are the logs of a program, whose levels can be changed while it runs. It
// may be used concurrently.
type Logs struct {
	name       string
	options    hclog.LoggerOptions
	subsystems []string

	mu      sync.Mutex
	base    hclog.Level
	own     map[string]hclog.Level
	loggers map[string]hclog.Logger // by subsystem; the program's own under ""
	recent  *recent
}

// NewLogs returns logs. It returns work.ErrInvalid for a level or a subsystem that there is not.
func NewLogs(opts LogOptions) (*Logs, error) {
	kept := &recent{}
	out := &redacting{to: io.MultiWriter(opts.Output, kept), json: opts.JSON, redact: work.RedactSecrets}
	if opts.Redact != nil {
		out.redact = func(text string) string { return work.RedactSecrets(opts.Redact(text)) }
	}
	l := &Logs{
		name: opts.Name, subsystems: opts.Subsystems, loggers: map[string]hclog.Logger{}, recent: kept,
		options: hclog.LoggerOptions{Output: out, JSONFormat: opts.JSON, Mutex: &sync.Mutex{}},
	}
	return l, l.SetLevels(opts.Level, opts.Levels)
}

// Logger returns the program's logger. Those that are named after a subsystem
// have that subsystem's level.
func (l *Logs) Logger() hclog.Logger { return root{l.logger(""), l} }

type root struct {
	hclog.Logger
	logs *Logs
}

// Named returns a subsystem's logger.
func (r root) Named(name string) hclog.Logger { return r.logs.logger(name) }

func (l *Logs) logger(subsystem string) hclog.Logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	if logger := l.loggers[subsystem]; logger != nil {
		return logger
	}
	options := l.options
	options.Name, options.Level = l.name, l.level(subsystem)
	if subsystem != "" {
		options.Name += "." + subsystem
	}
	logger := hclog.New(&options)
	l.loggers[subsystem] = logger
	return logger
}

// level returns a subsystem's level. The caller holds mu.
func (l *Logs) level(subsystem string) hclog.Level {
	if own, ok := l.own[subsystem]; ok {
		return own
	}
	return l.base
}

// SetLevels replaces all levels.
// It returns work.ErrInvalid, and then changes none.
func (l *Logs) SetLevels(base string, own map[string]string) error {
	level, err := parseLevel(base)
	if err != nil {
		return err
	}
	levels := map[string]hclog.Level{}
	for subsystem, text := range own {
		if err := l.known(subsystem); err != nil {
			return err
		}
		if levels[subsystem], err = parseLevel(text); err != nil {
			return fmt.Errorf("%s: %w", subsystem, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.base, l.own = level, levels
	l.adjust()
	return nil
}

// SetLevel sets the level of one subsystem, or of all that have none of their own if it is empty.
// It returns work.ErrInvalid.
func (l *Logs) SetLevel(subsystem, text string) error {
	level, err := parseLevel(text)
	if err == nil && subsystem != "" {
		err = l.known(subsystem)
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if subsystem == "" {
		l.base = level
	} else {
		l.own[subsystem] = level
	}
	l.adjust()
	return nil
}

// adjust brings the loggers to their levels. The caller holds mu.
func (l *Logs) adjust() {
	for subsystem, logger := range l.loggers {
		logger.SetLevel(l.level(subsystem))
	}
}

func (l *Logs) known(subsystem string) error {
	if slices.Contains(l.subsystems, subsystem) {
		return nil
	}
	return fmt.Errorf("there is no subsystem %q: use one of %s: %w", subsystem, strings.Join(l.subsystems, ", "), work.ErrInvalid)
}

func parseLevel(text string) (hclog.Level, error) {
	level := hclog.LevelFromString(text)
	if level == hclog.NoLevel {
		return level, fmt.Errorf("log level %q: use trace, debug, info, warn, error or off: %w", text, work.ErrInvalid)
	}
	return level, nil
}

// Levels returns the level of each subsystem.
func (l *Logs) Levels() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	levels := map[string]string{}
	for _, subsystem := range l.subsystems {
		levels[subsystem] = l.level(subsystem).String()
	}
	return levels
}

// Recent returns the last lines, as they were written.
func (l *Logs) Recent() string { return l.recent.String() }

// recent keeps the last lines that are written to it, one each time.
type recent struct {
	mu    sync.Mutex
	lines []string
	next  int
}

func (r *recent) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) < recentLines {
		r.lines = append(r.lines, string(p))
		return len(p), nil
	}
	r.lines[r.next] = string(p)
	r.next = (r.next + 1) % recentLines
	return len(p), nil
}

func (r *recent) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(slices.Concat(r.lines[r.next:], r.lines[:r.next]), "")
}

// redacting passes lines of a log on without the secrets in them.
type redacting struct {
	to     io.Writer
	json   bool
	redact func(string) string
}

// Write passes one line on, with secrets found also where escapes hide them. The
// texts of JSON are redacted one by one, so that it stays JSON.
func (r *redacting) Write(line []byte) (int, error) {
	clean, escaped := r.redact(string(line)), bytes.ContainsRune(line, '\\')
	if r.json && (escaped || clean != string(line)) {
		clean = redactJSON(line, r.redact)
	}
	if !r.json && escaped {
		if plain := unquoted.Replace(clean); r.redact(plain) != plain {
			clean = r.redact(plain)
		}
	}
	if _, err := io.WriteString(r.to, clean); err != nil {
		return 0, err
	}
	return len(line), nil
}

// unquoted undoes what a quoted text has escaped.
var unquoted = strings.NewReplacer(`\"`, `"`, `\\`, `\`)

// redactJSON redacts the texts in a JSON object, so that it stays one. A line
// that is none is redacted as it is.
func redactJSON(line []byte, redact func(string) string) string {
	var fields map[string]any
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	if decoder.Decode(&fields) != nil {
		return redact(string(line))
	}
	clean, err := json.Marshal(redactValue(fields, redact))
	if err != nil {
		return redact(string(line))
	}
	return string(clean) + "\n"
}

func redactValue(value any, redact func(string) string) any {
	switch v := value.(type) {
	case string:
		return redact(v)
	case []any:
		for i := range v {
			v[i] = redactValue(v[i], redact)
		}
	case map[string]any:
		for _, key := range slices.Collect(maps.Keys(v)) {
			v[key] = redactValue(v[key], redact)
		}
	}
	return value
}
