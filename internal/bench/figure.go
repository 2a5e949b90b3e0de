package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// resultsDir takes the raw results.
const resultsDir = "build/bench"

// figure is a latency of drover beside the yardstick's.
type figure struct {
	name      string
	ours      time.Duration
	yardstick time.Duration
	target    time.Duration // the most that ours may be
}

func (f figure) met() bool { return f.ours <= f.target }

// String is the line that is printed: whole milliseconds, rounded up so that a missed target never looks met.
func (f figure) String() string {
	met := "no"
	if f.met() {
		met = "yes"
	}
	return fmt.Sprintf("bench name=%s ours=%d yardstick=%d unit=ms ratio=%.1f target=<=%d met=%s",
		f.name, ceilMS(f.ours), ceilMS(f.yardstick), float64(f.ours)/float64(f.yardstick), f.target.Milliseconds(), met)
}

func ceilMS(d time.Duration) int64 { return int64(math.Ceil(float64(d) / float64(time.Millisecond))) }

// percentile returns the smallest of the values that at least p percent of them do not exceed (the nearest rank).
func percentile(values []time.Duration, p int) time.Duration {
	const hundred = 100
	sorted := slices.Sorted(slices.Values(values))
	rank := (len(sorted)*p + hundred - 1) / hundred
	return sorted[max(rank, 1)-1]
}

// writeResults writes raw results as JSON to a file below resultsDir.
func writeResults(name string, results any) error {
	data, err := json.MarshalIndent(results, "", "\t")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.MkdirAll(resultsDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(resultsDir, name+".json"), append(data, '\n'), 0o644)
}
