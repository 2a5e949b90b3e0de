package agent

import (
	"regexp"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // limits name zones, and slim images know none
)

// What follows reads limits from the sentences of Claude Code and Codex, as their
// documentation and source have them (code.claude.com/docs/en/errors;
// codex-rs/protocol/src/error.rs in openai/codex), and as reports quote older ones
// (anthropics/claude-code issues 2087, 7157, 12789, 19472, 22439, 77082; openai/codex issues
// 2669, 3124, 3899, 43892).

var (
	// claudeLimits begin what Claude Code itself says about a limit. It is anchored:
	// an answer of the model may speak of limits, too.
	claudeLimits = regexp.MustCompile(`(?i)^\W*(` + strings.Join([]string{
		`API Error:?\W.{0,200}?(\b429\b|\b529\b|rate.?limit|overloaded|at capacity|usage limit|temporarily limiting)`,
		`Error: (429|529)\b`,
		`Request rejected \(429\)`,
		`Server is temporarily limiting requests`,
		`(the )?(API|server|model) is (at capacity|overloaded)`,
		`Claude( AI| Max| Pro| Code)? usage limit reached`,
		`(your )?([a-z0-9-]+ ){0,3}limit (has been )?reached\s*([|·∙•.!-]|$)`,
		`You(['’]ve| have) (hit|reached) your .{0,60}?\b(limits?|cap)\b`,
		`You['’]re out of (extra usage|usage credits)`,
		`(You exceeded|You have exceeded) your .{0,60}\blimit`,
	}, "|") + `)`)
	// notClaudeLimits look like them.
	notClaudeLimits = regexp.MustCompile(`(?i)^\W*([a-z-]+ ){0,3}(context|conversation|turn|length|token|prompt)[a-z ]* limit reached`)
	codexLimits     = regexp.MustCompile(`(?i)usage limit|rate.?limit|too many requests|\b429\b|\b529\b|at capacity|overloaded|high demand|slow down`)
	// hopeless is where an account has nothing left, and waiting changes nothing.
	hopeless = regexp.MustCompile(`(?i)quota exceeded|exceeded your current quota|insufficient_quota|credit balance is too low|out of credits|` +
		`hit your spend cap|monthly spend limit|spend limit reached|billing_error|check your plan and billing|to use codex with your chatgpt plan|requires usage credits|usage credits required`)
	codexBudget = regexp.MustCompile(`(?i)(rollout|session) (token )?budget (is )?exhausted`)
)

// claudeLimit reports whether Claude Code says that it ran into a limit.
func claudeLimit(text string) bool {
	return claudeLimits.MatchString(text) && !notClaudeLimits.MatchString(text)
}

// Seconds since 1970 that a reset can be at: beyond the last it is said in milliseconds.
const lastReset = 1 << 33 // in 2242

// resetOf returns the moment that a number names, zero if it names none.
func resetOf(since1970 int64) time.Time {
	if since1970 > lastReset {
		since1970 /= 1000
	}
	if since1970 <= 0 || since1970 > lastReset {
		return time.Time{}
	}
	return time.Unix(since1970, 0).UTC()
}

// Forms of a stated reset, in the order in which they are tried.
var (
	resetEpoch = regexp.MustCompile(`limit reached\|(\d{9,14})\b|"resets?_?[aA]t"\s*:\s*"?(\d{9,14})\b`)
	resetWait  = regexp.MustCompile(`"(?:resets_in_seconds|retry_after|retry_after_seconds)"\s*:\s*"?(\d{1,9})\b`)
	resetIn    = regexp.MustCompile(`(?i)\b(?:try again|resets?|retry|available again) (?:in|after) (?:about )?(\d[0-9a-z., ]*)`)
	resetStamp = regexp.MustCompile(`(?i)(?:\b(?:at|on|until|resets?) |"resets?_?at"\s*:\s*")(\d{4}-\d{2}-\d{2})(?:T| at | )(\d{2}:\d{2}(?::\d{2})?)(?:\.\d+)?\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2})?`)
	resetAt    = regexp.MustCompile(`(?i)\b(?:try again|resets?)(?: on| at)?:? (.{1,60})`)
)

// reset reads when a limit resets, zero if a text does not say. A time of day
// without a zone is of now's: the agent's clock is the worker's.
func reset(text string, now time.Time) time.Time {
	if match := resetEpoch.FindStringSubmatch(text); match != nil {
		n, _ := strconv.ParseInt(match[1]+match[2], 10, 64) // at most 14 digits
		return resetOf(n)
	}
	if match := resetWait.FindStringSubmatch(text); match != nil {
		n, _ := strconv.Atoi(match[1]) // at most 9 digits
		return now.Add(time.Duration(n) * time.Second).UTC().Truncate(time.Second)
	}
	if match := resetIn.FindStringSubmatch(text); match != nil {
		if wait := duration(match[1]); wait > 0 {
			return now.Add(wait).UTC().Truncate(time.Second)
		}
	}
	if match := resetStamp.FindStringSubmatch(text); match != nil {
		return stamp(match[1], match[2], match[3], now)
	}
	for _, match := range resetAt.FindAllStringSubmatch(text, -1) {
		if at := moment(match[1], now); !at.IsZero() {
			return at
		}
	}
	return time.Time{}
}

