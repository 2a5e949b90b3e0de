package consuld

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"
)

const (
	// tombstoneTTL and tombstoneGranularity are Consul's: a deletion is remembered for 15 minutes, and forgotten in steps.
	tombstoneTTL         = 15 * time.Minute
	tombstoneGranularity = 30 * time.Second

	// maxLockDelay caps a session's lock delay.
	maxLockDelay = 60 * time.Second
)

// entry is one KV pair, in Consul's JSON. It is never changed once stored.
type entry struct {
	LockIndex   uint64
	Key         string
	Flags       uint64
	Value       []byte
	Session     string `json:",omitempty"`
	CreateIndex uint64
	ModifyIndex uint64
}

// withoutValue is the entry as a transaction reports a write of it.
func (e *entry) withoutValue() *entry {
	bare := *e
	bare.Value = nil
	return &bare
}

// same tells whether storing e over old would change nothing. Indexes apart from the lock's do not count.
func (e *entry) same(old *entry) bool {
	return old != nil && e.LockIndex == old.LockIndex && e.Flags == old.Flags && e.Session == old.Session &&
		bytes.Equal(e.Value, old.Value)
}

// tombstone remembers the deletion of a key or a tree, so that the index of a prefix does not go back.
type tombstone struct {
	index uint64
	at    time.Time
}

// kvTable is the key-value store.
type kvTable struct {
	entries    map[string]*entry
	keys       []string // of entries, sorted
	held       map[string]map[string]struct{}
	stones     map[string]tombstone
	index      uint64               // of the last change
	lockDelays map[string]time.Time // until when a key may not be locked
}

func newKVTable() kvTable {
	return kvTable{
		entries:    map[string]*entry{},
		held:       map[string]map[string]struct{}{},
		stones:     map[string]tombstone{},
		lockDelays: map[string]time.Time{},
	}
}

// replace sets a key's entry (nil removes it) and keeps the key order and the sessions' holdings in step.
func (t *kvTable) replace(key string, next *entry) {
	old := t.entries[key]
	at, found := slices.BinarySearch(t.keys, key)
	switch {
	case next == nil && found:
		t.keys = slices.Delete(t.keys, at, at+1)
		delete(t.entries, key)
	case next != nil && !found:
		t.keys = slices.Insert(t.keys, at, key)
	}
	if next != nil {
		t.entries[key] = next
	}
	if old != nil && old.Session != "" {
		delete(t.held[old.Session], key)
		if len(t.held[old.Session]) == 0 {
			delete(t.held, old.Session)
		}
	}
	if next != nil && next.Session != "" {
		if t.held[next.Session] == nil {
			t.held[next.Session] = map[string]struct{}{}
		}
		t.held[next.Session][key] = struct{}{}
	}
}

// store is replace as part of a write.
func (t *kvTable) store(w *write, key string, next *entry) {
	old, index := t.entries[key], t.index
	w.undo = append(w.undo, func() {
		t.replace(key, old)
		t.index = index
	})
	t.replace(key, next)
	t.index = w.index
	w.keys = append(w.keys, key)
	w.tables[kvChanged] = true
}

// bury leaves a tombstone.
func (t *kvTable) bury(w *write, key string) {
	old, had := t.stones[key]
	w.undo = append(w.undo, func() {
		if had {
			t.stones[key] = old
		} else {
			delete(t.stones, key)
		}
	})
	t.stones[key] = tombstone{w.index, time.Now()}
}

// under returns the keys with a prefix, in order. The slice is the table's own.
func (t *kvTable) under(prefix string) []string {
	from := sort.SearchStrings(t.keys, prefix)
	count := sort.Search(len(t.keys)-from, func(i int) bool { return !strings.HasPrefix(t.keys[from+i], prefix) })
	return t.keys[from : from+count]
}

// list returns the entries with a prefix and the index of that set.
func (t *kvTable) list(prefix string) ([]*entry, uint64) {
	keys := t.under(prefix)
	entries := make([]*entry, len(keys))
	var index uint64
	for i, key := range keys {
		entries[i] = t.entries[key]
		index = max(index, entries[i].ModifyIndex)
	}
	if prefix == "" {
		return entries, t.index
	}
	for key, stone := range t.stones {
		if strings.HasPrefix(key, prefix) {
			index = max(index, stone.index)
		}
	}
	if index == 0 { // never anything there: the index of the whole table
		index = t.index
	}
	return entries, index
}

