package consul

import (
	"testing"
	"time"

	"drover/internal/work"
)

func TestLostLockIsFreeADelayAfterItWasFirstSeenSo(t *testing.T) {
	began := time.Now()
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	l := newLostLocks(30 * time.Second)
	lost := storedLock{key: "locks/r/x.1", index: 7, Lock: work.Lock{Lost: true}}
	if l.isOver(lost, at(0)) || l.soonest(at(0)) != 30*time.Second {
		t.Error("over before it was seen")
	}
	l.look("locks/", []storedLock{lost, {key: "locks/r/y.1"}}, at(0))
	l.look("locks/r/", []storedLock{lost}, at(20))
	if l.isOver(lost, at(29)) || l.soonest(at(29)) != time.Second {
		t.Error("over too soon")
	}
	if !l.isOver(lost, at(30)) || l.soonest(at(31)) != 0 {
		t.Error("not over")
	}
	again := lost
	again.index = 8
	l.look("locks/", []storedLock{again}, at(40))
	if l.isOver(lost, at(60)) || l.isOver(again, at(69)) || !l.isOver(again, at(70)) {
		t.Error("a lock that was taken anew counts from its own loss")
	}
	l.look("locks/other/", nil, at(70))
	if !l.isOver(again, at(70)) {
		t.Error("forgotten for the sake of another repository")
	}
	l.look("locks/r/", nil, at(70))
	if l.isOver(again, at(170)) || len(l.seen) > 0 {
		t.Error("not forgotten")
	}
}
