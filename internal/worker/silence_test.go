package worker_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/internal/work"
)

// TestSilentAgentIsEnded: with real processes, by the limit that it exceeds.
func TestSilentAgentIsEnded(t *testing.T) {
	t.Parallel()
	const stirs = `while :; do i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; sleep 0.3; done`
	cases := map[string]struct {
		script string
		reason work.Reason
		says   string
	}{
		"silent, and uses CPU time":       {stirs, work.ReasonSilent, "it printed nothing for 10s (limits.silence_timeout)"},
		"silent, its child uses CPU time": {`(` + stirs + `) & wait`, work.ReasonSilent, "limits.silence_timeout"},
		"nothing stirs":                   {`sleep 1000`, work.ReasonSilent, "it printed nothing and used no CPU time for 6s (limits.idle_timeout)"},
		"stopped by a signal":             {`kill -STOP $$`, work.ReasonSilent, "limits.idle_timeout"},
		"it prints on standard error":     {`for n in 1 2 3 4 5; do sleep 2; echo x >&2; done`, work.ReasonCompleted, ""},
		"it prints no whole line":         {`for n in 1 2 3 4 5; do sleep 2; printf x; done`, work.ReasonCompleted, ""},
		"its sub-process prints":          {`(for n in 1 2 3 4 5; do sleep 2; echo x; done)`, work.ReasonCompleted, ""},
	}
	ended := together(t, slices.Collect(maps.Keys(cases)), func(name string) *bench {
		b := newBench(t, "commit one; "+cases[name].script)
		b.envelope.Spec.Limits.SilenceTimeout = work.Duration(10 * time.Second)
		b.envelope.Spec.Limits.IdleTimeout = work.Duration(6 * time.Second)
		return b
	})
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := ended(name)
			r := b.reported()
			if r.Reason != c.reason || !strings.Contains(r.Detail, c.says) {
				t.Errorf("%s: %s; want %s and %q", r.Reason, r.Detail, c.reason, c.says)
			}
			b.wantLog("one")
		})
	}
}
