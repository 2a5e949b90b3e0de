package work_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/internal/work"
)

// nasty are pieces of text that take more bytes as stored than they have.
var nasty = []string{"\x01", "\"", "\\", "\n", "<", "&", "\u2028", "\xff", "é", "日", "a", "plain words "}

// text draws a text of at most so many bytes.
func text(t *rapid.T, most int) string {
	piece := rapid.SampledFrom(nasty).Draw(t, "piece")
	n := rapid.IntRange(0, most).Draw(t, "bytes") / len(piece)
	return strings.Repeat(piece, n)
}

func encoded(t rapid.TB, v any) []byte {
	t.Helper()
	data, err := work.EncodeStored(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSizeOfSpecificationIsThatOfWhatIsStored holds the bound, which every submission
// is checked by, against what is really stored, for every text that a specification has.
func TestSizeOfSpecificationIsThatOfWhatIsStored(t *testing.T) {
	for _, piece := range nasty {
		var s work.Spec
		fillTexts(reflect.ValueOf(&s).Elem(), strings.Repeat(piece, 3000/len(piece)))
		got, bound := len(encoded(t, s)), s.StoredBytes()
		if got > bound || bound > got+8<<10 {
			t.Errorf("of %q: bound = %d, want at least the %d stored bytes and at most 8 KiB more", piece, bound, got)
		}
	}
}

// fillTexts fills every text below v.
func fillTexts(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.String || v.Type().Elem().Kind() == reflect.Int64 {
			v.Set(reflect.MakeSlice(v.Type(), 3, 3))
			for i := range v.Len() {
				fillTexts(v.Index(i), text)
			}
		}
	case reflect.Int64:
		v.SetInt(int64(time.Hour*100000 + time.Nanosecond))
	case reflect.Int:
		v.SetInt(1 << 60)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(-1.0 / 3e100)
	case reflect.Map:
		if v.Type() == reflect.TypeFor[map[string]string]() {
			v.Set(reflect.ValueOf(map[string]string{text: text}))
		}
		if v.Type() == reflect.TypeFor[map[work.Reason]work.Action]() {
			actions := map[work.Reason]work.Action{}
			for _, reason := range work.Reasons() {
				actions[reason] = work.ActComplete
			}
			v.Set(reflect.ValueOf(actions))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillTexts(v.Elem(), text)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(now.Add(time.Nanosecond).In(time.FixedZone("", 3600))))
			return
		}
		for i := range v.NumField() {
			fillTexts(v.Field(i), text)
		}
	}
}

func TestSizeIsCheckedByWhatIsStored(t *testing.T) {
	for name, c := range map[string]struct {
		task string
		ok   bool
	}{
		"51,000 times <, one byte each":     {strings.Repeat("<", 51000), true},
		"51,000 times &":                    {strings.Repeat("&", 51000), true},
		"51,000 control characters":         {strings.Repeat("\x01", 51000), false},
		"51,000 line separators":            {strings.Repeat("\u2028", 42000), false},
		"bytes that are not UTF-8":          {strings.Repeat("\xff", 51000), false},
		"100,000 quotes":                    {strings.Repeat(`"`, 100000), false},
		"a plain task of the greatest size": {strings.Repeat("a", work.MaxTaskBytes), true},
	} {
		s := spec()
		s.Task = c.task
		err := s.CheckStoredSize()
		if (err == nil) != c.ok || err != nil && (!errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprint(work.MaxSpecBytes))) {
			t.Errorf("%s: error = %v, want none: %t", name, err, c.ok)
		}
	}
}

// TestItemNeverOutgrowsConsul drives items with the largest specifications through
// random lives of huge texts.
func TestItemNeverOutgrowsConsul(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := spec()
		s.Task = "x" + text(t, work.MaxTaskBytes-1)
		for s.CheckStoredSize() != nil {
			s.Task = s.Task[:len(s.Task)/2]
		}
		life := &life{T: t, item: work.NewItem(itemID, s, now), ended: map[work.Reason]int{}}
		for range rapid.IntRange(1, 30).Draw(t, "events") {
			life.step()
			life.check()
		}
	})
}

