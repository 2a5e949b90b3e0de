package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"drover/internal/work"
)

// Exit statuses. Scripts depend on them.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnavailable = 4
	exitIncomplete  = 5
	exitInterrupted = 130
)

// exits is the only mapping between errors and exit statuses; the first that
// fits counts. It is printed in every help text.
var exits = []struct {
	status int
	errs   []error
	means  string
}{
	{exitOK, nil, "all went well"},
	{exitError, nil, "something went wrong"},
	{exitUsage, []error{errUsage, work.ErrInvalid}, "wrong usage or bad input; nothing was stored"},
	{exitNotFound, []error{work.ErrNotFound}, "there is no such item or attempt"},
	{exitUnavailable, []error{work.ErrUnavailable, work.ErrNoLeader, work.ErrUnknownOutcome}, "no server, Nomad or Consul answers, or no server leads"},
	{exitIncomplete, []error{errIncomplete}, "an item that was waited for did not complete"},
	{exitInterrupted, nil, "interrupted"},
}

var (
	errUsage      = errors.New("wrong usage")
	errIncomplete = errors.New("not every item completed")
)

// exitStatus returns the status for err; ctx tells whether it was interrupted.
func exitStatus(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return exitInterrupted
	}
	for _, exit := range exits {
		for _, target := range exit.errs {
			if errors.Is(err, target) {
				return exit.status
			}
		}
	}
	return exitError
}

// message returns what a person reads: one line, without the sentinels whose
// meaning the sentence before them holds.
func message(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, sentinel := range []error{work.ErrInvalid, work.ErrUnavailable, work.ErrNoLeader, errUsage} {
		text = strings.TrimSuffix(text, ": "+sentinel.Error())
	}
	return text
}

// usage returns an error about the command line.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return fmt.Errorf("%s (see %s --help): %w", fmt.Sprintf(format, args...), cmd.CommandPath(), errUsage)
}

var helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}
` + exitTable()

func exitTable() string {
	var b strings.Builder
	b.WriteString("EXIT STATUS:\n")
	for _, exit := range exits {
		fmt.Fprintf(&b, "  %-3d  %s\n", exit.status, exit.means)
	}
	return b.String()
}
