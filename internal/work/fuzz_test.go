package work_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"drover/internal/work"
)

// FuzzSpec reads specifications. What is taken becomes a valid item, and its
// defaults are filled once and for all.
func FuzzSpec(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"repository":"https://example.com/r.git","task":"x"}`,
		`{"repository":"file:///r","task":"x","queue":"a.b","priority":0,"labels":{"a/b":"c"},"not_before":"2026-01-31T08:00:00Z","clone_depth":1}`,
		`{"repository":"git@h:r","task":"x","agent":"codex","command":["a"],"prompt":"{{.Task}}","loop":{"mode":"until","done_phrase":"ok"},"budget":{"tokens":1,"cost_usd":0.5}}`,
		`{"repository":"https://h/r","task":"x","resources":{"memory_mb":1,"memory_max_mb":2,"cpu_mhz":3,"pids":4},"limits":{"max_iterations":1,"timeout":"1h","heartbeat_ttl":"10s"}}`,
		`{"repository":"https://h/r","task":"x","test":{"command":"make","timeout":"1m","junit":"a/**/*.xml"},"pull_request":{"provider":"github","title":"{{.Task}}","draft":"never","labels":["l"]}}`,
		`{"repository":"https://h/r","task":"x","retry":{"actions":{"crashed":"fail"},"backoff":["1s"],"max_retries":0}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := work.DecodeSpec(data)
		if err == nil {
			err = spec.Validate()
		}
		if err != nil {
			if !errors.Is(err, work.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		full := spec.WithDefaults(work.NewDefaults())
		if again := full.WithDefaults(work.NewDefaults()); !reflect.DeepEqual(full, again) {
			t.Fatalf("%+v became %+v", full, again)
		}
		item := work.NewItem(itemID, full, now)
		stored, err := json.Marshal(item)
		if err != nil {
			t.Fatal(err)
		}
		var read work.Item
		if err := json.Unmarshal(stored, &read); err != nil {
			t.Fatalf("%s: %v", stored, err)
		}
		if second, err := json.Marshal(read); err != nil || !bytes.Equal(stored, second) {
			t.Fatalf("%s became %s (%v)", stored, second, err)
		}
	})
}
