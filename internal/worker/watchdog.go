package worker

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// loopBound is how long a turn of one of the worker's own loops may take. The
// longest of them waits for one call to Consul.
const loopBound = time.Minute

// watchdog knows whether the worker's own loops make progress. The worker's heart
// must not beat for a worker that does nothing any more.
type watchdog struct {
	mu    sync.Mutex
	loops []*loop // guarded by mu
}

// loop is a loop under watch.
type loop struct {
	dog     *watchdog
	name    string
	turned  time.Time // guarded by dog.mu
	outside bool      // waits for another process, which has limits of its own; guarded by dog.mu
}

// watch puts a loop under watch until it ends.
func (d *watchdog) watch(name string) *loop {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := &loop{dog: d, name: name, turned: time.Now()}
	d.loops = append(d.loops, l)
	return l
}

// turn says that the loop makes progress.
func (l *loop) turn() {
	l.dog.mu.Lock()
	defer l.dog.mu.Unlock()
	l.turned, l.outside = time.Now(), false
}

// wait calls something that waits for another process.
func (l *loop) wait(call func()) {
	l.dog.mu.Lock()
	l.outside = true
	l.dog.mu.Unlock()
	defer l.turn()
	call()
}

func (l *loop) end() {
	l.dog.mu.Lock()
	defer l.dog.mu.Unlock()
	l.dog.loops = slices.DeleteFunc(l.dog.loops, func(other *loop) bool { return other == l })
}

// stuck says which loop makes no progress, nil if all do.
func (d *watchdog) stuck() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.loops {
		if since := time.Since(l.turned); !l.outside && since > loopBound {
			return fmt.Errorf("the %s loop has not turned for %s", l.name, since.Round(time.Second))
		}
	}
	return nil
}
