package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/cobra"

	"drover/internal/api"
	"drover/internal/control"
)

type topOptions struct {
	remote
	interval time.Duration
	once     bool
	width    int
}

func newTop(sh *shell) *cobra.Command {
	var opts topOptions
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch queues and running attempts live",
		Long: `Watch the queues, the attempts that run (iteration, tokens, time since the last heartbeat,
memory against its limit) and the items that ended last.

Keys: up and down choose an item, tab goes between what runs and what ended, enter shows
everything about the item, l follows its output, K kills its attempt, R has it retried,
esc goes back, q ends.`,
		Example: "  drover top\n  drover top --once",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.interval < minTopInterval {
				return usage(cmd, "interval %s: use %s at least", opts.interval, minTopInterval)
			}
			if !opts.once && (!isTerminal(sh.in) || !isTerminal(sh.out)) {
				return usage(cmd, "this is no terminal: print one picture with --once")
			}
			return runTop(cmd.Context(), opts, sh)
		},
	}
	opts.bindServer(cmd, sh)
	cmd.Flags().DurationVar(&opts.interval, "interval", 2*time.Second, "time between two looks")
	cmd.Flags().BoolVar(&opts.once, "once", false, "print what there is to see, and end")
	cmd.Flags().IntVar(&opts.width, "width", 160, "of the picture that --once prints, in characters")
	return cmd
}

const minTopInterval = 200 * time.Millisecond

func runTop(ctx context.Context, opts topOptions, sh *shell) error {
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	model := newTopModel(ctx, client, opts.interval)
	model.colours = newPrinter(sh).colours
	if opts.once {
		model.overview, err = client.Overview(ctx)
		if err != nil {
			return err
		}
		model.width = opts.width
		p := newPrinter(sh)
		p.printf("%s\n", strings.TrimRight(model.overviewText(), "\n"))
		return p.err
	}
	model.by = sh.getenv("USER")
	out, _ := sh.out.(*os.File) // it is one: it is a terminal
	in, _ := sh.in.(*os.File)
	_, err = tea.NewProgram(model, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithAltScreen(), tea.WithoutSignalHandler()).Run()
	model.stopFollowing()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// The things that top shows.
type topView int

const (
	viewOverview topView = iota
	viewItem
	viewLogs
)

// topModel is what drover top shows, and what a key does to it.
type topModel struct {
	ctx      context.Context
	service  api.Service
	interval time.Duration
	by       string
	colours  bool
	width    int
	height   int

	view     topView
	overview control.Overview
	err      error  // of the last look
	note     string // of the last order
	ended    bool   // the items that ended are chosen from, not those that run
	chosen   string // id
	ask      *control.Order
	detail   string
	lines    []string
	follow   *following
}

// following is the output of an attempt on its way.
type following struct {
	cancel context.CancelFunc
	texts  chan string // closed at its end
	item   string
}

// Messages of the model.
type (
	overviewMsg struct {
		overview control.Overview
		err      error
	}
	lookMsg   struct{}
	detailMsg struct {
		text string
		err  error
	}
	outputMsg struct {
		from *following
		text string
		more bool
	}
	orderedMsg struct {
		note string
	}
)

func newTopModel(ctx context.Context, service api.Service, interval time.Duration) *topModel {
	return &topModel{ctx: ctx, service: service, interval: interval, width: 160, height: 50}
}

// Init looks for the first time.
func (m *topModel) Init() tea.Cmd { return m.look }

func (m *topModel) look() tea.Msg {
	overview, err := m.service.Overview(m.ctx)
	return overviewMsg{overview, err}
}

// Update takes a message in and says what is to be done.
func (m *topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case overviewMsg:
		if m.err = msg.err; msg.err == nil {
			m.overview = msg.overview
			m.keepChoice()
		}
		return m, tea.Tick(m.interval, func(time.Time) tea.Msg { return lookMsg{} })
	case lookMsg:
		return m, m.look
	case detailMsg:
		m.detail, m.err = msg.text, msg.err
	case outputMsg:
		return m, m.output(msg)
	case orderedMsg:
		m.note = msg.note
		return m, m.look
	case tea.KeyMsg:
		return m, m.key(msg.String())
	}
	return m, nil
}

// ids are the items to choose from, in their order.
func (m *topModel) ids() (ids []string) {
	if m.ended {
		for _, item := range m.overview.Ended {
			ids = append(ids, item.ID)
		}
		return ids
	}
	for _, r := range m.overview.Running {
		ids = append(ids, r.Item)
	}
	return ids
}

// keepChoice has an item chosen that is there.
func (m *topModel) keepChoice() { m.move(0) }

