package nomadd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
)

const (
	// logFrameBytes is the most that one frame of a log stream carries.
	logFrameBytes = 64 * 1024

	// logPoll is how often a followed log is looked at for more.
	logPoll = 100 * time.Millisecond
)

// logFile writes a task's output to <path>.0, <path>.1, …: a file is left
// when it's full, and only the newest are kept.
type logFile struct {
	path     string
	maxFiles int
	maxBytes int64

	mu    sync.Mutex
	index int
	size  int64
}

// newLogFile goes on after the newest file there is, if any.
func newLogFile(path string, maxFiles, maxBytes int) *logFile {
	l := &logFile{path: path, maxFiles: maxFiles, maxBytes: int64(maxBytes)}
	if files := logFiles(path); len(files) > 0 {
		newest := files[len(files)-1]
		l.index, l.size = newest.index, newest.size
	}
	if f, err := os.OpenFile(l.current(), os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
		_ = f.Close()
	}
	return l
}

func (l *logFile) current() string { return l.path + "." + strconv.Itoa(l.index) }

// Write appends to the newest file, beginning another where one is full.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	written := 0
	for written < len(p) {
		if l.size >= l.maxBytes {
			l.index, l.size = l.index+1, 0
			_ = os.Remove(l.path + "." + strconv.Itoa(l.index-l.maxFiles))
		}
		n, err := l.append(p[written:min(len(p), written+int(l.maxBytes-l.size))])
		written += n
		l.size += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (l *logFile) append(p []byte) (int, error) {
	f, err := os.OpenFile(l.current(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	n, err := f.Write(p)
	return n, errors.Join(err, f.Close())
}

type logPart struct {
	path  string
	index int
	size  int64
}

// logFiles lists the files of a log, oldest first.
func logFiles(path string) []logPart {
	matches, _ := filepath.Glob(path + ".*")
	var parts []logPart
	for _, m := range matches {
		index, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(m), "."))
		info, statErr := os.Stat(m)
		if err == nil && statErr == nil {
			parts = append(parts, logPart{m, index, info.Size()})
		}
	}
	slices.SortFunc(parts, func(a, b logPart) int { return cmp.Compare(a.index, b.index) })
	return parts
}

// logRequest is a read of a log as the query asks for it.
type logRequest struct {
	task, kind, origin string
	offset             int64
	follow, plain      bool
}

func parseLogRequest(r *http.Request) (logRequest, error) {
	query := r.URL.Query()
	out := logRequest{task: query.Get("task"), kind: query.Get("type"), origin: cmp.Or(query.Get("origin"), "start")}
	bad := func(text string) (logRequest, error) { return out, coded(http.StatusBadRequest, text) }
	var err error
	if out.task == "" {
		return bad("must provide task name")
	}
	if v := query.Get("follow"); v != "" {
		if out.follow, err = strconv.ParseBool(v); err != nil {
			return bad(fmt.Sprintf("failed to parse follow field to boolean: %v", err))
		}
	}
	if v := query.Get("plain"); v != "" {
		if out.plain, err = strconv.ParseBool(v); err != nil {
			return bad(fmt.Sprintf("failed to parse plain field to boolean: %v", err))
		}
	}
	if out.kind != "stdout" && out.kind != "stderr" {
		return bad("must provide log type (stdout/stderr)")
	}
	if v := query.Get("offset"); v != "" {
		if out.offset, err = strconv.ParseInt(v, 10, 64); err != nil {
			return bad(fmt.Sprintf("error parsing offset: %v", err))
		}
	}
	if out.origin != "start" && out.origin != "end" {
		return bad("origin must be start or end")
	}
	return out, nil
}

// streamLogs serves /v1/client/fs/logs/<alloc>.
func (s *Server) streamLogs(w http.ResponseWriter, r *http.Request) error {
	request, err := parseLogRequest(r)
	if err != nil {
		return err
	}
	run := s.knownRunner(r.PathValue("id"))
	if run == nil {
		return coded(http.StatusNotFound, fmt.Sprintf("Unknown allocation %q", r.PathValue("id")))
	}
	if request.task != run.task.Name {
		return coded(http.StatusBadRequest, fmt.Sprintf("unknown task name %q", request.task))
	}
	run.mu.Lock()
	started := !run.state.StartedAt.IsZero()
	run.mu.Unlock()
	if !started {
		return coded(http.StatusNotFound, fmt.Sprintf("task %q not started yet. No logs available", request.task))
	}
	w.Header().Set("Content-Type", "application/json")
	if request.plain {
		w.Header().Set("Content-Type", "text/plain")
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	out := &logWriter{w: w, controller: http.NewResponseController(w), plain: request.plain}
	_ = out.controller.Flush()
	out.copy(ctx, run.logPath(request.kind), request)
	return nil
}

// logWriter writes a log plainly or in Nomad's frames.
type logWriter struct {
	w          http.ResponseWriter
	controller *http.ResponseController
	plain      bool
}

// copy sends the log from where the request begins. Following ends only with
// the request, as the real server's does.
func (l *logWriter) copy(ctx context.Context, path string, request logRequest) {
	position := startOf(path, request)
	for {
		next, err := l.advance(path, position)
		if err != nil || (!request.follow && next == position) {
			return
		}
		if next != position {
			position = next
			continue
		}
		select {
		case <-time.After(logPoll):
		case <-ctx.Done():
			return
		}
	}
}

// logPosition is a place in a log of several files.
type logPosition struct {
	index  int
	offset int64
}

func startOf(path string, request logRequest) logPosition {
	parts := logFiles(path)
	if len(parts) == 0 {
		return logPosition{}
	}
	left := request.offset
	if request.origin == "end" && left == 0 {
		// As with Nomad, no offset from the end is the beginning of the newest file.
		return logPosition{index: parts[len(parts)-1].index}
	}
	if request.origin == "end" {
		for i, part := range slices.Backward(parts) {
			if left <= part.size || i == 0 {
				return logPosition{part.index, max(0, part.size-left)}
			}
			left -= part.size
		}
	}
	for _, part := range parts {
		if left < part.size {
			return logPosition{part.index, left}
		}
		left -= part.size
	}
	last := parts[len(parts)-1]
	return logPosition{last.index, last.size}
}

// advance sends one frame, or moves on to the next file; the same position
// means that there is nothing more now.
func (l *logWriter) advance(path string, at logPosition) (logPosition, error) {
	for _, part := range logFiles(path) {
		if part.index < at.index || (part.index == at.index && part.size <= at.offset) {
			continue
		}
		if part.index > at.index {
			at = logPosition{index: part.index}
		}
		if part.size == 0 {
			return at, nil
		}
		n, err := l.frame(part.path, at.offset)
		return logPosition{at.index, at.offset + n}, err
	}
	return at, nil
}

func (l *logWriter) frame(path string, offset int64) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	data := make([]byte, logFrameBytes)
	n, err := f.ReadAt(data, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	data = data[:n]
	if !l.plain {
		frame := api.StreamFrame{Offset: offset + int64(n), Data: data, File: filepath.Join("alloc", "logs", filepath.Base(path))}
		if data, err = json.Marshal(frame); err != nil {
			return 0, err
		}
	}
	if _, err := l.w.Write(data); err != nil {
		return 0, err
	}
	return int64(n), l.controller.Flush()
}
