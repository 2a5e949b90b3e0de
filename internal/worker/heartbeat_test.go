package worker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/work"
)

const (
	testTTL   = 2 * time.Minute
	testGrace = 15 * time.Minute
)

// fakeClaim counts heartbeats, and takes them as beat says.
type fakeClaim struct {
	Claim
	mu      sync.Mutex
	beats   []time.Time
	texts   []string
	silent  bool // as the last heartbeat said
	regains int
	// What the calls do; nil is success.
	beat    func(ctx context.Context) error
	regain  func(ctx context.Context) error
	confirm func(ctx context.Context) error
	save    func(p work.Progress) error
	lock    func(ctx context.Context, patience time.Duration, waiting func(error)) error
}

func (c *fakeClaim) Confirm(ctx context.Context) error {
	c.mu.Lock()
	confirm := c.confirm
	c.mu.Unlock()
	if confirm == nil {
		return nil
	}
	return confirm(ctx)
}

func (c *fakeClaim) Regain(ctx context.Context) error {
	c.mu.Lock()
	c.regains++
	regain := c.regain
	c.mu.Unlock()
	if regain == nil {
		return nil
	}
	return regain(ctx)
}

// set changes what the calls do from now on.
func (c *fakeClaim) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// seen reads what was counted.
func (c *fakeClaim) seen() (beats []time.Time, text string, silent bool, regains int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.texts); n > 0 {
		text = c.texts[n-1]
	}
	return slices.Clone(c.beats), text, c.silent, c.regains
}

func (c *fakeClaim) beatCount() int {
	beats, _, _, _ := c.seen()
	return len(beats)
}

func (c *fakeClaim) isSilent() bool {
	_, _, silent, _ := c.seen()
	return silent
}

func (c *fakeClaim) tries() int {
	_, _, _, regains := c.seen()
	return regains
}

// confirmBy changes what Confirm does from now on.
func (c *fakeClaim) confirmBy(confirm func(ctx context.Context) error) {
	c.set(func() { c.confirm = confirm })
}

func (c *fakeClaim) Lock(ctx context.Context, _ work.PathSet, patience time.Duration, waiting func(error)) (work.Lock, error) {
	return work.Lock{}, c.lock(ctx, patience, waiting)
}

func (c *fakeClaim) SaveProgress(_ context.Context, p work.Progress) error { return c.save(p) }

func (c *fakeClaim) Beat(ctx context.Context, text string, silent bool) error {
	c.mu.Lock()
	c.beats, c.texts, c.silent = append(c.beats, time.Now()), append(c.texts, text), silent
	beat := c.beat
	c.mu.Unlock()
	if beat == nil {
		return nil
	}
	return beat(ctx)
}

// bubble is a heart in a bubble of its own time.
type bubble struct {
	*heart
	hold context.Context
	told context.CancelFunc // SIGTERM
	// restored is called before a fence is lifted.
	restored func() error
}

// inBubble runs a heart in a bubble of its own time.
func inBubble(t *testing.T, claim *fakeClaim, test func(b *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		hold, lose := context.WithCancelCause(t.Context())
		told, stop := context.WithCancel(t.Context())
		b := &bubble{hold: hold, told: stop, restored: func() error { return nil }}
		b.heart = newHeart(hold, time.Now(), heartOptions{
			claim: claim, ttl: testTTL, grace: testGrace, text: func() string { return "text" }, dog: &watchdog{},
			restore: func(context.Context) error { return b.restored() }, told: told, lose: lose, log: hclog.NewNullLogger(),
		})
		var tasks sync.WaitGroup
		tasks.Go(func() { b.run(hold) })
		test(b)
		lose(nil)
		stop()
		tasks.Wait()
	})
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestHeartBeatsOnATimer(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(b *bubble) {
		pass(time.Minute)
		if n := claim.beatCount(); n < 20 || n > 22 {
			t.Errorf("%d heartbeats in a minute, want one every %s", n, beatInterval)
		}
		if b.fenced() != nil || b.hold.Err() != nil {
			t.Errorf("fence %v, hold %v", b.fenced(), b.hold.Err())
		}
	})
}

