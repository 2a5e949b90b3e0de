package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// plan is what a task asks of the agent.
type plan struct {
	commits      int           // the finished branch holds so many commits of the item
	delay        time.Duration // between an edit and its commit
	exit         int           // status after the last commit
	memoryMB     int           // taken up after the first commit, and held
	hangAfter    int           // commits; 0 never
	crashAttempt int           // attempt that crashes; 0 none
	crashAfter   int           // commits
	journal      string        // path; none if empty
}

var defaultPlan = plan{commits: 3, delay: 500 * time.Millisecond}

// parsePlan finds the directives among the words of a task. All other words are left to readers.
func parsePlan(task string) (plan, error) {
	p := defaultPlan
	for _, word := range strings.Fields(task) {
		key, value, assigned := strings.Cut(word, "=")
		if !assigned {
			continue
		}
		if err := p.set(key, strings.TrimRight(value, ".,;:!")); err != nil {
			return plan{}, fmt.Errorf("directive %q of the task: %w", word, err)
		}
	}
	return p, nil
}

func (p *plan) set(key, value string) (err error) {
	switch key {
	case "commits":
		p.commits, err = strconv.Atoi(value)
	case "delay":
		p.delay, err = time.ParseDuration(value)
	case "exit":
		p.exit, err = strconv.Atoi(value)
	case "memory":
		p.memoryMB, err = strconv.Atoi(value)
	case "hang-after":
		p.hangAfter, err = strconv.Atoi(value)
	case "journal":
		p.journal = value
	case "crash-on-attempt":
		_, err = fmt.Sscanf(value, "%d@%d", &p.crashAttempt, &p.crashAfter)
	}
	return err
}
