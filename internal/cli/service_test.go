package cli_test

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"drover/internal/cli"
	"drover/internal/testkit"
)

// TestSystemdUnitStartsAServer checks the shipped unit as far as that goes without
// systemd: sections and settings are well formed, and its command is one that
// drover knows, which is the configuration's fault alone.
func TestSystemdUnitStartsAServer(t *testing.T) {
	file, err := os.Open(filepath.Join(testkit.ModuleRoot(t), "docs", "drover.service"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	line := regexp.MustCompile(`^(#.*|\[(Unit|Service|Install)\]|[A-Z][A-Za-z]+=.*|)$`)
	var command string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if !line.MatchString(lines.Text()) {
			t.Errorf("not a line of a unit: %s", lines.Text())
		}
		if rest, ok := strings.CutPrefix(lines.Text(), "ExecStart=/usr/local/bin/drover "); ok {
			command = rest
		}
	}
	var stderr strings.Builder
	args := strings.Fields(command)
	status := cli.Main(t.Context(), args, nil, strings.NewReader(""), &stderr, &stderr)
	if status != 2 || !strings.Contains(stderr.String(), "/etc/drover/drover.hcl") {
		t.Errorf("drover %s ends with %d: %s", command, status, stderr.String())
	}
}
