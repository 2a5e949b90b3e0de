package consul_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"

	"drover/consul"
	"drover/internal/testkit"
	"drover/internal/work"
)

// lockPatience is how long a test's request waits for what it is sure to get.
const lockPatience = 30 * time.Second

func pathSet(t *testing.T, texts ...string) work.PathSet {
	t.Helper()
	set, err := work.NewPathSet(texts...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// holder claims an attempt of an item of its own, in the same repository as all others.
func holder(t *testing.T, client *consul.Client) *consul.Attempt {
	t.Helper()
	return claim(t, client, envelope(time.Minute), firstAllocation)
}

func mustLock(t *testing.T, a *consul.Attempt, texts ...string) work.Lock {
	t.Helper()
	lock, err := a.Lock(t.Context(), pathSet(t, texts...), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

func mustBeRefused(t *testing.T, a *consul.Attempt, texts ...string) *work.LockedError {
	t.Helper()
	_, err := a.Lock(t.Context(), pathSet(t, texts...), 0, nil)
	var locked *work.LockedError
	if !errors.As(err, &locked) || !errors.Is(err, work.ErrLocked) {
		t.Fatalf("lock of %s: %v", texts, err)
	}
	return locked
}

// mustHold checks what an attempt holds, among what is held in its repository.
func mustHold(t *testing.T, a *consul.Attempt, want string) {
	t.Helper()
	locks, err := a.Locks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, lock := range locks {
		if lock.Attempt == a.Claim().Attempt {
			if got := lock.PathSet().String(); got != want {
				t.Errorf("holds %s, want %s", got, want)
			}
			return
		}
	}
	t.Errorf("holds nothing, want %s", want)
}

func TestHeldPathIsRefusedAndItsHolderNamed(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		first, second := holder(t, client), holder(t, client)
		before := time.Now().Add(-time.Second)
		mustLock(t, first, "src/", "docs")
		locked := mustBeRefused(t, second, "README.md", "src/a.go")
		who := first.Claim().Attempt
		if locked.Path != "src/a.go" || locked.Held.Path != "src" || locked.Holder.Attempt != who || locked.Holder.Item != who.Item() || locked.Held.Since.Before(before) {
			t.Errorf("%+v", locked)
		}
		if text := locked.Error(); !strings.Contains(text, "src/a.go is held by item "+who.Item()+", attempt 1, since 20") || !strings.HasSuffix(text, "as src") {
			t.Error(text)
		}
		mustLock(t, second, "README.md") // none of the refused ones was taken
		other := envelope(time.Minute)
		other.Spec.Repository = "https://git.example.org/a/b.git/c"
		mustLock(t, claim(t, client, other, firstAllocation), "src")
	})
}

func TestMoreIsAskedForAndGivenUp(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		first, second := holder(t, client), holder(t, client)
		mustLock(t, first, "a", "b/c")
		since := mustLock(t, first, "a/x").Paths[0].Since
		lock := mustLock(t, first, "b", "d")
		if got := lock.PathSet().String(); got != "a, b, b/c, d" || !lock.Paths[0].Since.Equal(since) {
			t.Errorf("%+v", lock)
		}
		if err := first.Unlock(t.Context(), pathSet(t, "b")); err != nil {
			t.Fatal(err)
		}
		mustHold(t, first, "a, d")
		mustLock(t, second, "b")
		mustBeRefused(t, second, "d")
		if err := first.Unlock(t.Context(), pathSet(t, "b")); !errors.Is(err, work.ErrNotFound) {
			t.Errorf("unlock of what is not held: %v", err)
		}
		for range 2 {
			if err := first.UnlockAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		mustLock(t, second, "a", "d")
		if err := first.Unlock(t.Context(), pathSet(t, "a")); !errors.Is(err, work.ErrNotFound) {
			t.Errorf("unlock of nothing: %v", err)
		}
	})
}

func TestAttemptHoldsABoundedNumberOfPaths(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		a := holder(t, open())
		for i := range work.MaxHeldPaths / work.MaxPaths {
			var texts []string
			for j := range work.MaxPaths {
				texts = append(texts, fmt.Sprintf("%s/%d/%d", strings.Repeat("x", 400), i, j))
			}
			mustLock(t, a, texts...)
		}
		if _, err := a.Lock(t.Context(), pathSet(t, "one-more"), time.Minute, nil); !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), "257 paths") {
			t.Error(err)
		}
	})
}

