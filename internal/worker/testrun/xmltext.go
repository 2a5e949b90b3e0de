package testrun

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// xmlText returns a report's text as UTF-8 that an XML decoder takes. Tools put the output of tests into their reports
// as it came: bytes that are no UTF-8, control characters, references to them, entities of HTML, a bare ampersand.
// None of these says anything of a test, so each is replaced. What concerns the elements is left as it is.
func xmlText(in io.Reader) (io.Reader, error) {
	text := bufio.NewReader(decodeMarked(bufio.NewReader(in)))
	declared, err := declaredEncoding(text)
	if err != nil {
		return nil, err
	}
	switch strings.ToLower(declared) {
	case "", "utf-8", "utf8", "us-ascii", "ascii": // bytes above 127 in ASCII are most likely UTF-8
	case "utf-16", "utf-16le", "utf-16be", "unicode": // it was decoded, or is not what it says: the declaration could be read
	default:
		encoding, err := htmlindex.Get(declared)
		if err != nil {
			return nil, fmt.Errorf("its encoding %q is not known", declared)
		}
		text = bufio.NewReader(transform.NewReader(text, encoding.NewDecoder()))
	}
	return &cleaner{in: text}, nil
}

// decodeMarked decodes UTF-16, known by its byte order mark or by the < it begins with, and takes away UTF-8's mark.
func decodeMarked(in *bufio.Reader) io.Reader {
	head, _ := in.Peek(3) // fewer where there are no more
	order := unicode.BigEndian
	switch {
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		_, _ = in.Discard(3) // they are in the buffer
		return in
	case bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("<\x00")):
		order = unicode.LittleEndian
	case bytes.HasPrefix(head, []byte("\xfe\xff")), bytes.HasPrefix(head, []byte("\x00<")):
	default:
		return in
	}
	return transform.NewReader(in, unicode.UTF16(order, unicode.UseBOM).NewDecoder())
}

var encodingName = regexp.MustCompile(`\sencoding\s*=\s*["']([^"']*)["']`)

// declaredEncoding reads the XML declaration, if there is one, and takes it away: a version above 1.0 changes nothing here.
func declaredEncoding(text *bufio.Reader) (string, error) {
	const most = 512 // bytes of a declaration
	head, err := text.Peek(most)
	if len(head) == 0 {
		if err == io.EOF {
			return "", errEmpty
		}
		return "", err
	}
	space := len(head) - len(bytes.TrimLeft(head, " \t\r\n"))
	if !bytes.HasPrefix(head[space:], []byte("<?xml")) {
		return "", nil
	}
	end := bytes.Index(head, []byte("?>"))
	if end < 0 {
		return "", nil // the decoder says what is wrong
	}
	name := ""
	if match := encodingName.FindSubmatch(head[:end]); match != nil {
		name = string(match[1])
	}
	_, _ = text.Discard(end + len("?>")) // they are in the buffer
	return name, nil
}

// cleaner replaces what XML forbids.
type cleaner struct {
	in  *bufio.Reader
	out []byte // not read yet
	err error
}

func (c *cleaner) Read(p []byte) (int, error) {
	const chunk = 4 << 10
	for len(c.out) < chunk && c.err == nil {
		c.step()
	}
	if len(c.out) == 0 {
		return 0, c.err
	}
	n := copy(p, c.out)
	c.out = c.out[:copy(c.out, c.out[n:])]
	return n, nil
}

func (c *cleaner) step() {
	r, _, err := c.in.ReadRune() // utf8.RuneError for a byte that is no UTF-8
	switch {
	case err != nil:
		c.err = err
	case r == '&':
		c.reference()
	case !allowed(r):
		c.out = utf8.AppendRune(c.out, utf8.RuneError)
	default:
		c.out = utf8.AppendRune(c.out, r)
	}
}

// reference cleans a reference, whose ampersand has been read.
func (c *cleaner) reference() {
	const most = 32 // bytes of a name
	head, _ := c.in.Peek(most)
	end := bytes.IndexByte(head, ';')
	if end > 0 {
		name := string(head[:end])
		switch {
		case isEntity(name):
			c.out = append(append(append(c.out, '&'), name...), ';')
			_, _ = c.in.Discard(end + 1) // they are in the buffer
			return
		case forbiddenReference(name):
			c.out = utf8.AppendRune(c.out, utf8.RuneError)
			_, _ = c.in.Discard(end + 1)
			return
		}
	}
	c.out = append(c.out, "&amp;"...)
}

// isEntity reports whether the decoder knows an entity: one of XML or HTML, or a character that XML allows.
func isEntity(name string) bool {
	switch name {
	case "lt", "gt", "amp", "quot", "apos":
		return true
	}
	if _, ok := xml.HTMLEntity[name]; ok {
		return true
	}
	r, ok := character(name)
	return ok && allowed(r)
}

// forbiddenReference reports whether the name refers to a character that XML forbids.
func forbiddenReference(name string) bool {
	r, ok := character(name)
	return ok && !allowed(r)
}

// character returns what a numeric reference (#27, #x1B) refers to.
func character(name string) (rune, bool) {
	digits, ok := strings.CutPrefix(name, "#")
	if !ok {
		return 0, false
	}
	base := 10
	if hex, ok := strings.CutPrefix(digits, "x"); ok {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 31)
	return rune(n), err == nil
}

// allowed reports whether XML 1.0 has the character.
func allowed(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r <= 0xD7FF || r >= 0xE000 && r <= 0xFFFD || r >= 0x10000 && r <= utf8.MaxRune
}
