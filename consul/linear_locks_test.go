package consul_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"drover/consul"
	"drover/internal/wait"
	"drover/internal/work"
)

// The times that locks hang from, at a tenth: so that sessions run out and lost locks change hands within a run.
const (
	tenth       = 10
	linearDelay = work.LockDelay / tenth
	linearTrust = work.PushTrust / tenth
	// linearTTL is that of heartbeats. Consul takes none of sessions below it.
	linearTTL = time.Second
	linearHCL = `session_ttl_min = "1s"`
	// linearBeat is how often a client beats.
	linearBeat = linearTTL / 4
)

// linearTiming is of every client that locks.
var linearTiming = consul.Timing{LockDelay: linearDelay, MinSessionTTL: linearTTL}

// universe is all paths that are asked for; a set of them is a mask.
var universe = []string{".", "a", "a/b", "a/b/c", "a/*", "b", "b/c", "**/c", "d", "e"}

type mask uint16

// wide are the paths that overlap nearly every other: the first, and **/c.
const wide mask = 1 | 1<<7

// overlaps and covers are, for each path, the paths that overlap it and those it covers.
var overlaps, covers = func() (o, c [16]mask) {
	for i, p := range universe {
		for j, q := range universe {
			one, _ := work.NewPathSet(p)
			other, _ := work.NewPathSet(q)
			if one.Overlaps(other) {
				o[i] |= 1 << j
			}
			if one.Covers(other) {
				c[i] |= 1 << j
			}
		}
	}
	return o, c
}()

// each returns what the paths of a mask have in a table, together.
func (m mask) each(table *[16]mask) (all mask) {
	for i := range universe {
		if m&(1<<i) != 0 {
			all |= table[i]
		}
	}
	return all
}

func (m mask) texts() (texts []string) {
	for i, p := range universe {
		if m&(1<<i) != 0 {
			texts = append(texts, p)
		}
	}
	return texts
}

func (m mask) set() work.PathSet {
	set, _ := work.NewPathSet(m.texts()...) // they are valid
	return set
}

// Kinds of lockOp.
const (
	opLock = iota
	opUnlock
	opConfirm
	opExpire // the attempt's session ends
	opRegain // the attempt is taken back
	opClose  // the attempt's claim is closed by another
)

// Outcomes of lockOp.
const (
	outDone = iota
	outRefused
	outNotHeld
	outGone    // the session
	outLost    // the attempt can never be taken back
	outUnknown // it may take effect at any time, or never
)

type lockOp struct {
	kind    int
	attempt string
	paths   mask
	out     int
	holder  string // that refused
	lost    bool   // the holder's session was gone
}

// held is what one attempt has.
type held struct {
	paths   mask // by its session
	lost    mask // without it
	expired bool
	taken   bool // what was lost was given to another
	waived  bool // what was lost was given up
	closed  bool // the claim
}

// lockState is who has what. It is never changed, and equal where key is.
type lockState struct {
	key      string
	attempts map[string]held
}

func (s lockState) with(attempt string, h held) lockState {
	next := maps.Clone(s.attempts)
	if next == nil {
		next = map[string]held{}
	}
	next[attempt] = h
	return lockState{attempts: next}.keyed()
}

func (s lockState) keyed() lockState {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.attempts)) {
		h := s.attempts[name]
		fmt.Fprintf(&b, "%s:%v ", name, h)
	}
	s.key = b.String()
	return s
}

// granted is the state after an attempt was granted paths, not ok where another holds what overlaps them. What
// was lost and overlaps them is gone then.
func (s lockState) granted(attempt string, paths mask) (lockState, bool) {
	own := s.attempts[attempt]
	against := paths.each(&overlaps)
	next := maps.Clone(s.attempts)
	if next == nil {
		next = map[string]held{}
	}
	for name, h := range s.attempts {
		if name == attempt {
			continue
		}
		if h.paths&against != 0 {
			return s, false
		}
		if h.lost&against != 0 {
			h.lost, h.taken = 0, true
			next[name] = h
		}
	}
	own.paths |= paths &^ own.paths.each(&covers)
	next[attempt] = own
	return lockState{attempts: next}.keyed(), !own.expired
}

