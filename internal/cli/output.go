package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"drover/internal/work"
)

// Formats of what is printed.
const (
	formatTable = "table"
	formatJSON  = "json"
)

func bindOutput(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVarP(to, "output", "o", formatTable, "table or json")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if !slices.Contains([]string{formatTable, formatJSON}, *to) {
			return usage(cmd, "output %q: use %s or %s", *to, formatTable, formatJSON)
		}
		return nil
	}
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// colour is the number of an ANSI foreground colour; zero is none.
type colour int

const (
	red    colour = 31
	green  colour = 32
	yellow colour = 33
	blue   colour = 34
	grey   colour = 90
)

var stateColours = map[string]colour{
	string(work.StateCompleted):  green,
	string(work.StateInProgress): blue,
	string(work.StateAssigned):   blue,
	string(work.StateFailed):     red,
	string(work.StateStuck):      yellow,
	string(work.StateCancelled):  grey,

	string(work.AttemptRunning): blue,
	string(work.AttemptKilled):  red,
}

// printer writes to people.
type printer struct {
	w       io.Writer
	colours bool
	err     error // the first; nothing is written after it
}

func newPrinter(sh *shell) *printer {
	return &printer{w: sh.out, colours: isTerminal(sh.out) && sh.getenv("NO_COLOR") == ""}
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// paint colours a text that is, padding aside, the name of a state.
func (p *printer) paint(text string) string {
	c := stateColours[strings.TrimSpace(text)]
	if !p.colours || c == 0 {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", c, text)
}

// table writes rows below each other; the first row is the heading.
func (p *printer) table(indent string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		line := indent
		for i, cell := range row {
			if i < len(row)-1 {
				cell += strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			}
			line += p.paint(cell)
		}
		p.printf("%s\n", strings.TrimRight(line, " "))
	}
}

const none = "-"

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

// short cuts a text to its first line and at most n characters.
func short(text string, n int) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if r := []rune(line); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return line
}

// span writes a duration as people say it, with two units at most.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
}

// pullRequest says in a few words what became of an item's branch.
func pullRequest(pr work.PullRequest) string {
	switch {
	case pr.Number > 0:
		return fmt.Sprintf("%s #%d", pr.Status, pr.Number)
	case pr.Status == work.PRNone:
		return none
	}
	return string(pr.Status)
}