// TestOverlappingRequestsTogetherCannotBothWin has many attempts ask at once for paths of which each overlaps each.
func TestOverlappingRequestsTogetherCannotBothWin(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		const rivals, rounds = 8, 10
		asked := [rivals]string{"a", "a/b", "a/b/c", ".", "a/*/c", "**/c", "a/b/c/d", "*/b"}
		var attempts [rivals]*consul.Attempt
		for i := range attempts {
			attempts[i] = holder(t, open())
		}
		for range rounds {
			var mu sync.Mutex
			var winners []*consul.Attempt
			var all sync.WaitGroup
			for i, a := range attempts {
				set := pathSet(t, asked[i])
				all.Go(func() {
					_, err := a.Lock(t.Context(), set, 0, nil)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						winners = append(winners, a)
					} else if !errors.Is(err, work.ErrLocked) {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if len(winners) != 1 {
				t.Fatalf("%d won", len(winners))
			}
			if err := winners[0].UnlockAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestManyRequestsApartAreAllGranted(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		const count = 16
		var all sync.WaitGroup
		for i := range count {
			a, set := holder(t, open()), pathSet(t, fmt.Sprint("dir/", i))
			all.Go(func() {
				if _, err := a.Lock(t.Context(), set, 0, nil); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
}

func TestRequestWaitsForWhatIsHeld(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		first, second := holder(t, open()), holder(t, open())
		mustLock(t, first, "a")
		told := make(chan error, 1)
		granted := make(chan error, 1)
		go func() {
			_, err := second.Lock(t.Context(), pathSet(t, "a/b"), lockPatience, func(why error) {
				select {
				case told <- why:
				default:
				}
			})
			granted <- err
		}()
		if why := <-told; !errors.Is(why, work.ErrLocked) {
			t.Error(why)
		}
		if err := first.UnlockAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-granted; err != nil {
			t.Error(err)
		}
	})
}

// TestTwoThatWaitForEachOtherAreBothRefused makes the circle in which others would wait for ever.
func TestTwoThatWaitForEachOtherAreBothRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		first, second := holder(t, open()), holder(t, open())
		mustLock(t, first, "a")
		mustLock(t, second, "b")
		var both sync.WaitGroup
		for a, path := range map[*consul.Attempt]string{first: "b", second: "a"} {
			set := pathSet(t, path)
			both.Go(func() {
				if _, err := a.Lock(t.Context(), set, time.Second, nil); !errors.Is(err, work.ErrLocked) {
					t.Error(err)
				}
			})
		}
		both.Wait()
		mustHold(t, first, "a")
	})
}

func TestLostSessionKeepsItsPathsForTheLockDelay(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		client.SetLockDelay(3 * time.Second)
		first, second := holder(t, client), holder(t, client)
		lock := mustLock(t, first, "a")
		if err := first.Confirm(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := client.BreakLock(t.Context(), lock); err != nil {
			t.Fatal(err)
		}
		if locked := mustBeRefused(t, second, "a"); !locked.Holder.Lost || !strings.Contains(locked.Error(), "session is gone") {
			t.Error(locked)
		}
		for what, call := range map[string]func() error{
			"confirm": func() error { return first.Confirm(t.Context()) },
			"beat":    func() error { return first.Beat(t.Context(), "", false) },
			"lock":    func() error { _, err := first.Lock(t.Context(), pathSet(t, "x"), lockPatience, nil); return err },
		} {
			if err := call(); !errors.Is(err, work.ErrSessionLost) {
				t.Errorf("%s of the holder: %v", what, err)
			}
		}
		if err := first.UnlockAll(t.Context()); err != nil {
			t.Error(err)
		}
		mustBeRefused(t, second, "a") // the holder could not free it
		if _, err := second.Lock(t.Context(), pathSet(t, "a"), lockPatience, nil); err != nil {
			t.Fatal(err)
		}
		if locks, _, err := client.Locks(t.Context(), 0); err != nil || len(locks) != 1 || locks[0].Attempt != second.Claim().Attempt {
			t.Errorf("%+v %v", locks, err)
		}
	})
}

func TestLostLocksAreSwept(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		client.SetLockDelay(time.Second)
		first, second := holder(t, client), holder(t, client)
		mustLock(t, first, "a")
		mustLock(t, second, "b")
		closeClaim(t, client, first, true)
		if err := first.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, patience, func() error {
			locks, _, err := client.Locks(t.Context(), 0)
			if err != nil {
				return err
			}
			if err := client.FreeLost(t.Context()); err != nil {
				return err
			}
			if len(locks) != 1 || locks[0].Attempt != second.Claim().Attempt || locks[0].Lost {
				return fmt.Errorf("locks %+v", locks)
			}
			return nil
		})
	})
}

