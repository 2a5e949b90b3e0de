package main

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

// Of a schedule.
const (
	outages   = 20 // kills of Consul, Nomad and servers
	victims   = 8  // workers and agents that are killed
	minPause  = time.Second
	maxPause  = 28 * time.Second // heartbeatTTL and more
	minUptime = 3 * time.Second  // of a target between two kills
)

// fault is one kill.
type fault struct {
	at     time.Duration // since the begin
	target int           // index of a target, or one of the victims
	pause  time.Duration // until the target is started again
}

// Victims, in place of a target.
const (
	killAgent = -1 - iota
	killWorker
)

// schedule returns the kills of a run in their order: a function of the random source alone.
func schedule(random *rand.Rand, targets int, length time.Duration) []fault {
	faults := make([]fault, 0, outages+victims)
	free := make([]time.Duration, targets) // when a target has run for long enough to be killed again
	for n := range outages {
		at := length * time.Duration(n) / outages
		at += time.Duration(random.Int64N(int64(length / outages)))
		target := random.IntN(targets)
		for range targets { // the next one that runs
			if free[target] <= at {
				break
			}
			target = (target + 1) % targets
		}
		if free[target] > at {
			at = free[target]
		}
		pause := minPause + time.Duration(random.Int64N(int64(maxPause-minPause)))
		free[target] = at + pause + minUptime
		faults = append(faults, fault{at: at, target: target, pause: pause})
	}
	busy := length * 3 / 4 // on an idle machine few items have much left to do after that
	for n := range victims {
		at := busy * time.Duration(n) / victims
		at += time.Duration(random.Int64N(int64(busy / victims)))
		faults = append(faults, fault{at: at, target: killAgent - n%2})
	}
	slices.SortStableFunc(faults, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	return faults
}
