package report_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"drover/internal/report"
	"drover/internal/work"
)

// sample is where to keep the page of the sample, to be looked at.
var sample = flag.String("sample", "", "file to write the sample's page to")

var until = time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)

// ended is an item that came to its end some time before until, made through the
// same transitions as any.
type ended struct {
	repository string
	before     time.Duration // of its end
	took       time.Duration // each attempt
	reasons    []work.Reason // of its attempts
	tokens     int64         // of each attempt
	cost       float64       // of all
	pr         work.PRStatus // of completed work
}

func (e ended) item(t *testing.T) work.Item {
	t.Helper()
	retries := len(e.reasons) - 1
	spec := work.Spec{Repository: "https://git.example.org/" + e.repository, Task: "x", Retry: &work.RetryOverride{MaxRetries: &retries}}
	now := until.Add(-e.before - time.Duration(len(e.reasons))*e.took)
	item := work.NewItem(work.NewID(now), spec.WithDefaults(work.NewDefaults()), now)
	policy := work.DefaultRetryPolicy().With(spec.Retry)
	policy.Backoff = []work.Duration{0}
	apply := func(event work.Event) {
		next, err := work.Apply(item, event, policy, now)
		if err != nil {
			t.Fatal(err)
		}
		item = next
	}
	for i, reason := range e.reasons {
		apply(work.Assigned{})
		a := item.CurrentID()
		apply(work.Dispatched{Attempt: a, Child: "c"})
		apply(work.Started{Attempt: a, Allocation: "a", Node: "n", At: now})
		now = now.Add(e.took)
		end := work.Ending{Reason: reason, Detail: "as the test says", Tokens: work.Tokens{In: e.tokens * int64(i+1)}, CostUSD: e.cost}
		if reason == work.ReasonCompleted {
			end.Result = &work.Result{Attempt: a, Reason: reason, Detail: "done", PR: work.PullRequest{Status: e.pr}}
		}
		apply(work.Ended{Attempt: a, Ending: end})
	}
	return item
}

func items(t *testing.T, all ...ended) (items []work.Item) {
	t.Helper()
	for _, e := range all {
		items = append(items, e.item(t))
	}
	return items
}

const (
	hour = time.Hour
	day  = 24 * hour
)

func TestReportCountsWhatEndedInItsTime(t *testing.T) {
	const completed, oom, crashed, stuck = work.ReasonCompleted, work.ReasonOOMKilled, work.ReasonCrashed, work.ReasonStuck
	r := report.Make(items(t,
		ended{repository: "shop.git", before: hour, took: hour, reasons: []work.Reason{completed}, tokens: 1000, cost: 1, pr: work.PRCreated},
		ended{repository: "shop.git", before: day, took: hour, reasons: []work.Reason{oom, completed}, tokens: 2000, cost: 3, pr: work.PRCreated},
		ended{repository: "shop.git", before: 2 * day, took: hour, reasons: []work.Reason{oom, oom, completed}, tokens: 500, pr: work.PRFailed},
		ended{repository: "bank.git", before: 2 * day, took: hour, reasons: []work.Reason{crashed, crashed}, tokens: 500},
		ended{repository: "bank.git", before: 3 * day, took: hour, reasons: []work.Reason{stuck}},
		ended{repository: "bank.git", before: 30 * day, took: hour, reasons: []work.Reason{stuck}}, // too long ago
	), until.Add(-7*day), until)

	if r.Items != 5 || r.Completed != 3 || r.Failed != 1 || r.Stuck != 1 || r.SuccessRate != 0.6 || r.PullRequests != 2 || r.Attempts != 9 {
		t.Errorf("%+v", r)
	}
	if want := (report.Spread{Count: 2, Mean: 5400, Median: 5400, P95: 7200}); r.TimeToPR != want {
		t.Errorf("time to PR %+v, want %+v", r.TimeToPR, want)
	}
	if r.Retries.Items != 3 || r.Retries.Helped != 2 {
		t.Errorf("retries %+v", r.Retries)
	}
	if want := []report.RetriedReason{{Reason: oom, Items: 2, Helped: 2}, {Reason: crashed, Items: 1, Helped: 0}}; !reflect.DeepEqual(r.Retries.ByReason, want) {
		t.Errorf("retries by reason %+v, want %+v", r.Retries.ByReason, want)
	}
	if want := []report.Reason{{completed, 3, 3}, {oom, 3, 0}, {crashed, 2, 1}, {stuck, 1, 1}}; !reflect.DeepEqual(r.Reasons, want) {
		t.Errorf("reasons %+v, want %+v", r.Reasons, want)
	}
	if want := []report.Repository{{Repository: "https://git.example.org/bank.git", Items: 2, Reason: crashed}}; !reflect.DeepEqual(r.Repositories, want) {
		t.Errorf("repositories %+v, want %+v", r.Repositories, want)
	}
	if r.CostUSD != 4 || r.CostUSDItem.Count != 2 || r.CostUSDItem.Mean != 2 || r.Tokens.In != 1000+4000+1500+1000 || r.TokensItem.Count != 5 {
		t.Errorf("cost %v %+v, tokens %+v %+v", r.CostUSD, r.CostUSDItem, r.Tokens, r.TokensItem)
	}
	if len(r.Days) != 8 || r.Days[7] != (report.Day{Date: "2026-03-08", Completed: 1}) || r.Days[5] != (report.Day{Date: "2026-03-06", Completed: 1, Others: 1}) {
		t.Errorf("days %+v", r.Days)
	}
}

