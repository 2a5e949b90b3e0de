// Package report says how well items end: what a person who answers for a queue
// wants to know at the end of a week. It is pure: items come in, numbers go out.
package report

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"drover/internal/work"
)

// worst is how many repositories a report names.
const worst = 10

// Report is about the items that ended within a time. Durations are in seconds.
type Report struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`

	Items     int `json:"items"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
	Stuck     int `json:"stuck"`
	Cancelled int `json:"cancelled"`
	// SuccessRate is the share of the items that completed, of those that were not cancelled; 0 to 1.
	SuccessRate float64 `json:"success_rate"`

	Attempts int      `json:"attempts"`
	Reasons  []Reason `json:"reasons"` // the most frequent first
	Retries  Retries  `json:"retries"`

	TimeToPR Spread `json:"time_to_pr_seconds"` // from submission to a completed item with its pull request
	Running  Spread `json:"running_seconds"`    // of an item, over its attempts

	Tokens       work.Tokens `json:"tokens"`
	TokensItem   Spread      `json:"tokens_item"` // read and written
	CostUSD      float64     `json:"cost_usd"`
	CostUSDItem  Spread      `json:"cost_usd_item"` // of items whose agent stated it
	PullRequests int         `json:"pull_requests"`

	Repositories []Repository `json:"repositories"` // the worst first
	Days         []Day        `json:"days"`
}

// Reason is how often attempts ended for a reason, and items with it.
type Reason struct {
	Reason   work.Reason `json:"reason"`
	Attempts int         `json:"attempts"`
	Items    int         `json:"items"` // whose last attempt ended so
}

// Retries are what became of items whose first attempt was not their last.
type Retries struct {
	Items  int `json:"items"`
	Helped int `json:"helped"` // that completed after all
	// ByReason is about the reasons of the attempts that were retried.
	ByReason []RetriedReason `json:"by_reason"`
}

// RetriedReason is what became of items that had an attempt end for a reason and were tried again.
type RetriedReason struct {
	Reason work.Reason `json:"reason"`
	Items  int         `json:"items"`
	Helped int         `json:"helped"`
}

// Spread is how a quantity is spread over items.
type Spread struct {
	Count  int     `json:"count"`
	Mean   float64 `json:"mean"`
	Median float64 `json:"median"`
	P95    float64 `json:"p95"`
}

// Repository is how the items of one repository ended.
type Repository struct {
	Repository  string      `json:"repository"`
	Items       int         `json:"items"`
	Completed   int         `json:"completed"`
	SuccessRate float64     `json:"success_rate"`
	Reason      work.Reason `json:"reason,omitempty"` // for which most of the others ended
}

// Day is how the items ended that did so on one day, in UTC.
type Day struct {
	Date      string `json:"date"`
	Completed int    `json:"completed"`
	Others    int    `json:"others"`
}

