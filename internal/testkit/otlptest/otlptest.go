// Package otlptest is a receiver of OpenTelemetry traces for tests: OTLP over
// HTTP or gRPC, with the official protocol types.
package otlptest

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a span as it arrived.
type Span struct {
	Service    string // service.name of who sent it
	Name       string
	TraceID    string // hex
	ID, Parent string // hex; Parent is empty for a root
	Start, End uint64 // nanoseconds since 1970
	Failed     bool
	Attributes map[string]string
}

// Receiver keeps the spans it is sent.
type Receiver struct {
	URL      string // for OTEL_EXPORTER_OTLP_ENDPOINT
	Protocol string // for OTEL_EXPORTER_OTLP_PROTOCOL

	mu    sync.Mutex
	spans []Span
}

// Env returns the variables that send a program's spans to the receiver.
func (r *Receiver) Env() map[string]string {
	return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": r.URL, "OTEL_EXPORTER_OTLP_PROTOCOL": r.Protocol}
}

// New starts a receiver of OTLP over HTTP for the length of a test.
func New(t testing.TB) *Receiver {
	t.Helper()
	r := &Receiver{Protocol: "http/protobuf"}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.URL = server.URL
	return r
}

// ServeHTTP implements OTLP over HTTP.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost || req.URL.Path != "/v1/traces" {
		http.NotFound(w, req)
		return
	}
	var body io.Reader = req.Body
	if req.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(req.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	data, err := io.ReadAll(body)
	var export collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(data, &export)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.keep(export.GetResourceSpans())
	answer, _ := proto.Marshal(&collector.ExportTraceServiceResponse{}) // an empty message always encodes
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(answer) // the sender has gone
}

func (r *Receiver) keep(resources []*trace.ResourceSpans) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range resources {
		service := attributes(resource.GetResource().GetAttributes())["service.name"]
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				r.spans = append(r.spans, Span{
					Service: service, Name: s.GetName(), TraceID: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()),
					Parent: hex.EncodeToString(s.GetParentSpanId()), Start: s.GetStartTimeUnixNano(), End: s.GetEndTimeUnixNano(),
					Failed: s.GetStatus().GetCode() == trace.Status_STATUS_CODE_ERROR, Attributes: attributes(s.GetAttributes()),
				})
			}
		}
	}
}

func attributes(pairs []*common.KeyValue) map[string]string {
	values := map[string]string{}
	for _, pair := range pairs {
		switch v := pair.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			values[pair.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			values[pair.GetKey()] = fmt.Sprint(v.IntValue)
		case *common.AnyValue_BoolValue:
			values[pair.GetKey()] = fmt.Sprint(v.BoolValue)
		}
	}
	return values
}

// Spans returns the spans of a trace, those that arrived twice once, in the order they began.
func (r *Receiver) Spans(traceID string) []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var spans []Span
	seen := map[string]bool{}
	for _, s := range r.spans {
		if s.TraceID == traceID && !seen[s.ID] {
			seen[s.ID] = true
			spans = append(spans, s)
		}
	}
	slices.SortFunc(spans, func(a, b Span) int {
		if a.Start != b.Start {
			return int(int64(a.Start) - int64(b.Start))
		}
		return int(int64(b.End) - int64(a.End))
	})
	return spans
}