var (
	durationPart = regexp.MustCompile(`(?i)(\d+(?:\.\d+)?)\s*(ms|millis|d|h|m|s)[a-z]*`)
	units        = map[string]time.Duration{
		"ms": time.Millisecond, "millis": time.Millisecond, "d": 24 * time.Hour, "h": time.Hour, "m": time.Minute, "s": time.Second,
	}
)

// duration adds up the parts of "2 days 17 hours 14 minutes", "3h44m" or "1.5s".
func duration(text string) (d time.Duration) {
	for _, part := range durationPart.FindAllStringSubmatch(text, -1) {
		n, _ := strconv.ParseFloat(part[1], 64) // digits
		d += time.Duration(n * float64(units[strings.ToLower(part[2])]))
	}
	return min(d, maxWait)
}

// maxWait bounds a stated wait: no limit lasts for longer.
const maxWait = 400 * 24 * time.Hour

// stamp reads a date and time, zero if it is none. Without a zone it is of now's.
func stamp(date, clock, zone string, now time.Time) time.Time {
	if len(clock) == len("15:04") {
		clock += ":00"
	}
	layout, value, in := "2006-01-02 15:04:05", date+" "+clock, time.UTC
	switch strings.ToUpper(zone) {
	case "":
		in = now.Location()
	case "Z", "UTC", "GMT":
	default:
		layout, value = layout+"-0700", value+strings.Replace(zone, ":", "", 1)
	}
	at, err := time.ParseInLocation(layout, value, in)
	if err != nil {
		return time.Time{}
	}
	return at.UTC()
}

// Parts of a moment as people write it: "3pm", "Mon 12:00am (Asia/Tokyo)",
// "Jan 2nd, 2030 3:04 AM", "May 5 at 9pm".
var (
	momentZone    = regexp.MustCompile(`\(([A-Za-z0-9_+/-]+)\)|\b(UTC|GMT)\b`)
	momentWeekday = regexp.MustCompile(`(?i)^(sun|mon|tue|wed|thu|fri|sat)[a-z]*\b`)
	momentDate    = regexp.MustCompile(`(?i)^(?:(?:sun|mon|tue|wed|thu|fri|sat)[a-z]*,? )?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? (\d{1,2})(?:st|nd|rd|th)?\b(?:,? (\d{4})\b)?`)
	momentClock   = regexp.MustCompile(`(?i)\b(\d{1,2})(?::(\d{2}))?\s?([ap])\.?m\b|\b(\d{1,2}):(\d{2})\b`)
)

const (
	// staleTime is for how long a time of day that has passed is still taken for
	// today's: a message may be older than the limit.
	staleTime = 10 * time.Minute
	// staleDate is the same for a date without a year.
	staleDate = 31 * 24 * time.Hour
)

// moment reads a point in time at the beginning of a text, zero if there is none.
func moment(text string, now time.Time) time.Time {
	zone := now.Location()
	if match := momentZone.FindStringSubmatch(text); match != nil {
		var err error
		if zone, err = time.LoadLocation(match[1] + match[2]); err != nil {
			return time.Time{} // whenever that is
		}
	}
	now = now.In(zone)
	date := momentDate.FindStringSubmatch(text)
	rest := text
	if date != nil {
		rest = text[len(date[0]):]
	}
	hour, minute, ok := clockIn(rest)
	if !ok && date == nil {
		return time.Time{}
	}
	at := time.Date(now.Year(), now.Month(), now.Day(), hour, minute, 0, 0, zone)
	weekday := momentWeekday.FindStringSubmatch(text)
	switch {
	case date != nil:
		return dated(date, hour, minute, now)
	case weekday != nil:
		for !strings.HasPrefix(strings.ToLower(at.Weekday().String()), strings.ToLower(weekday[1])) {
			at = at.AddDate(0, 0, 1)
		}
		if at.Before(now.Add(-staleTime)) {
			at = at.AddDate(0, 0, 7)
		}
	case at.Before(now.Add(-staleTime)):
		at = at.AddDate(0, 0, 1)
	}
	return at.UTC()
}

// clockIn finds a time of day.
func clockIn(text string) (hour, minute int, ok bool) {
	match := momentClock.FindStringSubmatch(text)
	if match == nil {
		return 0, 0, false
	}
	hour, _ = strconv.Atoi(match[1] + match[4])   // digits
	minute, _ = strconv.Atoi(match[2] + match[5]) // digits, or 0
	if match[3] != "" {
		hour %= 12
		if strings.EqualFold(match[3], "p") {
			hour += 12
		}
	}
	return hour, minute, hour < 24 && minute < 60
}

// dated is a day of a month at a time of day. Without a year it is the next such
// day, unless it has just passed.
func dated(date []string, hour, minute int, now time.Time) time.Time {
	month, err := time.Parse("Jan", strings.ToUpper(date[1][:1])+strings.ToLower(date[1][1:]))
	if err != nil {
		return time.Time{}
	}
	day, _ := strconv.Atoi(date[2]) // digits
	year := now.Year()
	if date[3] != "" {
		year, _ = strconv.Atoi(date[3]) // digits
	}
	at := time.Date(year, month.Month(), day, hour, minute, 0, 0, now.Location())
	if date[3] == "" && at.Before(now.Add(-staleDate)) {
		at = at.AddDate(1, 0, 0)
	}
	return at.UTC()
}
