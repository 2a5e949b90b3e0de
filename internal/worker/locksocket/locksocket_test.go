package locksocket_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"drover/internal/testkit"
	"drover/internal/work"
	"drover/internal/worker/locksocket"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const attempt = work.AttemptID("01k9zzzzzzzzzzzzzzzzzzzzzz.1")

// locker answers as its functions say; nil is success.
type locker struct {
	lock   func(ctx context.Context, paths work.PathSet, wait time.Duration) error
	unlock func(paths work.PathSet) error
	all    func() error
	locks  []work.Lock
}

func (l *locker) Lock(ctx context.Context, paths work.PathSet, wait time.Duration) error {
	if l.lock == nil {
		return nil
	}
	return l.lock(ctx, paths, wait)
}
func (l *locker) Unlock(_ context.Context, paths work.PathSet) error { return l.unlock(paths) }
func (l *locker) UnlockAll(context.Context) error                    { return l.all() }
func (l *locker) Locks(context.Context) ([]work.Lock, error)         { return l.locks, nil }

func listen(t *testing.T, ctx context.Context, l *locker) (*locksocket.Server, *locksocket.Client) {
	t.Helper()
	server, err := locksocket.Listen(ctx, attempt, l, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server, locksocket.NewClient(server.Path())
}

func TestRequestsReachTheLocker(t *testing.T) {
	t.Parallel()
	held := work.Lock{Attempt: attempt, Paths: []work.HeldPath{{Path: "a", Since: time.Unix(1, 0).UTC()}}}
	var asked, given string
	var waited time.Duration
	l := &locker{
		lock: func(_ context.Context, paths work.PathSet, wait time.Duration) error {
			asked, waited = paths.String(), wait
			return nil
		},
		unlock: func(paths work.PathSet) error { given = paths.String(); return nil },
		all:    func() error { given = "all"; return nil },
		locks:  []work.Lock{{Attempt: "01k9yyyyyyyyyyyyyyyyyyyyyy.1"}, held},
	}
	_, client := listen(t, t.Context(), l)
	locks, err := client.Lock(t.Context(), []string{"./b/", "a"}, time.Minute)
	if err != nil || asked != "a, b" || waited != time.Minute || len(locks.Own()) != 1 || locks.Own()[0] != held.Paths[0] || len(locks.Locks) != 2 {
		t.Errorf("lock: %+v %v; asked for %s, %s", locks, err, asked, waited)
	}
	if _, err := client.Unlock(t.Context(), []string{"b"}); err != nil || given != "b" {
		t.Errorf("unlock: %v %s", err, given)
	}
	if _, err := client.UnlockAll(t.Context()); err != nil || given != "all" {
		t.Errorf("unlock all: %v %s", err, given)
	}
	if locks, err := client.Locks(t.Context()); err != nil || locks.Attempt != attempt {
		t.Errorf("locks: %+v %v", locks, err)
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	holder := &work.LockedError{Path: "a", Held: work.HeldPath{Path: "."}, Holder: work.Lock{Item: "i", Attempt: attempt}}
	l := &locker{}
	_, client := listen(t, t.Context(), l)
	for _, want := range []error{holder, work.ErrInvalid, work.ErrNotFound, work.ErrSessionLost, work.ErrUnknownOutcome, work.ErrUnavailable} {
		l.lock = func(context.Context, work.PathSet, time.Duration) error { return want }
		_, err := client.Lock(t.Context(), []string{"a"}, 0)
		if is := errors.Unwrap(want); is != nil {
			want = is
		}
		if !errors.Is(err, want) {
			t.Errorf("%v came back as %v", want, err)
		}
	}
	l.lock = func(context.Context, work.PathSet, time.Duration) error { return holder }
	_, err := client.Lock(t.Context(), []string{"a"}, 0)
	var locked *work.LockedError
	if !errors.As(err, &locked) || locked.Holder.Item != "i" || locked.Error() != holder.Error() {
		t.Errorf("%v", err)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	server, client := listen(t, t.Context(), &locker{lock: func(context.Context, work.PathSet, time.Duration) error {
		t.Error("a bad request was passed on")
		return nil
	}})
	for what, call := range map[string]func() (locksocket.Locks, error){
		"no path":     func() (locksocket.Locks, error) { return client.Lock(t.Context(), nil, 0) },
		"bad path":    func() (locksocket.Locks, error) { return client.Lock(t.Context(), []string{"../a"}, 0) },
		"long wait":   func() (locksocket.Locks, error) { return client.Lock(t.Context(), []string{"a"}, 2*locksocket.MaxWait) },
		"unlock none": func() (locksocket.Locks, error) { return client.Unlock(t.Context(), nil) },
	} {
		if _, err := call(); !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	raw := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", server.Path())
	}}}
	for _, body := range []string{"", "{", `{"path":"a"}`, `{"paths":["a"],"wait":"-1s"}`} {
		answer, err := raw.Post("http://x/v1/lock", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%.20q: %s", body, answer.Status)
		}
	}
}

func TestEveryUserMayAsk(t *testing.T) {
	t.Parallel()
	server, _ := listen(t, t.Context(), &locker{})
	for path, want := range map[string]os.FileMode{server.Path(): 0o666, filepath.Dir(server.Path()): 0o755} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
}

func TestRequestsThatWaitAreBoundedAndEndWithTheServer(t *testing.T) {
	t.Parallel()
	const most = 32
	waiting, ended := make(chan struct{}), make(chan error, most)
	l := &locker{lock: func(ctx context.Context, _ work.PathSet, _ time.Duration) error {
		waiting <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}
	server, err := locksocket.Listen(t.Context(), attempt, l, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	client := locksocket.NewClient(server.Path())
	for range most {
		go func() {
			_, err := client.Lock(context.Background(), []string{"a"}, time.Minute)
			ended <- err
		}()
		<-waiting
	}
	if _, err := client.Lock(t.Context(), []string{"a"}, time.Minute); !errors.Is(err, work.ErrUnavailable) || !strings.Contains(err.Error(), "too many") {
		t.Errorf("one more: %v", err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	for range most {
		if err := <-ended; !errors.Is(err, work.ErrUnavailable) {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Dir(server.Path())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if _, err := client.Locks(t.Context()); !errors.Is(err, work.ErrUnavailable) {
		t.Errorf("nobody answers: %v", err)
	}
}

func TestRequestEndsWithTheHold(t *testing.T) {
	t.Parallel()
	hold, lose := context.WithCancel(t.Context())
	_, client := listen(t, hold, &locker{lock: func(ctx context.Context, _ work.PathSet, _ time.Duration) error {
		lose()
		<-ctx.Done()
		return work.ErrSessionLost
	}})
	if _, err := client.Lock(t.Context(), []string{"a"}, time.Minute); !errors.Is(err, work.ErrSessionLost) {
		t.Error(err)
	}
}
