package consul

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/wait"
	"drover/internal/work"
)

// Pauses of a request for locks.
const (
	// contentionPatience is how long a request goes on that only ever met others
	// which were granted at the same moment, whatever it may wait.
	contentionPatience = 10 * time.Second
	contentionPause    = 20 * time.Millisecond // at most, doubled with each meeting
	maxContentionPause = time.Second
	// lockRound is how long a request waits for a change before it says that it still waits.
	lockRound = 5 * time.Second
	// wakeSpread is over how long the requests that one change wakes are spread.
	wakeSpread = 100 * time.Millisecond
)

// errGuardMoved says that another request in the repository was granted meanwhile.
var errGuardMoved = fmt.Errorf("another lock was granted at the same moment: %w", work.ErrUnavailable)

// repositoryLocks is what is locked in one repository, all as of one moment.
type repositoryLocks struct {
	guard uint64 // index of the guard key, 0 if it is not there
	index uint64 // from which to wait for a change
	locks []storedLock
}

// storedLock is a lock as it is stored.
type storedLock struct {
	work.Lock
	key   string
	index uint64
}

// Lock takes paths of the attempt's repository, all or none, for as long as the
// attempt's session lives. Paths that it holds already it keeps, and holds on to
// while it waits: so the wait has a bound, and two that wait for each other are
// both refused in the end. waiting, if not nil, is called with why at every look
// that did not succeed, at least every few seconds.
//
// It returns a *work.LockedError when another attempt has one of the paths still,
// work.ErrSessionLost, work.ErrInvalid for more paths than an attempt may hold,
// work.ErrUnavailable, and work.ErrUnknownOutcome, after which the paths may be
// held.
func (a *Attempt) Lock(ctx context.Context, paths work.PathSet, patience time.Duration, waiting func(error)) (work.Lock, error) {
	began, unknown := time.Now(), false
	for try := 0; ; try++ {
		lock, index, err := a.tryLock(ctx, paths)
		if err == nil {
			return lock, nil
		}
		unknown = unknown || errors.Is(err, work.ErrUnknownOutcome)
		bound, pause := patience, contention(try)
		switch {
		case errors.Is(err, errGuardMoved):
			bound = max(patience, contentionPatience)
		case errors.Is(err, work.ErrLocked):
			pause = 0
		case !errors.Is(err, work.ErrUnavailable) && !errors.Is(err, work.ErrUnknownOutcome):
			return work.Lock{}, err
		}
		left := bound - time.Since(began)
		if left <= 0 || ctx.Err() != nil {
			return work.Lock{}, a.refused(err, unknown)
		}
		if waiting != nil {
			waiting(err)
		}
		if pause == 0 {
			a.client.awaitChange(ctx, a.client.Keys.RepositoryLocks(a.repository), index, min(left, lockRound, max(a.client.lost.soonest(time.Now()), time.Millisecond)))
			pause = mathrand.N(wakeSpread)
		}
		if stopped := wait.For(ctx, min(pause, left)); stopped != nil {
			return work.Lock{}, a.refused(fmt.Errorf("%w: %w", err, stopped), unknown)
		}
	}
}

// contention is a random pause, the longer the more often others were faster.
func contention(try int) time.Duration {
	return mathrand.N(min(contentionPause<<min(try, 10), maxContentionPause)) + time.Millisecond
}

// refused is the error of a request that ends without success. A transaction of
// it whose answer was lost may still arrive.
func (a *Attempt) refused(err error, unknown bool) error {
	if unknown && !errors.Is(err, work.ErrUnknownOutcome) {
		return fmt.Errorf("%w: %w", err, work.ErrUnknownOutcome)
	}
	return err
}

