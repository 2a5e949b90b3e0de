package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/work"
)

// topService is a server as top sees it.
type topService struct {
	api.Service // of the methods that top does not call

	orders []control.Order
}

func (s *topService) Overview(context.Context) (control.Overview, error) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o := control.Overview{At: at, Status: control.Status{Address: "http://a:4700", Version: "v1", InFlight: 2, MaxInFlight: 32}}
	o.Queues = []control.QueueOverview{{Name: "default", Items: map[work.State]int{work.StateQueued: 7, work.StateInProgress: 2, work.StateFailed: 1}, Delayed: 3, MaxInFlight: 4}}
	for n := range 2 {
		id := work.KeyedID(fmt.Sprint(n), at)
		o.Running = append(o.Running, control.Running{
			Item: id, Attempt: 1, State: work.AttemptRunning, Queue: "default", Repository: "https://example.com/shop.git", Task: "Fix it", Node: "n1",
			Since: at.Add(-90 * time.Second), Heartbeat: at.Add(-5 * time.Second), MemoryMB: 4096, UsedMB: 300,
			Progress: &work.Progress{Phase: work.PhaseAgent, Iteration: 3, Tokens: work.Tokens{In: 120_000, Out: 4000}},
		})
	}
	spec := work.Spec{Repository: "https://example.com/r.git", Task: "x"}.WithDefaults(work.NewDefaults())
	ended := work.NewItem(work.KeyedID("ended", at), spec, at.Add(-time.Hour))
	ended.State, ended.Reason = work.StateFailed, work.ReasonTimeout
	o.Ended = []work.Item{ended}
	return o, nil
}

func (s *topService) Item(_ context.Context, id string) (work.Item, *work.Progress, error) {
	spec := work.Spec{Repository: "https://example.com/r.git", Task: "the whole task"}.WithDefaults(work.NewDefaults())
	return work.NewItem(id, spec, time.Now()), nil, nil
}

func (s *topService) Follow(_ context.Context, _ string, stdout, _ io.Writer) error {
	_, err := io.WriteString(stdout, "half a ")
	if err == nil {
		_, err = io.WriteString(stdout, "line\nlast\n")
	}
	return err
}

func (s *topService) Order(_ context.Context, id string, order control.Order) (work.Item, error) {
	s.orders = append(s.orders, order)
	return work.Item{ID: id, State: work.StateQueued, Why: "as ordered"}, nil
}

// play sends a model messages, and those that come of them.
func play(t *testing.T, m *topModel, messages ...tea.Msg) {
	t.Helper()
	for len(messages) > 0 {
		_, command := m.Update(messages[0])
		messages = messages[1:]
		if command == nil {
			continue
		}
		if msg := command(); msg != nil {
			messages = append([]tea.Msg{msg}, messages...)
		}
	}
}

func keys(text string) (messages []tea.Msg) {
	for _, key := range strings.Fields(text) {
		switch key {
		case "down":
			messages = append(messages, tea.KeyMsg{Type: tea.KeyDown})
		case "tab":
			messages = append(messages, tea.KeyMsg{Type: tea.KeyTab})
		case "enter":
			messages = append(messages, tea.KeyMsg{Type: tea.KeyEnter})
		case "esc":
			messages = append(messages, tea.KeyMsg{Type: tea.KeyEsc})
		default:
			messages = append(messages, tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(key)})
		}
	}
	return messages
}

// newTopTest returns a model that has looked once.
func newTopTest(t *testing.T) (*topModel, *topService) {
	t.Helper()
	service := &topService{}
	m := newTopModel(t.Context(), service, time.Hour)
	overview, err := service.Overview(t.Context())
	m.Update(overviewMsg{overview, err}) // the command it gives waits for an hour
	return m, service
}

func shows(t *testing.T, m *topModel, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(m.View(), text) {
			t.Errorf("%q is not shown:\n%s", text, m.View())
		}
	}
}

func TestTopShowsWhatRuns(t *testing.T) {
	m, _ := newTopTest(t)
	first := m.overview.Running[0].Item
	shows(t, m, "leader http://a:4700  in flight 2 of 32", "default  7       3        2        4      0          1", "RUNNING 2",
		"> "+first+"  1   agent  3     124.0k  5s    300/4096 MB  1m30s  default  n1", "failed  timeout  1h00m")
	m.Update(tea.WindowSizeMsg{Width: 40, Height: 10})
	lines := strings.Split(m.View(), "\n")
	if len(lines) > 10 {
		t.Errorf("%d lines on a screen of 10", len(lines))
	}
	for _, line := range lines {
		if len([]rune(line)) > 40 {
			t.Errorf("%q is too long", line)
		}
	}
	m.Update(overviewMsg{err: work.ErrNoLeader})
	shows(t, m, "error: no leader", "RUNNING 2")
}

func TestTopKillsAndRetriesOnceConfirmed(t *testing.T) {
	m, service := newTopTest(t)
	play(t, m, keys("down K")...)
	shows(t, m, "Kill "+m.overview.Running[1].Item+"? y or n")
	play(t, m, keys("n")...)
	shows(t, m, "nothing was done")
	if len(service.orders) != 0 {
		t.Fatalf("%+v", service.orders)
	}
	for _, key := range keys("K y") {
		if _, command := m.Update(key); command != nil {
			m.Update(command())
		}
	}
	shows(t, m, m.overview.Running[1].Item+" queued: as ordered")
	for _, key := range keys("tab R y") {
		if _, command := m.Update(key); command != nil {
			m.Update(command())
		}
	}
	if len(service.orders) != 2 || service.orders[0].Verb != control.Kill || service.orders[1].Verb != control.Retry || service.orders[0].Key == "" {
		t.Errorf("%+v", service.orders)
	}
}

func TestTopDrillsInAndFollows(t *testing.T) {
	m, _ := newTopTest(t)
	play(t, m, keys("enter")...)
	shows(t, m, "the whole task", "History", "esc back")
	play(t, m, keys("esc")...)
	shows(t, m, "RUNNING 2")
	play(t, m, keys("l")...)
	shows(t, m, "half a line\nlast\n(the end)")
	play(t, m, keys("esc")...)
	shows(t, m, "RUNNING 2")
	if _, command := m.Update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("q")}); command == nil {
		t.Error("q does not end it")
	} else if _, quits := command().(tea.QuitMsg); !quits {
		t.Error("q does not end it")
	}
}
