package testkit

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// DocumentedMetric is a line of a table in docs/metrics.md.
type DocumentedMetric struct {
	Type   string
	Labels []string // sorted
}

var metricLine = regexp.MustCompile("^\\| `(drover_[a-z_]+)` \\| (gauge|counter|histogram) \\|([a-z_, ]*)\\| .+ \\|$")

// DocumentedMetrics reads the table below a heading of docs/metrics.md: Server or Worker.
func DocumentedMetrics(t testing.TB, heading string) map[string]DocumentedMetric {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(ModuleRoot(t), "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/metrics.md has no section %s", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	metrics := map[string]DocumentedMetric{}
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		match := metricLine.FindStringSubmatch(line)
		if match == nil {
			if strings.HasPrefix(line, "| `") {
				t.Errorf("docs/metrics.md: %q is not a name, a type, labels and a meaning", line)
			}
			continue
		}
		labels := strings.FieldsFunc(match[3], func(r rune) bool { return r == ',' || r == ' ' })
		slices.Sort(labels)
		metrics[match[1]] = DocumentedMetric{Type: match[2], Labels: labels}
	}
	return metrics
}
