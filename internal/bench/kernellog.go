package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	kernelLogPath = "/dev/kmsg"
	// maxRecordBytes is above what the kernel gives for one record, 8 KiB (CONSOLE_EXT_LOG_MAX).
	maxRecordBytes = 16 << 10
	// lagWindow is how many records the kernel's clock is compared over: those of the last few kills, which have some
	// 40 each. A longer window would let the two clocks drift apart.
	lagWindow = 256
)

var killedProcess = regexp.MustCompile(`Killed process \d+ \((.*?)\) total-vm:`)

// kernelLog finds in the kernel's log when it killed which process for want of memory. The kernel stamps each record
// with a clock of its own, at the microsecond of the event. A record can only be read after it was made, so the least
// lag between stamp and reading, over many records, is the difference of the two clocks.
type kernelLog struct {
	kills boxes[time.Time] // by the name of the killed process
	start time.Time
	lags  []time.Duration // of the last lagWindow records, oldest first
}

// follow reads the log from its end until ctx ends.
func (l *kernelLog) follow(ctx context.Context) error {
	file, err := openKernelLog()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { file.Close() })() // ends the read below
	defer file.Close()
	err = l.read(file, time.Now)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("read %s: %w", kernelLogPath, err)
}

func openKernelLog() (*os.File, error) {
	file, err := os.Open(kernelLogPath)
	if err != nil {
		return nil, fmt.Errorf("the kernel's log tells when it killed a process, but cannot be read (are you root?): %w", err)
	}
	if _, err := file.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(fmt.Errorf("go to the end of %s: %w", kernelLogPath, err), file.Close())
	}
	return file, nil
}

// read takes note of each record: the kernel gives one a read.
func (l *kernelLog) read(log io.Reader, now func() time.Time) error {
	l.start = now()
	buffer := make([]byte, maxRecordBytes)
	for {
		n, err := log.Read(buffer)
		if errors.Is(err, syscall.EPIPE) { // records were overwritten before they were read
			continue
		}
		if err != nil {
			return err
		}
		l.record(string(buffer[:n]), now())
	}
}

// record notes one record, "priority,number,microseconds,flags;text" (the kernel's Documentation/ABI/testing/dev-kmsg).
func (l *kernelLog) record(record string, read time.Time) {
	head, text, _ := strings.Cut(record, ";")
	fields := strings.Split(head, ",")
	const stamp = 2
	if len(fields) <= stamp {
		return
	}
	us, err := strconv.ParseInt(fields[stamp], 10, 64)
	if err != nil {
		return
	}
	at := time.Duration(us) * time.Microsecond
	l.lags = append(l.lags[max(0, len(l.lags)-lagWindow+1):], read.Sub(l.start)-at)
	if match := killedProcess.FindStringSubmatch(text); match != nil {
		l.kills.put(match[1], l.start.Add(at+l.leastLag()))
	}
}

func (l *kernelLog) leastLag() time.Duration {
	least := l.lags[0]
	for _, lag := range l.lags {
		least = min(least, lag)
	}
	return least
}
