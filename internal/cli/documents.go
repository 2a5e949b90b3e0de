package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"drover/internal/parallel"
	"drover/internal/work"
)

// document is one item of a file, in JSON or YAML.
type document struct {
	number int // from 1
	line   int // where it begins in the file, from 1
	text   []byte
	yaml   bool
}

// readItems reads and validates all items of a file. Its errors name the
// document and the line, and wrap work.ErrInvalid.
func readItems(name string, data []byte) ([]work.Spec, error) {
	documents, err := readDocuments(name, data)
	if err != nil {
		return nil, err
	}
	return decodeAll(name, documents)
}

// readDocuments takes a file apart into its items, of which there is one at least.
func readDocuments(name string, data []byte) ([]document, error) {
	documents, err := split(name, data)
	if err == nil && len(documents) == 0 {
		err = fmt.Errorf("%s holds no item: %w", name, work.ErrInvalid)
	}
	return documents, err
}

func decodeAll(name string, documents []document) ([]work.Spec, error) {
	specs := make([]work.Spec, len(documents))
	err := each(documents, func(i int) (err error) {
		specs[i], err = documents[i].decode(name)
		return err
	})
	return specs, err
}

// linesOf returns each document as JSON on one line, unchecked.
func linesOf(name string, documents []document) ([][]byte, error) {
	lines := make([][]byte, len(documents))
	err := each(documents, func(i int) (err error) {
		lines[i], err = documents[i].oneLine(name)
		return err
	})
	return lines, err
}

// each calls f with the index of every document. Its error is that of the first
// document that has one.
func each(documents []document, f func(i int) error) error {
	faults := slices.DeleteFunc(parallel.Each(len(documents), f), func(err error) bool { return err == nil })
	const more = 1
	switch {
	case len(faults) > more:
		return fmt.Errorf("%s (and %d more documents with faults): %w", reasonOf(faults[0]), len(faults)-more, work.ErrInvalid)
	case len(faults) > 0:
		return faults[0]
	}
	return nil
}

func split(name string, data []byte) ([]document, error) {
	text := bytes.TrimLeft(data, "\ufeff \t\r\n")
	isYAML := strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
	if isYAML || !bytes.HasPrefix(text, []byte("{")) {
		return splitYAML(data), nil
	}
	if documents, ok := splitLines(data); ok {
		return documents, nil
	}
	return splitJSON(name, data)
}

// splitLines takes apart a file each line of which is a JSON object, as long ones
// mostly are: who decodes them can do so on all processors. Of others it says false.
func splitLines(data []byte) ([]document, bool) {
	documents := make([]document, 0, bytes.Count(data, []byte("\n"))+1)
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if !isObject(line) {
			return nil, false
		}
		documents = append(documents, document{number: len(documents) + 1, line: number, text: line})
	}
	return documents, true
}

// isObject reports whether a text that is JSON, if it is, is one object: the brace
// that it begins with is closed by its last byte.
func isObject(text []byte) bool {
	if !bytes.HasPrefix(text, []byte("{")) {
		return false
	}
	for depth := 0; ; {
		at := bytes.IndexAny(text, `{}"`)
		if at < 0 {
			return false
		}
		c := text[at]
		text = text[at+1:]
		switch c {
		case '"':
			text = afterString(text)
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return len(text) == 0
			}
		}
	}
}

