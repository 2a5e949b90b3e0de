package main

import "sync"

// boxes hands the first value for a key to whoever waits for that key, no matter who comes first. The zero value is ready.
type boxes[T any] struct {
	mu    sync.Mutex
	byKey map[string]chan T
}

// of returns the channel on which the key's value arrives.
func (b *boxes[T]) of(key string) chan T {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byKey == nil {
		b.byKey = map[string]chan T{}
	}
	if b.byKey[key] == nil {
		b.byKey[key] = make(chan T, 1)
	}
	return b.byKey[key]
}

// put delivers a value. Only a key's first one counts.
func (b *boxes[T]) put(key string, value T) {
	select {
	case b.of(key) <- value:
	default:
	}
}
