package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"drover/internal/testkit/gittest"
	"drover/internal/work"
)

func TestEachThingIsToldOnce(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	d := &demo{out: &out, started: time.Now(), forge: gittest.New(t, gittest.Options{})}
	if err := d.forge.CreateRepo(repository, files); err != nil {
		t.Fatal(err)
	}
	item := work.Item{State: work.StateQueued, Branch: "drover/x", History: []work.Transition{{To: work.StateQueued, Cause: "submitted"}}}
	s := &show{scene: scene{name: "one"}, item: item}
	d.tell(s)
	d.tell(s)
	s.item.History = append(s.item.History, work.Transition{From: work.StateQueued, To: work.StateAssigned, Cause: "attempt 1 is being dispatched"})
	d.tell(s)

	got := regexp.MustCompile(`(?m)^ *[0-9.]+s  `).ReplaceAllString(out.String(), "")
	want := "one     queued       submitted\none     assigned     attempt 1 is being dispatched\n"
	if got != want {
		t.Errorf("told\n%swant\n%s", got, want)
	}
}
