package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"drover/internal/work"
)

// pollInterval is how often the demo asks drover where the items stand.
const pollInterval = 250 * time.Millisecond

// show is a scene under way: its item as last seen, and what was told of it.
type show struct {
	scene
	item        work.Item
	transitions int
	pushed      int // commits
	killed      bool
}

// watch tells what happens to the items, and kills the attempts that are to be killed, until all items have ended.
func (d *demo) watch(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		ended, err := d.look(ctx)
		if ended || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the items to end: %w", context.Cause(ctx))
		}
	}
}

// look reports whether all items have ended.
func (d *demo) look(ctx context.Context) (bool, error) {
	items, err := d.drover.list(ctx)
	if err != nil {
		return false, err
	}
	ended := true
	for _, s := range d.shows {
		s.item = items[s.item.ID]
		d.tell(s)
		if err := d.disturb(ctx, s); err != nil {
			return false, err
		}
		ended = ended && s.item.State.Terminal()
	}
	return ended, nil
}

// tell prints what is new.
func (d *demo) tell(s *show) {
	if log := d.forge.Log(repository, s.item.Branch); len(log) > 0 {
		commits := log[1:] // on top of the base
		for _, subject := range commits[min(s.pushed, len(commits)):] {
			d.say(s, "pushed", subject)
		}
		s.pushed = len(commits)
	}
	history := s.item.History
	for _, transition := range history[len(history)-min(len(history), s.item.TransitionCount()-s.transitions):] {
		d.say(s, string(transition.To), transition.Cause)
	}
	s.transitions = s.item.TransitionCount()
}

// disturb kills the first attempt of a scene that asks for it, once enough is pushed.
func (d *demo) disturb(ctx context.Context, s *show) error {
	attempt := s.item.Current()
	if s.killAfter == 0 || s.killed || s.pushed < s.killAfter || attempt == nil || attempt.Allocation == "" {
		return nil
	}
	s.killed = true
	d.say(s, "KILLED", fmt.Sprintf("the demo kills attempt %d without warning", attempt.Number))
	return d.drover.kill(ctx, attempt.Allocation)
}

func (d *demo) say(s *show, what, text string) {
	fmt.Fprintf(d.out, "%5.1fs  %-7s %-12s %s\n", time.Since(d.started).Seconds(), s.name, what, text)
}

// table shows how everything ended.
func (d *demo) table() error {
	w := tabwriter.NewWriter(d.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nITEM\tSTATE\tATTEMPTS\tREASONS\tCOMMITS\tTESTS\tPULL REQUEST")
	for _, s := range d.shows {
		var why []string
		for _, reason := range reasons(s.item) {
			why = append(why, string(reason))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%s\t%s\n", s.name, s.item.State, s.item.AttemptCount(), strings.Join(why, ", "),
			s.pushed, s.item.Test.Status, s.item.PR.Status)
	}
	return w.Flush()
}