// TestHeartbeatSaysThatTheAgentIsSilent: the agent's silence turns the check to warning, and ends nothing.
func TestHeartbeatSaysThatTheAgentIsSilent(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(b *bubble) {
		b.touch()
		since := time.Now().UTC().Format(time.TimeOnly)
		pass(testTTL - beatInterval)
		if claim.isSilent() {
			t.Error("silent before its time")
		}
		pass(10 * testTTL)
		if _, last, silent, _ := claim.seen(); !silent || last != "agent silent since "+since+" · text" {
			t.Errorf("silent = %t, text = %q", silent, last)
		}
		if b.fenced() != nil || b.hold.Err() != nil {
			t.Errorf("fence %v, hold %v", b.fenced(), b.hold.Err())
		}
		b.touch()
		pass(beatInterval)
		if claim.isSilent() {
			t.Error("still silent after a sign of life")
		}
	})
}

// TestWorkerThatMakesNoProgressGivesNoHeartbeat has each way in which a loop can stand still.
func TestWorkerThatMakesNoProgressGivesNoHeartbeat(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(b *bubble) {
		stuck := b.dog.watch("progress")
		var outside sync.WaitGroup
		release := make(chan struct{})
		outside.Go(func() {
			l := b.dog.watch("push")
			defer l.end()
			l.wait(func() { <-release }) // git has limits of its own
		})
		pass(loopBound)
		before := claim.beatCount()
		pass(time.Minute)
		if after := claim.beatCount(); after > before+1 {
			t.Errorf("%d heartbeats of a worker that makes no progress", after-before)
		}
		pass(testTTL)
		if b.fenced() == nil || claim.tries() > 0 {
			t.Errorf("fence %v, %d tries to take the attempt back", b.fenced(), claim.tries())
		}
		stuck.turn()
		pass(regainPause)
		if b.fenced() != nil || claim.tries() != 1 {
			t.Errorf("after a turn: fence %v, %d tries to take the attempt back", b.fenced(), claim.tries())
		}
		stuck.end()
		pass(2 * loopBound)
		if b.fenced() != nil {
			t.Errorf("a loop that has ended, or waits for git, counts as stuck: %v", b.fenced().cause)
		}
		close(release)
		outside.Wait()
	})
}

func TestFenceFallsWithinATTLOfTheLastHeartbeatTaken(t *testing.T) {
	for name, beat := range map[string]func(context.Context) error{
		"refused":   func(context.Context) error { return work.ErrUnavailable },
		"no answer": func(ctx context.Context) error { <-ctx.Done(); return work.ErrUnavailable },
	} {
		t.Run(name, func(t *testing.T) {
			claim := &fakeClaim{}
			inBubble(t, claim, func(b *bubble) {
				pass(10 * beatInterval)
				beats, _, _, _ := claim.seen()
				last := beats[len(beats)-1]
				claim.set(func() { claim.beat, claim.regain = beat, beat })
				for b.fenced() == nil {
					pass(100 * time.Millisecond)
				}
				if fell := time.Since(last); fell > testTTL+beatInterval || fell < testTTL {
					t.Errorf("the fence fell %s after the start of the last heartbeat that was taken", fell)
				}
				if b.hold.Err() != nil {
					t.Errorf("the hold ended with the fence: %v", context.Cause(b.hold))
				}
			})
		})
	}
}

func TestLostSessionLetsTheFenceFallAtOnce(t *testing.T) {
	claim := &fakeClaim{beat: func(context.Context) error { return work.ErrSessionLost }, regain: func(context.Context) error { return work.ErrUnavailable }}
	inBubble(t, claim, func(b *bubble) {
		pass(time.Millisecond)
		if f := b.fenced(); f == nil || !errors.Is(f.cause, work.ErrSessionLost) || b.hold.Err() != nil {
			t.Errorf("fence %+v, hold %v", f, b.hold.Err())
		}
	})
}

