package consul

import (
	"strings"
	"sync"
	"time"
)

// lostLocks remembers since when this client has seen a lock without its
// holder's session. That is not before the session's end, on whatever clock: so
// the lock delay counted from it is never short, though each client counts anew.
//
// Consul's own lock delay would not do. It is looked at when a request comes in,
// before the session's end that is under way is applied; it is kept in a
// server's memory, and not in its snapshots; and it is that of one key, which says
// nothing about a directory above it.
type lostLocks struct {
	delay time.Duration
	mu    sync.Mutex
	seen  map[string]lostLock // by key
}

type lostLock struct {
	index uint64 // of the key, since the session's end
	at    time.Time
}

func newLostLocks(delay time.Duration) *lostLocks {
	return &lostLocks{delay: delay, seen: map[string]lostLock{}}
}

// look takes note of all the locks there are now below a folder.
func (l *lostLocks) look(folder string, locks []storedLock, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	there := map[string]bool{}
	for _, s := range locks {
		if !s.Lost {
			continue
		}
		there[s.key] = true
		if l.seen[s.key].index != s.index {
			l.seen[s.key] = lostLock{index: s.index, at: now}
		}
	}
	for key := range l.seen {
		if strings.HasPrefix(key, folder) && !there[key] {
			delete(l.seen, key)
		}
	}
}

// isOver reports whether a lost lock's delay has passed.
func (l *lostLocks) isOver(s storedLock, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, ok := l.seen[s.key]
	return ok && seen.index == s.index && now.Sub(seen.at) >= l.delay
}

// soonest is after how long the next delay will have passed, 0 if one has, and the
// whole delay where nothing is lost.
func (l *lostLocks) soonest(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	soonest := l.delay
	for _, lost := range l.seen {
		soonest = min(soonest, max(l.delay-now.Sub(lost.at), 0))
	}
	return soonest
}
