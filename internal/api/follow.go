package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"unicode/utf8"

	"drover/internal/work"
)

// Streams of a followed log.
const (
	streamStdout = "stdout"
	streamStderr = "stderr"
	streamEnd    = "end" // the attempt has ended, and that was all
)

// frame is one line of a followed log.
type frame struct {
	Stream string   `json:"stream,omitempty"`
	Data   string   `json:"data,omitempty"`
	Error  *problem `json:"error,omitempty"` // the last line, when it went wrong
}

// follow sends the output of an attempt, one JSON object a line, and a line of
// the stream "end" when the attempt has ended. Without it the connection broke.
func (h *handler) follow(w http.ResponseWriter, r *http.Request) {
	out := &frames{w: w, flush: http.NewResponseController(w).Flush}
	stdout, stderr := &textWriter{out: out, stream: streamStdout}, &textWriter{out: out, stream: streamStderr}
	err := h.Service.Follow(r.Context(), r.PathValue("id"), stdout, stderr)
	if err != nil && !out.begun() {
		h.fail(w, r, err)
		return
	}
	last := frame{Stream: streamEnd}
	if err != nil {
		p := problemOf(err)
		last = frame{Error: &p}
	}
	if err := errors.Join(stdout.close(), stderr.close(), out.send(last)); err != nil {
		h.Logger.Debug("log not followed to its end", "item", r.PathValue("id"), "error", err)
	}
}

// frames sends lines, and the header with the first of them.
type frames struct {
	w     http.ResponseWriter
	flush func() error

	mu      sync.Mutex
	started bool
}

func (f *frames) begun() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.started
}

func (f *frames) send(line frame) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.started {
		f.w.Header().Set("Content-Type", "application/x-ndjson")
		f.started = true
	}
	if err := json.NewEncoder(f.w).Encode(line); err != nil {
		return err
	}
	return f.flush()
}

// textWriter sends what is written to it as frames of one stream. JSON carries
// text, so a character that was cut in two waits for its other half.
type textWriter struct {
	out    *frames
	stream string
	rest   []byte
}

func (t *textWriter) Write(p []byte) (int, error) {
	t.rest = append(t.rest, p...)
	whole := len(t.rest)
	for back := 1; back < utf8.UTFMax && back <= len(t.rest); back++ {
		if tail := t.rest[len(t.rest)-back:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				whole -= back
			}
			break
		}
	}
	if whole == 0 {
		return len(p), nil
	}
	line := frame{Stream: t.stream, Data: string(t.rest[:whole])}
	t.rest = append(t.rest[:0], t.rest[whole:]...)
	return len(p), t.out.send(line)
}

// close sends what waits in vain.
func (t *textWriter) close() error {
	if len(t.rest) == 0 {
		return nil
	}
	return t.out.send(frame{Stream: t.stream, Data: string(t.rest)})
}

// readFrames writes a followed log to stdout and stderr.
// It returns work.ErrUnavailable when the stream breaks off, and the server's error.
func readFrames(body io.Reader, stdout, stderr io.Writer) error {
	decoder := json.NewDecoder(body)
	for {
		var line frame
		if err := decoder.Decode(&line); err != nil {
			return fmt.Errorf("the connection to the server broke off: %v: %w", err, work.ErrUnavailable)
		}
		var err error
		switch {
		case line.Error != nil:
			return &Error{Status: line.Error.Status, Code: line.Error.Code, Detail: line.Error.Detail}
		case line.Stream == streamEnd:
			return nil
		case line.Stream == streamStdout:
			_, err = io.WriteString(stdout, line.Data)
		case line.Stream == streamStderr:
			_, err = io.WriteString(stderr, line.Data)
		}
		if err != nil {
			return fmt.Errorf("write log: %w", err)
		}
	}
}