// tryLock takes the paths if they are free now. The guard is written in the
// same transaction, at the index it had when the locks were read: had any other
// been granted since, by whoever, the transaction fails.
func (a *Attempt) tryLock(ctx context.Context, paths work.PathSet) (work.Lock, uint64, error) {
	a.locking.Lock()
	defer a.locking.Unlock()
	there, err := a.client.repositoryLocks(ctx, a.repository)
	if err != nil {
		return work.Lock{}, 0, err
	}
	mine := work.Lock{Repository: a.repository, Item: a.id.Item(), Attempt: a.id, Session: a.session()}
	var over []storedLock
	for _, held := range there.locks {
		if held.Session == mine.Session {
			mine = held.Lock
			continue
		}
		refusal := held.Refusal(paths)
		if refusal == nil {
			continue
		}
		if !held.Lost || !a.client.lost.isOver(held, time.Now()) {
			return work.Lock{}, there.index, refusal
		}
		over = append(over, held)
	}
	if mine.Lost {
		return work.Lock{}, there.index, a.gone("lock " + paths.String())
	}
	a.holds = a.holds || len(mine.Paths) > 0
	if mine.PathSet().Covers(paths) {
		return mine, there.index, nil
	}
	if len(over) > 0 {
		if err := a.client.removeLost(ctx, over); err != nil {
			return work.Lock{}, there.index, err
		}
	}
	if mine, err = withPaths(mine, paths); err != nil {
		return work.Lock{}, there.index, err
	}
	return mine, there.index, a.grant(ctx, there.guard, mine)
}

// withPaths adds paths to a lock.
func withPaths(lock work.Lock, paths work.PathSet) (work.Lock, error) {
	held, now := lock.PathSet(), time.Now().UTC()
	for _, path := range paths.Strings() {
		if one, err := work.NewPathSet(path); held.Empty() || err != nil || !held.Covers(one) {
			lock.Paths = append(lock.Paths, work.HeldPath{Path: path, Since: now})
		}
	}
	if len(lock.Paths) > work.MaxHeldPaths {
		return lock, fmt.Errorf("%d paths, an attempt may hold %d: name a directory that holds them: %w", len(lock.Paths), work.MaxHeldPaths, work.ErrInvalid)
	}
	return lock, nil
}

// grant stores the lock, if the guard is where it was.
func (a *Attempt) grant(ctx context.Context, guard uint64, lock work.Lock) error {
	value, err := work.EncodeStored(lock)
	if err != nil {
		return fmt.Errorf("encode lock: %w", err)
	}
	what := "lock " + lock.PathSet().String()
	errs, err := a.client.transact(ctx, what,
		&api.KVTxnOp{Verb: api.KVCAS, Key: a.client.Keys.LockGuard(a.repository), Value: []byte(rand.Text()), Index: guard},
		&api.KVTxnOp{Verb: api.KVLock, Key: a.lockKey(), Value: value, Session: lock.Session},
	)
	switch {
	case err != nil:
		return err
	case len(errs) == 0:
		a.holds = true
		return nil
	case errs[0].OpIndex == 0:
		return errGuardMoved
	}
	return a.lockRefusal(what, errs)
}

// lockRefusal translates why Consul does not lock the attempt's own key. Under
// lock delay it was the session's a moment ago.
func (a *Attempt) lockRefusal(what string, errs api.TxnErrors) error {
	for _, e := range errs {
		if !strings.Contains(e.What, "invalid session") && !strings.Contains(e.What, "due to lock delay") {
			return fmt.Errorf("%s: Consul refused it: %s: %w", what, e.What, work.ErrInvalid)
		}
	}
	return a.gone(what)
}

func (a *Attempt) gone(what string) error {
	return fmt.Errorf("%s: session %s of attempt %s: %w", what, a.session(), a.id, work.ErrSessionLost)
}

func (a *Attempt) lockKey() string { return a.client.Keys.Lock(a.repository, a.id) }

// Unlock gives up what the attempt holds below the paths, at once: the caller
// knows that no push made under them is under way any more. Of a glob it is given
// up as it was asked for.
//
// It returns work.ErrNotFound when it holds none of them, work.ErrSessionLost,
// work.ErrUnavailable, and work.ErrUnknownOutcome, after which it may be repeated.
func (a *Attempt) Unlock(ctx context.Context, paths work.PathSet) error {
	a.locking.Lock()
	defer a.locking.Unlock()
	lock, _, err := get[work.Lock](ctx, a.client, a.lockKey())
	if err != nil {
		return err
	}
	if lock == nil {
		return fmt.Errorf("unlock %s: nothing is held: %w", paths, work.ErrNotFound)
	}
	kept := make([]work.HeldPath, 0, len(lock.Paths))
	for _, held := range lock.Paths {
		if one, err := work.NewPathSet(held.Path); err != nil || !paths.Covers(one) {
			kept = append(kept, held)
		}
	}
	if len(kept) == len(lock.Paths) {
		return fmt.Errorf("unlock %s: held is %s: %w", paths, lock.PathSet(), work.ErrNotFound)
	}
	if len(kept) == 0 {
		return a.drop(ctx)
	}
	lock.Paths = kept
	value, err := work.EncodeStored(lock)
	if err != nil {
		return fmt.Errorf("encode lock: %w", err)
	}
	what := "unlock " + paths.String()
	errs, err := a.client.transact(ctx, what, &api.KVTxnOp{Verb: api.KVLock, Key: a.lockKey(), Value: value, Session: a.session()})
	if err != nil || len(errs) == 0 {
		return err
	}
	return a.lockRefusal(what, errs)
}

