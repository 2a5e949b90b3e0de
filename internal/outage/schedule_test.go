package main

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"drover/internal/work"
)

func TestScheduleFollowsFromTheSeedAlone(t *testing.T) {
	const targets = 4
	plan := func(seed uint64) []fault { return schedule(rand.New(rand.NewPCG(seed, 0)), targets, outageLength) }
	if !reflect.DeepEqual(plan(1), plan(1)) {
		t.Error("one seed makes two schedules")
	}
	if reflect.DeepEqual(plan(1), plan(2)) {
		t.Error("two seeds make one schedule")
	}
	for seed := range uint64(200) {
		kills, hit, up := map[int]int{}, map[int]int{}, map[int]time.Duration{}
		last := time.Duration(0)
		for _, f := range plan(seed) {
			if f.at < last {
				t.Fatalf("seed %d: a kill at %s comes after one at %s", seed, f.at, last)
			}
			last = f.at
			if f.target < 0 {
				kills[f.target]++
				continue
			}
			hit[f.target]++
			if f.at < up[f.target] {
				t.Errorf("seed %d: target %d is killed at %s and down until %s", seed, f.target, f.at, up[f.target])
			}
			up[f.target] = f.at + f.pause
		}
		if n := hit[0] + hit[1] + hit[2] + hit[3]; n != outages || len(hit) != targets || kills[killAgent]+kills[killWorker] != victims || len(kills) != 2 {
			t.Errorf("seed %d: kills %v, victims %v", seed, hit, kills)
		}
		if limit := outageLength + maxPause; last > limit {
			t.Errorf("seed %d: the last kill is at %s, want before %s", seed, last, limit)
		}
	}
}

func TestTenItemsFailByThemselvesInRepositoriesOfTheirOwn(t *testing.T) {
	for _, bounded := range []bool{true, false} {
		items := planItems(rand.New(rand.NewPCG(1, 0)), t.TempDir(), failures(bounded))
		ids, failing, repos := map[string]bool{}, 0, map[string]int{}
		for _, p := range items {
			ids[p.id] = true
			if p.fails() {
				failing++
				repos[p.repository]++
				if p.own.state == work.StateCompleted {
					t.Errorf("item %s fails and completes", p.id)
				}
			}
		}
		if len(ids) != 60 || failing != 10 || len(repos) != 10 {
			t.Errorf("%d items, of which %d fail in %d repositories; want 60, 10 and 10", len(ids), failing, len(repos))
		}
	}
}