// lockModel is the sequential specification of locks.
func lockModel() porcupine.Model {
	return porcupine.Model{
		Init:  func() any { return lockState{} },
		Equal: func(a, b any) bool { return a.(lockState).key == b.(lockState).key },
		Step: func(state, input, _ any) (bool, any) {
			s, op := state.(lockState), input.(lockOp)
			return s.step(op)
		},
		DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
		DescribeState:     func(state any) string { return state.(lockState).key },
	}
}

func (s lockState) step(op lockOp) (bool, lockState) {
	own := s.attempts[op.attempt]
	switch {
	case op.out == outGone:
		return own.expired, s
	case op.kind == opExpire:
		own.lost, own.paths, own.expired = own.lost|own.paths, 0, true
		return true, s.with(op.attempt, own)
	case op.kind == opClose:
		own.closed = true
		return true, s.with(op.attempt, own)
	case op.kind == opRegain:
		return s.regained(op)
	case op.kind == opConfirm:
		return !own.expired, s
	case op.kind == opLock && op.out == outDone:
		next, ok := s.granted(op.attempt, op.paths)
		return ok, next
	case op.kind == opLock && op.out == outUnknown:
		if next, ok := s.granted(op.attempt, op.paths); ok {
			return true, next
		}
		return true, s
	case op.kind == opLock: // refused
		h := s.attempts[op.holder]
		return op.holder != op.attempt && (h.paths|h.lost)&op.paths.each(&overlaps) != 0 && h.expired == op.lost, s
	case own.expired: // there is nothing to give up any more, and nothing to insist on
		own.waived = own.waived || op.out == outDone
		return true, s.with(op.attempt, own)
	case op.out == outNotHeld:
		return own.paths&op.paths.each(&covers) == 0, s
	}
	own.paths &^= op.paths.each(&covers)
	return true, s.with(op.attempt, own)
}

// regained is the state after an attempt was taken back: with the paths that it lost, and only if nothing of them was
// another's since, or it had given them up, and its claim is open.
func (s lockState) regained(op lockOp) (bool, lockState) {
	own := s.attempts[op.attempt]
	possible := (!own.taken || own.waived) && !own.closed
	switch {
	case op.out == outLost:
		return !possible, s
	case !possible:
		return op.out == outUnknown, s
	}
	return true, s.with(op.attempt, held{paths: own.paths | own.lost})
}

// lockHistory is what the clients did.
type lockHistory struct {
	now func() int64

	mu       sync.Mutex
	ops      []porcupine.Operation
	sessions []*session
	pushes   []push
}

// session is the life of an attempt's session as its client knows it.
type session struct {
	client  int
	attempt string
	began   int64
	alive   int64 // when the last question began that proved it
	gone    int64 // when it was known to be gone; never
}

// push is a time in which an attempt may push: from the start of a question that proved its session, until the
// paths it has then can be another's, or it gave some up.
type push struct {
	attempt  string
	paths    mask
	from, to int64
}

func newLockHistory(now func() int64) *lockHistory { return &lockHistory{now: now} }

func (h *lockHistory) add(client int, op lockOp, call int64) {
	ret := h.now()
	if op.out == outUnknown {
		ret = never
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: op, Call: call, Return: ret})
}

// operations are those of the clients, and the end of each session: at some moment after it was last proven. What is
// left open is bounded by what is known later, for each operation that may happen at any time doubles the work of the
// checker: a lock or unlock does nothing any more once the session is gone by which it was asked for, and a re-claim or
// the end of a claim does nothing once the claim was read by a re-claim after it.
func (h *lockHistory) operations() (ops []porcupine.Operation) {
	for _, o := range h.ops {
		op := o.Input.(lockOp)
		if o.Return == never {
			switch op.kind {
			case opRegain:
				o.Return = h.settled(op.attempt, o.Call)
			case opClose:
				if o.Return = h.settled(op.attempt, o.Call); o.Return == never {
					continue // nothing rests on it
				}
			default:
				o.Return = h.sessionEnd(op.attempt, o.Call)
			}
		}
		ops = append(ops, o)
	}
	for _, s := range h.sessions {
		ops = append(ops, porcupine.Operation{ClientId: s.client, Input: lockOp{kind: opExpire, attempt: s.attempt}, Call: s.alive, Return: s.gone})
	}
	return ops
}

