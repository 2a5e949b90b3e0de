package cli_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"drover/internal/control"
	"drover/internal/testkit"
	"drover/internal/work"
)

// What a terminal is told.
const (
	clearScreen    = "\x1b[H\x1b[2J"
	otherScreen    = "\x1b[?1049h" // of xterm, which keeps the old one
	formerScreen   = "\x1b[?1049l"
	interruptKey   = "\x03"
	endOfInputKey  = "\x04"
	terminalStatus = 130 // of what an interrupt ended
)

// desk is a server, and the drover command as a person has it.
type desk struct {
	*running
	binary string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "drover")
	if out, err := exec.Command("go", "build", "-o", binary, "drover/cmd/drover").CombinedOutput(); err != nil {
		t.Fatalf("build drover: %v\n%s", err, out)
	}
	consul := testkit.ConsulAddress(t, `check_update_interval = "0s"`)
	server, err := startServer(context.Background(), t, consul, playedNomad(t, consul)) // it outlives the test's context
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.stop)
	return &desk{server, binary}
}

func (d *desk) command(args ...string) *exec.Cmd {
	cmd := exec.Command(d.binary, args...)
	cmd.Env = []string{"DROVER_ADDR=" + d.url, "DROVER_TOKEN=" + serverToken, "TERM=xterm", "PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "USER=me"}
	return cmd
}

// submit stores items that wait until tomorrow.
func (d *desk) submit(t *testing.T, tasks ...string) (ids []string) {
	t.Helper()
	for _, task := range tasks {
		items, err := d.client.Submit(t.Context(), []control.Submission{{ID: work.NewID(time.Now()), Spec: work.Spec{
			Repository: "https://example.com/r.git", Task: task, Labels: map[string]string{"test": strings.ReplaceAll(t.Name(), "/", "-")}, NotBefore: time.Now().Add(24 * time.Hour),
		}}})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, items[0].ID)
	}
	return ids
}

func (d *desk) wantState(t *testing.T, id string, want work.State) {
	t.Helper()
	item, _, err := d.client.Item(t.Context(), id)
	if err != nil || item.State != want {
		t.Errorf("item %s is %s (%v), want %s", id, item.State, err, want)
	}
}

// session is a command in a terminal of its own.
type session struct {
	t      *testing.T
	cmd    *exec.Cmd
	screen *os.File // the terminal's other end
	exited chan error

	mu   sync.Mutex
	text string // all that was printed
}

func (d *desk) open(t *testing.T, args ...string) *session {
	t.Helper()
	s := &session{t: t, cmd: d.command(args...), exited: make(chan error, 1)}
	screen, err := pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 40, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	s.screen = screen
	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer := make([]byte, 4096)
		for {
			n, err := screen.Read(buffer)
			s.answer(string(buffer[:n]))
			if err != nil {
				return // the command has ended
			}
		}
	}()
	go func() { s.exited <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it has ended, unless the test failed
		_ = screen.Close()
		<-read
	})
	return s
}

// answers are what a terminal like xterm says of itself when it is asked for its
// background and its cursor. A command waits for them.
var answers = map[string]string{"\x1b]11;?": "\x1b]11;rgb:0000/0000/0000\x1b\\", "\x1b[6n": "\x1b[1;1R"}

// answer takes what was printed, and answers as a terminal does.
func (s *session) answer(text string) {
	s.mu.Lock()
	s.text += text
	s.mu.Unlock()
	for question, answer := range answers {
		if strings.Contains(text, question) {
			_, _ = io.WriteString(s.screen, answer) // the command may have ended
		}
	}
}

func (s *session) printed() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text
}

// await waits until the terminal shows a text after a part of what was printed, and
// returns how much was printed by then.
func (s *session) await(after int, text string) int {
	s.t.Helper()
	at := 0
	testkit.Eventually(s.t, patience, func() error {
		printed := s.printed()
		if at = strings.Index(printed[after:], text); at < 0 {
			return fmt.Errorf("the terminal shows %q, want %q", printed[after:], text)
		}
		return nil
	})
	return after + at + len(text)
}

func (s *session) typed(keys string) {
	s.t.Helper()
	if _, err := io.WriteString(s.screen, keys); err != nil {
		s.t.Fatal(err)
	}
}

// wantExit waits for the end of the command and checks its status.
func (s *session) wantExit(want int) {
	s.t.Helper()
	select {
	case err := <-s.exited:
		exit := (*exec.ExitError)(nil)
		if err != nil && !errors.As(err, &exit) {
			s.t.Fatal(err)
		}
		if got := s.cmd.ProcessState.ExitCode(); got != want {
			s.t.Errorf("exit status %d, want %d; it printed %q", got, want, s.printed())
		}
	case <-time.After(patience):
		s.t.Fatalf("it does not end; it printed %q", s.printed())
	}
}

// TestTerminal runs what people use in a terminal, in one.
func TestTerminal(t *testing.T) {
	d := newDesk(t)
	t.Run("list --watch", func(t *testing.T) { watchesInATerminal(t, d) })
	t.Run("top", func(t *testing.T) { topInATerminal(t, d) })
	t.Run("confirmation", func(t *testing.T) { confirmsInATerminal(t, d) })
	t.Run("no terminal", func(t *testing.T) { withoutATerminal(t, d) })
}

