// Command demo shows what drover is for: three work items on a real git server, one of which is killed on its way. It
// needs the binaries in bin/, and runs workers in containers where a Docker engine has their image, else as processes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"drover/internal/testkit/gittest"
)

// timeLimit is far above what the demo takes, about half a minute.
const timeLimit = 4 * time.Minute

const introduction = `drover takes work items - a git repository and a task for a coding agent - and brings back finished pull requests.
It runs each in its own container, retries what dies, goes on from what was pushed, and tells you why anything failed.

`

// repository is the name of the demo's git repository.
const repository = "app"

var files = map[string]string{
	"README.md": "An application.\n",
	"check.sh": `#!/bin/sh
# Every step has its file, and its line in the notes.
passed=0
for file in steps/*.txt; do
	grep -q . "$file" || { echo "FAIL: $file is empty"; exit 1; }
	passed=$((passed + 1))
done
[ "$passed" = "$(wc -l <NOTES.md)" ] || { echo "FAIL: the notes do not tell of $passed steps"; exit 1; }
echo "$passed passed"
`,
}

func main() {
	real := flag.Bool("real", false, "use the nomad and consul on the PATH instead of the embedded servers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	if err := run(ctx, os.Stdout, *real); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

type demo struct {
	out     io.Writer
	real    bool // not on the embedded servers
	started time.Time
	forge   *gittest.Server
	drover  *drover
	shows   []*show
}

func run(ctx context.Context, out io.Writer, real bool) error {
	fmt.Fprint(out, introduction)
	dir, err := os.MkdirTemp("", "drover-demo-")
	if err != nil {
		return err
	}
	d := &demo{out: out, started: time.Now(), real: real}
	err = d.play(ctx, dir)
	err = errors.Join(err, d.stop(), os.RemoveAll(dir))
	if err == nil {
		fmt.Fprintln(out, "\nAll three ended as they should, and nothing is left running.")
	}
	return err
}

// play starts everything, submits the items and waits for their ends.
func (d *demo) play(ctx context.Context, dir string) (err error) {
	credentials := gittest.Options{Username: "drover", Password: "of the demo"}
	if d.forge, err = serveRepository(dir, credentials); err != nil {
		return err
	}
	if d.drover, err = startDrover(ctx, dir, credentials, d.real); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "A git server and drover with its workers (driver %s) are running.\n\n", d.drover.driver)
	for _, scene := range scenes {
		if err := d.submit(ctx, scene); err != nil {
			return err
		}
	}
	fmt.Fprintln(d.out)
	if err := d.watch(ctx); err != nil {
		return err
	}
	if err := d.table(); err != nil {
		return err
	}
	return d.verdict()
}

func serveRepository(dir string, credentials gittest.Options) (*gittest.Server, error) {
	forge, err := gittest.Start(dir, credentials)
	if err != nil {
		return nil, err
	}
	if err := forge.CreateRepo(repository, files); err != nil {
		return nil, errors.Join(err, forge.Close())
	}
	return forge, nil
}

func (d *demo) submit(ctx context.Context, scene scene) error {
	args := []string{"submit", "--repo", d.forge.URL(repository), "--task", scene.task, "--test", "./check.sh"}
	fmt.Fprintf(d.out, "$ drover %s\n", commandLine(append(args, "--", "drover-demo-agent")))
	item, err := d.drover.submit(ctx, args)
	if err != nil {
		return err
	}
	d.shows = append(d.shows, &show{scene: scene, item: item})
	return nil
}

func (d *demo) verdict() error {
	var faults []string
	for _, s := range d.shows {
		faults = append(faults, s.faults(s.item, d.forge.Log(repository, s.item.Branch))...)
	}
	if log := d.forge.Log(repository, gittest.Branch); len(log) != 1 {
		faults = append(faults, fmt.Sprintf("the branch %s was touched: it holds %s", gittest.Branch, quoted(log)))
	}
	if len(faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(faults, "\n      "))
}

// stop ends what runs, and tells what did not end.
func (d *demo) stop() error {
	var errs []error
	if d.drover != nil {
		errs = append(errs, d.drover.Stop())
		if workers := d.drover.workers(); len(workers) > 0 {
			errs = append(errs, fmt.Errorf("workers are left: processes %v", workers))
		}
		for _, s := range d.shows {
			for _, attempt := range s.item.Attempts {
				if attempt.Allocation != "" {
					errs = append(errs, d.drover.gone(attempt.Allocation))
				}
			}
		}
	}
	if d.forge != nil {
		errs = append(errs, d.forge.Close())
	}
	return errors.Join(errs...)
}

// commandLine writes arguments as a shell would need them.
func commandLine(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = arg
		if strings.Contains(arg, " ") {
			words[i] = "'" + arg + "'"
		}
	}
	return strings.Join(words, " ")
}
