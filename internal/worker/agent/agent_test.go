package agent_test

import (
	"testing"
	"time"

	"drover/internal/work"
	"drover/internal/worker/agent"
)

func TestLinesThatMeanSomething(t *testing.T) {
	for line, want := range map[string]agent.Event{
		`{"type":"tool","name":"Edit","detail":"x.go"}`:  {Type: agent.EventTool, Name: "Edit", Detail: "x.go"},
		`{"type":"tool","name":"Bash","more":{"a":[1]}}`: {Type: agent.EventTool, Name: "Bash"},
		`{"type":"iteration","n":2}`:                     {Type: agent.EventIteration, N: 2},
		`{"type":"tokens","in":123,"out":45}`:            {Type: agent.EventTokens, Tokens: work.Tokens{In: 123, Out: 45}},
		`{"type":"cost","usd":0.25}`:                     {Type: agent.EventCost, USD: 0.25},
		`{"type":"session","id":"abc"}`:                  {Type: agent.EventSession, ID: "abc"},
		`{"type":"done"}`:                                {Type: agent.EventDone},
		`{"type":"error","code":"rate_limited","retry_at":"2026-01-02T15:04:05Z","message":"wait"}`: {
			Type: agent.EventError, Code: agent.CodeRateLimited, Message: "wait", RetryAt: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC),
		},
	} {
		if got, ok := agent.Parse(line); !ok || got != want {
			t.Errorf("%s: %+v %v", line, got, ok)
		}
	}
}

func TestEveryOtherLineMeansNothing(t *testing.T) {
	for _, line := range []string{
		"", "hello", "{", "{}", `{"type":"tool"}`, `{"type":"iteration","n":0}`, `{"type":"iteration","n":"two"}`, `{"type":"new"}`,
		`{"type":"tokens","in":-1}`, `{"type":"error","message":"no code"}`, `["type"]`, `{"type":"cost","usd":-1}`, `{"type":"session"}`, `{"type":"message","message":"not of the protocol"}`, ` {"type":"iteration","n":2}`, `{"type":7}`,
	} {
		if got, ok := agent.Parse(line); ok {
			t.Errorf("%s: %+v", line, got)
		}
	}
}
