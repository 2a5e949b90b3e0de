package consul

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"drover/internal/work"
)

// A server leads only where it knows the format of what is stored (drover/format).
// Data without a number was stored before there was one: the first leader that
// knows better takes it over, then writes the number, each in transactions that
// check its leadership. Every step may be repeated.
//
// Workers that were dispatched before go on meanwhile, and lock by keys of the
// older form, which workers of now don't look at. So that no two hold the same
// paths:
//   - a lock that such a worker holds is copied to its key of now, for the same
//     session: workers of now see it until the session ends;
//   - such a worker is granted nothing more: in each repository that one may work
//     in, the takeover's own session holds everything under the older form, until
//     the last of them must have ended. A worker that is refused ends its attempt as
//     locked, which spends nothing, and the next attempt locks by keys of now.
//
// Both are stored with the older guard moved, so that a grant under way fails.

// CheckFormat returns work.ErrFormat if what is stored was written by a newer
// version, and work.ErrUnavailable.
func (c *Client) CheckFormat(ctx context.Context) error {
	_, err := c.format(ctx)
	return err
}

// format returns the stored format, nil if there is no number yet.
func (c *Client) format(ctx context.Context) (*work.Format, error) {
	f, _, err := get[work.Format](ctx, c, c.Keys.Format())
	switch {
	case errors.Is(err, work.ErrInvalid):
		return nil, fmt.Errorf("%s can't be read: %v: %w", c.Keys.Format(), err, work.ErrFormat)
	case err != nil:
		return nil, err
	case f != nil && f.Number > work.StoredFormat:
		return nil, fmt.Errorf("%s is %d, written by drover %s, and this version knows %d: upgrade this server: %w",
			c.Keys.Format(), f.Number, f.Version, work.StoredFormat, work.ErrFormat)
	}
	return f, nil
}

// takeOver brings what is stored to the format of this version.
func (t *Term) takeOver() error {
	stored, err := t.client.format(t.ctx)
	if err != nil || stored != nil && stored.Number == work.StoredFormat {
		return err
	}
	if err := errors.Join(t.renameKeys(t.client.Keys.Breakers()), t.renameKeys(t.client.Keys.Queues()), t.takeOverLocks()); err != nil {
		return fmt.Errorf("take over what an older version stored: %w", err)
	}
	ops, err := put(t.client.Keys.Format(), work.Format{Number: work.StoredFormat, Version: t.who.Version, At: time.Now().UTC()})
	if err != nil {
		return err
	}
	return t.send(t.ctx, ops)
}

