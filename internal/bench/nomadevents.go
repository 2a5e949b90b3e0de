package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// taskEnd is the news of a task's end, as Nomad's event stream brought it.
type taskEnd struct {
	at        time.Time
	oomKilled bool // as Nomad has it
}

// nomadEvents is a plain subscriber to Nomad's event stream.
type nomadEvents struct {
	ends boxes[taskEnd] // by the id of the job
}

// eventLine is what is used here of a line of the stream.
type eventLine struct {
	Events []struct {
		Payload struct {
			Allocation *struct {
				JobID      string
				TaskStates map[string]struct {
					Events []struct {
						Type    string
						Details map[string]string
					}
				}
			}
		}
	}
}

// follow reads the events of all allocations from Nomad at address until ctx ends.
func (e *nomadEvents) follow(ctx context.Context, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/v1/event/stream?topic=Allocation:*", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Transport{}).RoundTrip(req)
	if err != nil {
		return fmt.Errorf("open nomad's event stream: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("open nomad's event stream: %s", resp.Status)
	}
	lines := json.NewDecoder(resp.Body)
	for {
		var line eventLine
		if err := lines.Decode(&line); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return errors.Join(errors.New("nomad's event stream broke"), err)
		}
		e.note(line, time.Now())
	}
}

// note takes note of the tasks that a line shows to have ended.
func (e *nomadEvents) note(line eventLine, at time.Time) {
	for _, event := range line.Events {
		allocation := event.Payload.Allocation
		if allocation == nil {
			continue
		}
		for _, task := range allocation.TaskStates {
			for _, taskEvent := range task.Events {
				if taskEvent.Type == "Terminated" {
					e.ends.put(allocation.JobID, taskEnd{at: at, oomKilled: taskEvent.Details["oom_killed"] == "true"})
				}
			}
		}
	}
}
