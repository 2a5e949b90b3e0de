package orchestrator

import (
	"time"

	"drover/internal/work"
)

// beat is what the leader knows of a worker's check.
type beat struct {
	work.Heartbeat
	at time.Time // of the last heartbeat that was noticed; zero if none was
}

// heard takes note of the checks that Consul has. A check says when it was
// registered last; its output changes with each heartbeat, so that one which
// changed since the last look was heard meanwhile. A passing check that was never
// seen before says nothing of when.
func (o *Orchestrator) heard(beats []work.Heartbeat, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	heard := make(map[work.AttemptID]beat, len(beats))
	for _, b := range beats {
		last, known := o.beats[b.Attempt]
		next := beat{Heartbeat: b, at: last.at}
		if known && last.Output != b.Output && !b.Critical {
			next.at = now
		}
		if b.At.After(next.at) {
			next.at = earlier(b.At, now) // a worker's clock may be ahead
		}
		heard[b.Attempt] = next
	}
	o.beats = heard
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// sign is a sign of life of an attempt's worker.
type sign struct {
	at   time.Time // zero if there was none
	from string    // the channel it came by
}

// lastSign returns the newest sign of life of an attempt from any channel: its
// check in Consul, its progress (nil if that was not read), its start in Nomad.
func (o *Orchestrator) lastSign(a *work.Attempt, progress *work.Progress) sign {
	newest := sign{at: a.StartedAt, from: "Nomad, which started it"}
	newer := func(at time.Time, from string) {
		if at.After(newest.at) {
			newest = sign{at: at, from: from}
		}
	}
	newer(o.beatOf(a.ID).at, "its heartbeat")
	o.mu.Lock()
	newer(o.sampled[a.ID].at, "its progress")
	o.mu.Unlock()
	if progress != nil && progress.Attempt == a.ID {
		newer(progress.At, "its progress")
	}
	return newest
}

// beatOf returns what the leader knows of an attempt's check, zero if it has none.
func (o *Orchestrator) beatOf(a work.AttemptID) beat {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.beats[a]
}