func TestReportOfNothingIsAReport(t *testing.T) {
	var page strings.Builder
	r := report.Make(nil, until.Add(-day), until)
	if err := r.HTML(&page); err != nil || r.SuccessRate != 0 || r.TimeToPR != (report.Spread{}) {
		t.Errorf("%+v %v", r, err)
	}
	if strings.Contains(page.String(), "NaN") || strings.Contains(page.String(), "<svg") {
		t.Error("the page of nothing has charts")
	}
}

// TestPageNeedsNothingButItself also escapes what is not drover's own text.
func TestPageNeedsNothingButItself(t *testing.T) {
	var all []ended
	for i := range 60 {
		e := ended{
			repository: fmt.Sprintf("team/service-%d.git", i%7), before: time.Duration(i) * 2 * hour, took: time.Duration(20+i%9*11) * time.Minute,
			reasons: []work.Reason{work.ReasonCompleted}, tokens: int64(40000 + i*900), cost: 0.4 + float64(i%5)/4, pr: work.PRCreated,
		}
		switch {
		case i%7 == 3:
			e.reasons = []work.Reason{work.ReasonOOMKilled, work.ReasonCompleted}
		case i%7 == 5 && i%2 == 0:
			e.reasons = []work.Reason{work.ReasonAgentError, work.ReasonCrashed}
		case i%11 == 6:
			e.reasons = []work.Reason{work.ReasonStuck}
		case i%13 == 4:
			e.reasons = []work.Reason{work.ReasonNodeLost, work.ReasonCompleted}
		}
		all = append(all, e)
	}
	all = append(all, ended{repository: "<script>alert(1)</script>", before: hour, took: hour, reasons: []work.Reason{work.ReasonStuck}})
	var page strings.Builder
	if err := report.Make(items(t, all...), until.Add(-7*day), until).HTML(&page); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	if found := regexp.MustCompile(`(?i)<script|<link|<img|src=|@import|url\(|https?://[^g]`).FindString(text); found != "" {
		t.Errorf("the page has %q", found)
	}
	for _, want := range []string{"completed, of those not cancelled", "<rect class=\"good\"", "oom_killed", "team/service-5.git", "&lt;script&gt;"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if *sample != "" {
		clean := strings.ReplaceAll(text, "&lt;script&gt;alert(1)&lt;/script&gt;", "team/legacy.git")
		if err := os.WriteFile(filepath.Clean(*sample), []byte(clean), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
