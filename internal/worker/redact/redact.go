// Package redact keeps secrets out of everything a worker writes.
package redact

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Mask stands where a secret was.
const Mask = "[redacted]"

// minSecretBytes is the shortest value taken for a secret: replacing shorter
// ones ("1", "true") would only garble the output.
const minSecretBytes = 6

// Redactor replaces secrets. It may be used concurrently.
type Redactor struct {
	secrets  [][]byte // longest first, so that none leaves a part of another
	replacer *strings.Replacer
}

// New returns a Redactor of the values, of each line of those with several, and
// of the forms they take in URLs and HTTP headers.
func New(values ...string) *Redactor {
	var all []string
	for _, value := range values {
		for _, part := range append(strings.Split(value, "\n"), value) {
			part = strings.TrimSpace(part)
			if len(part) < minSecretBytes {
				continue
			}
			all = append(all, part, url.QueryEscape(part), url.PathEscape(part), base64.StdEncoding.EncodeToString([]byte(part)))
		}
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	all = slices.Compact(all)
	r := &Redactor{}
	var pairs []string
	for _, s := range all {
		r.secrets = append(r.secrets, []byte(s))
		pairs = append(pairs, s, Mask)
	}
	r.replacer = strings.NewReplacer(pairs...)
	return r
}

// FromEnviron returns a Redactor of the values of an environment whose names
// say that they are secret: *_TOKEN, *_KEY, *_SECRET, *_PASSWORD; and of the
// passwords for proxies.
func FromEnviron(environ []string) *Redactor {
	var values []string
	vars := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		vars[name] = value
		if secretName(name) {
			values = append(values, value)
		}
		if u, err := url.Parse(value); err == nil && strings.HasSuffix(strings.ToUpper(name), "_PROXY") {
			if password, has := u.User.Password(); has {
				values = append(values, password)
			}
		}
	}
	if user, token := vars["DROVER_GIT_USERNAME"], vars["DROVER_GIT_TOKEN"]; user != "" && token != "" {
		values = append(values, user+":"+token) // as HTTP's basic authentication sends it
	}
	return New(values...)
}

func secretName(name string) bool {
	name = strings.ToUpper(name)
	for _, word := range []string{"TOKEN", "KEY", "SECRET", "PASSWORD"} {
		if name == word || strings.HasSuffix(name, "_"+word) {
			return true
		}
	}
	return false
}

// String returns s with every secret replaced.
func (r *Redactor) String(s string) string { return r.replacer.Replace(s) }

// Writer passes on to w what is written to it, with secrets replaced, also those
// that come in pieces: the end of a write that could begin a secret waits for
// the next one, or Flush. It may be used concurrently.
func (r *Redactor) Writer(w io.Writer) *Writer { return &Writer{redactor: r, w: w} }

// Writer is a redacting io.Writer.
type Writer struct {
	redactor *Redactor
	mu       sync.Mutex
	w        io.Writer
	held     []byte
}

func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := w.redactor.replace(append(w.held, p...))
	keep := w.redactor.beginning(text)
	out := text[:len(text)-keep]
	w.held = slices.Clone(text[len(text)-keep:])
	if len(out) == 0 {
		return len(p), nil
	}
	if _, err := w.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush passes on what was held back. Call it when nothing more is written.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.w.Write(w.held)
	w.held = nil
	return err
}

func (r *Redactor) replace(text []byte) []byte {
	for _, s := range r.secrets {
		text = bytes.ReplaceAll(text, s, []byte(Mask))
	}
	return text
}

// beginning returns how many bytes at the end of text are the beginning of a secret.
func (r *Redactor) beginning(text []byte) int {
	longest := 0
	for _, s := range r.secrets {
		for n := min(len(s)-1, len(text)); n > longest; n-- {
			if bytes.HasSuffix(text, s[:n]) {
				longest = n
				break
			}
		}
	}
	return longest
}
