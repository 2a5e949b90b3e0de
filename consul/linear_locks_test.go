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

// linearDelay stands for work.LockDelay: short, so that lost locks change hands within a run.
const linearDelay = 400 * time.Millisecond

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
)

// Outcomes of lockOp.
const (
	outDone = iota
	outRefused
	outNotHeld
	outGone    // the session
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
		fmt.Fprintf(&b, "%s:%d:%d:%t ", name, h.paths, h.lost, h.expired)
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
			h.lost = 0
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
		own.lost, own.paths, own.expired = own.paths, 0, true
		return true, s.with(op.attempt, own)
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
	case own.expired:
		return true, s // there is nothing to give up any more
	case op.out == outNotHeld:
		return own.paths&op.paths.each(&covers) == 0, s
	}
	own.paths &^= op.paths.each(&covers)
	return true, s.with(op.attempt, own)
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

// operations are those of the clients, and the end of each session: at some moment after it was last proven. What
// nobody knows the end of does nothing any more once the session is gone.
func (h *lockHistory) operations() []porcupine.Operation {
	ops := slices.Clone(h.ops)
	gone := map[string]int64{}
	for _, s := range h.sessions {
		gone[s.attempt] = s.gone
	}
	for i, o := range ops {
		if o.Return == never {
			ops[i].Return = max(gone[o.Input.(lockOp).attempt], o.Call)
		}
	}
	for _, s := range h.sessions {
		ops = append(ops, porcupine.Operation{ClientId: s.client, Input: lockOp{kind: opExpire, attempt: s.attempt}, Call: s.alive, Return: s.gone})
	}
	return ops
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
}

func newLockClient(r *run, n int) *lockClient {
	return &lockClient{run: r, n: n, random: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(n)))}
}

func (c *lockClient) work() {
	for !c.over() {
		if c.attempt == nil && !c.claim() {
			continue
		}
		switch dice := c.random.IntN(100); {
		case dice < 45:
			c.lock()
		case dice < 75:
			c.unlock()
		case dice < 95:
			c.confirm()
		default:
			c.lose()
		}
		_ = wait.For(c.t.Context(), time.Duration(c.random.IntN(30))*time.Millisecond)
	}
}

// claim claims an attempt of an item of its own, at one of the servers.
func (c *lockClient) claim() bool {
	c.client = c.open(c.random.IntN(len(c.cluster.Servers)))
	c.client.SetLockDelay(linearDelay)
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*opTimeout)
	defer cancel()
	began := c.now()
	a, err := c.client.ClaimAttempt(ctx, envelope(time.Minute), firstAllocation)
	if err != nil {
		return false
	}
	c.left <- func() {
		ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
		defer cancel()
		_ = a.Release(ctx) // most are gone
	}
	c.attempts++
	c.attempt, c.held = a, 0
	c.session = &session{client: c.n, attempt: string(a.Claim().Attempt), alive: began, gone: never}
	c.locks.mu.Lock()
	c.locks.sessions = append(c.locks.sessions, c.session)
	c.locks.mu.Unlock()
	return true
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
		c.abandon(true)
	case op.out == outUnknown:
		c.lose()
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
		c.abandon(true)
	case outUnknown:
		c.lose()
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
		c.abandon(true)
		return
	}
	c.session.alive = began
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	c.locks.pushes = append(c.locks.pushes, push{attempt: c.session.attempt, paths: c.held, from: began, to: began + linearDelay.Nanoseconds()})
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

// lose has the session ended by somebody else.
func (c *lockClient) lose() {
	other := c.open(c.random.IntN(len(c.cluster.Servers)))
	_, err := c.call(func(ctx context.Context) error {
		return other.BreakLock(ctx, work.Lock{Attempt: c.attempt.Claim().Attempt, Session: c.attempt.Claim().Session})
	})
	c.abandon(err == nil)
}

// abandon leaves an attempt whose session is gone, or of which not enough is known to go on.
func (c *lockClient) abandon(gone bool) {
	if gone {
		c.session.gone = c.now()
	}
	c.attempt = nil
}
