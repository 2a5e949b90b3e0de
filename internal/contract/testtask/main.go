// Command testtask is what the contract tests run as a task: one small static
// binary whose arguments, or the words of $TESTTASK, say what it does.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// linger is how long a task that prints something stays in a container before it
// leaves: Nomad ends its log collector with the container, read or not (2.0.5).
const linger = time.Second

func main() {
	args := os.Args[1:]
	if len(args) == 0 {
		args = strings.Fields(os.Getenv("TESTTASK"))
	}
	if len(args) == 0 {
		args = []string{"exit", "0"}
	}
	code := run(args, os.Stdout, os.Stderr)
	if os.Getpid() == 1 && slices.Contains([]string{"lines", "env", "payload", "limits"}, args[0]) {
		time.Sleep(linger)
	}
	os.Exit(code)
}

// serve answers one connection with a line.
func serve(address string, stderr io.Writer) int {
	listener, err := net.Listen("tcp", address)
	if err == nil {
		var conn net.Conn
		if conn, err = listener.Accept(); err == nil {
			_, err = io.WriteString(conn, "hello\n")
			err = errors.Join(err, conn.Close())
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// run does what args say and returns the exit code:
//
//	exit CODE           leave at once
//	lines N CODE        print N numbered lines on each stream, then leave
//	sleep               wait for SIGTERM and leave with 0
//	stubborn            ignore SIGTERM
//	kill                send itself SIGKILL
//	trickle             print a line every 50 ms until SIGTERM
//	env NAME...         print the variables
//	serve NAME          say hello on the port in that variable, once, then leave with 0
//	payload             print the file that the dispatch payload is in
//	eat MB              touch that much memory
//	feed MB             have a child touch that much memory, linger, and leave as it did
//	limits              print what confines the process
func run(args []string, stdout, stderr io.Writer) int {
	terminated := make(chan os.Signal, 1)
	switch args[0] {
	case "exit":
		return number(args, 1)
	case "lines":
		for i := range number(args, 1) {
			fmt.Fprintf(stdout, "out %d\n", i)
			fmt.Fprintf(stderr, "err %d\n", i)
		}
		return number(args, 2)
	case "sleep":
		signal.Notify(terminated, syscall.SIGTERM)
		fmt.Fprintln(stdout, "sleeping")
		<-terminated
		return 0
	case "stubborn":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
		fmt.Fprintln(stdout, "ignoring")
		time.Sleep(time.Hour)
		return 0
	case "kill":
		// PID 1 of a container gets no signal that it sends itself; a task of
		// that kind is tested by the code that such an end has.
		if os.Getpid() == 1 {
			return 128 + int(syscall.SIGKILL)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		return 0
	case "trickle":
		signal.Notify(terminated, syscall.SIGTERM)
		tick := time.NewTicker(50 * time.Millisecond)
		for i := 0; ; i++ {
			fmt.Fprintf(stdout, "tick %d\n", i)
			select {
			case <-terminated:
				return 0
			case <-tick.C:
			}
		}
	case "env":
		for _, name := range args[1:] {
			fmt.Fprintf(stdout, "%s=%s\n", name, os.Getenv(name))
		}
		return 0
	case "serve":
		return serve(":"+os.Getenv(args[1]), stderr)
	case "payload":
		data, err := os.ReadFile(filepath.Join(os.Getenv("NOMAD_TASK_DIR"), "item.json"))
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		fmt.Fprintf(stdout, "%s", data)
		return 0
	case "limits":
		return limits(stdout)
	case "eat":
		return eat(number(args, 1))
	case "feed":
		return feed(args[1], stderr)
	default:
		fmt.Fprintf(stderr, "unknown task %q\n", args[0])
		return 2
	}
}

// limits prints the limits of a container, in one form for both versions of
// control groups.
func limits(stdout io.Writer) int {
	fmt.Fprintf(stdout, "memory %s\n", first("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"))
	fmt.Fprintf(stdout, "pids %s\n", first("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"))
	for _, dir := range []string{"/", "/tmp", "/local"} {
		state := "writable"
		if err := os.WriteFile(filepath.Join(dir, "probe"), nil, 0o600); err != nil {
			state = "read-only"
		}
		name := dir
		if dir == "/" {
			name = "root"
		}
		fmt.Fprintf(stdout, "%s %s\n", name, state)
	}
	fmt.Fprintf(stdout, "capabilities %s\nno new privileges %s\n", status("CapEff"), status("NoNewPrivs"))
	return 0
}

// first reads the first of some files that there is.
func first(paths ...string) string {
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	return "unknown"
}

func status(field string) string {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func eat(megabytes int) int {
	debug.SetGCPercent(-1)
	held := make([][]byte, 0, megabytes)
	for range megabytes {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		held = append(held, block)
	}
	return len(held) - megabytes
}

// feed outlives the process that the kernel kills: Docker hears of such a kill apart
// from the container's end, and misses it at times when the end comes first.
func feed(megabytes string, stderr io.Writer) int {
	child := exec.Command("/proc/self/exe", "eat", megabytes)
	err := child.Run()
	time.Sleep(linger)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		fmt.Fprintln(stderr, err)
		return 1
	}
	if status := exit.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

func number(args []string, i int) int {
	if i >= len(args) {
		return 0
	}
	n, _ := strconv.Atoi(args[i])
	return n
}
