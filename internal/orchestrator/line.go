package orchestrator

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"drover/internal/control"
	"drover/internal/queue"
	"drover/internal/work"
)

// budgetWindow is over what the budget of a queue is counted.
const budgetWindow = time.Hour

// line is one queue: what the configuration and operators say of it, and what
// it used lately. The record is changed under latch and mu, the rest under mu.
type line struct {
	latch
	name     string
	declared *Queue // by the configuration; nil if it does not name the queue
	record   work.QueueRecord
	stored   bool
	settings Queue         // of the configuration, with the record's in their place
	limiter  *rate.Limiter // nil without a rate
	spent    []spent       // within budgetWindow, the oldest first
}

// spent is what an attempt used, or some have used while they run.
type spent struct {
	at      time.Time
	tokens  int64
	costUSD float64
	sample  bool // of running attempts: those of a minute are kept as one
}

// sampleSpan is over what samples are kept as one.
const sampleSpan = time.Minute

func newLine(name string, declared *Queue) *line {
	l := &line{latch: newLatch(), name: name, declared: declared}
	l.adopt(work.QueueRecord{Name: name})
	return l
}

// keep takes a record over that has been stored.
func (l *line) keep(record work.QueueRecord) {
	l.adopt(record)
	l.stored = true
}

func (l *line) adopt(record work.QueueRecord) {
	if record.State == "" {
		record.State = work.QueueActive
	}
	l.record = record
	l.settings = Queue{}
	if l.declared != nil {
		l.settings = *l.declared
	}
	l.settings = l.settings.With(record.Settings)
	perMinute, burst := value(l.settings.Rate), max(1, value(l.settings.Burst))
	limit := rate.Limit(perMinute / time.Minute.Seconds())
	switch {
	case perMinute == 0:
		l.limiter = nil
	case l.limiter == nil || l.limiter.Limit() != limit || l.limiter.Burst() != burst:
		l.limiter = rate.NewLimiter(limit, burst)
	}
}

// dispatched takes note of a dispatch.
func (l *line) dispatched(at time.Time) {
	if l.limiter != nil {
		l.limiter.ReserveN(at, 1)
	}
}

func (l *line) spend(s spent) {
	if s.tokens <= 0 && s.costUSD <= 0 {
		return
	}
	if n := len(l.spent); s.sample && n > 0 && l.spent[n-1].sample && s.at.Sub(l.spent[n-1].at) < sampleSpan {
		l.spent[n-1].tokens += s.tokens
		l.spent[n-1].costUSD += s.costUSD
		return
	}
	l.spent = append(l.spent, s)
}

// used returns what was used within the window.
func (l *line) used(now time.Time) (sum spent) {
	l.spent = slices.DeleteFunc(l.spent, func(s spent) bool { return now.Sub(s.at) >= budgetWindow })
	for _, s := range l.spent {
		sum.tokens += s.tokens
		sum.costUSD += s.costUSD
	}
	return sum
}

// waits returns what keeps the queue from dispatching now.
func (l *line) waits(now time.Time, inFlight int) (found []control.Wait) {
	if l.record.State == work.QueuePaused {
		sentence := fmt.Sprintf("queue %s is paused since %s", l.name, stamp(l.record.Since))
		if l.record.By != "" {
			sentence += " by " + l.record.By
		}
		found = append(found, control.Wait{Kind: control.WaitPaused, Since: l.record.Since, Sentence: sentence})
	}
	if slow := l.record.Slow; slow.Until.After(now) {
		found = append(found, control.Wait{
			Kind: control.WaitRateLimited, Since: slow.At, Until: slow.Until, Item: slow.Attempt.Item(), Attempt: slow.Attempt.Number(),
			Sentence: fmt.Sprintf("queue %s waits until %s: attempt %d of item %s hit a limit: %s", l.name, stamp(slow.Until), slow.Attempt.Number(), slow.Attempt.Item(), slow.Detail),
		})
	}
	if wait, over := l.overBudget(now); over {
		found = append(found, wait)
	}
	if limit := value(l.settings.MaxInFlight); limit > 0 && inFlight >= limit {
		found = append(found, control.Wait{Kind: control.WaitQueueLimit, Sentence: fmt.Sprintf("queue %s is at its limit: %d of %d attempts are in flight", l.name, inFlight, limit)})
	}
	if until := l.nextDispatch(now); until.After(now) {
		found = append(found, control.Wait{
			Kind: control.WaitRate, Until: until,
			Sentence: fmt.Sprintf("queue %s dispatches %g a minute, the next at %s", l.name, value(l.settings.Rate), stamp(until)),
		})
	}
	return found
}