// afterString returns what follows the quote that ends a string: the first one
// before which there is no odd number of backslashes.
func afterString(text []byte) []byte {
	for end := 0; ; end++ {
		next := bytes.IndexByte(text[end:], '"')
		if next < 0 {
			return nil
		}
		end += next
		before := bytes.TrimRight(text[:end], `\`)
		if (end-len(before))%2 == 0 {
			return text[end+1:]
		}
	}
}

// splitJSON takes apart JSON objects that follow one another.
func splitJSON(name string, data []byte) ([]document, error) {
	var documents []document
	decoder := json.NewDecoder(bytes.NewReader(data))
	counted, line := 0, 1 // lines are counted once: there may be many documents
	for {
		var text json.RawMessage
		err := decoder.Decode(&text)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		end := int(decoder.InputOffset())
		if err != nil {
			var syntax *json.SyntaxError
			if errors.As(err, &syntax) {
				end = int(syntax.Offset)
			}
			d := document{number: len(documents) + 1, line: lineAt(data, end)}
			return nil, d.fault(name, 0, err.Error())
		}
		begin := end - len(text)
		line += bytes.Count(data[counted:begin], []byte("\n"))
		counted = begin
		documents = append(documents, document{number: len(documents) + 1, line: line, text: text})
	}
}

func lineAt(data []byte, offset int) int {
	return 1 + bytes.Count(data[:min(offset, len(data))], []byte("\n"))
}

// splitYAML takes apart documents at the lines that begin with "---", which
// YAML allows nowhere else. Documents without content are left out.
func splitYAML(data []byte) []document {
	var documents []document
	current := document{number: 1, line: 1, yaml: true}
	finish := func(next int) {
		if hasContent(current.text) {
			documents = append(documents, current)
			current.number++
		}
		current.text, current.line = nil, next
	}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok && (len(bytes.TrimSpace(rest)) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			finish(number)
			line = append([]byte("   "), rest...)
		}
		current.text = append(current.text, line...)
	}
	finish(0)
	return documents
}

func hasContent(text []byte) bool {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && string(line) != "..." {
			return true
		}
	}
	return false
}

func (d document) decode(name string) (work.Spec, error) {
	text, err := d.json(name)
	if err != nil {
		return work.Spec{}, err
	}
	spec, err := work.DecodeSpec(text)
	if err == nil {
		err = spec.Validate()
	}
	if err != nil {
		says := clearer(reasonOf(err))
		return spec, d.fault(name, d.find(says), says)
	}
	return spec, nil
}

func (d document) json(name string) ([]byte, error) {
	if !d.yaml {
		return d.text, nil
	}
	text, err := yaml.YAMLToJSON(d.text)
	if err != nil {
		line, says := yamlFault(err)
		return nil, d.fault(name, line, says)
	}
	return text, nil
}

func (d document) oneLine(name string) ([]byte, error) {
	text, err := d.json(name)
	if err != nil || !bytes.ContainsAny(text, "\r\n") {
		return text, err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		return nil, d.fault(name, 0, err.Error())
	}
	return line.Bytes(), nil
}

// placed says where in a file is what a server found, to which each document was
// sent as one line.
func placed(found error, name string, documents []document) error {
	if _, err := decodeAll(name, documents); err != nil {
		return err // it knows the line, and how many more there are
	}
	m := streamLine.FindStringSubmatch(reasonOf(found))
	if m == nil {
		return found
	}
	number, err := strconv.Atoi(m[1])
	if err != nil || number < 1 || number > len(documents) {
		return found
	}
	const wholeDocument = 0
	return documents[number-1].fault(name, wholeDocument, m[2])
}

// reasonOf is what an invalid input's error says, without that it is invalid.
func reasonOf(err error) string {
	return strings.TrimSuffix(err.Error(), ": "+work.ErrInvalid.Error())
}

// fault returns an error about a line of the document, its first for 0.
func (d document) fault(name string, line int, says string) error {
	return fmt.Errorf("%s: document %d, line %d: %s: %w", name, d.number, d.line+max(line, 1)-1, says, work.ErrInvalid)
}

// yamlFault takes the line and the sentence out of an error of the YAML reader:
// "[3:5] mapping value is not allowed…" and a picture of the place below it.
func yamlFault(err error) (line int, says string) {
	const colored, source = false, false
	says, _, _ = strings.Cut(yaml.FormatError(err, colored, source), "\n")
	if m := yamlPlace.FindStringSubmatch(says); m != nil {
		line, _ = strconv.Atoi(m[1])
		says = m[2]
	}
	return line, says
}

var (
	streamLine   = regexp.MustCompile(`^line (\d+): (.*)$`)
	yamlPlace    = regexp.MustCompile(`^\[(\d+):\d+\] (.*)$`)
	wrongType    = regexp.MustCompile(`cannot unmarshal (\S+) into Go struct field \w+\.(\S+) of type (\S+)`)
	wrongItem    = regexp.MustCompile(`cannot unmarshal (\S+) into Go value of type \S+`)
	unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)
)

// goTypes are the names people know for the types that a field can have.
var goTypes = map[string]string{"int": "a number", "string": "a text", "[]string": "a list of texts", "map[string]string": "a map of texts", "time.Time": "a time"}

// clearer says what the JSON reader says without words of Go.
func clearer(says string) string {
	if m := wrongType.FindStringSubmatch(says); m != nil {
		want := goTypes[m[3]]
		if want == "" {
			want = "something else"
		}
		return fmt.Sprintf("%s: is a %s, must be %s", m[2], m[1], want)
	}
	return wrongItem.ReplaceAllString(says, "an item is an object of fields, not a $1")
}

// find returns the line of the document that a complaint is about, 0 if it is
// about the whole of it.
func (d document) find(says string) int {
	field := ""
	if m := unknownField.FindStringSubmatch(says); m != nil {
		field = m[1]
	} else if path, _, ok := strings.Cut(says, ": is a "); ok {
		field = path[strings.LastIndex(path, ".")+1:]
	}
	if field == "" {
		return 0
	}
	at := regexp.MustCompile(`(?m)^[^#\n]*["']?\b` + regexp.QuoteMeta(field) + `["']?\s*:`).FindIndex(d.text)
	if at == nil {
		return 0
	}
	return lineAt(d.text, at[1])
}
