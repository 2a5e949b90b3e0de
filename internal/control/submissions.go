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
// id of its own and no key. Empty lines count, and hold none. It returns what they
// become, which is called on all processors while the stream is read and keeps no
// submission.
// It returns work.ErrInvalid for the first faulty line, and for a stream that
// breaks off, and what become returns.
func ReadSubmissions[T any](stream io.Reader, become func(*Submission) (T, error)) ([]T, error) {
	const firstBuffer = 64 << 10
	scanner := bufio.NewScanner(stream)
	scanner.Buffer(make([]byte, 0, firstBuffer), maxLine)
	processors := runtime.GOMAXPROCS(0)
	spare := make(chan []byte, processors) // texts that are read, to be filled again
	var chunks []*lines[T]
	var faulty atomic.Bool // what follows need not be read
	var group errgroup.Group
	group.SetLimit(processors)
	line, ended := 0, false
	for !ended && !faulty.Load() && line <= MaxStream {
		chunk := &lines[T]{first: line + 1}
		select {
		case chunk.text = <-spare:
		default:
		}
		for !ended && len(chunk.ends) < chunkLines && len(chunk.text) < chunkBytes {
			if ended = !scanner.Scan(); !ended {
				line++
				chunk.add(scanner.Bytes())
			}
		}
		chunks = append(chunks, chunk)
		group.Go(func() error {
			chunk.read(become)
			faulty.CompareAndSwap(false, chunk.err != nil)
			select {
			case spare <- chunk.text[:0]:
			default:
			}
			chunk.text = nil
			return nil
		})
	}
	_ = group.Wait() // faults are told in the order of lines
	all, err := joined(chunks)
	switch fault := scanner.Err(); {
	case err != nil:
		return nil, err
	case line > MaxStream:
		return nil, fmt.Errorf("more than %d lines: %w", MaxStream, work.ErrInvalid)
	case errors.Is(fault, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d is over %d bytes: %w", line+1, maxLine, work.ErrInvalid)
	case fault != nil:
		return nil, fmt.Errorf("the stream broke off after line %d, nothing was stored: %v: %w", line, fault, work.ErrInvalid)
	}
	return all, nil
}

// joined returns what all chunks hold, or the first fault.
func joined[T any](chunks []*lines[T]) ([]T, error) {
	count := 0
	for _, chunk := range chunks {
		if chunk.err != nil {
			return nil, chunk.err
		}
		count += len(chunk.made)
	}
	all := make([]T, 0, count)
	for _, chunk := range chunks {
		all = append(all, chunk.made...)
	}
	return all, nil
}

// lines are some lines of a stream, and what becomes of their submissions.
type lines[T any] struct {
	first int // number of the first one
	text  []byte
	ends  []int // of the lines, in text
	made  []T
	err   error // of the first faulty line
}

func (l *lines[T]) add(line []byte) {
	l.text = append(append(l.text, line...), '\n')
	l.ends = append(l.ends, len(l.text))
}

// read reads the lines with one decoder, whose buffer serves for all.
func (l *lines[T]) read(become func(*Submission) (T, error)) {
	l.made = make([]T, 0, len(l.ends))
	decoder := json.NewDecoder(bytes.NewReader(l.text))
	decoder.DisallowUnknownFields()
	var s Submission
	begin := 0
	for i, end := range l.ends {
		blank := len(bytes.TrimSpace(l.text[begin:end])) == 0
		if begin = end; blank {
			continue
		}
		s = Submission{}
		err := l.next(decoder, end, &s)
		if err == nil {
			var made T
			if made, err = become(&s); err == nil {
				l.made = append(l.made, made)
			}
		}
		if err != nil {
			l.err = fmt.Errorf("line %d: %w", l.first+i, err)
			return
		}
	}
}

// next reads the submission of a line, which has an end.
func (l *lines[T]) next(decoder *json.Decoder, end int, s *Submission) error {
	err := decoder.Decode(s)
	at := int(decoder.InputOffset())
	switch {
	case err != nil:
	case at > end:
		err = errors.New("it goes on on the next line")
	case len(bytes.TrimSpace(l.text[at:end])) > 0:
		err = errors.New("text follows")
	case s.ID == "" || s.Key != "":
		err = errors.New("give each line of a stream an id, and no key")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.TrimPrefix(err.Error(), "json: "), work.ErrInvalid)
	}
	return nil
}
