package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"drover/internal/worker/testrun"
)

// countArgument is what the worker starts its own program with, as the agent's user, to count test reports: what the
// tests wrote is the agent's, and the worker's user may not be able to read it.
const countArgument = "count-reports"

// countReports prints what the reports below a directory count, and returns the exit status.
func countReports(args []string, stdout, stderr io.Writer) int {
	if len(args) != 3 {
		fmt.Fprintf(stderr, "drover-worker %s: give directory, pattern and time\n", countArgument)
		return exitUsage
	}
	began, err := time.Parse(time.RFC3339Nano, args[2])
	if err == nil {
		err = json.NewEncoder(stdout).Encode(testrun.CountReports(args[0], args[1], began))
	}
	if err != nil {
		fmt.Fprintf(stderr, "drover-worker %s: %v\n", countArgument, err)
		return exitFailed
	}
	return 0
}
