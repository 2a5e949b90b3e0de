package nomadd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

const (
	topicAllocation = "Allocation"
	topicEvaluation = "Evaluation"
	topicJob        = "Job"
	topicNode       = "Node"
	topicVariable   = "Variable"

	eventJobRegistered     = "JobRegistered"
	eventJobDeregistered   = "JobDeregistered"
	eventJobsDeregistered  = "JobBatchDeregistered"
	eventEvaluation        = "EvaluationUpdated"
	eventPlan              = "PlanResult"
	eventAllocation        = "AllocationUpdated"
	eventAllocationDesired = "AllocationUpdateDesiredStatus"
	eventNode              = "NodeRegistration"
	eventVariable          = "VariableUpdated"
	eventNamespace         = "NamespaceUpserted"

	// streamHeartbeat is how often an idle stream sends an empty object, as
	// in Nomad's stream/ndjson.go.
	streamHeartbeat = 30 * time.Second
)

// event is one line's entry of the event stream, under Nomad's field names.
type event struct {
	Topic      string
	Type       string
	Key        string
	Namespace  string
	FilterKeys []string
	Index      uint64
	Payload    map[string]any
}

// batch holds the events of one write.
type batch struct {
	index  uint64
	events []event
}

// eventLog keeps the newest batches; a reader that falls behind loses the
// oldest without being told, as with the real server.
type eventLog struct {
	limit   int
	batches []batch
}

func (l *eventLog) append(b batch) {
	l.batches = append(l.batches, b)
	if extra := len(l.batches) - l.limit; extra > 0 {
		l.batches = slices.Clone(l.batches[extra:])
	}
}

// from returns the batches whose index is at least the given one.
func (l *eventLog) from(index uint64) []batch {
	i := sort.Search(len(l.batches), func(i int) bool { return l.batches[i].index >= index })
	return slices.Clone(l.batches[i:])
}

// start is the index of the first batch a new stream gets: the one asked
// for, or the newest when the log doesn't reach that far yet.
func (l *eventLog) start(index uint64) uint64 {
	if n := len(l.batches); n > 0 && index > l.batches[n-1].index {
		return l.batches[n-1].index
	}
	return index
}

// topics maps a topic to the keys wanted of it; "*" stands for all.
type topics map[string][]string

func parseTopics(values []string) (topics, error) {
	t := topics{}
	for _, v := range values {
		topic, id, hasKey := strings.Cut(v, ":")
		if !hasKey {
			id = "*"
		}
		if strings.Contains(id, ":") {
			return nil, coded(http.StatusBadRequest, fmt.Sprintf("Invalid topic query: error parsing topics: Invalid key value pair for topic, topic: %s", v))
		}
		t[topic] = append(t[topic], id)
	}
	if len(t) == 0 {
		t["*"] = []string{"*"}
	}
	return t, nil
}

func (t topics) match(e event, namespace string) bool {
	if namespace != "*" && e.Namespace != "" && e.Namespace != namespace {
		return false
	}
	for _, topic := range []string{e.Topic, "*"} {
		for _, want := range t[topic] {
			if want == "*" || want == e.Key || slices.Contains(e.FilterKeys, want) {
				return true
			}
		}
	}
	return false
}

// streamEvents serves /v1/event/stream: one JSON object a line.
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	index, err := strconv.Atoi(query.Get("index"))
	if query.Get("index") != "" && err != nil {
		return coded(http.StatusBadRequest, fmt.Sprintf("Unable to parse index: %v", err))
	}
	wanted, err := parseTopics(query["topic"])
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	out := &lineWriter{w: w, controller: http.NewResponseController(w)}
	if out.send(struct{}{}) != nil {
		return nil
	}

	heartbeat := time.NewTicker(streamHeartbeat)
	defer heartbeat.Stop()
	var next uint64
	s.state.read(func() { next = s.state.events.start(uint64(index)) })
	for {
		var batches []batch
		var changed chan struct{}
		s.state.read(func() { batches, changed = s.state.events.from(next), s.state.changed })
		for _, b := range batches {
			next = b.index + 1
			if out.events(b, wanted, namespaceOf(r)) != nil {
				return nil
			}
		}
		select {
		case <-changed:
		case <-heartbeat.C:
			if out.send(struct{}{}) != nil {
				return nil
			}
		case <-r.Context().Done():
			return nil
		case <-s.ctx.Done():
			return nil
		}
	}
}

// lineWriter writes JSON objects, each on a line and flushed.
type lineWriter struct {
	w          http.ResponseWriter
	controller *http.ResponseController
}

func (l *lineWriter) send(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a stream line: %w", err)
	}
	if _, err := l.w.Write(append(data, '\n')); err != nil {
		return err
	}
	return l.controller.Flush()
}

func (l *lineWriter) events(b batch, wanted topics, namespace string) error {
	var matching []event
	for _, e := range b.events {
		if wanted.match(e, namespace) {
			matching = append(matching, e)
		}
	}
	if len(matching) == 0 {
		return nil
	}
	return l.send(map[string]any{"Index": b.index, "Events": matching})
}
