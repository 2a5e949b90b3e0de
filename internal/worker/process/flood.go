package process

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Bounds of a Flood: more than any agent says that people are to read.
const (
	FloodBurst     = 4 << 20   // bytes that pass at once
	FloodPerSecond = 128 << 10 // bytes that pass on and on
	// floodTail is how many of the lines that were left out are kept, so that
	// the end of the output is there whatever came before it.
	floodTail = 100
)

// Flood passes lines on for as long as there are not too many of them, and says
// how many it left out. It may be used concurrently.
type Flood struct {
	To io.Writer

	mu      sync.Mutex
	room    float64 // bytes that may pass now
	since   time.Time
	dropped int      // lines
	bytes   int      // of them
	tail    []string // the last of them
}

// Line passes one line on, or leaves it out.
func (f *Flood) Line(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.since.IsZero() {
		f.room = FloodBurst
	} else {
		f.room = min(FloodBurst, f.room+now.Sub(f.since).Seconds()*FloodPerSecond)
	}
	f.since = now
	size := len(line) + 1
	// After a flood it takes a second's quiet before lines pass again: else there were a notice for every few of them.
	wanted := float64(size)
	if f.dropped > 0 {
		wanted += FloodPerSecond
	}
	if f.room < wanted {
		f.drop(line, size)
		return
	}
	f.room -= float64(size)
	f.end()
	f.write(line)
}

func (f *Flood) drop(line string, size int) {
	f.dropped++
	f.bytes += size
	if len(f.tail) == floodTail {
		f.tail = slices.Delete(f.tail, 0, 1)
	}
	f.tail = append(f.tail, line)
}

// Flush ends a flood: what was said last is passed on.
func (f *Flood) Flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end()
}

// end says what was left out, and passes its last lines on.
func (f *Flood) end() {
	if f.dropped == 0 {
		return
	}
	if left := f.dropped - len(f.tail); left > 0 {
		for _, line := range f.tail {
			f.bytes -= len(line) + 1
		}
		f.write(fmt.Sprintf("[drover-worker left out %d lines of output, %d bytes: more than %d KiB a second]", left, f.bytes, FloodPerSecond>>10))
	}
	for _, line := range f.tail {
		f.write(line)
	}
	f.dropped, f.bytes, f.tail = 0, 0, nil
}

func (f *Flood) write(line string) {
	_, _ = io.WriteString(f.To, line+"\n") // nobody reads: no reason to stop the agent
}
