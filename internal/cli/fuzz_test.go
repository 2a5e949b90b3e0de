package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"drover/internal/work"
)

// FuzzItems reads files of items. What is refused says so, and what is taken is
// valid and means the same when it is read again.
func FuzzItems(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "---\n---\n", "repository: https://example.com/r.git\ntask: x\n",
		`{"repository":"https://example.com/r.git","task":"x"}` + "\n" + `{"repository":"git@example.com:r.git","task":"y","priority":3}`,
		"repository: https://example.com/r.git\ntask: |\n  a\n  b\nlabels: {a: b}\n--- # next\n{repository: 'https://example.com/r.git', task: z, limits: {timeout: 3h}}\n",
		"a: &x [*x]\n", "repository: [\n", "{", "task: !!binary aGVsbG8=\n", "? a\n: b\n", "<<: {task: x}\n", "not_before: 2026-01-31T08:00:00Z\n",
	} {
		f.Add("items.yaml", []byte(seed))
		f.Add("standard input", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		specs, err := readItems(name, data)
		if err != nil {
			if !errors.Is(err, work.ErrInvalid) || message(err) == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, spec := range specs {
			if err := spec.Validate(); err != nil {
				t.Fatalf("%+v: %v", spec, err)
			}
			first, err := json.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			again, err := work.DecodeSpec(first)
			if err != nil {
				t.Fatalf("%s: %v", first, err)
			}
			if second, err := json.Marshal(again); err != nil || !bytes.Equal(first, second) {
				t.Fatalf("%s became %s (%v)", first, second, err)
			}
		}
	})
}

// TestLineThatIsNoObject: a line that is more than one object would say more to the server than its item.
func TestLineThatIsNoObject(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`:                       true,
		`{"a":{"b":{}},"c":"}"}`:   true,
		`{"a":"\"}{"}`:             true,
		`{"a":"\\"}`:               true,
		`{"a":"\\\"}"}`:            true,
		`{"a":[}`:                  true, // no JSON at all, which who decodes it says
		`{"a":1},"key":"k","b":{}`: false,
		`{"a":1},"b":{"c":2}`:      false,
		`{"a":1}{"b":2}`:           false,
		`{"a":1} {"b":2}`:          false,
		`{"a":"b\"}`:               false,
		`{"a":"b}`:                 false,
		`{"a":{}`:                  false,
		`{`:                        false,
		`"{}"`:                     false,
		`[{}]`:                     false,
		``:                         false,
	} {
		if got := isObject([]byte(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