// UnlockAll gives up all that the attempt holds, as Unlock does. Doing it twice
// changes nothing.
// It returns work.ErrUnavailable and work.ErrUnknownOutcome.
func (a *Attempt) UnlockAll(ctx context.Context) error {
	a.locking.Lock()
	defer a.locking.Unlock()
	return a.drop(ctx)
}

// drop unlocks before it deletes, so that it deletes nothing which the session
// does not hold.
func (a *Attempt) drop(ctx context.Context) error {
	a.holds = false // from here on nothing rests on the paths, whatever becomes of the request
	_, err := a.client.transact(ctx, "unlock all",
		&api.KVTxnOp{Verb: api.KVUnlock, Key: a.lockKey(), Session: a.session()},
		&api.KVTxnOp{Verb: api.KVDelete, Key: a.lockKey()},
	)
	return err // refused: it holds nothing
}

// Locks returns what is held in the attempt's repository, by whomever.
// It returns work.ErrUnavailable.
func (a *Attempt) Locks(ctx context.Context) ([]work.Lock, error) {
	there, err := a.client.repositoryLocks(ctx, a.repository)
	return bare(there.locks), err
}

func bare(stored []storedLock) []work.Lock {
	locks := make([]work.Lock, len(stored))
	for i, s := range stored {
		locks[i] = s.Lock
	}
	return locks
}

// Confirm proves that the session lived at some moment after the call began: a
// majority of Consul's servers has to answer for it.
// It returns work.ErrSessionLost when the session is gone, and work.ErrUnavailable.
func (a *Attempt) Confirm(ctx context.Context) error {
	lives, err := a.client.sessionLives(ctx, a.session())
	if err == nil && !lives {
		err = a.gone("confirm")
	}
	return err
}

// Locks waits until there are other locks than at index, at most a minute, and
// returns those of all repositories, with the index. Index 0 answers at once.
// It returns work.ErrUnavailable.
func (c *Client) Locks(ctx context.Context, index uint64) ([]work.Lock, uint64, error) {
	opts := (&api.QueryOptions{WaitIndex: index, WaitTime: blockingWait}).WithContext(ctx)
	pairs, meta, err := c.once.KV().List(c.Keys.Locks(), opts)
	if err != nil {
		return nil, 0, classify("watch locks", false, err)
	}
	return bare(once(c.readLocks(c.Keys.Locks(), pairs))), nextIndex(index, meta.LastIndex), nil
}

// once leaves out the takeover's own locks, and the copy of a lock that is there
// under both forms of its key.
func once(locks []storedLock) (left []storedLock) {
	seen := map[work.AttemptID]bool{}
	for _, s := range locks {
		if isFence(s) || seen[s.Attempt] {
			continue
		}
		seen[s.Attempt] = true
		left = append(left, s)
	}
	return left
}

