package process_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drover/internal/worker/process"
)

func TestFloodIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		f := &process.Flood{To: &out}
		line := strings.Repeat("x", 1023)
		const mib = 1024 // lines
		for range 100 * mib {
			f.Line(line)
		}
		if out.Len() > process.FloodBurst {
			t.Errorf("%d bytes of a flood at once passed", out.Len())
		}
		const seconds = 300
		for range seconds {
			time.Sleep(time.Second)
			for range mib {
				f.Line(line)
			}
		}
		if most := process.FloodBurst + seconds*process.FloodPerSecond; out.Len() > 2*most {
			t.Errorf("%d bytes of five minutes of flood passed, more than twice %d", out.Len(), most)
		}
	})
}

func TestEndOfAFloodIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		f := &process.Flood{To: &out}
		f.Line("first")
		for i := range 200_000 {
			f.Line(fmt.Sprintf("%050d flood %d", 0, i))
		}
		time.Sleep(5 * time.Second)
		f.Line("afterwards")
		text := out.String()
		if !strings.HasPrefix(text, fmt.Sprintf("first\n%050d flood 0\n", 0)) || !strings.HasSuffix(text, "flood 199999\nafterwards\n") {
			t.Errorf("%s … %s", text[:100], text[len(text)-100:])
		}
		if strings.Count(text, "drover-worker left out") != 1 {
			t.Errorf("%d notices", strings.Count(text, "left out"))
		}
		for i := range 200_000 {
			f.Line(fmt.Sprintf("%050d again %d", 0, i))
		}
		f.Flush()
		if !strings.HasSuffix(out.String(), "again 199999\n") || strings.Count(out.String(), "left out") != 2 {
			t.Errorf("at the end: %s", out.String()[out.Len()-100:])
		}
	})
}

func TestWhatIsNoFloodPassesWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		f := &process.Flood{To: &out}
		want := ""
		for i := range 10_000 {
			f.Line(fmt.Sprint(i))
			want += fmt.Sprintln(i)
			time.Sleep(10 * time.Millisecond)
		}
		if f.Flush(); out.String() != want {
			t.Error("lines are missing")
		}
	})
}
