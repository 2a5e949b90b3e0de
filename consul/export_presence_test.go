package consul

import "time"

// PresenceEvery returns the shortest and the longest time between two registrations of each of so many workers.
func PresenceEvery(workers int) (shortest, longest time.Duration) {
	every := presenceEvery(workers)
	return every, every + every/presenceSpread
}

// CountedWorkers returns how many workers there were when they were counted last.
func (a *Attempt) CountedWorkers() int {
	a.presence.mu.Lock()
	defer a.presence.mu.Unlock()
	return a.presence.workers
}