// TestTenThousandRequeues lets one item live longer than any should.
func TestTenThousandRequeues(t *testing.T) {
	policy := work.DefaultRetryPolicy()
	policy.MaxRequeues = 1 << 30
	item := work.NewItem(itemID, spec(), now)
	const attempts = 10000
	at := now
	for n := 1; n <= attempts; n++ {
		id := work.NewAttemptID(itemID, n)
		events := []work.Event{
			work.Assigned{}, work.Dispatched{Attempt: id, Child: "worker/dispatch-" + string(id)}, work.Started{Attempt: id, Allocation: "a", Node: "n", At: at},
			work.Ended{Attempt: id, Ending: work.Ending{Reason: work.ReasonNodeLost, Detail: "node n was lost", Tokens: work.Tokens{In: int64(n)}, CostUSD: float64(n)}},
		}
		for _, event := range events {
			at = at.Add(time.Second)
			next, err := work.Apply(item, event, policy, at)
			if err != nil {
				t.Fatalf("attempt %d: %T: %v", n, event, err)
			}
			item = next
		}
	}
	if got := len(encoded(t, item)); got > 128<<10 {
		t.Errorf("the item takes %d bytes, want at most %d", got, 128<<10)
	}
	e := item.Earlier
	if item.AttemptCount() != attempts || item.NextAttempt() != work.NewAttemptID(itemID, attempts+1) || e.Attempts+len(item.Attempts) != attempts {
		t.Errorf("attempts = %d, next = %s, %d summarised and %d kept", item.AttemptCount(), item.NextAttempt(), e.Attempts, len(item.Attempts))
	}
	if e.Reasons[work.ReasonNodeLost] != e.Attempts || !e.Began.Equal(now.Add(time.Second)) || e.Tokens.In != int64(e.Attempts) || e.CostUSD != float64(e.Attempts) {
		t.Errorf("sums = %+v", *e)
	}
	if want := time.Duration(e.Attempts) * 4 * time.Second; e.Ran.Std() != want {
		t.Errorf("ran = %s, want %s", e.Ran, want)
	}
	if err := item.CheckStored(); err != nil {
		t.Error(err)
	}
	late := apply(t, item, work.LateResult{Result: work.Result{Attempt: work.NewAttemptID(itemID, 1), Reason: work.ReasonCompleted, Detail: "late"}})
	if late.Earlier.LateResults != 1 || item.Earlier.LateResults != 0 || late.State != item.State {
		t.Errorf("late results = %d, before %d, state %s", late.Earlier.LateResults, item.Earlier.LateResults, late.State)
	}
}

// life is an item's life, with what must hold in it.
type life struct {
	*rapid.T
	item  work.Item
	ended map[work.Reason]int
	count int
}

// step applies the next event that the item takes.
func (l *life) step() {
	long := func() string { return "x" + text(l.T, 40000) }
	result := func(reason work.Reason) *work.Result {
		return &work.Result{
			Attempt: l.item.CurrentID(), Allocation: "a", Reason: reason, Detail: long(), Commit: "c", RemoteCommit: "c", Branch: long(),
			Test: work.TestOutcome{Status: work.TestFailed, Detail: long()}, Conversation: &work.Conversation{ID: long()},
			Tree: work.Tree{LeftOut: []string{long(), "x"}, Left: []string{text(l.T, 900)}, Notes: []string{"y", long()}}, Start: long(),
			PR: work.PullRequest{Status: work.PRFailed, URL: long(), Title: long(), Body: long(), Error: long()},
		}
	}
	by := work.By{Who: text(l.T, 200), Key: text(l.T, 200)}
	current := l.item.Current()
	var event work.Event
	switch {
	case current != nil && !current.State.Terminal():
		reason := rapid.SampledFrom([]work.Reason{work.ReasonNodeLost, work.ReasonCrashed, work.ReasonStuck, work.ReasonCompleted, work.ReasonRateLimited, work.ReasonOOMKilled}).Draw(l.T, "reason")
		end := work.Ending{Reason: reason, Detail: long(), Events: []string{long(), "short", long()}, Commit: long(), Conversation: &work.Conversation{ID: text(l.T, 600)}}
		if rapid.Bool().Draw(l.T, "with a result") || reason == work.ReasonCompleted {
			end.Result = result(reason)
		} else if rapid.Bool().Draw(l.T, "finished") {
			end.Finished = result(work.ReasonCompleted)
		}
		l.ended[reason]++
		event = work.Ended{Attempt: current.ID, Ending: end}
		l.apply(work.Waiting{Attempt: current.ID, For: long()})
	case l.item.State == work.StateQueued && rapid.Bool().Draw(l.T, "order"):
		event = work.Prioritized{By: by, Priority: 1}
	case l.item.State == work.StateQueued:
		event = work.Assigned{}
		l.count++
	case l.item.State == work.StateCompleted && l.item.PR.Status == work.PRFailed:
		event = work.Publishing{}
		l.count++
	case l.item.State == work.StateCompleted:
		l.late(result(work.ReasonCompleted))
		return
	default:
		event = work.Retried{By: by}
	}
	l.apply(event)
}

