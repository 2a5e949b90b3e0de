package work_test

import (
	"encoding/json"
	"strings"
	"testing"

	"drover/internal/work"
)

// TestUnknownFieldsSurviveARewrite: a newer version stored fields that this one has
// not, at every level; this one changes the item and stores it again.
func TestUnknownFieldsSurviveARewrite(t *testing.T) {
	crashed := work.Result{Attempt: itemID + ".1", Reason: work.ReasonCrashed, Detail: "x", Allocation: "alloc"}
	item := apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: work.Ending{Reason: work.ReasonCrashed, Detail: "x", Result: &crashed}})
	var newer map[string]any
	if err := json.Unmarshal(encoded(t, item), &newer); err != nil {
		t.Fatal(err)
	}
	attempt := newer["attempts"].([]any)[0].(map[string]any)
	newer["of_item"] = map[string]any{"a": []any{"<", 1.0}}
	newer["spec"].(map[string]any)["of_spec"] = "s"
	attempt["of_attempt"] = "a"
	attempt["result"].(map[string]any)["of_result"] = "r"
	stored, err := json.Marshal(newer)
	if err != nil {
		t.Fatal(err)
	}
	read, err := work.DecodeStored[work.Item](stored)
	if err != nil {
		t.Fatal(err)
	}
	edited := read.Spec
	edited.Unknown, edited.Task = nil, "another task"
	changed := apply(t, read, work.Edited{Spec: edited}, work.Assigned{})
	var got map[string]any
	if err := json.Unmarshal(encoded(t, changed), &got); err != nil {
		t.Fatal(err)
	}
	first := got["attempts"].([]any)[0].(map[string]any)
	for level, found := range map[string]any{
		"item": got["of_item"], "spec": got["spec"].(map[string]any)["of_spec"], "attempt": first["of_attempt"], "result": first["result"].(map[string]any)["of_result"],
	} {
		if found == nil {
			t.Errorf("the unknown field of the %s is gone", level)
		}
	}
	if len(got["attempts"].([]any)) != 2 || got["spec"].(map[string]any)["task"] != "another task" {
		t.Errorf("the changes are not stored: %v", got)
	}
}

func TestUnknownFieldsOfOtherRecordsSurvive(t *testing.T) {
	breaker, err := work.DecodeStored[work.Breaker]([]byte(`{"repository":"h/r","state":"open","new":{"deep":true}}`))
	if err != nil {
		t.Fatal(err)
	}
	record, err := work.DecodeStored[work.QueueRecord]([]byte(`{"name":"q","settings":{"newer_limit":3},"new":1}`))
	if err != nil {
		t.Fatal(err)
	}
	record.State = work.QueuePaused
	claim, err := work.DecodeStored[work.Claim]([]byte(`{"attempt":"x.1","at":"2026-01-01T00:00:00Z","new":1}`))
	if err != nil {
		t.Fatal(err)
	}
	claim.Ended = true
	for want, v := range map[string]any{
		`"new":{"deep":true}`: breaker.Reset(now), `"newer_limit":3`: record, `"new":1`: claim, `"name":"q"`: record,
	} {
		if got := string(encoded(t, v)); !strings.Contains(got, want) {
			t.Errorf("stored = %s, want %s in it", got, want)
		}
	}
}

func TestStoredTextTakesNoMoreThanItMust(t *testing.T) {
	if got, want := string(encoded(t, "<a> & b")), `"<a> & b"`; got != want {
		t.Errorf("stored = %s, want %s", got, want)
	}
}

func BenchmarkEncodeStored(b *testing.B) {
	item := work.NewItem(itemID, spec(), now)
	for b.Loop() {
		if _, err := work.EncodeStored(&item); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMarshal(b *testing.B) {
	item := work.NewItem(itemID, spec(), now)
	for b.Loop() {
		if _, err := json.Marshal(&item); err != nil {
			b.Fatal(err)
		}
	}
}
