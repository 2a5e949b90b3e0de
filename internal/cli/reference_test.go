package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"drover/internal/testkit"
)

// TestReferenceIsFresh holds docs/reference against the commands.
func TestReferenceIsFresh(t *testing.T) {
	fresh, kept := t.TempDir(), filepath.Join(testkit.ModuleRoot(t), "docs", "reference")
	if err := WriteReference(fresh); err != nil {
		t.Fatal(err)
	}
	want, got := files(t, fresh), files(t, kept)
	for name, text := range want {
		if got[name] != text {
			t.Errorf("docs/reference/%s is not what the commands say: run make generate", name)
		}
	}
	for name := range got {
		if _, wanted := want[name]; !wanted {
			t.Errorf("docs/reference/%s is about no command: run make generate", name)
		}
	}
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		texts[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// TestEveryCommandExplainsItself: a sentence, and what its exit status means.
func TestEveryCommandExplainsItself(t *testing.T) {
	eachCommand(newRoot(&shell{getenv: func(string) string { return "" }}), func(cmd *cobra.Command) {
		var help strings.Builder
		cmd.SetOut(&help)
		if err := cmd.Help(); err != nil || cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: %q %v", cmd.CommandPath(), cmd.Short, err)
		}
		for _, text := range []string{"Usage:", "EXIT STATUS:", "130  interrupted"} {
			if !strings.Contains(help.String(), text) {
				t.Errorf("%s --help does not say %q", cmd.CommandPath(), text)
			}
		}
	})
}