// put stores an entry for which the indexes of locking are settled. An entry that is the same as the stored one is not
// a change and keeps its ModifyIndex. It returns the entry as it is now.
func (t *kvTable) put(w *write, e entry) *entry {
	old := t.entries[e.Key]
	e.CreateIndex, e.ModifyIndex = w.index, w.index
	if old != nil {
		e.CreateIndex = old.CreateIndex
	}
	if e.same(old) {
		return old
	}
	t.store(w, e.Key, &e)
	return &e
}

// set writes a value and leaves the holder alone. LockIndex goes to 0: a plain write forgets it, in Consul too.
func (t *kvTable) set(w *write, e entry) *entry {
	e.Session = ""
	if old := t.entries[e.Key]; old != nil {
		e.Session = old.Session
	}
	return t.put(w, e)
}

// cas is set, if the key is still at the entry's ModifyIndex; 0 stands for a key that does not exist.
func (t *kvTable) cas(w *write, e entry) (*entry, bool) {
	var current uint64
	if old := t.entries[e.Key]; old != nil {
		current = old.ModifyIndex
	}
	if current != e.ModifyIndex {
		return nil, false
	}
	return t.set(w, e), true
}

// remove deletes a key, if it exists.
func (t *kvTable) remove(w *write, key string) {
	if t.entries[key] == nil {
		return
	}
	t.bury(w, key)
	t.store(w, key, nil)
}

// removeCAS deletes a key that is still at an index. A key that does not exist counts as deleted.
func (t *kvTable) removeCAS(w *write, key string, index uint64) bool {
	old := t.entries[key]
	if old != nil && old.ModifyIndex != index {
		return false
	}
	t.remove(w, key)
	return true
}

// removeTree deletes every key with a prefix, under one tombstone.
func (t *kvTable) removeTree(w *write, prefix string) {
	keys := slices.Clone(t.under(prefix))
	if len(keys) == 0 {
		return
	}
	if prefix != "" {
		t.bury(w, prefix)
	}
	for _, key := range keys {
		t.store(w, key, nil)
	}
}

// lock writes a value and makes the entry's session the holder. It is refused (false) when another session holds it.
func (s *Server) lock(w *write, e entry) (*entry, bool, error) {
	if e.Session == "" {
		return nil, false, errMissingSession
	}
	if s.sessions[e.Session] == nil {
		return nil, false, fmt.Errorf("invalid session %q", e.Session)
	}
	e.LockIndex = 1
	if old := s.kv.entries[e.Key]; old != nil {
		switch old.Session {
		case e.Session:
			e.LockIndex = old.LockIndex
		case "":
			e.LockIndex = old.LockIndex + 1
		default:
			return nil, false, nil
		}
	}
	return s.kv.put(w, e), true, nil
}

// unlock writes a value and ends the entry's session's hold. It is refused (false) when that session does not hold it.
func (s *Server) unlock(w *write, e entry) (*entry, bool, error) {
	if e.Session == "" {
		return nil, false, errMissingSession
	}
	old := s.kv.entries[e.Key]
	if old == nil || old.Session != e.Session {
		return nil, false, nil
	}
	e.Session, e.LockIndex = "", old.LockIndex
	return s.kv.put(w, e), true, nil
}

// lockDelayed tells whether a key was torn from its holder too recently to be locked.
func (t *kvTable) lockDelayed(key string) bool { return t.lockDelays[key].After(time.Now()) }

// release ends a session's hold on its keys, by its behaviour, and starts their lock delay.
func (t *kvTable) release(w *write, gone *session) {
	until := time.Now().Add(min(gone.LockDelay, maxLockDelay))
	for _, key := range slices.Sorted(maps.Keys(t.held[gone.ID])) {
		if gone.Behavior == behaviorDelete {
			t.remove(w, key)
		} else {
			freed := *t.entries[key]
			freed.Session = ""
			t.put(w, freed)
		}
		if gone.LockDelay > 0 {
			t.lockDelays[key] = until
		}
	}
}

// forgetOld drops tombstones past their time and lock delays that are over.
func (s *Server) forgetOld() {
	now := time.Now()
	maps.DeleteFunc(s.kv.stones, func(_ string, stone tombstone) bool { return now.Sub(stone.at) >= tombstoneTTL })
	maps.DeleteFunc(s.kv.lockDelays, func(_ string, until time.Time) bool { return !until.After(now) })
}
