package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"drover/internal/worker/process"
)

// Bounds of what is kept of an agent's conversations: as they are, and compressed.
const (
	maxStateBytes  = 32 << 20
	maxPackedBytes = 8 << 20
)

// ErrStateTooLarge says that an agent's conversations are more than is kept.
var ErrStateTooLarge = errors.New("the agent's state is too large to be kept")

// unkept are in the names of files that are never kept: they may hold credentials.
var unkept = []string{"credential", "auth", "token", "secret", "key", ".env"}

// PackState returns the agent's conversations, compressed and with redact applied
// to each file; nil if there are none. They are read as the agent.
// It returns ErrStateTooLarge.
func (r Run) PackState(ctx context.Context, redact func(string) string) ([]byte, error) {
	dirs := r.Adapter.State()
	if len(dirs) == 0 {
		return nil, nil
	}
	const script = `cd "$HOME" && found=$(ls -d "$@" 2>/dev/null); [ -z "$found" ] || exec tar --create $found`
	archive := &capped{max: maxStateBytes}
	command := r.command(slices.Concat([]string{"sh", "-c", script, "sh"}, dirs))
	command.Dir, command.Stdout = "/", archive
	exit, err := process.Run(ctx, command)
	const changed = 1 // while it was read: the agent works on
	switch {
	case err != nil:
		return nil, err
	case exit.Code > changed:
		return nil, fmt.Errorf("pack the agent's state: %s", exit)
	case archive.over:
		return nil, ErrStateTooLarge
	case archive.Len() == 0:
		return nil, nil
	}
	return repack(&archive.Buffer, redact)
}

// maxNamesBytes bounds the names of a home's files that are read.
const maxNamesBytes = 1 << 20

// StateFiles returns the names of the files in which the agent keeps its
// conversations. They are read as the agent.
func (r Run) StateFiles(ctx context.Context) ([]string, error) {
	dirs := r.Adapter.State()
	if len(dirs) == 0 {
		return nil, nil
	}
	const script = `cd "$HOME" && find "$@" -type f 2>/dev/null; :` // not every directory is there
	names := &capped{max: maxNamesBytes}
	command := r.command(slices.Concat([]string{"sh", "-c", script, "sh"}, dirs))
	command.Dir, command.Stdout = "/", names
	if _, err := process.Run(ctx, command); err != nil {
		return nil, fmt.Errorf("list the agent's state: %w", err)
	}
	return strings.Split(names.String(), "\n"), nil
}

// repack copies an archive's plain files: the archive is the agent's word.
func repack(archive io.Reader, redact func(string) string) ([]byte, error) {
	packed := &capped{max: maxPackedBytes}
	zip := gzip.NewWriter(packed)
	in, out := tar.NewReader(archive), tar.NewWriter(zip)
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the agent's state: %w", err)
		}
		if header.Typeflag != tar.TypeReg || !kept(header.Name) {
			continue
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return nil, fmt.Errorf("read the agent's state: %s: %w", header.Name, err)
		}
		text := redact(string(data))
		const private = 0o600
		err = out.WriteHeader(&tar.Header{Name: header.Name, Typeflag: tar.TypeReg, Mode: private, Size: int64(len(text)), ModTime: header.ModTime})
		if err == nil {
			_, err = io.WriteString(out, text)
		}
		if err != nil {
			return nil, fmt.Errorf("pack the agent's state: %s: %w", header.Name, err)
		}
	}
	if err := errors.Join(out.Close(), zip.Close()); err != nil {
		return nil, fmt.Errorf("pack the agent's state: %w", err)
	}
	if packed.over {
		return nil, ErrStateTooLarge
	}
	return packed.Bytes(), nil
}

func kept(name string) bool {
	base := strings.ToLower(path.Base(name))
	return !slices.ContainsFunc(unkept, func(part string) bool { return strings.Contains(base, part) })
}

// UnpackState puts what PackState returned into the agent's home, as the agent.
func (r Run) UnpackState(ctx context.Context, packed []byte) error {
	zip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return fmt.Errorf("unpack the agent's state: %w", err)
	}
	archive, err := io.ReadAll(io.LimitReader(zip, 2*maxStateBytes))
	if err != nil {
		return fmt.Errorf("unpack the agent's state: %w", err)
	}
	if err := r.makeHome(ctx); err != nil {
		return err
	}
	command := r.command([]string{"sh", "-c", `cd "$HOME" && exec tar --extract --no-same-owner`})
	complaint := &process.Tail{Max: 1 << 10}
	command.Dir, command.Stdin, command.Stderr = "/", string(archive), complaint
	exit, err := process.Run(ctx, command)
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("unpack the agent's state: %s: %s", exit, strings.TrimSpace(complaint.String()))
	}
	return err
}

// capped keeps the first max bytes that are written to it.
type capped struct {
	bytes.Buffer
	max  int
	over bool
}

func (c *capped) Write(p []byte) (int, error) {
	n := len(p)
	if room := c.max - c.Len(); n > room {
		p, c.over = p[:max(0, room)], true
	}
	_, _ = c.Buffer.Write(p) // never fails
	return n, nil
}