// move chooses another item.
func (m *topModel) move(by int) {
	ids := m.ids()
	if len(ids) == 0 {
		m.chosen = ""
		return
	}
	at := 0
	for i, id := range ids {
		if id == m.chosen {
			at = i
		}
	}
	m.chosen = ids[min(max(at+by, 0), len(ids)-1)]
}

func (m *topModel) key(key string) tea.Cmd {
	if m.ask != nil {
		return m.answer(key)
	}
	switch key {
	case "ctrl+c":
		return tea.Quit
	case "q", "esc":
		if m.view == viewOverview {
			if key == "q" {
				return tea.Quit
			}
			return nil
		}
		m.stopFollowing()
		m.view, m.err = viewOverview, nil
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "tab":
		m.ended = !m.ended
		m.chosen = ""
		m.keepChoice()
	case "enter":
		if m.chosen != "" {
			m.view, m.detail = viewItem, ""
			return m.readDetail(m.chosen)
		}
	case "l":
		if m.chosen != "" {
			return m.startFollowing(m.chosen)
		}
	case "K":
		m.question(control.Kill)
	case "R":
		m.question(control.Retry)
	}
	return nil
}

func (m *topModel) question(verb control.Verb) {
	if m.chosen != "" {
		m.ask = &control.Order{Verb: verb, By: m.by}
	}
}

// answer carries an order out that was confirmed.
func (m *topModel) answer(key string) tea.Cmd {
	order := *m.ask
	m.ask = nil
	if key != "y" && key != "Y" {
		m.note = "nothing was done"
		return nil
	}
	id := m.chosen
	return func() tea.Msg {
		item, err := m.service.Order(m.ctx, id, keyed(order))
		if err != nil {
			return orderedMsg{message(err)}
		}
		return orderedMsg{fmt.Sprintf("%s %s: %s", item.ID, item.State, lastWord(item))}
	}
}

func (m *topModel) readDetail(id string) tea.Cmd {
	return func() tea.Msg {
		item, progress, err := m.service.Item(m.ctx, id)
		if err != nil {
			return detailMsg{err: err}
		}
		var text strings.Builder
		p := &printer{w: &text, colours: m.colours}
		now := time.Now()
		p.item(item, now)
		p.progress(progress, now)
		p.attempts(item, now)
		p.history(item)
		return detailMsg{text: text.String(), err: p.err}
	}
}

// startFollowing shows the output of an item's latest attempt: what is kept of
// it and, while it runs, what comes.
func (m *topModel) startFollowing(id string) tea.Cmd {
	m.stopFollowing()
	ctx, cancel := context.WithCancel(m.ctx)
	f := &following{cancel: cancel, texts: make(chan string), item: id}
	m.follow, m.view, m.lines = f, viewLogs, []string{""}
	go func() {
		defer close(f.texts)
		out := channelWriter{ctx, f.texts}
		if m.service.Follow(ctx, id, out, out) == nil {
			return
		}
		logs, err := m.service.Logs(ctx, id, 0)
		if err == nil {
			err = printLogs(logs, out, out, out)
		}
		if err == nil {
			err = printEnd(logs, out)
		}
		if err != nil {
			_, _ = io.WriteString(out, message(err)+"\n") // nobody looks any more
		}
	}()
	return f.next
}

func (m *topModel) stopFollowing() {
	if m.follow != nil {
		m.follow.cancel()
		m.follow = nil
	}
}

// next waits for the next text.
func (f *following) next() tea.Msg {
	text, more := <-f.texts
	return outputMsg{from: f, text: text, more: more}
}

// maxTopLines bounds the lines that are kept of what is followed.
const maxTopLines = 1000

func (m *topModel) output(msg outputMsg) tea.Cmd {
	if msg.from != m.follow {
		return nil
	}
	if !msg.more {
		m.lines[len(m.lines)-1] += "(the end)"
		return nil
	}
	parts := strings.Split(strings.ReplaceAll(msg.text, "\r", ""), "\n")
	m.lines[len(m.lines)-1] += parts[0]
	m.lines = append(m.lines, parts[1:]...)
	m.lines = m.lines[max(0, len(m.lines)-maxTopLines):]
	return msg.from.next
}

// channelWriter sends what is written to it, until ctx ends.
type channelWriter struct {
	ctx context.Context
	to  chan<- string
}

func (w channelWriter) Write(p []byte) (int, error) {
	select {
	case w.to <- string(p):
		return len(p), nil
	case <-w.ctx.Done():
		return 0, context.Cause(w.ctx)
	}
}
