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