func TestLocksAreWatched(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		a := holder(t, client)
		mustLock(t, a, "a", "b")
		locks, index, err := client.Locks(t.Context(), 0)
		if err != nil || len(locks) != 1 {
			t.Fatalf("%+v %v", locks, err)
		}
		if l := locks[0]; l.Repository != "git.example.org/a/b" || l.Attempt != a.Claim().Attempt || l.Session != a.Claim().Session || l.PathSet().String() != "a, b" || l.Lost {
			t.Errorf("%+v", l)
		}
		seen := make(chan []work.Lock, 1)
		go func() {
			for index := index; ; {
				locks, next, err := client.Locks(t.Context(), index)
				if err != nil || len(locks) == 0 {
					seen <- locks
					return
				}
				index = next
			}
		}()
		if err := a.UnlockAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := <-seen; len(left) > 0 {
			t.Errorf("%+v", left)
		}
	})
}

func TestLockWhoseAnswerIsLostIsFoundOut(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		wire := &lossy{base: cleanhttp.DefaultPooledTransport()}
		t.Cleanup(wire.base.CloseIdleConnections)
		a := holder(t, open(wire))
		wire.left.Store(1)
		if _, err := a.Lock(t.Context(), pathSet(t, "a"), lockPatience, nil); err != nil {
			t.Fatal(err)
		}
		wire.left.Store(1)
		if _, err := a.Lock(t.Context(), pathSet(t, "b"), 0, nil); !errors.Is(err, work.ErrUnknownOutcome) {
			t.Fatalf("without patience: %v", err)
		}
		mustHold(t, a, "a, b")
		wire.left.Store(1)
		if err := a.UnlockAll(t.Context()); !errors.Is(err, work.ErrUnknownOutcome) {
			t.Fatal(err)
		}
		mustLock(t, holder(t, open()), "a", "b")
	})
}

// TestLockThatCannotBeReadKeepsTheRepository stands for what a later version may write.
func TestLockThatCannotBeReadKeepsTheRepository(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		client := open()
		first, second := holder(t, client), holder(t, client)
		mustLock(t, first, "a")
		if err := client.Overwrite(t.Context(), client.Keys.Lock("git.example.org/a/b", first.Claim().Attempt), `{"paths": 1}`); err != nil {
			t.Fatal(err)
		}
		if locked := mustBeRefused(t, second, "b"); locked.Held.Path != work.WholeRepository || locked.Holder.Attempt != first.Claim().Attempt {
			t.Errorf("%+v", locked)
		}
	})
}

func TestRequestEndsWithItsContext(t *testing.T) {
	onBoth(t, func(t *testing.T, open opener) {
		first, second := holder(t, open()), holder(t, open())
		mustLock(t, first, ".")
		ctx, cancel := context.WithCancel(t.Context())
		_, err := second.Lock(ctx, pathSet(t, "a"), time.Hour, func(error) { cancel() })
		if !errors.Is(err, context.Canceled) || !errors.Is(err, work.ErrLocked) {
			t.Error(err)
		}
	})
}

func TestFoldersOfRepositoriesAreApart(t *testing.T) {
	keys := consul.NewKeys("")
	a := work.NewAttemptID(work.NewID(time.Now()), 1)
	all := []string{keys.RepositoryLocks("h/a"), keys.RepositoryLocks("h/a/b"), keys.RepositoryLocks("h/ab"), keys.LockGuard("h/a"), keys.Lock("h/a", a)}
	slices.Sort(all)
	for i, key := range all[1:] {
		if strings.HasPrefix(key, all[i]) && strings.HasSuffix(key, "/") {
			t.Errorf("%s lies in %s", key, all[i])
		}
	}
}
