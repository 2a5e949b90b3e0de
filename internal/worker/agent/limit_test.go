package agent

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"drover/internal/work"
)

// wednesday is when the limits of these tests are met: a Wednesday, 16:14 in Berlin.
func wednesday(t *testing.T) time.Time {
	t.Helper()
	return time.Date(2026, time.November, 25, 16, 14, 0, 0, in(t, "Europe/Berlin"))
}

func in(t *testing.T, zone string) *time.Location {
	t.Helper()
	location, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	return location
}

func TestResetIsReadInEachForm(t *testing.T) {
	now := wednesday(t)
	berlin, seoul := now.Location(), in(t, "Asia/Seoul")
	at := func(zone *time.Location, year int, month time.Month, day, hour, minute int) time.Time {
		return time.Date(year, month, day, hour, minute, 0, 0, zone)
	}
	for text, want := range map[string]time.Time{
		"Claude AI usage limit reached|1893553445":                                                             time.Unix(1893553445, 0),
		"Claude AI usage limit reached|1893553445000":                                                          time.Unix(1893553445, 0),
		"5-hour limit reached ∙ resets 7pm":                                                                    at(berlin, 2026, 11, 25, 19, 0),
		"5-hour limit reached ∙ resets 1am":                                                                    at(berlin, 2026, 11, 26, 1, 0),
		"You've hit your session limit · resets 3:45pm":                                                        at(berlin, 2026, 11, 26, 15, 45),
		"You've hit your session limit · resets 4:10pm":                                                        at(berlin, 2026, 11, 25, 16, 10), // it has just passed
		"You've hit your limit · resets 12am":                                                                  at(berlin, 2026, 11, 26, 0, 0),
		"You've hit your limit · resets 12:30pm":                                                               at(berlin, 2026, 11, 26, 12, 30),
		"Weekly limit reached · resets 10am (Asia/Seoul) · /upgrade to Max":                                    at(seoul, 2026, 11, 26, 10, 0),
		"Claude usage limit reached. Your limit will reset at 2pm (America/New_York).":                         at(in(t, "America/New_York"), 2026, 11, 25, 14, 0),
		"Claude usage limit reached. Your limit will reset at 1pm (Etc/GMT+5).":                                at(in(t, "Etc/GMT+5"), 2026, 11, 25, 13, 0),
		"You've hit your weekly limit · resets Mon 12:00am":                                                    at(berlin, 2026, 11, 30, 0, 0),
		"You've hit your weekly limit · resets Wed 9am":                                                        at(berlin, 2026, 12, 2, 9, 0),
		"You've hit your weekly limit · resets Dec 1, 8am (Asia/Seoul)":                                        at(seoul, 2026, 12, 1, 8, 0),
		"You've hit your limit · resets Jan 4 at 9pm (Asia/Seoul)":                                             at(seoul, 2027, 1, 4, 21, 0),
		"You've hit your limit - resets Nov 24, 9pm":                                                           at(berlin, 2026, 11, 24, 21, 0), // a stale message
		"Opus weekly limit reached ∙ resets Dec 6, 1pm":                                                        at(berlin, 2026, 12, 6, 13, 0),
		"You're out of extra usage · resets 1pm (America/Los_Angeles)":                                         at(in(t, "America/Los_Angeles"), 2026, 11, 25, 13, 0),
		"You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.": at(time.UTC, 2026, 12, 1, 0, 0),
		"Usage limit reached for 5 hour. Your limit will reset at 2026-11-25 18:19:00":                         at(berlin, 2026, 11, 25, 18, 19),
		"resets at 2026-11-25T18:19:00+02:00":                                                                  at(time.UTC, 2026, 11, 25, 16, 19),
		"resets in 3h44m":                                                                                      now.Add(3*time.Hour + 44*time.Minute),
		"try again in 2 days 17 hours 14 minutes.":                                                             now.Add(65*time.Hour + 14*time.Minute),
		"Rate limit reached for x: Limit 200000. Please try again in 11.5s.":                                   now.Add(11 * time.Second),
		"Try again in 4 seconds.":                                                                              now.Add(4 * time.Second),
		"or try again at 7:58 PM.":                                                                             at(berlin, 2026, 11, 25, 19, 58),
		"or try again at Jan 2nd, 2030 3:04 AM.":                                                               at(berlin, 2030, 1, 2, 3, 4),
		"Try again at Aug 20, 2029, 7:38 PM.":                                                                  at(berlin, 2029, 8, 20, 19, 38),
		"Try again Dec 18.":                                                                                    at(berlin, 2026, 12, 18, 0, 0),
		`unexpected status 429: {"error":{"type":"usage_limit_reached","resets_at":1893553445,"resets_in_seconds":602705}}`: time.Unix(1893553445, 0),
		`unexpected status 429: {"error":{"type":"usage_limit_reached","resets_in_seconds":3600}}`:                          now.Add(time.Hour),
		"try again later.":                      {},
		"You've hit your limit":                 {},
		"resets 3pm (Middle-earth/Shire)":       {},
		"resets 25:70":                          {},
		"Claude AI usage limit reached|0":       {},
		"limit reached|99999999999999":          {},
		"this resets the branch at origin/main": {},
	} {
		if got := reset(text, now); !got.Equal(want) {
			t.Errorf("%s: %s, want %s", text, got.In(berlin), want.In(berlin))
		}
	}
}

