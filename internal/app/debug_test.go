package app_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"drover/internal/work"
)

// TestDebugBundleHoldsNoSecret has secrets in the server's environment and in an item.
func TestDebugBundleHoldsNoSecret(t *testing.T) {
	const shape = "ghp_aB3dE5gH7jK9mN1pQ3sT5vW7yZ"
	s := newSpine(t)
	s.env = []string{"NOMAD_TOKEN=nomad-token-of-the-server", "SOME_API_KEY=key-of-the-server", "CONSUL_HTTP_TOKEN="}
	s.start()
	s.reachable()
	id := s.submitSpecs([]work.Spec{{Task: "Use " + shape + " to do it.", NotBefore: time.Now().Add(time.Hour)}})[0]
	var bundle bytes.Buffer
	if err := s.client.Debug(t.Context(), &bundle); err != nil {
		t.Fatal(err)
	}
	parts := unpack(t, &bundle)
	for part, want := range map[string]string{
		"about.json": `"leads": true`, "configuration.json": `"LeaderTTL"`, "status.json": `"in_flight"`, "items.json": id,
		"metrics.txt": "drover_items{", "goroutines.txt": "goroutine ", "log.txt": "items loaded",
	} {
		if !strings.Contains(parts["drover-debug/"+part], want) {
			t.Errorf("%s has no %s:\n%.2000s", part, want, parts["drover-debug/"+part])
		}
	}
	for part, text := range parts {
		for _, secret := range []string{"nomad-token-of-the-server", "key-of-the-server", shape} {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in %s", secret, part)
			}
		}
	}
}

func unpack(t *testing.T, bundle io.Reader) map[string]string {
	t.Helper()
	zipped, err := gzip.NewReader(bundle)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	for archive := tar.NewReader(zipped); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		parts[header.Name] = string(data)
	}
}