// renameKeys moves each value of a folder to its key of now.
func (t *Term) renameKeys(folder string) error {
	pairs, err := t.client.pairs(t.ctx, folder)
	if err != nil {
		return err
	}
	var ops api.TxnOps
	for _, pair := range pairs {
		name := strings.TrimPrefix(pair.Key, folder)
		key := folder + safeName(strings.ReplaceAll(name, ":", "/"))
		if name == "" || key == pair.Key || isSafe(name) {
			continue
		}
		ops = append(ops, set(key, pair.Value), remove(pair.Key))
	}
	const some = 16
	for part := range slices.Chunk(ops, some) {
		if err := t.send(t.ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// isSafe reports whether a key's last segment has the form of safeName.
func isSafe(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.,=&", r))
	}) && !strings.Contains(name, "..")
}

func (c *Client) pairs(ctx context.Context, folder string) (api.KVPairs, error) {
	pairs, _, err := c.repeat.KV().List(folder, consistent(ctx))
	return pairs, classify("list "+folder, false, err)
}

// fenceItem is the item in the name of the lock by which a takeover keeps a folder
// of the older form; it is no item's id.
const fenceItem = "00000000000000000000000000"

// fenceSession names the session that holds these locks. It ends with them alone.
const fenceSession = "drover takeover "

// olderGrace is added to the time by which an attempt that is open at the takeover
// must have ended, for all that comes before and after its own limits.
const olderGrace = 15 * time.Minute

// fence is the value of the takeover's lock: a lock of the whole repository, as a
// worker reads it.
type fence struct {
	work.Lock
	Until time.Time `json:"until"`
}

// olderLocks is what is stored in one repository's folder of the older form.
type olderLocks struct {
	folder string
	guard  uint64 // index, 0 if there is none
	locks  api.KVPairs
}

func (t *Term) takeOverLocks() error {
	items, err := t.client.Items(t.ctx)
	if err != nil {
		return err
	}
	folders, until := map[string]bool{}, time.Time{}
	for i := range items {
		if a := items[i].Current(); a == nil || a.State.Terminal() {
			continue
		}
		folders[t.client.Keys.olderFolder(work.RepositoryKey(items[i].Spec.Repository))] = true
		until = later(until, items[i].Spec.Limits)
	}
	pairs, err := t.client.pairs(t.ctx, t.client.Keys.Locks())
	if err != nil {
		return err
	}
	for _, pair := range pairs {
		folder, unsafe := t.client.Keys.unsafeFolder(pair.Key)
		if !unsafe {
			continue
		}
		folders[folder] = folders[folder] || pair.Session != ""
		if pair.Session != "" && until.IsZero() { // of an item that is gone
			until = later(until, work.NewDefaults().Limits)
		}
	}
	session := ""
	if !until.IsZero() {
		if session, err = t.fenceSession(); err != nil {
			return err
		}
	}
	for folder, used := range folders {
		if folder == "" {
			continue
		}
		if err := t.takeOverFolder(folder, used, session, until); err != nil {
			return err
		}
	}
	return nil
}

// later returns the later of a time and of that by which an attempt with such limits must have ended.
func later(t time.Time, limits work.Limits) time.Time {
	if end := time.Now().Add(limits.StartTimeout.Std() + limits.Timeout.Std() + olderGrace); end.After(t) {
		return end
	}
	return t
}

// olderFolder is a repository's folder of the older form, empty where that is the
// same as now's.
func (k Keys) olderFolder(repository string) string {
	if unsafeName(repository) == safeName(repository) {
		return ""
	}
	return k.Locks() + unsafeName(repository) + "/"
}

// unsafeFolder returns the folder of a lock's key, and whether its name has the older form.
func (k Keys) unsafeFolder(key string) (string, bool) {
	name, _, found := strings.Cut(strings.TrimPrefix(key, k.Locks()), "/")
	return k.Locks() + name + "/", found && !isSafe(name)
}

// fenceSession returns the session of the takeover, made if there is none.
func (t *Term) fenceSession() (string, error) {
	name := fenceSession + t.client.Keys.Prefix()
	sessions, _, err := t.client.repeat.Session().List(consistent(t.ctx))
	if err != nil {
		return "", classify("list sessions", false, err)
	}
	for _, s := range sessions {
		if s.Name == name {
			return s.ID, nil
		}
	}
	entry := &api.SessionEntry{Name: name, Behavior: api.SessionBehaviorDelete, LockDelay: time.Millisecond}
	id, _, err := t.client.once.Session().CreateNoChecks(entry, (&api.WriteOptions{}).WithContext(t.ctx))
	return id, classify("create session "+name, true, err)
}

// takeOverFolder copies what is locked in a folder of the older form, and keeps
// the folder from granting more where a worker may ask it; else it is removed.
func (t *Term) takeOverFolder(folder string, used bool, session string, until time.Time) error {
	for {
		there, err := t.olderLocks(folder)
		if err != nil {
			return err
		}
		ops, err := t.takeOverOps(there, used, session, until)
		if err != nil {
			return err
		}
		err = t.send(t.ctx, ops)
		switch {
		case errors.Is(err, work.ErrConflict):
			continue // a worker locked or gave up something meanwhile
		case errors.Is(err, work.ErrInvalid) && used:
			// A Consul that refuses keys of the older form refuses them to workers, too.
			t.client.log.Warn("locks of an older version can't be taken over", "folder", folder, "error", err)
			return nil
		}
		return err
	}
}

func (t *Term) olderLocks(folder string) (olderLocks, error) {
	there := olderLocks{folder: folder}
	pairs, err := t.client.pairs(t.ctx, t.client.Keys.Locks()) // a prefix that every Consul takes
	for _, pair := range pairs {
		name, in := strings.CutPrefix(pair.Key, folder)
		switch {
		case !in:
		case name == "guard":
			there.guard = pair.ModifyIndex
		case !strings.HasPrefix(name, fenceItem):
			there.locks = append(there.locks, pair)
		}
	}
	return there, err
}

func (t *Term) takeOverOps(there olderLocks, used bool, session string, until time.Time) (ops api.TxnOps, err error) {
	for _, pair := range there.locks {
		repository, attempt, ok := t.client.Keys.parseLock(pair.Key)
		if !ok {
			continue
		}
		if lock, err := work.DecodeStored[work.Lock](pair.Value); err == nil && lock.Repository != "" {
			repository = lock.Repository
		}
		copied := set(t.client.Keys.Lock(repository, attempt), pair.Value)
		if pair.Session != "" {
			copied.KV.Verb, copied.KV.Session = api.KVLock, pair.Session
		}
		same := &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: pair.Key, Value: pair.Value, Index: pair.ModifyIndex}}
		ops = append(ops, same, copied)
	}
	if !used {
		return append(ops, removeTree(there.folder)), nil
	}
	moved := &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: there.folder + "guard", Value: []byte(rand.Text()), Index: there.guard}}
	ops = append(ops, moved)
	value, err := work.EncodeStored(fence{Until: until, Lock: work.Lock{
		Item: fenceItem, Session: session, Paths: []work.HeldPath{{Path: work.WholeRepository, Since: time.Now().UTC()}},
	}})
	keep := &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVLock, Key: there.folder + fenceItem + ".1", Value: value, Session: session}}
	return append(ops, keep), err
}

// isFence reports whether a lock is the takeover's own.
func isFence(s storedLock) bool { return s.Item == fenceItem }

// endTakeover removes the folders of the older form, and the session that keeps
// them, once no worker can look at them any more.
func (c *Client) endTakeover(ctx context.Context, pairs api.KVPairs) error {
	folders, session := map[string]bool{}, ""
	for _, pair := range pairs {
		folder, unsafe := c.Keys.unsafeFolder(pair.Key)
		if !unsafe || !strings.HasPrefix(strings.TrimPrefix(pair.Key, folder), fenceItem) {
			continue
		}
		f, err := work.DecodeStored[fence](pair.Value)
		if err == nil && time.Now().Before(f.Until) {
			return nil
		}
		folders[folder], session = true, pair.Session
	}
	for folder := range folders {
		if _, err := c.transact(ctx, "remove "+folder, removeTree(folder).KV); err != nil {
			return err
		}
	}
	if session == "" {
		return nil
	}
	_, err := c.repeat.Session().Destroy(session, (&api.WriteOptions{}).WithContext(ctx))
	return classify("destroy the session of the takeover", true, err)
}