// failure returns the error of a Claude Code that fails with a result, or a Codex with a turn.
func failure(t *testing.T, kind, text string, now time.Time) Event {
	t.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	var events []Event
	if kind == work.AgentCodex {
		events = (&codexReader{now: func() time.Time { return now }}).line(fmt.Sprintf(`{"type":"turn.failed","error":{"message":%s}}`, quoted))
	} else {
		events = (&claudeReader{now: func() time.Time { return now }, counted: map[string]work.Tokens{}}).line(fmt.Sprintf(`{"type":"result","subtype":"success","is_error":true,"result":%s}`, quoted))
	}
	last := events[len(events)-1]
	if last.Type != EventError || !last.Final {
		t.Fatalf("%s: %s: %+v, want a final error", kind, text, last)
	}
	return last
}

func TestLimitsAreToldFromFailures(t *testing.T) {
	now := wednesday(t)
	for kind, texts := range map[string]map[string]string{
		work.AgentClaudeCode: {
			"Claude AI usage limit reached|1893553445":                                    CodeRateLimited,
			"5-hour limit reached ∙ resets 1am":                                           CodeRateLimited,
			"Session limit reached ∙ resets 9pm":                                          CodeRateLimited,
			"Weekly limit reached":                                                        CodeRateLimited,
			"Opus weekly limit reached ∙ resets Dec 6, 1pm":                               CodeRateLimited,
			"Limit reached · resets 1pm (America/Chicago) · /upgrade to Max":              CodeRateLimited,
			"You've hit your limit · resets 11pm (America/Anchorage)":                     CodeRateLimited,
			"You've hit your Sonnet limit · resets 11pm":                                  CodeRateLimited,
			"You’ve reached your Fable limit. Switch to another model to continue.":       CodeRateLimited,
			"You're out of usage credits · resets 8pm (UTC)":                              CodeRateLimited,
			"API Error: Rate limit reached":                                               CodeRateLimited,
			"API Error: Request rejected (429) · this may be a temporary capacity issue":  CodeRateLimited,
			"API Error: Server is temporarily limiting requests (not your usage limit)":   CodeRateLimited,
			"API Error: Repeated 529 Overloaded errors":                                   CodeRateLimited,
			`API Error: 529 {"type":"error","error":{"type":"overloaded_error"}}`:         CodeRateLimited,
			`API Error: 429 {"type":"error","error":{"type":"rate_limit_error"}}`:         CodeRateLimited,
			"Credit balance is too low":                                                   CodeQuota,
			"You've hit your monthly spend limit.":                                        CodeQuota,
			"API Error: Usage credits required for 1M context":                            CodeQuota,
			"API Error: 500 Internal server error":                                        CodeFailed,
			"Prompt is too long":                                                          CodeFailed,
			"Context limit reached · /compact or /clear to continue":                      CodeFailed,
			"Conversation length limit reached":                                           CodeFailed,
			"Invalid API key · Please run /login":                                         CodeFailed,
			"I could not mend the rate limit of the API: 429 stays, and usage limits too": CodeFailed,
		},
		work.AgentCodex: {
			"You've hit your usage limit. Try again at 7:58 PM.":                                                    CodeRateLimited,
			"You've hit your usage limit. To get more access now, send a request to your admin or try again later.": CodeRateLimited,
			"You've hit your usage limit for GPT-5. Switch to another model now, or try again at 7:58 PM.":          CodeRateLimited,
			"Selected model is at capacity. Please try a different model.":                                          CodeRateLimited,
			"We're currently experiencing high demand, which may cause temporary errors.":                           CodeRateLimited,
			"exceeded retry limit, last status: 429 Too Many Requests":                                              CodeRateLimited,
			"stream disconnected before completion: Rate limit reached for x. Please try again in 11.054s.":         CodeRateLimited,
			"Quota exceeded. Check your plan and billing details.":                                                  CodeQuota,
			"You exceeded your current quota, please check your plan and billing details.":                          CodeQuota,
			"Your workspace is out of credits. Add credits to continue.":                                            CodeQuota,
			"You hit your spend cap set in your workspace. Increase your spend cap to continue.":                    CodeQuota,
			"To use Codex with your ChatGPT plan, upgrade to Plus: https://chatgpt.com/explore/plus.":               CodeQuota,
			"shared rollout token budget exhausted":                                                                 CodeBudget,
			"Codex ran out of room in the model's context window.":                                                  CodeFailed,
			"stream disconnected before completion: error decoding response body":                                   CodeFailed,
		},
	} {
		for text, want := range texts {
			if got := failure(t, kind, text, now); got.Code != want {
				t.Errorf("%s: %s: %s, want %s", kind, text, got.Code, want)
			}
		}
	}
}

