package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/internal/testkit"
	"drover/internal/work"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestFigureIsPrintedAsTheDesignHasIt(t *testing.T) {
	t.Parallel()
	for want, f := range map[string]figure{
		"bench name=a ours=31 yardstick=12 unit=ms ratio=2.6 target=<=1000 met=yes": {
			"a", 31 * time.Millisecond, 12 * time.Millisecond, time.Second},
		"bench name=b ours=1001 yardstick=2000 unit=ms ratio=0.5 target=<=1000 met=no": {
			"b", time.Second + time.Microsecond, 2 * time.Second, time.Second},
	} {
		if got := f.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestPercentileIsTheNearestRank(t *testing.T) {
	t.Parallel()
	var values []time.Duration
	for n := 50; n > 0; n-- {
		values = append(values, time.Duration(n))
	}
	for p, want := range map[int]time.Duration{0: 1, 1: 1, 2: 1, 3: 2, 50: 25, 98: 49, 99: 50, 100: 50} {
		if got := percentile(values, p); got != want {
			t.Errorf("p%d is %d, want %d", p, got, want)
		}
	}
	if !slices.IsSortedFunc(values, func(a, b time.Duration) int { return int(b - a) }) {
		t.Error("the values were reordered")
	}
}

func TestMissedTargetFailsTheRunButAllFiguresArePrinted(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	all := []benchmark{
		{"fast", func(context.Context, bool) ([]figure, error) { return []figure{{"fast_p50", 1, 1, 1}}, nil }},
		{"slow", func(context.Context, bool) ([]figure, error) {
			return []figure{{"slow_p50", 2, 1, 1}, {"slow_p99", 1, 1, 1}}, nil
		}},
		{"broken", func(context.Context, bool) ([]figure, error) { return nil, broken }},
	}
	for only, c := range map[string]struct {
		printed []string
		says    string
	}{
		"fast":   {[]string{"fast_p50"}, ""},
		"slow":   {[]string{"slow_p50", "slow_p99"}, "targets missed: slow_p50"},
		"broken": {nil, "broken: broken"},
		"other":  {nil, `no benchmark "other", there are: fast, slow, broken`},
		"":       {[]string{"fast_p50", "slow_p50", "slow_p99"}, "broken: broken"},
	} {
		var out strings.Builder
		err := run(t.Context(), &out, all, only, false)
		if said := fmt.Sprint(err); c.says != "" && said != c.says || c.says == "" && err != nil {
			t.Errorf("%q: error %v, want %q", only, err, c.says)
		}
		var printed []string
		for line := range strings.Lines(out.String()) {
			name, _, _ := strings.Cut(strings.TrimPrefix(line, "bench name="), " ")
			printed = append(printed, name)
		}
		if !slices.Equal(printed, c.printed) {
			t.Errorf("%q: printed %v, want %v", only, printed, c.printed)
		}
	}
}

func TestTaskEndIsTakenFromTheFirstEventThatShowsIt(t *testing.T) {
	t.Parallel()
	events := &nomadEvents{}
	seen := time.Now()
	for n, text := range []string{
		`{}`,
		`{"Index":7,"Events":[{"Topic":"Allocation","Payload":{"Allocation":{"JobID":"a","TaskStates":{"worker":{"Events":[{"Type":"Started"}]}}}}}]}`,
		`{"Index":8,"Events":[{"Topic":"Allocation","Payload":{"Allocation":{"JobID":"a","TaskStates":{"worker":{"Events":[
			{"Type":"Started","Details":{}},{"Type":"Terminated","Details":{"exit_code":"0","oom_killed":"true"}}]}}}}},
			{"Topic":"Evaluation","Payload":{"Evaluation":{"JobID":"b"}}}]}`,
		`{"Index":9,"Events":[{"Topic":"Allocation","Payload":{"Allocation":{"JobID":"a","TaskStates":{"worker":{"Events":[
			{"Type":"Terminated","Details":{"oom_killed":"false"}}]}}}}}]}`,
	} {
		var line eventLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		events.note(line, seen.Add(time.Duration(n)*time.Second))
	}
	if end := <-events.ends.of("a"); !end.oomKilled || end.at != seen.Add(2*time.Second) {
		t.Errorf("got %+v", end)
	}
	if len(events.ends.byKey) != 1 {
		t.Errorf("ends of %v were seen, want that of a alone", events.ends.byKey)
	}
}

func TestAnotherEndThanTheOneMeasuredIsAFault(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason work.Reason
		state  work.State
		ok     bool
	}{
		{work.ReasonOOMKilled, work.StateFailed, true},
		{work.ReasonOOMKilled, work.StateQueued, false},
		{work.ReasonCrashed, work.StateFailed, false},
	} {
		err := faultOf(work.Item{State: c.state}, work.Attempt{Reason: c.reason})
		if (err == nil) != c.ok {
			t.Errorf("%s and %s: %v", c.reason, c.state, err)
		}
	}
}

func TestSamplesBecomeFigures(t *testing.T) {
	t.Parallel()
	killed := time.Now()
	reported, stored := killed.Add(50*time.Millisecond), killed.Add(90*time.Millisecond)
	attempt := work.Attempt{EndedAt: stored, Result: &work.Result{EndedAt: reported}}
	s := newOOMSample("i", attempt, killed, killed.Add(100*time.Millisecond), taskEnd{at: killed.Add(200 * time.Millisecond), oomKilled: true})
	if s.VisibleMS != 100 || s.NomadEventMS != 200 || s.WorkerReportedMS != 50 || s.StoredMS != 90 || !s.NomadOOMKilled {
		t.Errorf("got %+v", s)
	}
	want := []figure{
		{"oom_visible_p50", 100 * time.Millisecond, 200 * time.Millisecond, oomTarget},
		{"oom_visible_p99", 100 * time.Millisecond, 200 * time.Millisecond, oomTarget},
	}
	if got := oomFigures([]oomSample{s}); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
