package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"drover/internal/api"
	"drover/internal/work"
)

func TestTableAlignsWithColoursAndWithout(t *testing.T) {
	rows := [][]string{{"ID", "STATE", "WHY"}, {"é1", "failed", "x"}, {"2", "in_progress", ""}}
	for _, test := range []struct {
		colours bool
		want    string
	}{
		{false, "ID  STATE        WHY\né1  failed       x\n2   in_progress\n"},
		{true, "ID  STATE        WHY\né1  \x1b[31mfailed       \x1b[0mx\n2   \x1b[34min_progress  \x1b[0m\n"},
	} {
		var b strings.Builder
		p := &printer{w: &b, colours: test.colours}
		p.table("", rows)
		if b.String() != test.want || p.err != nil {
			t.Errorf("colours %t:\n got %q\nwant %q", test.colours, b.String(), test.want)
		}
	}
}

func TestNobodyWatchesAStringsBuilder(t *testing.T) {
	sh := &shell{out: &strings.Builder{}, getenv: func(string) string { return "" }}
	if newPrinter(sh).colours {
		t.Error("colours without a terminal")
	}
}

func TestPrinterKeepsItsFirstError(t *testing.T) {
	full := errors.New("disk full")
	p := &printer{w: writerFunc(func([]byte) (int, error) { return 0, full })}
	p.printf("x")
	p.table("", [][]string{{"a"}})
	if !errors.Is(p.err, full) {
		t.Errorf("got %v", p.err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s",
		2*time.Hour + 3*time.Minute: "2h03m", 49 * time.Hour: "2d01h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

func TestExitStatus(t *testing.T) {
	interrupted, cancel := context.WithCancelCause(t.Context())
	signal := errors.New("interrupt")
	cancel(signal)
	for _, test := range []struct {
		ctx  context.Context
		err  error
		want int
	}{
		{t.Context(), nil, 0},
		{t.Context(), errors.New("x"), 1},
		{t.Context(), api.ErrUnauthorized, 1},
		{t.Context(), fmt.Errorf("x: %w", work.ErrInvalid), 2},
		{t.Context(), fmt.Errorf("x: %w", work.ErrNotFound), 3},
		{t.Context(), fmt.Errorf("x: %w", work.ErrNoLeader), 4},
		{t.Context(), fmt.Errorf("x: %w", work.ErrUnavailable), 4},
		{t.Context(), errIncomplete, 5},
		{interrupted, signal, 130},
		{interrupted, context.Canceled, 130},
		{interrupted, work.ErrNotFound, 3},
	} {
		if got := exitStatus(test.ctx, test.err); got != test.want {
			t.Errorf("%v: got %d, want %d", test.err, got, test.want)
		}
	}
}

func TestParseWhen(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for text, want := range map[string]time.Time{
		"2h":                        time.Date(2026, 1, 2, 5, 4, 5, 0, time.UTC),
		"2026-02-03T04:05:06+01:00": time.Date(2026, 2, 3, 3, 5, 6, 0, time.UTC),
	} {
		if got, err := parseWhen(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"-1h", "tomorrow", ""} {
		if _, err := parseWhen(text, now); !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestSubmissionsSortAsGiven(t *testing.T) {
	items := submissions(make([]work.Spec, 20), time.Now())
	for i := 1; i < len(items); i++ {
		if items[i-1].ID >= items[i].ID {
			t.Errorf("item %d: %s does not sort after %s", i, items[i].ID, items[i-1].ID)
		}
	}
}

func TestOverlongTaskIsRefused(t *testing.T) {
	text := "repository: https://example.com/r.git\ntask: " + strings.Repeat("x", work.MaxTaskBytes+1) + "\n"
	_, err := readItems("long.yaml", []byte(text))
	if !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), "task has 131073 bytes") {
		t.Errorf("got %v", err)
	}
}

func FuzzReadItems(f *testing.F) {
	f.Add([]byte("repository: https://example.com/r.git\ntask: x\n---\n{a: b}\n"))
	f.Add([]byte(`{"repository": "https://example.com/r.git", "task": "x"} {"taks": 1}`))
	f.Add([]byte("--- |\n x\n...\n---\n- 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		specs, err := readItems("input", data)
		if err != nil && !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%q: %v", data, err)
		}
		for _, spec := range specs {
			if fault := spec.Validate(); err == nil && fault != nil {
				t.Errorf("%q: accepted with %v", data, fault)
			}
		}
	})
}

func TestShowSumsUpEarlierAttempts(t *testing.T) {
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	item := work.Item{
		Earlier: &work.Earlier{
			Attempts: 12, Reasons: map[work.Reason]int{work.ReasonNodeLost: 9, work.ReasonCrashed: 3}, Began: began, Ended: began.Add(time.Hour),
			Ran: work.Duration(30 * time.Minute), Tokens: work.Tokens{In: 5, Out: 6}, CostUSD: 1.5, Transitions: 40,
		},
		Attempts: []work.Attempt{{Number: 13, State: work.AttemptRunning}},
		History:  []work.Transition{{At: began, To: work.StateInProgress, Cause: "attempt 13 runs"}},
	}
	var b strings.Builder
	p := &printer{w: &b}
	p.attempts(item, began)
	p.history(item)
	for _, want := range []string{
		"  12 earlier attempts are summarised: 3 crashed, 9 node_lost; from 2026-03-01 12:00:00Z to 2026-03-01 13:00:00Z, ran 30m00s, tokens 5 in and 6 out, 1.50 USD\n",
		"  40 earlier transitions are not kept.\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("show prints\n%s\nwant in it\n%s", b.String(), want)
		}
	}
}
