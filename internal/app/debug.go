package app

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"

	"drover/internal/control"
	"drover/internal/work"
)

// debugItems is how many items a bundle holds at most, the newest.
const debugItems = 500

// Debug writes a bundle for a report of a fault: how this server stands, its
// metrics, goroutines, last lines of log and configuration, and the items. What
// has the form of a secret is replaced in all of it.
func (l local) Debug(ctx context.Context, to io.Writer) error {
	zipped := gzip.NewWriter(to)
	archive := tar.NewWriter(zipped)
	now := time.Now().UTC()
	var errs []error
	for _, part := range []struct {
		name string
		make func(context.Context) ([]byte, error)
	}{
		{"about.json", l.debugAbout}, {"configuration.json", l.debugConfiguration}, {"status.json", l.debugStatus},
		{"items.json", l.debugItems}, {"metrics.txt", l.debugMetrics}, {"goroutines.txt", l.debugGoroutines}, {"log.txt", l.debugLog},
	} {
		data, err := part.make(ctx)
		if err != nil {
			data = fmt.Appendf(nil, "not there: %v\n", err) // the rest tells the more
		}
		data = redactLines(data)
		header := &tar.Header{Name: "drover-debug/" + part.name, Mode: 0o600, Size: int64(len(data)), ModTime: now}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("debug bundle: %w", err)
		}
		_, err = archive.Write(data)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, archive.Close(), zipped.Close())...)
}

func redactLines(data []byte) []byte {
	lines := strings.SplitAfter(string(data), "\n")
	for i, line := range lines {
		lines[i] = work.RedactSecrets(line)
	}
	return []byte(strings.Join(lines, ""))
}

func indented(value any) ([]byte, error) { return json.MarshalIndent(value, "", "  ") }

func (l local) debugAbout(context.Context) ([]byte, error) {
	return indented(map[string]any{
		"server": l.id, "version": l.opts.Version, "go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH,
		"goroutines": runtime.NumGoroutine(), "leads": l.leading.Load() != nil, "time": time.Now().UTC(), "log_levels": l.LogLevels(),
	})
}

func (l local) debugConfiguration(context.Context) ([]byte, error) { return indented(l.opts.Config) }

func (l local) debugStatus(ctx context.Context) ([]byte, error) {
	leader, _, err := l.leader(ctx)
	status, statusErr := service(l).Status(ctx)
	return indented(map[string]any{"leader": leader, "errors": texts(err, statusErr, l.cluster.Check(ctx)), "status": status})
}

func texts(errs ...error) []string {
	var out []string
	for _, err := range errs {
		if err != nil {
			out = append(out, err.Error())
		}
	}
	return out
}

func (l local) debugItems(ctx context.Context) ([]byte, error) {
	page, err := service(l).Items(ctx, control.Query{Limit: debugItems})
	if err != nil {
		return nil, err
	}
	return indented(page.Items)
}

func (l local) debugMetrics(context.Context) ([]byte, error) {
	families, err := l.seen.registry.Gather()
	var out bytes.Buffer
	for _, family := range families {
		_, bad := expfmt.MetricFamilyToText(&out, family)
		err = errors.Join(err, bad)
	}
	return out.Bytes(), err
}

func (l local) debugGoroutines(context.Context) ([]byte, error) {
	var out bytes.Buffer
	const stacks = 2
	err := pprof.Lookup("goroutine").WriteTo(&out, stacks)
	return out.Bytes(), err
}

func (l local) debugLog(context.Context) ([]byte, error) { return []byte(l.opts.Logs.Recent()), nil }