// settled returns when the first re-claim of an attempt after a call ended whose outcome is known.
func (h *lockHistory) settled(attempt string, call int64) int64 {
	end := int64(never)
	for _, o := range h.ops {
		if op := o.Input.(lockOp); op.kind == opRegain && op.attempt == attempt && op.out != outUnknown && o.Call > call {
			end = min(end, o.Return)
		}
	}
	return end
}

// sessionEnd returns when the session was known to be gone that an attempt had at a call.
func (h *lockHistory) sessionEnd(attempt string, call int64) int64 {
	for _, s := range h.sessions {
		if s.attempt == attempt && s.began <= call && s.gone >= call {
			return s.gone
		}
	}
	return never
}

func (h *lockHistory) tally() (t tally) {
	t.lockOps = len(h.ops)
	for _, o := range h.ops {
		switch op := o.Input.(lockOp); {
		case op.out == outUnknown:
			t.unknown++
		case op.kind == opLock && op.out == outDone:
			t.granted++
		case op.kind == opLock && op.out == outRefused:
			t.refused++
		case op.kind == opRegain && op.out == outDone:
			t.regained++
		case op.kind == opRegain && op.out == outLost:
			t.unregained++
		}
	}
	for _, s := range h.sessions {
		if s.gone != never {
			t.lost++
		}
	}
	return t
}

// brokenPushes returns the grants that certainly fell into a time in which another attempt could still push under
// overlapping paths.
func (h *lockHistory) brokenPushes() (violations []string) {
	for _, o := range h.ops {
		op := o.Input.(lockOp)
		if op.kind != opLock || op.out != outDone {
			continue
		}
		for _, p := range h.pushes {
			if p.attempt != op.attempt && p.paths&op.paths.each(&overlaps) != 0 && p.from < o.Call && o.Return < p.to {
				violations = append(violations, fmt.Sprintf("%s was granted %v from %d to %d, while %s could push under %v from %d to %d",
					op.attempt, op.paths.texts(), o.Call, o.Return, p.attempt, p.paths.texts(), p.from, p.to))
			}
		}
	}
	return violations
}

// lockClient is one client; it has an attempt at a time.
type lockClient struct {
	*run
	n        int
	random   *rand.Rand
	client   *consul.Client
	attempt  *consul.Attempt
	session  *session
	held     mask // what it knows to have
	attempts int
	beaten   time.Time // start of the last heartbeat
}

func newLockClient(r *run, n int) *lockClient {
	return &lockClient{run: r, n: n, random: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(n)))}
}

func (c *lockClient) work() {
	for !c.over() {
		if c.attempt == nil && !c.claim() {
			continue
		}
		if time.Since(c.beaten) > linearBeat && !c.beat() {
			continue
		}
		switch dice := c.random.IntN(200); {
		case dice < 90:
			c.lock()
		case dice < 150:
			c.unlock()
		case dice < 192:
			c.confirm()
		case dice < 195:
			c.sleep()
		case dice < 196:
			c.close()
		default:
			c.lose()
		}
		_ = wait.For(c.t.Context(), time.Duration(c.random.IntN(30))*time.Millisecond)
	}
}

// claim claims an attempt of an item of its own, at one of the servers.
func (c *lockClient) claim() bool {
	c.client = c.open(c.random.IntN(len(c.cluster.Servers)))
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*opTimeout)
	defer cancel()
	began := c.now()
	a, err := c.client.ClaimAttempt(ctx, envelope(linearTTL), firstAllocation)
	if err != nil {
		return false
	}
	c.left <- func() {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		_ = a.Release(ctx) // most are gone
	}
	c.attempts++
	c.attempt, c.held, c.beaten = a, 0, time.Now()
	c.enter(string(a.Claim().Attempt), began)
	return true
}

