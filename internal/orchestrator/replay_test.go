package orchestrator_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"drover/internal/control"
	"drover/internal/devcluster/nomadd"
	"drover/internal/work"
)

// TestOlderExportIsReplayed: an export that drover wrote before what is stored had a
// number (at da528de), with an item in every state, is taken back as it was.
func TestOlderExportIsReplayed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "export-da528de.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var items []work.Item
	states := map[work.State]int{}
	for line := range bytes.Lines(text) {
		var item work.Item
		if err := work.DecodeStrict(line, &item); err != nil {
			t.Fatal(err)
		}
		items = append(items, item)
		states[item.State]++
	}
	for _, state := range work.States() {
		if states[state] == 0 && state != work.StateAssigned {
			t.Fatalf("states = %v, want %s among them", states, state)
		}
	}
	c := newCluster(t, nil)
	s := c.start(faults{})
	done, err := s.Import(t.Context(), items, false)
	if err != nil || done.Stored != len(items) {
		t.Fatalf("import = %+v, %v; want %d stored", done, err, len(items))
	}
	got := map[string]work.Item{}
	if err := s.Export(t.Context(), control.Filter{}, func(item work.Item) error {
		got[item.ID] = item
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, item := range items {
		if item.State == work.StateInProgress {
			continue // it has no child here, so the next comparison ends its attempt
		}
		is, errIs := json.Marshal(got[item.ID])
		want, errWant := json.Marshal(item)
		if errIs != nil || errWant != nil || !bytes.Equal(is, want) {
			t.Errorf("item = %s, want %s", is, want)
		}
	}
}

// TestChildOfASummarisedAttemptIsRemoved: Nomad still runs what an attempt left whose
// own record is gone.
func TestChildOfASummarisedAttemptIsRemoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(r *run) nomadd.Exit {
		<-r.signals
		return nomadd.Exit{Code: 1}
	})
	first := c.start(faults{})
	id := c.submit(first, 1)[0]
	item := c.await(id, inState(work.StateInProgress))
	c.crash(first)
	item.Earlier = &work.Earlier{Attempts: 1, Reasons: map[work.Reason]int{work.ReasonCrashed: 1}, Began: item.CreatedAt, Ended: item.UpdatedAt}
	item.Attempts = []work.Attempt{{ID: work.NewAttemptID(id, 2), Number: 2, State: work.AttemptKilled, Reason: work.ReasonCrashed, Detail: "x", EndedAt: item.UpdatedAt}}
	item.State, item.NotBefore = work.StateQueued, time.Now().Add(time.Hour)
	c.put("items/"+id, item)
	s := c.start(faults{})
	c.clean()
	logs, err := s.Logs(t.Context(), id, 1)
	if err != nil || logs.End != nil || logs.Missing == "" {
		t.Errorf("logs of attempt 1 = %+v, %v; want none, and why", logs, err)
	}
	if _, err := s.Logs(t.Context(), id, 3); !errors.Is(err, work.ErrNotFound) {
		t.Errorf("logs of attempt 3: %v, want %v", err, work.ErrNotFound)
	}
}
