package contract

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// BuildTestImage makes an image of testtask alone and returns its name, which
// has a version, as a tag of latest would always be pulled. It is removed with
// the test. An error means that no engine answers.
func BuildTestImage(t testing.TB, binary string) (string, error) {
	t.Helper()
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return "", fmt.Errorf("make a docker client: %w", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), nomadPatience)
	defer cancel()
	if _, err := engine.Ping(ctx); err != nil {
		return "", errors.Join(fmt.Errorf("reach the docker engine: %w", err), engine.Close())
	}
	layer, err := tarOf(binary)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("drover-testtask:%d", time.Now().UnixNano())
	progress, err := engine.ImageImport(ctx, image.ImportSource{Source: layer, SourceName: "-"}, name,
		image.ImportOptions{Changes: []string{`ENTRYPOINT ["/testtask"]`}})
	if err != nil {
		t.Fatalf("import the image of testtask: %v", err)
	}
	defer progress.Close()
	if _, err := io.Copy(io.Discard, progress); err != nil {
		t.Fatalf("import the image of testtask: %v", err)
	}
	t.Cleanup(func() {
		_, err := engine.ImageRemove(context.Background(), name, image.RemoveOptions{Force: true})
		if err := errors.Join(err, engine.Close()); err != nil {
			t.Errorf("remove the image of testtask: %v", err)
		}
	})
	return name, nil
}

// tarOf makes a root directory of one binary.
func tarOf(binary string) (io.Reader, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, dir := range []string{"tmp/", "alloc/", "local/", "secrets/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: filepath.Base(binary), Mode: 0o755, Size: int64(len(data))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	return &layer, w.Close()
}
