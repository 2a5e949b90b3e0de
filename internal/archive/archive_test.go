package archive_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/internal/archive"
	"drover/internal/work"
)

func items(ids ...string) (out []work.Archived) {
	for _, id := range ids {
		out = append(out, work.Archived{Item: work.Item{ID: id, State: work.StateFailed, Why: "a < b"}, Logs: []work.KeptLogs{{Attempt: work.AttemptID(id + ".1"), Stdout: []string{"last words"}}}})
	}
	return out
}

func idsIn(t *testing.T, data []byte) (ids []string) {
	t.Helper()
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		var a work.Archived
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil || len(a.Logs) != 1 || a.Logs[0].Stdout[0] != "last words" {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		ids = append(ids, a.Item.ID)
	}
	return ids
}

func TestFileIsAppendedTo(t *testing.T) {
	t.Parallel()
	f := archive.File{Path: filepath.Join(t.TempDir(), "archive.jsonl")}
	for _, batch := range [][]work.Archived{items("a", "b"), items("c")} {
		if err := f.Keep(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(f.Path)
	if err != nil || strings.Join(idsIn(t, data), "") != "abc" {
		t.Fatalf("%s %v", data, err)
	}
	if info, err := os.Stat(f.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestFileThatCannotBeWrittenIsAnError(t *testing.T) {
	t.Parallel()
	f := archive.File{Path: filepath.Join(t.TempDir(), "no", "such", "directory")}
	if err := f.Keep(t.Context(), items("a")); err == nil || !strings.Contains(err.Error(), f.Path) {
		t.Fatal(err)
	}
}

func TestFullDiskIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full here")
	}
	if err := (archive.File{Path: "/dev/full"}).Keep(t.Context(), items("a")); err == nil {
		t.Fatal("items count as kept that are not")
	}
}

func TestCommandGetsTheLines(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "out")
	if err := (archive.Command{"sh", "-c", "cat > " + out}).Keep(t.Context(), items("a", "b")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil || strings.Join(idsIn(t, data), "") != "ab" {
		t.Fatalf("%s %v", data, err)
	}
}

func TestCommandThatFailsIsAnErrorWithWhatItSaid(t *testing.T) {
	t.Parallel()
	err := (archive.Command{"sh", "-c", "cat > /dev/null; echo bucket is gone >&2; exit 3"}).Keep(t.Context(), items("a"))
	if err == nil || !strings.Contains(err.Error(), "bucket is gone") || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatal(err)
	}
	if err := (archive.Command{"/no/such/program"}).Keep(t.Context(), items("a")); err == nil {
		t.Fatal("items count as kept")
	}
}
