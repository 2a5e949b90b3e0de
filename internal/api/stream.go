package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"drover/internal/control"
	"drover/internal/wait"
	"drover/internal/work"
)

const (
	ndjson      = "application/x-ndjson"
	eventStream = "text/event-stream"
)

// Limits of streams.
const (
	// streamTimeout bounds the whole of a stream of items.
	streamTimeout = 10 * time.Minute
	// stallTimeout is how long one side may wait for the other within a stream.
	stallTimeout = 30 * time.Second
	// keepAlive is how often a stream of events that has none says that it lives.
	keepAlive = 15 * time.Second
	// linesPerDeadline is how many lines are sent before a time limit is set anew.
	linesPerDeadline = 500
)

// submitStream takes one submission a line (control.ReadSubmissions).
func (h *handler) submitStream(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), streamTimeout)
	defer cancel()
	done, err := h.Service.SubmitStream(ctx, patient{r.Body, http.NewResponseController(w)})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	limit(w, stallTimeout)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	if err := json.NewEncoder(w).Encode(done); err != nil {
		h.Logger.Debug("answer not sent", "path", r.URL.Path, "error", err)
	}
}

// patient reads a stream, whose sender has some time for each part of it. When
// it has ended no limit is left: one that ran out while the items are stored
// would be taken for a client that has gone.
type patient struct {
	stream io.Reader
	rc     *http.ResponseController
}

func (p patient) Read(into []byte) (int, error) {
	_ = p.rc.SetReadDeadline(time.Now().Add(stallTimeout)) // not every connection can
	n, err := p.stream.Read(into)
	if errors.Is(err, io.EOF) {
		_ = p.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// export sends the items that a filter selects, one a line.
func (h *handler) export(w http.ResponseWriter, r *http.Request) {
	h.lines(w, r, func(ctx context.Context, f control.Filter, send func(any) error) error {
		return h.Service.Export(ctx, f, func(item work.Item) error { return send(item) })
	})
}

// exportLogs sends the kept output of the items that a filter selects, an attempt a line.
func (h *handler) exportLogs(w http.ResponseWriter, r *http.Request) {
	h.lines(w, r, func(ctx context.Context, f control.Filter, send func(any) error) error {
		return h.Service.ExportLogs(ctx, f, func(logs work.KeptLogs) error { return send(logs) })
	})
}

// lines sends what a filter selects, one a line. A stream that does not come to
// its end is torn, so that no client takes a part for the whole.
func (h *handler) lines(w http.ResponseWriter, r *http.Request, export func(context.Context, control.Filter, func(any) error) error) {
	filter, err := filterOf(r.URL.Query())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), streamTimeout)
	defer cancel()
	rc, encoder, lines := http.NewResponseController(w), json.NewEncoder(w), 0
	err = export(ctx, filter, func(value any) error {
		if lines%linesPerDeadline == 0 {
			_ = rc.SetWriteDeadline(time.Now().Add(stallTimeout)) // not every connection can
		}
		if lines++; lines == 1 {
			w.Header().Set("Content-Type", ndjson)
		}
		return encoder.Encode(value)
	})
	switch {
	case err == nil && lines == 0:
		w.Header().Set("Content-Type", ndjson)
	case err != nil && lines == 0:
		h.fail(w, r, err)
	case err != nil:
		h.Logger.Debug("export not sent to its end", "lines", lines, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// events sends changes as they happen, as server-sent events. Last-Event-ID goes
// on from an event; what is no longer known gives an event "resync".
func (h *handler) events(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	rc := http.NewResponseController(w)
	var mu sync.Mutex
	write := func(text string) error {
		mu.Lock()
		defer mu.Unlock()
		_ = rc.SetWriteDeadline(time.Now().Add(stallTimeout)) // not every connection can
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		return rc.Flush()
	}
	w.Header().Set("Content-Type", eventStream)
	w.Header().Set("Cache-Control", "no-store")
	if err := write(": drover\n\n"); err != nil {
		return
	}
	var alive sync.WaitGroup
	defer alive.Wait()
	defer cancel()
	alive.Go(func() {
		for wait.For(ctx, keepAlive) == nil {
			if write(":\n\n") != nil {
				cancel()
			}
		}
	})
	err := h.Service.Events(ctx, r.Header.Get("Last-Event-ID"), func(e control.Event) error {
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		return write(fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", e.ID, e.Type, data))
	})
	h.Logger.Debug("events no longer followed", "error", err)
}

// readEvents calls seen with the events of a stream, until it breaks off.
func readEvents(body io.Reader, seen func(control.Event) error) error {
	const maxLine = 1 << 20
	scanner := bufio.NewScanner(body)
	scanner.Buffer(nil, maxLine)
	var id string
	var data []byte
	for scanner.Scan() {
		field, value, _ := strings.Cut(scanner.Text(), ": ")
		switch {
		case field == "id":
			id = value
		case field == "data":
			data = []byte(value)
		case scanner.Text() == "" && data != nil:
			e := control.Event{}
			if err := json.Unmarshal(data, &e); err != nil {
				return fmt.Errorf("read event: %v: %w", err, work.ErrUnavailable)
			}
			e.ID, data = id, nil
			if err := seen(e); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("the connection to the server broke off: %v: %w", scanner.Err(), work.ErrUnavailable)
}
