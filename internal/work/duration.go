package work

import (
	"fmt"
	"time"
)

// Duration is a time.Duration written as text ("90s", "2h") in JSON, YAML and HCL.
type Duration time.Duration

// MarshalText writes the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads; negative durations are refused.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q: write it as 90s, 15m or 2h: %w", text, ErrInvalid)
	}
	if v < 0 {
		return fmt.Errorf("duration %q: must not be negative: %w", text, ErrInvalid)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// Std returns d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }
