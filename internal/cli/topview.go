package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"drover/internal/control"
	"drover/internal/work"
)

// View draws what top shows, no larger than the screen.
func (m *topModel) View() string {
	text := ""
	switch m.view {
	case viewItem:
		text = m.detail
	case viewLogs:
		text = strings.Join(m.lines, "\n")
	default:
		text = m.overviewText()
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	const below = 2 // lines of note and keys
	room := max(1, m.height-below)
	if m.view == viewLogs && len(lines) > room {
		lines = lines[len(lines)-room:]
	}
	lines = lines[:min(len(lines), room)]
	for i, line := range lines {
		lines[i] = cut(line, m.width)
	}
	return strings.Join(lines, "\n") + "\n" + cut(m.noteLine(), m.width) + "\n" + cut(m.keysLine(), m.width)
}

func (m *topModel) noteLine() string {
	switch {
	case m.ask != nil:
		return fmt.Sprintf("%s %s? y or n", capital(string(m.ask.Verb)), m.chosen)
	case m.err != nil:
		return "error: " + message(m.err)
	}
	return m.note
}

func (m *topModel) keysLine() string {
	if m.view != viewOverview {
		return "esc back  K kill  R retry  ctrl+c end"
	}
	return "up down choose  tab running or ended  enter show  l logs  K kill  R retry  q end"
}

// overviewText is the whole picture; the rows that find no room are left out of
// its middle part.
func (m *topModel) overviewText() string {
	var text strings.Builder
	p := &printer{w: &text, colours: m.colours}
	s := m.overview.Status
	p.printf("drover %s  leader %s  in flight %d of %d  %s\n", orNone(s.Version), orNone(s.Address), s.InFlight, s.MaxInFlight, clock(m.overview.At))
	for _, reason := range s.NotReady {
		p.printf("not ready: %s\n", reason)
	}
	for _, reason := range s.NotDispatching {
		p.printf("nothing is dispatched: %s\n", reason)
	}
	p.printf("\n")
	p.table("", m.queueRows())
	running := m.runningRows()
	p.printf("\nRUNNING %d\n", len(running)-1)
	p.rows(running, m.chosenIn(!m.ended))
	p.printf("\nENDED LAST\n")
	p.rows(m.endedRows(), m.chosenIn(m.ended))
	return text.String()
}

// chosenIn returns the id to mark in a part of the picture.
func (m *topModel) chosenIn(here bool) string {
	if here {
		return m.chosen
	}
	return ""
}

func (m *topModel) queueRows() [][]string {
	rows := [][]string{{"QUEUE", "QUEUED", "DELAYED", "RUNNING", "LIMIT", "COMPLETED", "FAILED", "STUCK", "CANCELLED"}}
	for _, q := range m.overview.Queues {
		limit := none
		if q.MaxInFlight > 0 {
			limit = strconv.Itoa(q.MaxInFlight)
		}
		count := func(states ...work.State) string {
			sum := 0
			for _, state := range states {
				sum += q.Items[state]
			}
			return strconv.Itoa(sum)
		}
		rows = append(rows, []string{
			q.Name, count(work.StateQueued), strconv.Itoa(q.Delayed), count(work.StateAssigned, work.StateInProgress), limit,
			count(work.StateCompleted), count(work.StateFailed), count(work.StateStuck), count(work.StateCancelled),
		})
	}
	return rows
}

func (m *topModel) runningRows() [][]string {
	const repositoryWidth, taskWidth = 28, 30
	rows := [][]string{{"ITEM", "NO", "PHASE", "ITER", "TOKENS", "BEAT", "MEMORY", "TIME", "QUEUE", "NODE", "REPOSITORY", "TASK"}}
	now := m.overview.At
	for _, r := range m.overview.Running {
		phase, iteration, tokens := string(r.State), none, none
		if r.Progress != nil {
			phase, iteration = string(r.Progress.Phase), strconv.Itoa(r.Progress.Iteration)
			tokens = amount(r.Progress.Tokens.In + r.Progress.Tokens.Out)
		}
		rows = append(rows, []string{
			r.Item, strconv.Itoa(r.Attempt), phase, iteration, tokens, beatOf(r, now), memoryUse(r), span(now.Sub(r.Since)), r.Queue,
			orNone(r.Node), tail(r.Repository, repositoryWidth), short(r.Task, taskWidth),
		})
	}
	return rows
}

func (m *topModel) endedRows() [][]string {
	const repositoryWidth, whyWidth = 28, 50
	rows := [][]string{{"ITEM", "STATE", "REASON", "AGO", "QUEUE", "PR", "REPOSITORY", "WHY"}}
	for _, item := range m.overview.Ended {
		rows = append(rows, []string{
			item.ID, string(item.State), orNone(string(item.Reason)), span(m.overview.At.Sub(item.UpdatedAt)), item.Spec.Queue,
			pullRequest(item.PR), tail(item.Spec.Repository, repositoryWidth), short(item.Why, whyWidth),
		})
	}
	return rows
}

func beatOf(r control.Running, now time.Time) string {
	if r.Heartbeat.IsZero() {
		return none
	}
	return span(now.Sub(r.Heartbeat))
}

func memoryUse(r control.Running) string {
	if r.UsedMB == 0 {
		return fmt.Sprintf("-/%d MB", r.MemoryMB)
	}
	return fmt.Sprintf("%d/%d MB", r.UsedMB, r.MemoryMB)
}

// amount writes a large number shortly.
func amount(n int64) string {
	const kilo, mega = 1000, 1000_000
	switch {
	case n >= mega:
		return fmt.Sprintf("%.1fM", float64(n)/mega)
	case n >= kilo:
		return fmt.Sprintf("%.1fk", float64(n)/kilo)
	}
	return strconv.FormatInt(n, 10)
}

// rows writes a table whose row of that id is marked.
func (p *printer) rows(rows [][]string, marked string) {
	var text strings.Builder
	inner := &printer{w: &text, colours: p.colours}
	inner.table("", rows)
	for line := range strings.Lines(text.String()) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case marked == "" || !strings.HasPrefix(line, marked):
			p.printf("  %s\n", line)
		case p.colours:
			p.printf("\x1b[7m> %s\x1b[0m\n", strings.ReplaceAll(line, "\x1b[0m", "\x1b[0;7m"))
		default:
			p.printf("> %s\n", line)
		}
	}
}

// cut shortens a line to a width; colours take no room.
func cut(line string, width int) string {
	shown := 0
	for i := 0; i < len(line); {
		if line[i] == '\x1b' {
			if end := strings.IndexByte(line[i:], 'm'); end >= 0 {
				i += end + 1
				continue
			}
		}
		_, size := utf8.DecodeRuneInString(line[i:])
		if shown++; shown > width && strings.Contains(line, "\x1b") {
			return line[:i] + "\x1b[0m"
		} else if shown > width {
			return line[:i]
		}
		i += size
	}
	return line
}