// enter takes note of a new session, which lives since began at the earliest.
func (c *lockClient) enter(attempt string, began int64) {
	c.session = &session{client: c.n, attempt: attempt, began: began, alive: began, gone: never}
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	c.locks.sessions = append(c.locks.sessions, c.session)
}

// call makes one call of the attempt, and returns when it began.
func (c *lockClient) call(do func(ctx context.Context) error) (began int64, err error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), opTimeout)
	defer cancel()
	began = c.now()
	return began, do(ctx)
}

// outcome takes note of what a call tells about the session. It is not ok for a call that certainly did nothing.
func (c *lockClient) outcome(err error) (out int, ok bool) {
	var locked *work.LockedError
	switch {
	case err == nil:
		return outDone, true
	case errors.Is(err, work.ErrUnknownOutcome):
		return outUnknown, true
	case errors.As(err, &locked):
		return outRefused, true
	case errors.Is(err, work.ErrNotFound):
		return outNotHeld, true
	case errors.Is(err, work.ErrSessionLost):
		return outGone, true
	case !errors.Is(err, work.ErrUnavailable):
		c.t.Error(err)
	}
	return 0, false
}

func (c *lockClient) lock() {
	paths := mask(1 << c.random.IntN(len(universe)))
	for c.random.IntN(3) == 0 {
		paths |= 1 << c.random.IntN(len(universe))
	}
	if c.random.IntN(4) > 0 {
		paths &^= wide // of which one is enough to keep all others waiting
	}
	if paths == 0 {
		paths = 1 << (len(universe) - 1 - c.random.IntN(2))
	}
	patience := time.Duration(c.random.IntN(3)) * 100 * time.Millisecond
	began, err := c.call(func(ctx context.Context) error {
		_, err := c.attempt.Lock(ctx, paths.set(), patience, nil)
		return err
	})
	op := lockOp{kind: opLock, attempt: c.session.attempt, paths: paths}
	var ok bool
	if op.out, ok = c.outcome(err); !ok {
		return
	}
	var locked *work.LockedError
	if errors.As(err, &locked) {
		op.holder, op.lost = string(locked.Holder.Attempt), locked.Holder.Lost
	}
	gone := op.out == outGone
	if gone {
		op.out = outUnknown // an earlier try of it may have been granted before the session went
	}
	c.locks.add(c.n, op, began)
	switch {
	case op.out == outDone:
		c.held |= paths
		c.session.alive = began
	case gone:
		c.session.gone = c.now()
		c.attempt = nil
	case op.out == outUnknown:
		c.leave()
	}
}

func (c *lockClient) unlock() {
	op := lockOp{kind: opUnlock, attempt: c.session.attempt, paths: 1}
	c.endPush()
	do := c.attempt.UnlockAll
	if c.held != 0 && c.random.IntN(2) == 0 {
		op.paths = 1 << c.random.IntN(len(universe))
		do = func(ctx context.Context) error { return c.attempt.Unlock(ctx, op.paths.set()) }
	}
	began, err := c.call(do)
	var ok bool
	if op.out, ok = c.outcome(err); !ok {
		return
	}
	c.locks.add(c.n, op, began)
	c.held &^= op.paths.each(&covers)
	switch op.out {
	case outGone:
		c.fall()
	case outUnknown:
		c.leave()
	}
}

func (c *lockClient) confirm() {
	began, err := c.call(c.attempt.Confirm)
	op := lockOp{kind: opConfirm, attempt: c.session.attempt}
	var ok bool
	if op.out, ok = c.outcome(err); !ok {
		return
	}
	c.locks.add(c.n, op, began)
	if op.out == outGone {
		c.fall()
		return
	}
	c.session.alive = began
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	c.locks.pushes = append(c.locks.pushes, push{attempt: c.session.attempt, paths: c.held, from: began, to: began + linearTrust.Nanoseconds()})
}