func (l *life) late(result *work.Result) {
	result.Attempt = work.NewAttemptID(itemID, rapid.IntRange(1, l.count).Draw(l.T, "late"))
	l.apply(work.LateResult{Result: *result})
}

func (l *life) apply(event work.Event) {
	policy := work.DefaultRetryPolicy()
	policy.MaxRetries, policy.MaxRequeues = 1<<30, 1<<30
	before, look := "", l.count%8 == 0
	if look {
		before = string(encoded(l.T, l.item))
	}
	next, err := work.Apply(l.item, event, policy, now)
	if err != nil {
		l.Fatalf("%T: %v", event, err)
	}
	if look && string(encoded(l.T, l.item)) != before {
		l.Fatalf("%T changed the item that it was applied to", event)
	}
	l.item = next
}

func (l *life) check() {
	data, bound := encoded(l.T, l.item), l.item.StoredBytes()
	if len(data) > bound || bound > work.MaxItemBytes {
		l.Fatalf("stored bytes = %d, bound = %d, want at most the bound, and that at most %d", len(data), bound, work.MaxItemBytes)
	}
	if l.item.AttemptCount() != l.count || l.item.NextAttempt().Number() != l.count+1 {
		l.Fatalf("attempts = %d, next = %s, want %d", l.item.AttemptCount(), l.item.NextAttempt(), l.count)
	}
	counted := map[work.Reason]int{}
	if l.item.Earlier != nil {
		for reason, n := range l.item.Earlier.Reasons {
			counted[reason] += n
		}
	}
	for n, a := range l.item.Attempts {
		if l.item.Attempt(a.Number) != &l.item.Attempts[n] {
			l.Fatalf("attempt %d is not found by its number", a.Number)
		}
		if a.State.Terminal() {
			counted[a.Reason]++
		}
	}
	if !reflect.DeepEqual(counted, l.ended) {
		l.Fatalf("reasons = %v, want %v", counted, l.ended)
	}
	again, err := work.DecodeStored[work.Item](data)
	valid := func(data []byte) string { return strings.ReplaceAll(string(data), `\ufffd`, "\ufffd") } // as JSON is read
	if err != nil || valid(encoded(l.T, again)) != valid(data) {
		l.Fatalf("what was stored does not come back: %v", err)
	}
	if bounded := l.item.Bound(); len(encoded(l.T, bounded)) != len(data) {
		l.Fatalf("bounding it again changed it from %d to %d bytes", len(data), len(encoded(l.T, bounded)))
	}
}

// TestPublishingGoesOnFromSummarisedWork: the result that proves the work outlives
// the record of its attempt.
func TestPublishingGoesOnFromSummarisedWork(t *testing.T) {
	item := apply(t, running(t), work.Ended{Attempt: itemID + ".1", Ending: work.Ending{
		Reason: work.ReasonCompleted, Detail: "done", Result: &work.Result{
			Attempt: itemID + ".1", Reason: work.ReasonCompleted, Detail: "done", Commit: "c1", RemoteCommit: "c1", PR: work.PullRequest{Status: work.PRFailed, Error: "down"},
		},
	}})
	for range 100 {
		item = apply(t, item, work.PublishAsked{}, work.Publishing{})
		item = apply(t, item, work.Ended{Attempt: item.CurrentID(), Ending: work.Ending{Reason: work.ReasonCrashed, Detail: "forge is down"}})
	}
	item = apply(t, item, work.PublishAsked{}, work.Publishing{})
	if !item.Summarised(1) {
		t.Fatal("attempt 1 is kept, so this shows nothing")
	}
	resume := item.Envelope("drover/").Resume
	if resume.Finished == nil || resume.Finished.Commit != "c1" || !resume.PublishOnly {
		t.Errorf("resume = %+v, want the work of attempt 1", resume)
	}
}
