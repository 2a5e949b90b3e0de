package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// WriteReference writes a page of Markdown for every command into dir, and a man
// page for each into dir/man. What is there of other commands is removed.
func WriteReference(dir string) error {
	root := newRoot(&shell{getenv: func(string) string { return "" }})
	root.DisableAutoGenTag = true
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	pages := map[string]func(*cobra.Command) ([]byte, error){".md": markdown, ".1": man}
	wanted := map[string][]byte{}
	var failed error
	eachCommand(root, func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" {
			return
		}
		cmd.DisableAutoGenTag = true
		for end, write := range pages {
			name := strings.ReplaceAll(cmd.CommandPath(), " ", "_") + end
			if end == ".1" {
				name = filepath.Join("man", strings.ReplaceAll(cmd.CommandPath(), " ", "-")+end)
			}
			page, err := write(cmd)
			if err != nil && failed == nil {
				failed = fmt.Errorf("reference of %s: %w", cmd.CommandPath(), err)
			}
			wanted[name] = page
		}
	})
	if failed != nil {
		return failed
	}
	return replaceFiles(dir, wanted)
}

// markdown is a command's page, with what its exit status means.
func markdown(cmd *cobra.Command) ([]byte, error) {
	var page bytes.Buffer
	err := doc.GenMarkdown(cmd, &page)
	fmt.Fprintf(&page, "\n### Exit status\n\n```\n%s```\n", strings.TrimPrefix(exitTable(), "EXIT STATUS:\n"))
	return page.Bytes(), err
}

func man(cmd *cobra.Command) ([]byte, error) {
	var page bytes.Buffer
	header := &doc.GenManHeader{Title: strings.ToUpper(strings.ReplaceAll(cmd.CommandPath(), " ", "-")), Section: "1", Source: "drover", Manual: "drover"}
	err := doc.GenMan(cmd, header, &page)
	fmt.Fprintf(&page, ".SH EXIT STATUS\n")
	for _, exit := range exits {
		fmt.Fprintf(&page, ".TP\n%d\n%s\n", exit.status, exit.means)
	}
	return dated.ReplaceAll(page.Bytes(), []byte(`.TH "$1" "1" "" "drover" "drover"`)), err
}

// dated is the title line of a man page, with the month in which it was made.
var dated = regexp.MustCompile(`(?m)^\.TH "([^"]*)" .*$`)

// replaceFiles makes the files of dir be the wanted ones.
func replaceFiles(dir string, wanted map[string][]byte) error {
	for _, pattern := range []string{"drover*.md", "man/drover*.1"} {
		old, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range old {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "man"), 0o755); err != nil {
		return err
	}
	for name, text := range wanted {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