// Make reports about the items that ended between since and until.
func Make(items []work.Item, since, until time.Time) Report {
	r := Report{Since: since, Until: until}
	c := collected{
		reasons: map[work.Reason]*Reason{}, retried: map[work.Reason]*RetriedReason{},
		repositories: map[string]*tally{}, days: map[string]*Day{},
	}
	for day := since.UTC().Truncate(24 * time.Hour); !day.After(until); day = day.Add(24 * time.Hour) {
		c.days[date(day)] = &Day{Date: date(day)}
	}
	for i := range items {
		item := &items[i]
		ended := item.Since()
		if !item.State.Terminal() || ended.Before(since) || ended.After(until) {
			continue
		}
		r.count(item)
		c.add(item, ended)
	}
	if judged := r.Items - r.Cancelled; judged > 0 {
		r.SuccessRate = float64(r.Completed) / float64(judged)
	}
	r.TimeToPR, r.Running = spread(c.toPR), spread(c.running)
	r.TokensItem, r.CostUSDItem = spread(c.tokens), spread(c.costs)
	r.Reasons = sorted(c.reasons, func(a, b Reason) int {
		return cmp.Or(cmp.Compare(b.Attempts, a.Attempts), cmp.Compare(a.Reason, b.Reason))
	})
	r.Retries.ByReason = sorted(c.retried, func(a, b RetriedReason) int {
		return cmp.Or(cmp.Compare(b.Items, a.Items), cmp.Compare(a.Reason, b.Reason))
	})
	r.Days = sorted(c.days, func(a, b Day) int { return cmp.Compare(a.Date, b.Date) })
	r.Repositories = c.worst()
	return r
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func (r *Report) count(item *work.Item) {
	r.Items++
	switch item.State {
	case work.StateCompleted:
		r.Completed++
	case work.StateFailed:
		r.Failed++
	case work.StateStuck:
		r.Stuck++
	case work.StateCancelled:
		r.Cancelled++
	}
	if item.PR.Status == work.PRCreated {
		r.PullRequests++
	}
	if item.AttemptCount() > 1 {
		r.Retries.Items++
		if item.State == work.StateCompleted {
			r.Retries.Helped++
		}
	}
	r.Attempts += item.AttemptCount()
	r.Tokens.In += item.Tokens.In
	r.Tokens.Out += item.Tokens.Out
	r.CostUSD += item.CostUSD
}

// collected is what is known before it is sorted.
type collected struct {
	reasons                      map[work.Reason]*Reason
	retried                      map[work.Reason]*RetriedReason
	repositories                 map[string]*tally
	days                         map[string]*Day
	toPR, running, tokens, costs []float64
}

// tally is a repository's.
type tally struct {
	items, completed, cancelled int
	reasons                     map[work.Reason]int // of items that did not complete
}

func (c *collected) add(item *work.Item, ended time.Time) {
	c.addAttempts(item)
	c.tally(item)
	if day := c.days[date(ended)]; day != nil {
		if item.State == work.StateCompleted {
			day.Completed++
		} else {
			day.Others++
		}
	}
	if item.State == work.StateCompleted && item.PR.Status == work.PRCreated {
		c.toPR = append(c.toPR, ended.Sub(item.CreatedAt).Seconds())
	}
	if item.AttemptCount() > 0 {
		c.tokens = append(c.tokens, float64(item.Tokens.In+item.Tokens.Out))
	}
	if item.CostUSD > 0 {
		c.costs = append(c.costs, item.CostUSD)
	}
}

func (c *collected) addAttempts(item *work.Item) {
	ran := time.Duration(0)
	seen := map[work.Reason]bool{}
	retried := func(reason work.Reason) {
		if seen[reason] {
			return
		}
		seen[reason] = true
		entry := at(c.retried, reason, &RetriedReason{Reason: reason})
		entry.Items++
		if item.State == work.StateCompleted {
			entry.Helped++
		}
	}
	if item.Earlier != nil {
		ran = item.Earlier.Ran.Std()
		for reason, n := range item.Earlier.Reasons {
			at(c.reasons, reason, &Reason{Reason: reason}).Attempts += n
			retried(reason)
		}
	}
	for i, a := range item.Attempts {
		entry := at(c.reasons, a.Reason, &Reason{Reason: a.Reason})
		entry.Attempts++
		if !a.StartedAt.IsZero() {
			ran += a.EndedAt.Sub(a.StartedAt)
		}
		if i == len(item.Attempts)-1 {
			entry.Items++
			break
		}
		retried(a.Reason)
	}
	if ran > 0 {
		c.running = append(c.running, ran.Seconds())
	}
}

func (c *collected) tally(item *work.Item) {
	t := at(c.repositories, work.RedactURL(item.Spec.Repository), &tally{reasons: map[work.Reason]int{}})
	t.items++
	switch item.State {
	case work.StateCompleted:
		t.completed++
	case work.StateCancelled:
		t.cancelled++
	default:
		t.reasons[item.Reason]++
	}
}

// worst returns the repositories with the most items that came to nothing.
func (c *collected) worst() []Repository {
	var all []Repository
	for name, t := range c.repositories {
		r := Repository{Repository: name, Items: t.items, Completed: t.completed}
		if judged := t.items - t.cancelled; judged > 0 {
			r.SuccessRate = float64(t.completed) / float64(judged)
		}
		for _, reason := range slices.Sorted(maps.Keys(t.reasons)) {
			if t.reasons[reason] > t.reasons[r.Reason] {
				r.Reason = reason
			}
		}
		if len(t.reasons) > 0 {
			all = append(all, r)
		}
	}
	lost := func(r Repository) int { return r.Items - r.Completed }
	slices.SortFunc(all, func(a, b Repository) int {
		return cmp.Or(cmp.Compare(lost(b), lost(a)), cmp.Compare(a.SuccessRate, b.SuccessRate), cmp.Compare(a.Repository, b.Repository))
	})
	return all[:min(worst, len(all))]
}

// at returns a map's entry, made if there is none.
func at[K comparable, V any](m map[K]*V, key K, fresh *V) *V {
	if m[key] == nil {
		m[key] = fresh
	}
	return m[key]
}

func sorted[K comparable, V any](m map[K]*V, compare func(a, b V) int) []V {
	all := make([]V, 0, len(m))
	for _, v := range m {
		all = append(all, *v)
	}
	slices.SortFunc(all, compare)
	return all
}

// spread of values; the 95th percentile is the smallest value that 95 % do not exceed.
func spread(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	slices.Sort(values)
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	n := len(values)
	median := values[n/2]
	if n%2 == 0 {
		median = (values[n/2-1] + values[n/2]) / 2
	}
	return Spread{Count: n, Mean: sum / float64(n), Median: median, P95: values[(95*n+99)/100-1]}
}
