package worker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/work"
	"drover/internal/worker/agent"
)

const (
	// progressInterval is the time between two writes of progress where nothing important happened.
	progressInterval = 5 * time.Second
	// textInterval is how long a heartbeat's text stays the same within an
	// iteration: where a Consul agent passes on every changed text, each is a write.
	textInterval = 5 * time.Second
)

// journal knows how far the attempt has come, and stores it. It may be used concurrently.
type journal struct {
	claim Claim
	limit int // of iterations
	began time.Time
	log   hclog.Logger
	now   chan struct{} // buffered: something is worth storing at once
	// fenced reports whether nothing may be stored for now.
	fenced func() bool

	saving sync.Mutex // so that no older progress is stored over newer

	budget work.Budget

	mu         sync.Mutex
	p          work.Progress
	before     work.Tokens // spent before the agent's current run
	costBefore float64     // in USD
	dirty      bool
	text       string
	said       time.Time // when text was made
}

func newJournal(claim Claim, e work.Envelope, allocation string, log hclog.Logger) *journal {
	return &journal{
		claim: claim, limit: e.Spec.Limits.MaxIterations, began: time.Now(), log: log.Named("progress"), now: make(chan struct{}, 1),
		fenced: func() bool { return false },
		p: work.Progress{
			Attempt: e.Attempt, Allocation: allocation, Phase: work.PhasePreparing,
			Iteration: e.Resume.Iteration, Tokens: e.Resume.Tokens, CostUSD: e.Resume.CostUSD, Conversation: e.Resume.Conversation,
		},
		budget: e.Spec.Budget,
	}
}

// run stores progress until ctx ends.
func (j *journal) run(ctx context.Context, loop *loop) {
	defer loop.end()
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.now:
		case <-tick.C:
		}
		loop.turn()
		if err := j.save(ctx); err != nil && ctx.Err() == nil {
			j.log.Warn("not stored, trying again", "error", err)
		}
	}
}

// save stores the progress unless it is stored. A fenced worker stores it once the
// attempt is taken back.
func (j *journal) save(ctx context.Context) error {
	if j.fenced() {
		return nil
	}
	return j.store(ctx)
}

func (j *journal) store(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, consulTimeout)
	defer cancel()
	j.saving.Lock()
	defer j.saving.Unlock()
	j.mu.Lock()
	p, dirty := j.p, j.dirty
	j.dirty = false
	j.mu.Unlock()
	if !dirty {
		return nil
	}
	p.At = time.Now().UTC()
	err := j.claim.SaveProgress(ctx, p)
	if err != nil {
		j.mu.Lock()
		j.dirty = true
		j.mu.Unlock()
	}
	return err
}

// update changes the progress; what is important is stored and shown at once.
func (j *journal) update(important bool, change func(*work.Progress)) {
	j.mu.Lock()
	change(&j.p)
	j.dirty = true
	if important {
		j.said = time.Time{}
	}
	j.mu.Unlock()
	if important {
		select {
		case j.now <- struct{}{}:
		default:
		}
	}
}

func (j *journal) phase(phase work.Phase) {
	j.update(true, func(p *work.Progress) { p.Phase, p.LastTool = phase, "" })
}

func (j *journal) pushed(commit string) {
	j.update(true, func(p *work.Progress) { p.Commit = commit })
}

// iteration takes note of an iteration and reports whether it is within the limit.
func (j *journal) iteration(n int) bool {
	if j.limit > 0 && n > j.limit {
		return false
	}
	j.update(true, func(p *work.Progress) { p.Iteration = max(p.Iteration, n) })
	return true
}

func (j *journal) tool(e agent.Event) {
	tool := e.Name
	if e.Detail != "" {
		tool += " " + e.Detail
	}
	const limit = 200
	if r := []rune(tool); len(r) > limit {
		tool = string(r[:limit-1]) + "…"
	}
	j.update(false, func(p *work.Progress) { p.LastTool = tool })
}

// startRun has what the agent says from now on count as said by a new run.
func (j *journal) startRun() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.before, j.costBefore = j.p.Tokens, j.p.CostUSD
}

func (j *journal) tokens(e agent.Event) {
	j.update(false, func(p *work.Progress) {
		before := j.before
		if e.Conversation && p.Conversation != nil {
			before = p.Conversation.Before
		}
		p.Tokens = work.Tokens{In: max(p.Tokens.In, before.In+e.In), Out: max(p.Tokens.Out, before.Out+e.Out)}
	})
}

func (j *journal) cost(usd float64) {
	j.update(false, func(p *work.Progress) { p.CostUSD = max(p.CostUSD, j.costBefore+usd) })
}

// conversation takes note of the agent's conversation.
func (j *journal) conversation(id string) {
	j.update(true, func(p *work.Progress) {
		if p.Conversation == nil || p.Conversation.ID != id {
			p.Conversation = &work.Conversation{ID: id, Before: j.before}
		}
	})
}

func (j *journal) forgetConversation() {
	j.update(false, func(p *work.Progress) { p.Conversation = nil })
}

// over says which part of the item's budget is used up, empty if none.
func (j *journal) over() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	tokens := j.p.Tokens.In + j.p.Tokens.Out
	switch {
	case j.budget.Tokens > 0 && tokens >= j.budget.Tokens:
		return fmt.Sprintf("%d tokens are used, the item's budget is %d", tokens, j.budget.Tokens)
	case j.budget.CostUSD > 0 && j.p.CostUSD >= j.budget.CostUSD:
		return fmt.Sprintf("%.2f USD are spent, the item's budget is %.2f USD", j.p.CostUSD, j.budget.CostUSD)
	}
	return ""
}

// costLeft returns what is left of the item's budget in USD, 0 if it has none.
func (j *journal) costLeft() float64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.budget.CostUSD == 0 {
		return 0
	}
	return j.budget.CostUSD - j.p.CostUSD
}

// progress returns how far the attempt has come.
func (j *journal) progress() work.Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.p
}

// beatText is what a heartbeat shows, as in
// "iteration 3/20 · Edit internal/x.go · 41k/9k tokens · 2m10s".
func (j *journal) beatText() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if time.Since(j.said) < textInterval {
		return j.text
	}
	p := j.p
	doing := string(p.Phase)
	if p.LastTool != "" {
		doing = p.LastTool
	}
	j.said = time.Now()
	j.text = fmt.Sprintf("iteration %d/%d · %s · %s/%s tokens · %s",
		p.Iteration, j.limit, doing, thousands(p.Tokens.In), thousands(p.Tokens.Out), time.Since(j.began).Round(time.Second))
	return j.text
}

func thousands(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%dk", n/1000)
}
