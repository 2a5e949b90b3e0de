package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is set by the linker; the version control system's is taken if it is empty.
var release string

// buildVersion is what is printed about this program.
type buildVersion struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	System  string `json:"system"`
}

func currentVersion() buildVersion {
	version := release
	if info, ok := debug.ReadBuildInfo(); ok && version == "" {
		version = info.Main.Version
	}
	return buildVersion{Version: version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
}

func newVersion(sh *shell) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  arguments(),
		RunE:  func(*cobra.Command, []string) error { return runVersion(output, sh) },
	}
	bindOutput(cmd, &output)
	return cmd
}

func runVersion(output string, sh *shell) error {
	v := currentVersion()
	if output == formatJSON {
		return printJSON(sh.out, v)
	}
	p := newPrinter(sh)
	p.printf("drover %s, %s, %s\n", v.Version, v.Go, v.System)
	return p.err
}
