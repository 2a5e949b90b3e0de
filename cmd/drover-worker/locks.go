package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"

	"drover/internal/work"
	"drover/internal/worker/locksocket"
)

// Exit statuses of lock, unlock and locks, beside exitFailed.
const (
	exitUsage   = 2
	exitLocked  = 3
	exitNotHeld = 4
)

const locksUsage = `drover-worker locks paths of the repository for the attempt that the caller belongs to.

  drover-worker lock [--wait 30s] [-o json] PATH…
      take paths of the repository for the attempt, all or none; wait for those that
      another attempt holds, at most so long (default 30s, at most 10m)
  drover-worker unlock [-o json] PATH… | --all
      push what is committed, and give paths up
  drover-worker locks [-o json]
      show what is locked in the repository, and by whom

  A PATH is a file, a directory with all below it, a glob (* ? **), or . for the whole
  repository, from its top. All locks go when the attempt ends, whatever ends it.

EXIT STATUS
  0  done
  1  the worker or Consul did not answer, or the attempt is not the worker's any more
  2  wrong usage, or a path that can't be
  3  another attempt holds a path; nothing was taken
  4  nothing of it is held
`

// lockVerb is what an agent calls.
type lockVerb func(ctx context.Context, client *locksocket.Client, paths []string, f lockFlags) (locksocket.Locks, error)

type lockFlags struct {
	wait   time.Duration
	all    bool
	output string
}

var lockVerbs = map[string]struct {
	flags func(*pflag.FlagSet, *lockFlags) // beside -o
	call  lockVerb
}{
	"lock": {
		func(set *pflag.FlagSet, f *lockFlags) { set.DurationVar(&f.wait, "wait", locksocket.DefaultWait, "") },
		func(ctx context.Context, client *locksocket.Client, paths []string, f lockFlags) (locksocket.Locks, error) {
			return client.Lock(ctx, paths, f.wait)
		},
	},
	"unlock": {
		func(set *pflag.FlagSet, f *lockFlags) { set.BoolVar(&f.all, "all", false, "") },
		func(ctx context.Context, client *locksocket.Client, paths []string, f lockFlags) (locksocket.Locks, error) {
			if f.all != (len(paths) == 0) {
				return locksocket.Locks{}, fmt.Errorf("name the paths, or --all: %w", work.ErrInvalid)
			}
			if f.all {
				return client.UnlockAll(ctx)
			}
			return client.Unlock(ctx, paths)
		},
	},
	"locks": {
		func(*pflag.FlagSet, *lockFlags) {},
		func(ctx context.Context, client *locksocket.Client, paths []string, _ lockFlags) (locksocket.Locks, error) {
			if len(paths) > 0 {
				return locksocket.Locks{}, fmt.Errorf("unexpected argument %q: %w", paths[0], work.ErrInvalid)
			}
			return client.Locks(ctx)
		},
	},
}

// runLocks runs one of lockVerbs for the agent, and returns the exit status.
func runLocks(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	verb := lockVerbs[args[0]]
	var f lockFlags
	set := pflag.NewFlagSet(args[0], pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVarP(&f.output, "output", "o", "text", "")
	verb.flags(set, &f)
	err := set.Parse(args[1:])
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprint(stdout, locksUsage)
		return 0
	case err == nil && f.output != "text" && f.output != "json":
		err = fmt.Errorf("output %q: use text or json", f.output)
	}
	if err != nil {
		fmt.Fprintf(stderr, "drover-worker %s: %v\n\n%s", args[0], err, locksUsage)
		return exitUsage
	}
	path := variables(environ)[locksocket.Variable]
	if path == "" {
		fmt.Fprintf(stderr, "drover-worker %s: %s is not set: only what a drover worker starts can ask for locks\n", args[0], locksocket.Variable)
		return exitFailed
	}
	locks, err := verb.call(ctx, locksocket.NewClient(path), set.Args(), f)
	if f.output == "json" {
		printLocksJSON(stdout, locks, err)
	} else if err == nil {
		printLocks(stdout, args[0], locks)
	}
	if err != nil {
		fmt.Fprintf(stderr, "drover-worker %s: %v\n", args[0], err)
	}
	return lockStatus(err)
}

func lockStatus(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, work.ErrLocked):
		return exitLocked
	case errors.Is(err, work.ErrInvalid):
		return exitUsage
	case errors.Is(err, work.ErrNotFound):
		return exitNotHeld
	}
	return exitFailed
}

// printLocksJSON prints what is held, or the error with the holder in it.
func printLocksJSON(out io.Writer, locks locksocket.Locks, err error) {
	var value any = locks
	if err != nil {
		answer := struct {
			Error  string            `json:"error"`
			Locked *work.LockedError `json:"locked,omitempty"`
		}{Error: err.Error()}
		errors.As(err, &answer.Locked)
		value = answer
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(value) // nobody reads: the exit status tells
}

// printLocks prints a line for each path: of this attempt after lock and unlock, of all after locks.
func printLocks(out io.Writer, verb string, locks locksocket.Locks) {
	for _, lock := range locks.Locks {
		own := lock.Attempt == locks.Attempt
		if verb != "locks" && !own {
			continue
		}
		holder := fmt.Sprintf("item %s, attempt %d", lock.Item, lock.Attempt.Number())
		switch {
		case own:
			holder = "this attempt"
		case lock.Lost:
			holder += " (its session is gone)"
		}
		for _, held := range lock.Paths {
			fmt.Fprintf(out, "%s\theld by %s since %s\n", held.Path, holder, held.Since.UTC().Format(time.RFC3339))
		}
	}
}
