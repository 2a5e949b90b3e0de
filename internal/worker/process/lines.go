package process

import "bytes"

// MaxLineBytes is how much of one line is kept; the rest of it is dropped.
const MaxLineBytes = 64 << 10

// Lines hands on what is written to it line by line, without line ends. It is
// for one goroutine at a time. Flush hands on a last line that did not end.
type Lines struct {
	Line    func(line string)
	pending []byte
	dropped bool
}

func (l *Lines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		room := MaxLineBytes - len(l.pending)
		if len(line) > room {
			line, l.dropped = line[:room], true
		}
		l.pending = append(l.pending, line...)
		if !ended {
			return n, nil
		}
		l.emit()
		p = rest
	}
}

// Flush hands on what came after the last line end.
func (l *Lines) Flush() {
	if len(l.pending) > 0 {
		l.emit()
	}
}

func (l *Lines) emit() {
	line := string(bytes.TrimSuffix(l.pending, []byte{'\r'}))
	if l.dropped {
		line += "…"
	}
	l.pending, l.dropped = l.pending[:0], false
	l.Line(line)
}

// Tail keeps the end of what is written to it.
type Tail struct {
	Max int // bytes
	buf []byte
}

func (t *Tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.Max; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *Tail) String() string { return string(t.buf) }
