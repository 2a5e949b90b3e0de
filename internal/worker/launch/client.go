package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"drover/internal/worker/process"
)

// Client asks the launcher. It is a process.Starter, and may be used concurrently.
type Client struct{ socket *net.UnixConn }

// Connect returns the client of a worker that found its end of the launcher's
// socket as the open file fd.
func Connect(fd int) (*Client, error) {
	syscall.CloseOnExec(fd)
	socket, err := connection(os.NewFile(uintptr(fd), "launcher"))
	if err != nil {
		return nil, err
	}
	return &Client{socket}, nil
}

// Close ends the connection to the launcher.
func (c *Client) Close() error { return c.socket.Close() }

// Start implements process.Starter.
func (c *Client) Start(start process.Start, files [3]*os.File) (process.Child, error) {
	ours, theirs, err := pair(syscall.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	fds := make([]int, 0, streams)
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	_, _, err = c.socket.WriteMsgUnix([]byte{0}, syscall.UnixRights(append(fds, int(theirs.Fd()))...), nil)
	err = errors.Join(err, theirs.Close())
	conn, connErr := connection(ours)
	if err := errors.Join(err, connErr); err != nil {
		return nil, fmt.Errorf("ask the launcher: %w", err)
	}
	child := &child{
		conn: conn, orders: json.NewEncoder(conn), answers: json.NewDecoder(conn),
		exited: make(chan syscall.WaitStatus, 1), ended: make(chan struct{}),
	}
	if err := child.begin(start); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go child.listen()
	return child, nil
}

// child is a process that the launcher started.
type child struct {
	conn    *net.UnixConn
	answers *json.Decoder
	pid     int
	exited  chan syscall.WaitStatus
	ended   chan struct{}

	mu     sync.Mutex
	orders *json.Encoder
}

func (c *child) begin(start process.Start) error {
	var said answer
	if err := c.orders.Encode(order{Start: &start}); err != nil {
		return fmt.Errorf("ask the launcher: %w", err)
	}
	if err := c.answers.Decode(&said); err != nil {
		return fmt.Errorf("the launcher's answer: %w", err)
	}
	if said.Error != "" {
		return errors.New(said.Error)
	}
	c.pid = said.PID
	return nil
}

// listen takes the launcher's answers until the last. A launcher that says no
// more has ended, and with it all that it started.
func (c *child) listen() {
	defer close(c.ended)
	for exited := false; ; {
		var said answer
		if c.answers.Decode(&said) != nil {
			if !exited {
				c.exited <- syscall.WaitStatus(syscall.SIGKILL)
			}
			return
		}
		if said.Status != nil && !exited {
			exited = true
			c.exited <- *said.Status
		}
		if said.Ended {
			return
		}
	}
}

func (c *child) PID() int { return c.pid }

func (c *child) Wait() syscall.WaitStatus { return <-c.exited }

func (c *child) Signal(sig syscall.Signal) { c.tell(order{Signal: sig}) }

func (c *child) End() {
	c.tell(order{End: true})
	<-c.ended
	_ = c.conn.Close() // the launcher has closed its end
}

func (c *child) tell(o order) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.orders.Encode(o) // fails only when the launcher has ended
}
