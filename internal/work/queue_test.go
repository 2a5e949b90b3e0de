package work_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/internal/work"
)

func ptr[T any](v T) *T { return &v }

func TestStoredSettingsCountFieldByField(t *testing.T) {
	t.Parallel()
	declared := work.QueueSettings{
		MaxInFlight: ptr(2), Rate: ptr(3.0), Image: "declared:1", Agent: work.AgentCodex, Command: []string{"codex"},
		Resources: &work.Resources{MemoryMB: 100, PIDs: 5},
		Retry:     &work.RetryOverride{MaxRetries: ptr(1), Actions: map[work.Reason]work.Action{work.ReasonStuck: work.ActRetry, work.ReasonTimeout: work.ActFail}},
	}
	stored := work.QueueSettings{
		MaxInFlight: ptr(0), Agent: work.AgentPlain, Resources: &work.Resources{MemoryMB: 200},
		Retry: &work.RetryOverride{Actions: map[work.Reason]work.Action{work.ReasonStuck: work.ActFail}},
	}
	got := declared.With(stored)
	if *got.MaxInFlight != 0 || *got.Rate != 3 || got.Image != "declared:1" || got.Agent != work.AgentPlain || got.Command != nil {
		t.Errorf("%+v", got)
	}
	if *got.Resources != (work.Resources{MemoryMB: 200, PIDs: 5}) {
		t.Errorf("%+v", got.Resources)
	}
	if r := got.Retry; *r.MaxRetries != 1 || r.Actions[work.ReasonStuck] != work.ActFail || r.Actions[work.ReasonTimeout] != work.ActFail {
		t.Errorf("%+v", r)
	}
	if declared.Retry.Actions[work.ReasonStuck] != work.ActRetry {
		t.Error("the declared settings changed")
	}
	defaults := work.NewDefaults().WithQueue(got)
	if spec := (work.Spec{}).WithDefaults(defaults); spec.Resources.MemoryMB != 200 || spec.Image != "declared:1" || spec.Resources.Cores != work.DefaultCores {
		t.Errorf("%+v", spec)
	}
}

func TestEveryFieldOfAQueueCanBeUnset(t *testing.T) {
	t.Parallel()
	all := work.QueueSettings{
		MaxInFlight: ptr(1), Rate: ptr(1.0), Burst: ptr(1), TokensPerHour: ptr(int64(1)), CostUSDPerHour: ptr(1.0), Image: "x",
		Agent: work.AgentPlain, Command: []string{"x"}, Resources: &work.Resources{PIDs: 1}, Retry: &work.RetryOverride{},
	}
	got, err := all.Unset(work.QueueFields()...)
	if err != nil || got.MaxInFlight != nil || got.Rate != nil || got.Burst != nil || got.TokensPerHour != nil || got.CostUSDPerHour != nil ||
		got.Image+got.Agent != "" || got.Command != nil || got.Resources != nil || got.Retry != nil {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := all.Unset("speed"); !errors.Is(err, work.ErrInvalid) {
		t.Error(err)
	}
}

func TestFaultsOfAQueueAreNamed(t *testing.T) {
	t.Parallel()
	err := work.QueueSettings{
		MaxInFlight: ptr(-1), Rate: ptr(-1.0), Burst: ptr(-1), TokensPerHour: ptr(int64(-1)), CostUSDPerHour: ptr(-1.0),
		Command: []string{"x"}, Resources: &work.Resources{MemoryMB: -1}, Retry: &work.RetryOverride{MaxRetries: ptr(-1)},
	}.Validate()
	for _, field := range []string{"max_in_flight", "rate", "burst", "tokens_per_hour", "cost_usd_per_hour", "command", "resources", "retry"} {
		if !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
	if !slices.Contains(work.QueueStates(), work.QueueDraining) {
		t.Error("draining is no state")
	}
}

func TestSlowdownOfAQueue(t *testing.T) {
	t.Parallel()
	now, longest := breakerStart, 15*time.Minute
	limited := func(s work.Slowdown, reset time.Duration) work.Slowdown {
		end := work.Ending{Detail: "429"}
		if reset > 0 {
			end.RetryAt = now.Add(reset)
		}
		return s.Limited(attemptOf(1), end, longest, now)
	}
	if s := limited(work.Slowdown{}, 3*time.Hour); s.Until.Sub(now) != 3*time.Hour || s.Strikes != 0 || s.Detail != "429" {
		t.Errorf("stated reset: %+v", s)
	}
	if s := limited(work.Slowdown{}, 300*time.Hour); s.Until.Sub(now) != work.MaxSlowdown {
		t.Errorf("far reset: %+v", s)
	}
	s := work.Slowdown{}
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, longest, longest} {
		if s = limited(s, 0); s.Until.Sub(now) != want {
			t.Errorf("waits %s, want %s", s.Until.Sub(now), want)
		}
	}
	if long := limited(limited(work.Slowdown{}, time.Hour), 0); long.Until.Sub(now) != time.Hour || long.Strikes != 1 {
		t.Errorf("a shorter one shortened it: %+v", long)
	}
	if same := s.Progressed(s.Until.Add(-time.Second)); same.Strikes == 0 {
		t.Error("an attempt from before the limit shows that it is over")
	}
	if over := s.Progressed(s.Until.Add(time.Second)); over.Strikes != 0 {
		t.Errorf("%+v", over)
	}
}
