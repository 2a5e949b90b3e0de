package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// journal is what the agents of an item say that they did, see the demo's agent.
type journal struct {
	starts  []started
	commits []committed
	ended   map[int]int // attempt to exit status
}

type started struct{ attempt, pid int }

type committed struct {
	attempt int
	hash    string
}

// readJournal reads a journal; one that is not there is empty.
func readJournal(path string) (j journal, err error) {
	j.ended = map[int]int{}
	text, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return j, err
	}
	for line := range strings.Lines(string(text)) {
		var event, value string
		var attempt, number int
		if _, err := fmt.Sscanf(line, "%s %d %s", &event, &attempt, &value); err != nil {
			return j, fmt.Errorf("line %q of journal %s: %w", line, path, err)
		}
		switch event {
		case "commit":
			j.commits = append(j.commits, committed{attempt, value})
			continue
		default:
			if _, err := fmt.Sscan(value, &number); err != nil {
				return j, fmt.Errorf("line %q of journal %s: %w", line, path, err)
			}
		}
		if event == "start" {
			j.starts = append(j.starts, started{attempt, number})
		} else {
			j.ended[attempt] = number
		}
	}
	return j, nil
}

// running returns the latest start whose agent has not said that it ended, not ok if there is none.
func (j journal) running() (started, bool) {
	if len(j.starts) == 0 {
		return started{}, false
	}
	last := j.starts[len(j.starts)-1]
	_, over := j.ended[last.attempt]
	return last, !over
}