func TestLimitThatTheAPIStates(t *testing.T) {
	now := wednesday(t)
	for line, want := range map[string]Event{
		`{"type":"turn.failed","error":{"message":"The usage limit has been reached","resets_at":1893553445}}`: {Code: CodeRateLimited, RetryAt: time.Unix(1893553445, 0)},
		`{"type":"turn.failed","error":{"message":"no more today","resets_in_seconds":90}}`:                    {Code: CodeRateLimited, RetryAt: now.Add(90 * time.Second)},
		`{"type":"error","message":"no more today","resets_at":1893553445000}`:                                 {Code: CodeRateLimited, RetryAt: time.Unix(1893553445, 0)},
		`{"type":"turn.failed","error":{"message":"no more","resets_in_seconds":9223372036854775807}}`:         {Code: CodeRateLimited, RetryAt: now.Add(maxWait)},
	} {
		got := (&codexReader{now: func() time.Time { return now }}).line(line)
		if len(got) != 1 || got[0].Code != want.Code || !got[0].RetryAt.Equal(want.RetryAt) {
			t.Errorf("%s: %+v, want %s at %s", line, got, want.Code, want.RetryAt)
		}
	}
}

// TestRejectedWindowWithoutAResetNamesNone: nor does one of an earlier window.
func TestRejectedWindowWithoutAResetNamesNone(t *testing.T) {
	const (
		until    = `{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1893553445}}`
		never    = `{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","rateLimitType":"overage"}}`
		negative = `{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":-1}}`
		limited  = `{"type":"assistant","error":"rate_limit","message":{"id":"m"}}`
		works    = `{"type":"assistant","message":{"id":"n"}}`
		failed   = `{"type":"result","subtype":"success","is_error":true,"result":"Your group's usage limit is set to $0"}`
		refused  = `{"type":"result","subtype":"success","is_error":true,"api_error_status":429,"result":"API Error: Rate limit reached"}`
	)
	for name, c := range map[string]struct {
		lines []string
		want  time.Time
	}{
		"a reset":                       {[]string{until, limited, failed}, time.Unix(1893553445, 0)},
		"none":                          {[]string{never, limited, failed}, time.Time{}},
		"before 1970":                   {[]string{negative, limited, failed}, time.Time{}},
		"without an event":              {[]string{limited, failed}, time.Time{}},
		"the status alone":              {[]string{refused}, time.Time{}},
		"of a window that opened again": {[]string{until, limited, works, refused}, time.Time{}},
	} {
		r := &claudeReader{now: func() time.Time { return wednesday(t) }, counted: map[string]work.Tokens{}}
		var last Event
		for _, line := range c.lines {
			for _, e := range r.line(line) {
				last = e
			}
		}
		if last.Code != CodeRateLimited || !last.RetryAt.Equal(c.want) {
			t.Errorf("%s: %s at %s, want %s at %s", name, last.Code, last.RetryAt, CodeRateLimited, c.want)
		}
	}
}