// TestFencedWorkerTakesItsAttemptBack: everything that needs a lease waits, what was cut off is done again, and what was used is stored first.
func TestFencedWorkerTakesItsAttemptBack(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(b *bubble) {
		var order []string
		b.restored = func() error { order = append(order, "restored"); return nil }
		claim.set(func() { claim.regain = func(context.Context) error { return work.ErrUnavailable } })
		pushing, endPush, err := b.pushLease(b.hold)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		var waiting sync.WaitGroup
		waiting.Go(func() {
			err := b.held(b.hold, func(ctx context.Context) error {
				if calls++; calls == 1 {
					<-ctx.Done()
					return context.Cause(ctx)
				}
				order = append(order, "called again")
				return nil
			})
			if err != nil || calls != 2 {
				t.Errorf("held: %v after %d calls", err, calls)
			}
		})
		synctest.Wait()
		b.fall(work.ErrSessionLost)
		<-pushing.Done()
		if err := context.Cause(pushing); !errors.Is(err, errLeaseEnded) || !errors.Is(err, work.ErrSessionLost) {
			t.Errorf("the push ended with %v", err)
		}
		endPush()
		fell := time.Now()
		limited, cancel := context.WithTimeout(b.hold, time.Minute)
		defer cancel()
		if err := b.heart.hold(limited); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a fenced worker may push: %v", err)
		}
		claim.set(func() { claim.regain = nil })
		waiting.Wait()
		if err := b.heart.hold(b.hold); err != nil || b.fenced() != nil {
			t.Errorf("after the attempt was taken back: %v", err)
		}
		if tries := claim.tries(); tries < 58 || tries > 62 {
			t.Errorf("%d tries in %s, want one a second", tries, time.Since(fell))
		}
		if !slices.Equal(order, []string{"restored", "called again"}) {
			t.Errorf("order %v", order)
		}
		again, end, err := b.pushLease(b.hold)
		if err != nil || again.Err() != nil {
			t.Errorf("a push after that: %v, %v", err, context.Cause(again))
		}
		end()
	})
}

func TestFenceStaysWhileTheProgressIsNotStored(t *testing.T) {
	claim := &fakeClaim{}
	inBubble(t, claim, func(b *bubble) {
		var stored atomic.Bool
		b.restored = func() error {
			if !stored.Load() {
				return work.ErrUnavailable
			}
			return nil
		}
		b.fall(work.ErrSessionLost)
		pass(time.Minute)
		if b.fenced() == nil {
			t.Error("lifted before the progress was stored")
		}
		stored.Store(true)
		pass(regainPause)
		if b.fenced() != nil {
			t.Error("not lifted")
		}
	})
}

// TestFencedWorkerGivesUp has each reason to.
func TestFencedWorkerGivesUp(t *testing.T) {
	away := func(ctx context.Context) error { return work.ErrUnavailable }
	hangs := func(ctx context.Context) error { <-ctx.Done(); return work.ErrUnavailable }
	for name, c := range map[string]struct {
		regain func(context.Context) error
		told   bool
		after  time.Duration // of the fence
		says   string
	}{
		"the attempt is lost":           {regain: func(context.Context) error { return work.ErrAttemptLost }, says: "can't be taken back"},
		"the grace is over":             {regain: away, after: testGrace, says: "not taken back within 15m0s"},
		"the grace is over in a call":   {regain: hangs, after: testGrace, says: "not taken back within 15m0s"},
		"told to end":                   {regain: away, told: true, says: "stopped by a signal"},
		"told to end in a call":         {regain: hangs, told: true, says: "stopped by a signal"},
		"told to end, and had it again": {told: true, says: "stopped by a signal"},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &fakeClaim{regain: c.regain}
			inBubble(t, claim, func(b *bubble) {
				if c.regain == nil {
					b.told()
				}
				b.fall(work.ErrSessionLost)
				began := time.Now()
				synctest.Wait()
				if c.told {
					b.told()
				}
				<-b.hold.Done()
				if took := time.Since(began); took != c.after {
					t.Errorf("gave up after %s, want %s", took, c.after)
				}
				if err := context.Cause(b.hold); !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("gave up with %v, want %q in it", err, c.says)
				}
			})
		})
	}
}

// TestWorkerThatWasStoppedNoticesBeforeItPushes has a process that was stopped for longer than the TTL: whoever looks at the clock first lets the fence fall.
func TestWorkerThatWasStoppedNoticesBeforeItPushes(t *testing.T) {
	claim := &fakeClaim{regain: func(context.Context) error { return work.ErrAttemptLost }}
	inBubble(t, claim, func(b *bubble) {
		b.mu.Lock()
		b.trusted = time.Now()
		b.mu.Unlock()
		if err := b.heart.hold(b.hold); !errors.Is(err, ErrFenced) {
			t.Errorf("a push may begin: %v", err)
		}
	})
}

// TestPushWaitsForNoHeartbeat has Consul away when the worker is told to stop: its last push must not wait for the fence.
func TestPushWaitsForNoHeartbeat(t *testing.T) {
	claim := &fakeClaim{beat: func(ctx context.Context) error { <-ctx.Done(); return work.ErrUnavailable }}
	inBubble(t, claim, func(b *bubble) {
		pass(beatInterval)
		began := time.Now()
		if err := b.heart.hold(b.hold); err != nil || !time.Now().Equal(began) {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}