// nextDispatch returns from when on the rate allows a dispatch.
func (l *line) nextDispatch(now time.Time) time.Time {
	if l.limiter == nil {
		return now
	}
	const enough = 1 - 1e-9 // of a token: what float64 makes of it
	missing := enough - l.limiter.TokensAt(now)
	if missing <= 0 {
		return now
	}
	return now.Add(time.Duration(missing/float64(l.limiter.Limit())*float64(time.Second)) + time.Millisecond)
}

// overBudget says until when the queue has used up what it may in an hour.
func (l *line) overBudget(now time.Time) (control.Wait, bool) {
	tokens, cost := value(l.settings.TokensPerHour), value(l.settings.CostUSDPerHour)
	if tokens == 0 && cost == 0 {
		return control.Wait{}, false
	}
	over := func(sum spent) bool { return tokens > 0 && sum.tokens >= tokens || cost > 0 && sum.costUSD >= cost }
	used := l.used(now)
	if !over(used) {
		return control.Wait{}, false
	}
	sentence := fmt.Sprintf("queue %s used %d tokens and %.2f USD in the last hour, its budget is", l.name, used.tokens, used.costUSD)
	if tokens > 0 {
		sentence += fmt.Sprintf(" %d tokens", tokens)
	}
	if cost > 0 {
		sentence += fmt.Sprintf(" %.2f USD", cost)
	}
	until := now
	for left, i := used, 0; over(left) && i < len(l.spent); i++ {
		until = l.spent[i].at.Add(budgetWindow)
		left.tokens -= l.spent[i].tokens
		left.costUSD -= l.spent[i].costUSD
	}
	return control.Wait{Kind: control.WaitBudget, Until: until, Sentence: sentence + "; it goes on at " + stamp(until)}, true
}

// gate says whether a queue may start something. The caller holds mu.
func (o *Orchestrator) gate(name string, now time.Time) queue.Gate {
	gate := queue.Open
	for _, w := range o.line(name).waits(now, o.queue.InFlight(name)) {
		if w.Kind != control.WaitQueueLimit && w.Kind != control.WaitRate {
			return queue.Shut
		}
		gate = queue.Full
	}
	return gate
}

// line returns a queue by its name; items may be left of one that is known no
// more. The caller holds mu.
func (o *Orchestrator) line(name string) *line {
	l := o.lines[name]
	if l == nil {
		l = newLine(name, nil)
		o.lines[name] = l
	}
	return l
}

// known reports whether items may name the queue.
func (l *line) known() bool { return l.declared != nil || l.stored }

// settings returns what counts for the items of a queue.
func (o *Orchestrator) settings(name string) Queue {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.line(name).settings
}

// recall brings back what the last leader knew of queues and breakers.
func (o *Orchestrator) recall(queues []work.QueueRecord, breakers []work.Breaker, items []work.Item, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, record := range queues {
		o.line(record.Name).keep(record)
	}
	for _, b := range breakers {
		known := &breaker{latch: newLatch()}
		o.breakers[b.Repository] = known
		o.setBreaker(known, b)
	}
	dispatches := map[string][]time.Time{}
	for _, item := range items {
		l := o.line(item.Spec.Queue)
		for _, a := range item.Attempts {
			dispatches[l.name] = append(dispatches[l.name], a.CreatedAt)
			if a.State.Terminal() && now.Sub(a.EndedAt) < budgetWindow {
				l.spend(spent{at: a.EndedAt, tokens: a.Tokens.In + a.Tokens.Out, costUSD: a.CostUSD})
			}
		}
	}
	for name, times := range dispatches {
		slices.SortFunc(times, time.Time.Compare)
		for _, at := range times {
			o.lines[name].dispatched(at)
		}
	}
	for _, l := range o.lines {
		slices.SortFunc(l.spent, func(a, b spent) int { return a.at.Compare(b.at) })
	}
}

// value returns what p points to, zero if it is nil.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// stamp writes a time for people.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
