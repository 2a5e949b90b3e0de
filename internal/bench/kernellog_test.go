package main

import (
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"
)

// recordsOfAKill are what Linux 6.18 logged, cut short.
func recordsOfAKill(process string, us int) []string {
	return []string{
		fmt.Sprintf("4,2001,%d,-;%s invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n", us-2000, process),
		fmt.Sprintf("6,2002,%d,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task=%s,pid=7844,uid=0\n", us-1000, process),
		fmt.Sprintf("3,2003,%d,-;Memory cgroup out of memory: Killed process 7844 (%s) total-vm:200220kB, anon-rss:124436kB, UID:0\n", us, process),
	}
}

// reads gives one record a read, then io.EOF. An empty record stands for records that are overwritten already.
type reads []string

func (r *reads) Read(p []byte) (int, error) {
	if len(*r) == 0 {
		return 0, io.EOF
	}
	record := (*r)[0]
	*r = (*r)[1:]
	if record == "" {
		return 0, syscall.EPIPE
	}
	return copy(p, record), nil
}

// lagging returns a clock that the kernel's is behind by an hour, and which shows what each read comes too late by.
func lagging(start time.Time, stamps []int, delays []time.Duration) func() time.Time {
	n := -1
	return func() time.Time {
		n++
		if n == 0 {
			return start
		}
		return start.Add(time.Hour + time.Duration(stamps[n-1])*time.Microsecond + delays[n-1])
	}
}

func TestKillIsDatedByTheKernelNotByItsReader(t *testing.T) {
	t.Parallel()
	start := time.Now()
	const first, second = 10_000_000, 20_000_000
	records := reads(append(recordsOfAKill("oom-1", first), ""))
	records = append(records, recordsOfAKill("oom-2", second)...)
	stamps := []int{first - 2000, first - 1000, first, second - 2000, second - 1000, second}
	delays := []time.Duration{300, 30, 7000, 40, 50, 90_000}
	for i := range delays {
		delays[i] *= time.Microsecond
	}
	log := kernelLog{}
	if err := log.read(&records, lagging(start, stamps, delays)); err != io.EOF {
		t.Fatal(err)
	}
	const least = 30 * time.Microsecond
	for process, us := range map[string]int{"oom-1": first, "oom-2": second} {
		want := start.Add(time.Hour + time.Duration(us)*time.Microsecond + least)
		select {
		case got := <-log.kills.of(process):
			if !got.Equal(want) {
				t.Errorf("%s was killed %s off", process, got.Sub(want))
			}
		default:
			t.Errorf("the kill of %s was not seen", process)
		}
	}
}

func TestClocksAreComparedOverTheLastRecordsAlone(t *testing.T) {
	t.Parallel()
	log := kernelLog{start: time.Now()}
	log.record("6,1,0,-;old", log.start) // with no lag at all
	for n := range lagWindow {
		log.record(fmt.Sprintf("6,%d,0,-;new", n+2), log.start.Add(time.Second))
	}
	if len(log.lags) != lagWindow || log.leastLag() != time.Second {
		t.Errorf("%d records, of which the least lag is %s", len(log.lags), log.leastLag())
	}
}

func TestOtherRecordsAreNoKills(t *testing.T) {
	t.Parallel()
	log := kernelLog{}
	for _, record := range []string{
		"", "nonsense", "6,1,x,-;Killed process 1 (a) total-vm:1kB", " SUBSYSTEM=cpu\n",
		"6,1,5,-;oom_reaper: reaped process 7844 (a), now anon-rss:0kB\n",
	} {
		log.record(record, time.Now())
	}
	if len(log.kills.byKey) > 0 {
		t.Errorf("kills seen: %v", log.kills.byKey)
	}
}
