package work_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/internal/work"
)

var breakerStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func attemptOf(n int) work.AttemptID { return work.NewAttemptID("01k0000000000000000000000a", n) }

// after counts attempts that ended for these reasons, a second apart.
func after(reasons ...work.Reason) work.Breaker {
	b, policy := work.Breaker{Repository: "host/repo"}, work.DefaultBreakerPolicy()
	for i, reason := range reasons {
		b = b.Ended(attemptOf(i+1), reason, policy, breakerStart.Add(time.Duration(i)*time.Second))
	}
	return b
}

func TestWhichReasonsOpenABreaker(t *testing.T) {
	t.Parallel()
	for _, reason := range work.Reasons() {
		b := after(reason, reason, reason, reason, reason, reason)
		counts := work.DefaultBreakerWeights()[reason] > 0
		if (b.State == work.BreakerOpen) != counts || b.Quiet() == counts {
			t.Errorf("six times %s: %+v", reason, b)
		}
	}
	if b := after(work.ReasonGitAuthFailed); b.State != work.BreakerOpen || !strings.Contains(b.Sentence(), "git_auth_failed") {
		t.Errorf("refused credentials once: %+v", b)
	}
}

func TestBreakerOpensAtTheRateAndNotBelow(t *testing.T) {
	t.Parallel()
	good, bad, neutral := work.ReasonCompleted, work.ReasonCrashed, work.ReasonNodeLost
	for name, test := range map[string]struct {
		reasons []work.Reason
		want    work.BreakerState
	}{
		"four of four":             {[]work.Reason{bad, bad, bad, bad}, work.BreakerClosed},
		"five of five":             {[]work.Reason{bad, bad, bad, bad, bad}, work.BreakerOpen},
		"four of five":             {[]work.Reason{good, bad, bad, bad, bad}, work.BreakerOpen},
		"three of five":            {[]work.Reason{good, good, bad, bad, bad}, work.BreakerClosed},
		"the last one a success":   {[]work.Reason{bad, bad, bad, bad, good}, work.BreakerClosed},
		"four and ten lost nodes":  {[]work.Reason{bad, bad, neutral, neutral, neutral, neutral, bad, bad, neutral, neutral}, work.BreakerClosed},
		"refused after successes":  {[]work.Reason{good, good, work.ReasonGitAuthFailed}, work.BreakerClosed},
		"refused twice after them": {[]work.Reason{good, good, work.ReasonGitAuthFailed, work.ReasonGitAuthFailed}, work.BreakerOpen},
	} {
		if b := after(test.reasons...); b.State != test.want {
			t.Errorf("%s: %+v", name, b)
		}
	}
}

func TestFailuresOutsideTheWindowDoNotCount(t *testing.T) {
	t.Parallel()
	policy := work.DefaultBreakerPolicy()
	b := after(work.ReasonCrashed, work.ReasonCrashed, work.ReasonCrashed, work.ReasonCrashed)
	later := breakerStart.Add(policy.Window.Std() + time.Minute)
	if !b.Idle(policy, later) || b.Idle(policy, breakerStart) {
		t.Errorf("idle: %+v", b)
	}
	if b = b.Ended(attemptOf(9), work.ReasonCrashed, policy, later); !b.Closed() || len(b.Outcomes) != 1 {
		t.Errorf("%+v", b)
	}
}

func TestTrialDecidesAboutAnOpenBreaker(t *testing.T) {
	t.Parallel()
	policy := work.DefaultBreakerPolicy()
	b := after(work.ReasonGitAuthFailed)
	if b.MayTry(b.Until.Add(-1)) || !b.MayTry(b.Until) {
		t.Fatalf("%+v", b)
	}
	now := b.Until
	trial := b.Try(attemptOf(7), now)
	if trial.MayTry(now) || trial.State != work.BreakerHalfOpen {
		t.Fatalf("%+v", trial)
	}
	if other := trial.Ended(attemptOf(3), work.ReasonCompleted, policy, now); other.State != work.BreakerHalfOpen {
		t.Errorf("an attempt from before counts: %+v", other)
	}
	if again := trial.Ended(attemptOf(7), work.ReasonDrained, policy, now); !again.MayTry(now) {
		t.Errorf("a drained node decides: %+v", again)
	}
	if closed := trial.Ended(attemptOf(7), work.ReasonCompleted, policy, now); !closed.Quiet() {
		t.Errorf("%+v", closed)
	}
	if open := trial.Ended(attemptOf(7), work.ReasonCrashed, policy, now); open.State != work.BreakerOpen || open.Until.Sub(now) != 2*policy.Pause.Std() {
		t.Errorf("%+v", open)
	}
	tripped := b.Trip("me", "", 0, now)
	if tripped.MayTry(now.AddDate(1, 0, 0)) || !strings.Contains(tripped.Sentence(), "until it is reset: tripped by hand") || !tripped.Reset(now).Quiet() {
		t.Errorf("%+v", tripped)
	}
}

// TestBreakerKeepsItsPromises in every order of ends: a closed one has no pause,
// an open one has a pause within bounds, and it never remembers more than it may.
func TestBreakerKeepsItsPromises(t *testing.T) {
	t.Parallel()
	policy := work.DefaultBreakerPolicy()
	rapid.Check(t, func(t *rapid.T) {
		b, now := work.Breaker{Repository: "host/repo"}, breakerStart
		for i := range rapid.IntRange(1, 200).Draw(t, "ends") {
			now = now.Add(time.Duration(rapid.IntRange(0, 1200).Draw(t, "seconds")) * time.Second)
			a := attemptOf(i + 1)
			if b.MayTry(now) {
				b = b.Try(a, now)
			}
			b = b.Ended(a, rapid.SampledFrom(work.Reasons()).Draw(t, "reason"), policy, now)
			pause := b.Until.Sub(b.Since)
			switch {
			case len(b.Outcomes) > 100:
				t.Fatalf("%d outcomes", len(b.Outcomes))
			case b.State == work.BreakerOpen && (pause < policy.Pause.Std() || pause > policy.MaxPause.Std() || b.Why == ""):
				t.Fatalf("open for %s: %+v", pause, b)
			case b.State != work.BreakerOpen && !b.Until.IsZero():
				t.Fatalf("%+v", b)
			}
		}
	})
}

func TestBreakerPolicyIsChecked(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*work.BreakerPolicy){
		"unknown reason":              func(p *work.BreakerPolicy) { p.Weights["bored"] = 1 },
		"node_lost never counts":      func(p *work.BreakerPolicy) { p.Weights[work.ReasonNodeLost] = 1 },
		"rate_limited never counts":   func(p *work.BreakerPolicy) { p.Weights[work.ReasonRateLimited] = 0.1 },
		"must not be negative":        func(p *work.BreakerPolicy) { p.Weights[work.ReasonCrashed] = -1 },
		"failure rate 0":              func(p *work.BreakerPolicy) { p.FailureRate = 0 },
		"minimum count 0":             func(p *work.BreakerPolicy) { p.MinCount = 0 },
		"longest pause 1m0s is below": func(p *work.BreakerPolicy) { p.MaxPause = work.Duration(time.Minute) },
	} {
		p := work.DefaultBreakerPolicy()
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&p)
		if err := p.Validate(); !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