// FreeLost removes the locks of ended attempts whose holder's session this client
// first saw to be gone work.LockDelay ago: to be called every few seconds. The
// worker of an attempt that has not ended may come back for its paths, until another
// attempt asks for them. Doing it twice changes nothing.
// It returns work.ErrUnavailable and work.ErrUnknownOutcome.
func (c *Client) FreeLost(ctx context.Context) error {
	pairs, _, err := c.repeat.KV().List(c.Keys.Locks(), (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return classify("list locks", false, err)
	}
	var over []storedLock
	for _, s := range c.readLocks(c.Keys.Locks(), pairs) {
		if !s.Lost || !c.lost.isOver(s, time.Now()) {
			continue
		}
		claim, index, err := c.Claim(ctx, s.Attempt)
		if err != nil {
			return err
		}
		if claim.Ended || index == 0 { // closed claims stay closed
			over = append(over, s)
		}
	}
	return errors.Join(c.removeLost(ctx, over), c.endTakeover(ctx, pairs))
}

// BreakLock ends the session of a lock's holder. The holder notices when it next
// asks Consul, which it does before it pushes; the paths are free after
// work.LockDelay. Doing it twice changes nothing.
// It returns work.ErrUnavailable and work.ErrUnknownOutcome.
func (c *Client) BreakLock(ctx context.Context, lock work.Lock) error {
	return c.endSession(ctx, lock.Session, lock.Attempt)
}

// repositoryLocks reads what is locked in a repository. What is granted does not
// rest on its being the latest, for the guard's index comes with it; a refusal does.
func (c *Client) repositoryLocks(ctx context.Context, repository string) (repositoryLocks, error) {
	folder := c.Keys.RepositoryLocks(repository)
	pairs, meta, err := c.repeat.KV().List(folder, consistent(ctx))
	if err != nil {
		return repositoryLocks{}, classify("read locks of "+repository, false, err)
	}
	there := repositoryLocks{index: meta.LastIndex, locks: c.readLocks(folder, pairs)}
	for _, pair := range pairs {
		if pair.Key == c.Keys.LockGuard(repository) {
			there.guard = pair.ModifyIndex
		}
	}
	return there, nil
}

// readLocks decodes the locks among all the pairs of a folder. One that can't be
// read keeps its whole repository.
func (c *Client) readLocks(folder string, pairs api.KVPairs) []storedLock {
	var locks []storedLock
	for _, pair := range pairs {
		repository, attempt, ok := c.Keys.parseLock(pair.Key)
		if !ok {
			continue
		}
		s := storedLock{key: pair.Key, index: pair.ModifyIndex}
		if err := json.Unmarshal(pair.Value, &s.Lock); err != nil || len(s.Paths) == 0 {
			c.log.Error("lock can't be read and keeps the whole repository", "key", pair.Key, "error", err)
			s.Lock = work.Lock{Paths: []work.HeldPath{{Path: work.WholeRepository}}}
		}
		s.Repository, s.Item, s.Attempt = cmp.Or(s.Repository, repository), attempt.Item(), attempt
		if s.Lost = pair.Session == ""; !s.Lost {
			s.Session = pair.Session
		}
		locks = append(locks, s)
	}
	c.lost.look(folder, locks, time.Now())
	return locks
}

// removeLost removes locks whose holder's session is gone. One that is not as it
// was read is left: somebody else has removed it.
func (c *Client) removeLost(ctx context.Context, locks []storedLock) error {
	for _, s := range locks {
		about := work.Item{ID: s.Attempt.Item(), Spec: work.Spec{Repository: s.Repository}}
		log := c.log.With(about.LogFields(&work.Attempt{Number: s.Attempt.Number()})...)
		log.Info("lock of a lost session is removed", "paths", s.PathSet())
		op := &api.KVTxnOp{Verb: api.KVDeleteCAS, Key: s.key, Index: s.index}
		if _, err := c.transact(ctx, "remove lock of attempt "+string(s.Attempt), op); err != nil {
			return err
		}
	}
	return nil
}

// transact runs a transaction once. What Consul refused comes as errors of its
// operations, not as an error.
// It returns work.ErrInvalid, work.ErrUnavailable and work.ErrUnknownOutcome.
func (c *Client) transact(ctx context.Context, what string, ops ...*api.KVTxnOp) (api.TxnErrors, error) {
	ok, answer, _, err := c.once.KV().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, classify(what, true, err)
	}
	if !ok && len(answer.Errors) == 0 {
		return nil, fmt.Errorf("%s: Consul refused it without a reason: %w", what, work.ErrUnavailable)
	}
	return answer.Errors, nil
}

// awaitChange waits until something below a folder changes, at most for a while.
func (c *Client) awaitChange(ctx context.Context, folder string, index uint64, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	opts := (&api.QueryOptions{WaitIndex: index, WaitTime: most}).WithContext(ctx)
	if _, _, err := c.once.KV().Keys(folder, "", opts); err != nil {
		_ = wait.For(ctx, lockPause) // the next look tells what is wrong
	}
}
