package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"drover/internal/telemetry"
	"drover/internal/work"
	"drover/internal/worker/redact"
)

func newLogs(t *testing.T, to *bytes.Buffer, change func(*telemetry.LogOptions)) *telemetry.Logs {
	t.Helper()
	opts := telemetry.LogOptions{Name: "test", Output: to, Level: "info", Subsystems: []string{"a", "b"}}
	if change != nil {
		change(&opts)
	}
	logs, err := telemetry.NewLogs(opts)
	if err != nil {
		t.Fatal(err)
	}
	return logs
}

func TestLogHoldsNoSecret(t *testing.T) {
	const value, odd, shape = "plain-secret-value", `odd "secret" <&> value`, "ghp_aB3dE5gH7jK9mN1pQ3sT5vW7yZ"
	for _, asJSON := range []bool{true, false} {
		var out bytes.Buffer
		logs := newLogs(t, &out, func(o *telemetry.LogOptions) {
			o.JSON, o.Redact = asJSON, redact.New(value, odd).String
		})
		log := logs.Logger().Named("a").With("token", value)
		log.Info("got "+value, "error", errors.New("clone https://me:hunter2secret@git.example.org/a.git: "+shape))
		log.Info("quoted", "text", odd, "env", "MY_TOKEN=abcdefghijk", "list", []string{value}, "after", "kept")
		for _, text := range []string{out.String(), logs.Recent()} {
			for _, secret := range []string{value, "hunter2secret", shape, "odd ", "abcdefghijk"} {
				if strings.Contains(text, secret) {
					t.Errorf("JSON %v: %s is in\n%s", asJSON, secret, text)
				}
			}
			if !strings.Contains(text, "git.example.org/a.git") || !strings.Contains(text, "kept") {
				t.Errorf("JSON %v: more than secrets is missing in\n%s", asJSON, text)
			}
		}
		for line := range strings.Lines(out.String()) {
			if asJSON && json.Unmarshal([]byte(line), new(map[string]any)) != nil {
				t.Errorf("not JSON: %s", line)
			}
		}
	}
}

func TestSubsystemsHaveLevelsOfTheirOwn(t *testing.T) {
	var out bytes.Buffer
	logs := newLogs(t, &out, func(o *telemetry.LogOptions) { o.Levels = map[string]string{"b": "debug"} })
	a := logs.Logger().Named("a").With("x", 1).Named("deep") // made before its level changes
	say := func() string {
		out.Reset()
		a.Debug("a debug")
		a.Info("a info")
		logs.Logger().Named("b").Debug("b debug")
		logs.Logger().Info("root info")
		var said []string
		for _, message := range []string{"a debug", "a info", "b debug", "root info"} {
			if strings.Contains(out.String(), message) {
				said = append(said, message)
			}
		}
		return strings.Join(said, ", ")
	}
	for _, step := range []struct {
		change func() error
		want   string
	}{
		{func() error { return nil }, "a info, b debug, root info"},
		{func() error { return logs.SetLevel("a", "debug") }, "a debug, a info, b debug, root info"},
		{func() error { return logs.SetLevel("", "error") }, "a debug, a info, b debug"},
		{func() error { return logs.SetLevels("warn", nil) }, ""},
		{func() error { return logs.SetLevels("info", map[string]string{"a": "off"}) }, "root info"},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		if got := say(); got != step.want {
			t.Errorf("said %q, want %q", got, step.want)
		}
	}
	for _, err := range []error{logs.SetLevel("c", "info"), logs.SetLevel("a", "loud"), logs.SetLevels("info", map[string]string{"c": "info"}), logs.SetLevels("", nil)} {
		if !errors.Is(err, work.ErrInvalid) {
			t.Errorf("got %v, want an error that names what there is", err)
		}
	}
	if got := say(); got != "root info" {
		t.Errorf("after what was refused: %q", got)
	}
}

func TestRecentLinesAreTheLast(t *testing.T) {
	var out bytes.Buffer
	logs := newLogs(t, &out, nil)
	for i := range 2500 {
		logs.Logger().Info(fmt.Sprintf("line %d.", i))
	}
	lines := strings.Split(strings.TrimSpace(logs.Recent()), "\n")
	if len(lines) != 1000 || !strings.Contains(lines[0], "line 1500.") || !strings.Contains(lines[999], "line 2499.") {
		t.Errorf("%d lines, from %s to %s", len(lines), lines[0], lines[len(lines)-1])
	}
}
