package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drover/internal/report"
	"drover/internal/work"
)

const formatHTML = "html"

type reportOptions struct {
	remote
	since string
	file  string
}

func newReport(sh *shell) *cobra.Command {
	var opts reportOptions
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Report how items ended: success, reasons, retries, time, tokens and cost",
		Long: `Report about the items that ended within a time and are still kept: how and why, which
retries helped, the time to a pull request, tokens and cost, and the worst repositories. As
HTML it is a page with charts that needs nothing but itself.`,
		Example: "  drover report\n  drover report --since 24h -o json\n  drover report --since 30d -o html --file report.html",
		Args:    arguments(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runReport(cmd.Context(), opts, sh) },
	}
	opts.bind(cmd, sh)
	flags := cmd.Flags()
	flags.Lookup("output").Usage = "table, json or html"
	flags.StringVar(&opts.since, "since", "7d", "how far back: a duration such as 7d or 12h, or a time such as 2026-01-31T08:00:00Z")
	flags.StringVar(&opts.file, "file", "", "file to write to instead of standard output")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if !slices.Contains([]string{formatTable, formatJSON, formatHTML}, opts.output) {
			return usage(cmd, "output %q: use %s, %s or %s", opts.output, formatTable, formatJSON, formatHTML)
		}
		return nil
	}
	return cmd
}

func runReport(ctx context.Context, opts reportOptions, sh *shell) (err error) {
	since, err := parseSince(opts.since, time.Now())
	if err != nil {
		return err
	}
	client, err := opts.client(sh)
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := client.Report(ctx, since)
	if err != nil {
		return err
	}
	if opts.file == "" {
		return opts.write(sh.out, r, sh)
	}
	file, err := os.Create(opts.file)
	if err != nil {
		return fmt.Errorf("%v: %w", err, work.ErrInvalid)
	}
	defer func() {
		if closed := file.Close(); err == nil {
			err = closed
		}
	}()
	return opts.write(file, r, sh)
}

func (o reportOptions) write(to io.Writer, r report.Report, sh *shell) error {
	switch o.output {
	case formatJSON:
		return printJSON(to, r)
	case formatHTML:
		return r.HTML(to)
	}
	p := newPrinter(sh)
	p.w = to
	p.report(r)
	return p.err
}

// parseSince reads a time, or a duration back from now on; d stands for days.
func parseSince(text string, now time.Time) (time.Time, error) {
	const day = 24 * time.Hour
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 {
			return now.Add(-time.Duration(n) * day), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.After(now) {
		return time.Time{}, fmt.Errorf("since %q: give a duration such as 7d or 12h, or a past time such as 2026-01-31T08:00:00Z: %w", text, work.ErrInvalid)
	}
	return t, nil
}

func (p *printer) report(r report.Report) {
	p.printf("%s to %s\n\n", clock(r.Since), clock(r.Until))
	p.field("Items", fmt.Sprintf("%d ended: %d completed, %d failed, %d stuck, %d cancelled", r.Items, r.Completed, r.Failed, r.Stuck, r.Cancelled))
	p.field("Success", report.Percent(r.SuccessRate)+" of those not cancelled")
	p.field("PRs", strconv.Itoa(r.PullRequests))
	p.field("Retries", fmt.Sprintf("%d items were tried again, %d of them completed", r.Retries.Items, r.Retries.Helped))
	p.field("Tokens", fmt.Sprintf("%s read and %s written", report.Thousands(float64(r.Tokens.In)), report.Thousands(float64(r.Tokens.Out))))
	p.field("Cost", report.USD(r.CostUSD))

	rows := [][]string{{"AN ITEM", "ITEMS", "MEAN", "MEDIAN", "95 %"}}
	for _, line := range []struct {
		name   string
		of     report.Spread
		format func(float64) string
	}{
		{"time to PR", r.TimeToPR, report.Span}, {"running", r.Running, report.Span},
		{"tokens", r.TokensItem, report.Thousands}, {"cost", r.CostUSDItem, report.USD},
	} {
		rows = append(rows, []string{line.name, strconv.Itoa(line.of.Count), line.format(line.of.Mean), line.format(line.of.Median), line.format(line.of.P95)})
	}
	p.section(rows)

	rows = [][]string{{"REASON", "ATTEMPTS", "ITEMS ENDED"}}
	for _, reason := range r.Reasons {
		rows = append(rows, []string{orNone(string(reason.Reason)), strconv.Itoa(reason.Attempts), strconv.Itoa(reason.Items)})
	}
	p.section(rows)

	rows = [][]string{{"TRIED AGAIN AFTER", "ITEMS", "COMPLETED"}}
	for _, retried := range r.Retries.ByReason {
		rows = append(rows, []string{string(retried.Reason), strconv.Itoa(retried.Items), strconv.Itoa(retried.Helped)})
	}
	p.section(rows)

	rows = [][]string{{"WORST REPOSITORY", "ITEMS", "COMPLETED", "SUCCESS", "MOSTLY"}}
	for _, repo := range r.Repositories {
		rows = append(rows, []string{repo.Repository, strconv.Itoa(repo.Items), strconv.Itoa(repo.Completed), report.Percent(repo.SuccessRate), orNone(string(repo.Reason))})
	}
	p.section(rows)
}

// section writes a table after an empty line, unless it is but a heading.
func (p *printer) section(rows [][]string) {
	if len(rows) > 1 {
		p.printf("\n")
		p.table("", rows)
	}
}
