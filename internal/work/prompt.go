package work

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
)

// Bounds of a prompt's template, and of what it makes.
const (
	MaxPromptBytes = 16 << 10
	MaxToldBytes   = 512 << 10
)

// DefaultPrompt is the task, why the last attempt ended where there was one, and
// what an agent that is asked in words has to know about its end.
const DefaultPrompt = `{{.Task}}
{{- if .LastReason}}

This is attempt {{.Attempt}}. The one before ended with {{.LastReason}}{{if .LastDetail}}: {{.LastDetail}}{{end}}.
What it committed is on the branch {{.Branch}}, which is checked out: go on from there.
{{- if .LastLog}}
The end of its output was:

{{.LastLog}}
{{- end}}
{{- end}}
{{- if .Tree}}

{{.Tree}}
{{- end}}

Commit your work on the branch that is checked out.
{{- if .SayNoChange}} If nothing needs to be changed, commit nothing, say why, and
end your last message with a line that holds nothing but {{.SayNoChange}}
{{- end}}
{{- if .SayDone}}

You may be asked again to go on. Once the whole task is done, and only then, end your
last message with a line that holds nothing but {{.SayDone}}
{{- end}}
`

// PromptData is what a prompt's template may name.
type PromptData struct {
	Item          string
	Task          string
	Repository    string
	Base          string // as the item names it, empty for the remote's HEAD
	Branch        string
	Labels        map[string]string
	Attempt       int // from 1
	Iteration     int // from 1, over all attempts
	MaxIterations int
	LastReason    Reason // why the attempt before ended, empty in the first
	LastDetail    string
	LastLog       string // the end of its output, where it is kept
	Tree          string // what is wrong with the tree, empty if nothing is
	// SayDone is the line with which the agent is to say that it is done, empty
	// where it says so by its exit status or by an event.
	SayDone string
	// SayNoChange is the line with which the agent is to say that there is nothing
	// to change, empty where it says so by an event.
	SayNoChange string
}

// Prompt returns what the agent is told in an iteration.
// It returns ErrInvalid when the template is faulty.
func (e Envelope) Prompt(iteration int) (string, error) {
	s, r := e.Spec, e.Resume
	data := PromptData{
		Item: e.Item, Task: s.Task, Repository: s.Repository, Base: s.Base, Branch: e.Branch, Labels: s.Labels,
		Attempt: e.Attempt.Number(), Iteration: iteration, MaxIterations: s.Limits.MaxIterations,
		LastReason: r.LastReason, LastDetail: r.LastDetail, LastLog: r.LastLog, Tree: r.Tree,
	}
	if s.Agent != AgentPlain {
		data.SayNoChange = NoChangePhrase
		if s.Loop.Mode == LoopUntil {
			data.SayDone = s.Loop.DonePhrase
		}
	}
	return renderPrompt(s.Prompt, data)
}

// CheckPrompt returns ErrInvalid when the specification's prompt would fail,
// in its first attempt or a later one.
func CheckPrompt(s Spec) error {
	if len(s.Prompt) > MaxPromptBytes {
		return fmt.Errorf("%d bytes, at most %d are allowed: %w", len(s.Prompt), MaxPromptBytes, ErrInvalid)
	}
	first := PromptData{Task: s.Task, Labels: s.Labels, Attempt: 1, Iteration: 1}
	later := first
	later.Attempt, later.LastReason, later.LastDetail, later.LastLog, later.SayDone = 2, ReasonCrashed, "x", "x", "x"
	later.SayNoChange, later.Tree = "x", "x"
	_, err := renderPrompt(s.Prompt, first)
	if err == nil {
		_, err = renderPrompt(s.Prompt, later)
	}
	return err
}

func renderPrompt(text string, data PromptData) (string, error) {
	t, err := template.New("prompt").Option("missingkey=error").Parse(or(text, DefaultPrompt))
	if err == nil {
		err = checkTemplate(t, reflect.TypeFor[PromptData]())
	}
	var b toldBuilder
	if err == nil {
		err = t.Execute(&b, data)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.TrimPrefix(err.Error(), "template: "), ErrInvalid)
	}
	return b.String(), nil
}

// toldBuilder takes no more than MaxToldBytes: a template may name a long task often.
type toldBuilder struct{ strings.Builder }

func (b *toldBuilder) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxToldBytes {
		return 0, fmt.Errorf("it makes more than %d bytes", MaxToldBytes)
	}
	return b.Builder.Write(p)
}

var errConstruct = errors.New("only names, if, else, and, or, not, eq, ne and index are allowed")

// promptFuncs may be called. Nothing among them can make a server that checks a
// stranger's template busy for long.
var promptFuncs = []string{"and", "or", "not", "eq", "ne", "index"}

// checkTemplate finds what executing does not: an unknown name in a branch that is not taken.
func checkTemplate(t *template.Template, names reflect.Type) error {
	if len(t.Templates()) > 1 {
		return errConstruct
	}
	if t.Tree == nil {
		return nil
	}
	return checkNodes(t.Tree.Root, names)
}

func checkNodes(node parse.Node, names reflect.Type) error {
	var below []parse.Node
	switch n := node.(type) {
	case *parse.ListNode:
		if n != nil {
			below = n.Nodes
		}
	case *parse.ActionNode:
		below = []parse.Node{n.Pipe}
	case *parse.IfNode:
		below = []parse.Node{n.Pipe, n.List, n.ElseList}
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			below = append(below, command.Args...)
		}
	case *parse.IdentifierNode:
		if !slices.Contains(promptFuncs, n.Ident) {
			return fmt.Errorf("%s: %w", n.Ident, errConstruct)
		}
	case *parse.FieldNode:
		if _, known := names.FieldByName(n.Ident[0]); !known {
			return fmt.Errorf("unknown name .%s", n.Ident[0])
		}
	case *parse.TextNode, *parse.CommentNode, *parse.StringNode, *parse.NumberNode, *parse.BoolNode, *parse.DotNode:
	default:
		return fmt.Errorf("%s: %w", node, errConstruct)
	}
	for _, n := range below {
		if err := checkNodes(n, names); err != nil {
			return err
		}
	}
	return nil
}
