package orchestrator

import (
	"strings"

	"github.com/hashicorp/go-hclog"

	"drover/internal/work"
)

// itemLog returns the log of what concerns an item and its latest attempt.
func (o *Orchestrator) itemLog(item *work.Item) hclog.Logger {
	return o.log.With(item.LogFields(item.Current())...)
}

// logOf returns the log of what is named: an attempt, an item, or a child by the
// attempt that its name holds. For anything else it says just that.
func (o *Orchestrator) logOf(id any) hclog.Logger {
	var name string
	switch v := id.(type) {
	case work.AttemptID:
		name = string(v)
	case string:
		name = v
	}
	attempt := attemptIn(name)
	e := o.entry(name)
	if attempt != "" {
		e = o.entry(attempt.Item())
	}
	switch {
	case e == nil && attempt != "": // not known here: all that can be said is its name
		return o.log.With((&work.Item{ID: attempt.Item()}).LogFields(&work.Attempt{Number: attempt.Number()})...)
	case e == nil && name == "":
		return o.log
	case e == nil:
		return o.log.With("id", name)
	}
	item := e.item.Load()
	if attempt == "" {
		return o.itemLog(item)
	}
	if known := item.Attempt(attempt.Number()); known != nil {
		return o.log.With(item.LogFields(known)...)
	}
	return o.log.With(item.LogFields(&work.Attempt{Number: attempt.Number()})...)
}

// attemptIn returns the attempt that is, or is in, a name; empty if there is none.
func attemptIn(name string) work.AttemptID {
	if _, rest, ok := strings.Cut(name, "/dispatch-"); ok {
		name, _, _ = strings.Cut(rest, "-")
	}
	attempt, err := work.ParseAttemptID(name)
	if err != nil {
		return ""
	}
	return attempt
}
