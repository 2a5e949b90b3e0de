// Package launch starts the processes of an agent for its worker: as another
// user, where the launcher may change users.
//
// The launcher is the parent of the worker and the first process of its
// container. It alone may change users and signal other users' processes; the
// worker, and all that reads what an agent says, has no privilege. The two speak
// over a socket that was made before the worker began and has no name, so that
// nobody else can ask for anything. A worker's request can't choose the user.
//
//	worker                                         launcher
//	one byte, streams, a connection of its own ──▶ on the socket
//	Start ───────────────────────────────────────▶ forks the shim (Exec), which becomes the program; answers with the process's id
//	Signal, as often as it likes ────────────────▶ signals the process group
//	                                          ◀─── how it ended
//	End, or the connection's end ────────────────▶ kills the group, and all that is to be swept; answers, closes
//
// Whatever is started below the launcher stays below it: it is where orphans go,
// also those that made a session of their own. That is how a sweep finds them.
package launch

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"drover/internal/worker/process"
)

// order is what the worker says about one process.
type order struct {
	Start  *process.Start `json:",omitempty"`
	Signal syscall.Signal `json:",omitempty"`
	End    bool           `json:",omitempty"`
}

// answer is what the launcher says about it.
type answer struct {
	PID    int                 `json:",omitempty"`
	Error  string              `json:",omitempty"`
	Status *syscall.WaitStatus `json:",omitempty"`
	Ended  bool                `json:",omitempty"`
}

// streams are the files that come with a request: a process's standard streams
// and the connection about it.
const streams = 4

// pair returns the two ends of a socket that has no name.
func pair(kind int) (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "launcher"), os.NewFile(uintptr(fds[1]), "launcher"), nil
}

// connection takes a file over.
func connection(f *os.File) (*net.UnixConn, error) {
	conn, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("use a socket: %w", err)
	}
	return conn.(*net.UnixConn), nil
}
