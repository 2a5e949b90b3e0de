package work

import (
	"fmt"
	"reflect"
	"strings"
	"text/template"
)

// When a pull request is a draft.
const (
	DraftOnFailure = "on_failure" // when the tests did not pass
	DraftAlways    = "always"
	DraftNever     = "never"
)

// MaxPRBodyBytes bounds a pull request's text: GitHub takes 65,536 characters.
const MaxPRBodyBytes = 60 << 10

// DefaultPRBody is the task, and what its work came to.
const DefaultPRBody = `{{.Task}}

---
Work item {{.Item}}, attempt {{.Attempt}}

- Changes: {{.Changes.Commits}} commits, {{.Changes.Files}} files, +{{.Changes.Added}} -{{.Changes.Removed}} lines
- Tests: {{.Test.Status}}{{if .Test.Run}}, {{.Test.Passed}} passed and {{.Test.Failed}} failed of {{.Test.Run}}{{end}}{{if .Test.Flaky}}, {{.Test.Flaky}} passed only when run again{{end}}
- Used: {{.Iterations}} iterations, {{.Tokens.In}} tokens read and {{.Tokens.Out}} written{{if .CostUSD}}, {{.CostUSD}} USD{{end}}
{{- if .Tree}}
- Tree: {{.Tree}}
{{- end}}
`

// PRData is what the templates of a pull request's title and body may name.
type PRData struct {
	Item       string
	Task       string
	Base       string // branch
	Branch     string
	Labels     map[string]string
	Attempt    int // that completed the work, from 1
	Iterations int // over all attempts
	Tokens     Tokens
	CostUSD    float64 // as far as the agent stated it
	Changes    Changes
	Test       TestOutcome
	Tree       string // what drover did with what was not committed on the branch, empty if nothing
}

// Text returns a pull request's title and body.
// It returns ErrInvalid when a template is faulty, or names what there is not.
func (p PR) Text(data PRData) (title, body string, err error) {
	if p.Title == "" {
		title = firstLine(data.Task)
	} else if title, err = fill("title", p.Title, data); err != nil {
		return "", "", err
	}
	body, err = fill("body", or(p.Body, DefaultPRBody), data)
	return firstLine(title), body, err
}

func fill(name, text string, data PRData) (string, error) {
	parsed, err := template.New("pull_request." + name).Option("missingkey=error").Parse(text)
	if err == nil {
		err = checkTemplate(parsed, reflect.TypeFor[PRData]())
	}
	out := &bounded{max: MaxPRBodyBytes}
	if err == nil {
		err = parsed.Execute(out, data)
	}
	if err != nil {
		return "", fmt.Errorf("pull_request.%s: %s: %w", name, strings.TrimPrefix(err.Error(), "template: "), ErrInvalid)
	}
	return strings.ToValidUTF8(out.String(), ""), nil
}

// bounded keeps the first max bytes that are written to it.
type bounded struct {
	strings.Builder
	max int
}

func (b *bounded) Write(p []byte) (int, error) {
	_, _ = b.Builder.Write(p[:min(len(p), b.max-b.Len())]) // never fails
	return len(p), nil
}

// IsDraft reports whether the pull request of work with such tests is a draft, and
// of work that is incomplete.
func (p PR) IsDraft(test TestStatus, incomplete bool) bool {
	switch p.Draft {
	case DraftAlways:
		return true
	case DraftNever:
		return false
	}
	return incomplete || test != TestPassed && test != TestSkipped
}
