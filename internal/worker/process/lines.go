package process

import "bytes"

// Bounds of one line; the rest of it is dropped.
const (
	MaxLineBytes = 64 << 10
	// MaxObjectBytes is how much is read of a line that begins a JSON object,
	// where Lines.Objects asks for it: an agent's result holds its whole answer.
	MaxObjectBytes = 64 << 20
)

// keptBytes is the largest buffer that is kept from one line to the next.
const keptBytes = 1 << 20

// Lines hands on what is written to it line by line, without line ends. It is
// for one goroutine at a time. Flush hands on a last line that did not end.
type Lines struct {
	Line    func(line string)
	Objects bool // read up to MaxObjectBytes of lines that begin with {
	pending []byte
	dropped bool
}

func (l *Lines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		if room := l.most(line) - len(l.pending); len(line) > room {
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

// most is how many bytes of the pending line are kept, to which more is added.
func (l *Lines) most(more []byte) int {
	begins := l.pending
	if len(begins) == 0 {
		begins = more
	}
	if l.Objects && len(begins) > 0 && begins[0] == '{' {
		return MaxObjectBytes
	}
	return MaxLineBytes
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
		line += cutMark
	}
	l.pending, l.dropped = l.pending[:0], false
	if cap(l.pending) > keptBytes {
		l.pending = nil
	}
	l.Line(line)
}

// cutMark ends a line of which something was dropped.
const cutMark = "…"

// Shown returns what people are shown of a line: its first MaxLineBytes.
func Shown(line string) string {
	if len(line) <= MaxLineBytes+len(cutMark) {
		return line
	}
	return line[:MaxLineBytes] + cutMark
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
