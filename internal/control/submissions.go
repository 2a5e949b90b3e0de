package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"drover/internal/work"
)

// MaxStream is how many lines a stream of submissions may have.
const MaxStream = 1_000_000

const (
	// maxLine bounds one line of a stream, in bytes.
	maxLine = work.MaxSpecBytes + 1<<10
	// chunkLines and chunkBytes bound what one processor decodes at a time.
	chunkLines = 512
	chunkBytes = 1 << 20
)

// ReadSubmissions reads a stream of submissions: one a line in JSON, each with an
// id of its own and no key. Empty lines count, and hold none. It decodes on all
// processors while it reads.
// It returns work.ErrInvalid for the first faulty line, and for a stream that breaks off.
func ReadSubmissions(stream io.Reader) ([]*Submission, error) {
	const firstBuffer = 64 << 10
	scanner := bufio.NewScanner(stream)
	scanner.Buffer(make([]byte, 0, firstBuffer), maxLine)
	var chunks []*lines
	var faulty atomic.Bool // what follows need not be read
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	current, line := &lines{first: 1}, 0
	decode := func() {
		chunk := current
		chunks, current = append(chunks, chunk), &lines{first: line + 1, text: make([]byte, 0, len(chunk.text))}
		group.Go(func() error {
			if chunk.decode(); chunk.err != nil {
				faulty.Store(true)
			}
			return nil
		})
	}
	for !faulty.Load() && line <= MaxStream && scanner.Scan() {
		line++
		current.add(scanner.Bytes())
		if len(current.ends) == chunkLines || len(current.text) >= chunkBytes {
			decode()
		}
	}
	decode()
	_ = group.Wait() // faults are told in the order of lines
	count := 0
	for _, chunk := range chunks {
		if chunk.err != nil {
			return nil, chunk.err
		}
		count += len(chunk.submissions)
	}
	switch err := scanner.Err(); {
	case line > MaxStream:
		return nil, fmt.Errorf("more than %d lines: %w", MaxStream, work.ErrInvalid)
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d is over %d bytes: %w", line+1, maxLine, work.ErrInvalid)
	case err != nil:
		return nil, fmt.Errorf("the stream broke off after line %d, nothing was stored: %v: %w", line, err, work.ErrInvalid)
	}
	submissions := make([]*Submission, 0, count)
	for _, chunk := range chunks {
		for i := range chunk.submissions {
			submissions = append(submissions, &chunk.submissions[i])
		}
	}
	return submissions, nil
}

// lines are some lines of a stream, and what they hold.
type lines struct {
	first       int // number of the first one
	text        []byte
	ends        []int // of the lines, in text
	submissions []Submission
	err         error // of the first faulty line
}

func (l *lines) add(line []byte) {
	l.text = append(append(l.text, line...), '\n')
	l.ends = append(l.ends, len(l.text))
}

// decode reads the lines with one decoder, whose buffer serves for all.
func (l *lines) decode() {
	l.submissions = make([]Submission, 0, len(l.ends))
	decoder := json.NewDecoder(bytes.NewReader(l.text))
	decoder.DisallowUnknownFields()
	begin := 0
	for i, end := range l.ends {
		if len(bytes.TrimSpace(l.text[begin:end])) > 0 {
			l.submissions = append(l.submissions, Submission{})
			if err := l.next(decoder, end); err != nil {
				l.err = fmt.Errorf("line %d: %s: %w", l.first+i, strings.TrimPrefix(err.Error(), "json: "), work.ErrInvalid)
				return
			}
		}
		begin = end
	}
}

// next reads the last of the submissions, whose line has an end.
func (l *lines) next(decoder *json.Decoder, end int) error {
	s := &l.submissions[len(l.submissions)-1]
	err := decoder.Decode(s)
	at := int(decoder.InputOffset())
	switch {
	case err != nil:
		return err
	case at > end:
		return errors.New("it goes on on the next line")
	case len(bytes.TrimSpace(l.text[at:end])) > 0:
		return errors.New("text follows")
	case s.ID == "" || s.Key != "":
		return errors.New("give each line of a stream an id, and no key")
	}
	return nil
}
