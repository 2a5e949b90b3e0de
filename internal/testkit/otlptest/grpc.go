package otlptest

import (
	"context"
	"net"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // exporters may compress
)

// NewGRPC starts a receiver of OTLP over gRPC for the length of a test.
func NewGRPC(t testing.TB) *Receiver {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Receiver{URL: "http://" + listener.Addr().String(), Protocol: "grpc"}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, service{receiver: r})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve OTLP: %v", err)
		}
	})
	return r
}

// service implements OTLP over gRPC.
type service struct {
	collector.UnimplementedTraceServiceServer
	receiver *Receiver
}

func (s service) Export(_ context.Context, export *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.receiver.keep(export.GetResourceSpans())
	return &collector.ExportTraceServiceResponse{}, nil
}