// beat passes a heartbeat on. It returns false when the session is gone.
func (c *lockClient) beat() bool {
	c.beaten = time.Now()
	began, err := c.call(func(ctx context.Context) error { return c.attempt.Beat(ctx, "", false) })
	out, ok := c.outcome(err)
	if ok && out == outDone {
		c.session.alive = began
	}
	if ok && out == outGone {
		c.fall()
		return false
	}
	return true
}

// sleep stands still for longer than the TTL, as a worker that is stopped.
func (c *lockClient) sleep() {
	_ = wait.For(c.t.Context(), linearTTL+time.Duration(c.random.IntN(1500))*time.Millisecond)
}

// close has the attempt's claim closed by another, as the leader does when it ends an attempt, and then its session.
func (c *lockClient) close() {
	other := c.open(c.random.IntN(len(c.cluster.Servers)))
	began, err := c.call(func(ctx context.Context) error { return other.CloseClaim(ctx, c.attempt.Claim().Attempt) })
	op := lockOp{kind: opClose, attempt: c.session.attempt}
	switch {
	case err == nil:
		c.locks.add(c.n, op, began)
	case errors.Is(err, work.ErrUnknownOutcome):
		op.out = outUnknown
		c.locks.add(c.n, op, began)
	}
	c.lose()
}

// endPush has the client push no more, because it gives something up.
func (c *lockClient) endPush() {
	now := c.now()
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	for i := range c.locks.pushes {
		if p := &c.locks.pushes[i]; p.attempt == c.session.attempt {
			p.to = min(p.to, now)
		}
	}
}

// lose has the session ended by somebody else, and mostly tries to take the attempt back.
func (c *lockClient) lose() {
	if c.endSession() {
		c.fall()
	}
}

// leave has the session ended, and does not come back: where it is not known what the attempt holds, it is not known
// either whether it may be taken back.
func (c *lockClient) leave() {
	if c.endSession() {
		c.session.gone = c.now()
		c.attempt = nil
	}
}

// endSession has another client end the attempt's session, and another one if that fails. It returns false, and
// leaves the attempt, when the run is over.
func (c *lockClient) endSession() bool {
	for !c.over() {
		other := c.open(c.random.IntN(len(c.cluster.Servers)))
		_, err := c.call(func(ctx context.Context) error {
			return other.BreakLock(ctx, work.Lock{Attempt: c.attempt.Claim().Attempt, Session: c.attempt.Claim().Session})
		})
		if err == nil {
			return true
		}
		_ = wait.For(c.t.Context(), 50*time.Millisecond)
	}
	c.attempt = nil
	return false
}

// fall takes note of a session that is gone. The client tries to take its attempt back, at once or after a while, or leaves it.
func (c *lockClient) fall() {
	c.session.gone = c.now()
	if c.random.IntN(5) == 0 {
		c.attempt = nil
		return
	}
	if c.random.IntN(4) == 0 { // others may take what it had
		_ = wait.For(c.t.Context(), time.Duration(c.random.Int64N(int64(linearDelay*3/2))))
	}
	c.regain()
}

// regain tries to take the attempt back until that is done, or can never be.
func (c *lockClient) regain() {
	op := lockOp{kind: opRegain, attempt: c.session.attempt}
	for !c.over() {
		began, err := c.call(c.attempt.Regain)
		c.session.gone = min(c.session.gone, c.now()) // where a try before this one may have made it
		switch {
		case err == nil:
			op.out = outDone
			c.locks.add(c.n, op, began)
			c.enter(op.attempt, began)
			c.beaten = time.Now()
			return
		case errors.Is(err, work.ErrAttemptLost):
			op.out = outLost
			c.locks.add(c.n, op, began)
			c.attempt = nil
			return
		case errors.Is(err, work.ErrUnknownOutcome):
			op.out = outUnknown
			c.locks.add(c.n, op, began)
			c.enter(op.attempt, began) // if it was done, its session may end before the next try
		case !errors.Is(err, work.ErrUnavailable):
			c.t.Error(err)
		}
		_ = wait.For(c.t.Context(), 100*time.Millisecond)
	}
	c.attempt = nil
}
