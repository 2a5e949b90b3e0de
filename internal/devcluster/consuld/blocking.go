package consuld

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Limits of a blocking query's wait, which Consul lengthens by up to a sixteenth.
const (
	defaultWait   = 5 * time.Minute
	maxWait       = 10 * time.Minute
	jitterDivisor = 16
)

// table names one part of the state that queries watch.
type table int

const (
	kvChanged table = iota
	sessionsChanged
	catalogChanged
)

// change is what one write touched.
type change struct {
	keys   []string // KV keys
	tables [catalogChanged + 1]bool
}

// watch wakes one blocking query when a change touches what it looks at.
type watch struct {
	touched func(*change) bool
	wake    chan struct{} // buffered(1)
}

func onTable(t table) func(*change) bool {
	return func(c *change) bool { return c.tables[t] }
}

func onKey(key string) func(*change) bool {
	return func(c *change) bool {
		for _, k := range c.keys {
			if k == key {
				return true
			}
		}
		return false
	}
}

func onPrefix(prefix string) func(*change) bool {
	return func(c *change) bool {
		for _, k := range c.keys {
			if strings.HasPrefix(k, prefix) {
				return true
			}
		}
		return false
	}
}

// notify wakes the queries that a change concerns.
func (s *Server) notify(c *change) {
	for w := range s.watches {
		if !w.touched(c) {
			continue
		}
		select {
		case w.wake <- struct{}{}:
		default: // already woken
		}
	}
}

// view is what a query sees now.
type view struct {
	index    uint64             // of the data, for X-Consul-Index
	touched  func(*change) bool // the changes that may alter it
	notFound bool               // nothing is there; going on to be nothing is no news
	body     func() any         // built only when it is sent
}

// query answers a read: at once, or, when the request names an index, once the data is newer than that, the wait is
// over, the caller gone or the server closed. look is called under the mutex, and again after every wake.
func (s *Server) query(w http.ResponseWriter, r *http.Request, look func() view) (any, error) {
	q, err := parseQuery(r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := look()
	if q.index > 0 {
		seen = s.await(r, q, seen, look)
	}
	setMeta(w, seen.index)
	return seen.body(), nil
}

// await blocks, with the mutex released, until the view is newer than the query's index.
func (s *Server) await(r *http.Request, q blockingQuery, seen view, look func() view) view {
	timeout := time.NewTimer(q.wait + rand.N(q.wait/jitterDivisor+1))
	defer timeout.Stop()
	missing := false
	for {
		if seen.notFound {
			if missing { // absence that goes on is no news, whatever index it has now
				q.index = seen.index
			}
			missing = true
		}
		if seen.index > q.index {
			return seen
		}
		changed := s.sleep(r, seen.touched, timeout.C)
		seen = look()
		if !changed {
			return seen
		}
	}
}

// sleep waits for a change, and tells whether there was one; the mutex is released meanwhile.
func (s *Server) sleep(r *http.Request, touched func(*change) bool, timeout <-chan time.Time) bool {
	w := &watch{touched: touched, wake: make(chan struct{}, 1)}
	s.watches[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watches, w)
	}()
	select {
	case <-w.wake:
		return true
	case <-timeout:
	case <-r.Context().Done():
	case <-s.closed:
	}
	return false
}

type blockingQuery struct {
	index uint64
	wait  time.Duration
}

func parseQuery(r *http.Request) (blockingQuery, error) {
	params := r.URL.Query()
	if params.Has("stale") && params.Has("consistent") {
		return blockingQuery{}, badRequest("Cannot specify ?stale with ?consistent, conflicting semantics.")
	}
	var q blockingQuery
	if text := params.Get("wait"); text != "" {
		wait, err := time.ParseDuration(text)
		if err != nil {
			return q, badRequest("Invalid wait time")
		}
		q.wait = min(wait, maxWait)
	}
	if q.wait <= 0 {
		q.wait = defaultWait
	}
	if text := params.Get("index"); text != "" {
		index, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return q, badRequest("Invalid index")
		}
		q.index = index
	}
	return q, nil
}

// setMeta writes the headers of every read. An index of 0 would make a blocking client spin.
func setMeta(w http.ResponseWriter, index uint64) {
	h := w.Header()
	h.Set("X-Consul-Index", strconv.FormatUint(max(index, 1), 10))
	h.Set("X-Consul-Query-Backend", "blocking-query")
	setLeaderMeta(h)
}

func setLeaderMeta(h http.Header) {
	h.Set("X-Consul-Knownleader", "true")
	h.Set("X-Consul-Lastcontact", "0")
}