func watchesInATerminal(t *testing.T, d *desk) {
	first := d.submit(t, "one")[0]
	s := d.open(t, "list", "--watch", "--label", "test="+strings.ReplaceAll(t.Name(), "/", "-"))
	at := s.await(s.await(0, clearScreen), first)
	second := d.submit(t, "two")[0]
	at = s.await(s.await(at, clearScreen), second)
	if drawn := s.printed()[:at]; strings.Count(drawn[strings.LastIndex(drawn, clearScreen):], "ID ") != 1 {
		t.Errorf("the list is not drawn over the old one: %q", drawn)
	}
	if _, err := d.client.Order(t.Context(), first, control.Order{Verb: control.Cancel}); err != nil {
		t.Fatal(err)
	}
	at = s.await(at, clearScreen)
	s.await(at, "\x1b[90mcancelled") // in grey
	s.typed(interruptKey)
	s.wantExit(terminalStatus)
}

func topInATerminal(t *testing.T, d *desk) {
	running, err := d.client.Submit(t.Context(), []control.Submission{{ID: work.NewID(time.Now()), Spec: work.Spec{Repository: "https://example.com/r.git", Task: "run on"}}})
	if err != nil {
		t.Fatal(err)
	}
	id := running[0].ID
	for name, key := range map[string]string{"q": "q", "ctrl-c": interruptKey} {
		t.Run(name, func(t *testing.T) {
			s := d.open(t, "top", "--interval", "200ms")
			s.await(s.await(0, otherScreen), id)
			s.typed(key)
			s.await(0, formerScreen)
			s.wantExit(0)
		})
	}
	t.Run("it draws anew", func(t *testing.T) {
		s := d.open(t, "top", "--interval", "200ms")
		at := s.await(s.await(0, otherScreen), id)
		s.typed("\r")
		at = s.await(at, "History")
		s.typed("q")
		at = s.await(at, "ENDED LAST")
		s.typed("K")
		at = s.await(at, "? y or n")
		s.typed("n")
		at = s.await(at, "nothing was done")
		d.wantState(t, id, work.StateInProgress)
		s.typed("K")
		at = s.await(at, "? y or n")
		s.typed("y")
		s.await(at, "killed")
		s.typed("q")
		s.wantExit(0)
	})
}

func confirmsInATerminal(t *testing.T, d *desk) {
	for name, c := range map[string]struct {
		keys   string
		status int
		says   string
		state  work.State
	}{
		"y":           {"y\n", 0, "cancelled", work.StateCancelled},
		"YES":         {"YES\n", 0, "cancelled", work.StateCancelled},
		"n":           {"n\n", 2, "nothing was done", work.StateQueued},
		"other":       {"yy\n", 2, "nothing was done", work.StateQueued},
		"enter alone": {"\n", 2, "nothing was done", work.StateQueued},
		"end":         {endOfInputKey, 2, "nothing was done", work.StateQueued},
		"interrupt":   {interruptKey, terminalStatus, "", work.StateQueued},
	} {
		t.Run(name, func(t *testing.T) {
			id := d.submit(t, "wait")[0]
			s := d.open(t, "cancel", "--label", "test="+strings.ReplaceAll(t.Name(), "/", "-"))
			at := s.await(0, "Cancel 1 items? [y/N] ")
			s.typed(c.keys)
			if c.says != "" {
				s.await(at, c.says)
			}
			s.wantExit(c.status)
			d.wantState(t, id, c.state)
		})
	}
}

// withoutATerminal runs the same with the null device and with pipes.
func withoutATerminal(t *testing.T, d *desk) {
	id := d.submit(t, "wait")[0]
	label := "test=" + strings.ReplaceAll(t.Name(), "/", "-")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for name, in := range map[string]io.Reader{"null": null, "pipe": strings.NewReader("y\n")} {
		cmd := d.command("cancel", "--label", label)
		cmd.Stdin = in
		out, _ := cmd.CombinedOutput() // the status tells
		if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "add --yes to confirm it") {
			t.Errorf("%s: status %d, %s", name, cmd.ProcessState.ExitCode(), out)
		}
		cmd = d.command("top")
		cmd.Stdin = in
		out, _ = cmd.CombinedOutput() // the status tells
		if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "--once") {
			t.Errorf("top, %s: status %d, %s", name, cmd.ProcessState.ExitCode(), out)
		}
	}
	d.wantState(t, id, work.StateQueued)

	watch := d.command("list", "--watch", "--label", label)
	out, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	for buffer := make([]byte, 4096); !strings.Contains(printed.String(), id); {
		n, err := out.Read(buffer)
		printed.Write(buffer[:n])
		if err != nil {
			t.Fatalf("%v after %q", err, printed.String())
		}
	}
	if err := watch.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = watch.Wait() // the status tells
	if watch.ProcessState.ExitCode() != terminalStatus || strings.Contains(printed.String(), "\x1b") {
		t.Errorf("status %d, want %d; it printed %q, want no escape sequence", watch.ProcessState.ExitCode(), terminalStatus, printed.String())
	}
}
