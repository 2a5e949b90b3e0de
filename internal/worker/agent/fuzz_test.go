package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drover/internal/work"
	"drover/internal/worker/agent"
)

// FuzzReaders has each kind's reader read any text, line by line: an event is one
// of those that are known, and counts nothing below zero.
func FuzzReaders(f *testing.F) {
	files, err := filepath.Glob("testdata/*.jsonl")
	if err != nil || len(files) == 0 {
		f.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(`{"type":"tokens","in":1,"out":2}` + "\n" + `{"type":"error","code":"rate_limited","retry_at":"2030-01-02T03:04:05Z"}` + "\n" + `{"type":"cost","usd":0.5}`)
	known := []string{agent.EventTool, agent.EventIteration, agent.EventTokens, agent.EventCost, agent.EventSession, agent.EventMessage, agent.EventDone, agent.EventNoChange,
		agent.EventError, agent.EventRecovered, agent.EventEnd}
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range work.Agents() {
			read := agent.For(kind).Reader()
			for line := range strings.Lines(text) {
				for _, e := range read(strings.TrimSuffix(line, "\n")) {
					if !slices.Contains(known, e.Type) || e.In < 0 || e.Out < 0 || e.USD < 0 || e.N < 0 {
						t.Fatalf("%s: %q gives %+v", kind, line, e)
					}
				}
			}
		}
	})
}
