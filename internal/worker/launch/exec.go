package launch

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// oomRaise is how much sooner than the worker the kernel kills, of those who share
// its memory, what runs as the agent: as if that used half of the limit more. The
// scale is that of /proc/<pid>/oom_score_adj, see proc(5).
const (
	oomRaise = 500
	oomMost  = 1000
)

// reportFile is the shim's end of the pipe on which it says why a program did not start.
const reportFile = 3

// exitNotStarted is the shim's status then; nobody sees it.
const exitNotStarted = 127

// Exec makes this process the program args[0], which the kernel is to kill before
// others when memory runs out. It is the shim between a launcher and what that
// starts, and returns an exit status only where the program can't be started.
// Raising one's own score needs no privilege; where it can't be raised the program
// is started as it is.
func Exec(args []string) int {
	syscall.CloseOnExec(reportFile)
	_ = raise("/proc/self/oom_score_adj")
	err := syscall.Exec(args[0], args, syscall.Environ())
	report := os.NewFile(reportFile, "report")
	if errno, ok := err.(syscall.Errno); ok {
		_, _ = fmt.Fprint(report, int(errno)) // the launcher waits for it, or is gone
	}
	return exitNotStarted
}

func raise(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strconv.Itoa(min(score+oomRaise, oomMost))), 0)
}
