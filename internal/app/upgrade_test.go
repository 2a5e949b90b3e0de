package app_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"
	"time"

	"drover/consul"
	"drover/internal/control"
	"drover/internal/testkit"
	"drover/internal/work"
)

// older is the last commit before what is stored had a number.
const older = "da528de"

// buildOlder returns a directory with drover and drover-worker of the commit older,
// built from the history once. Without the history the test is skipped.
func buildOlder(t *testing.T) string {
	t.Helper()
	root := testkit.ModuleRoot(t)
	dir := filepath.Join(root, "build", older)
	if _, err := os.Stat(filepath.Join(dir, "drover-worker")); err == nil {
		return dir
	}
	run := func(script string) error {
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := run("git cat-file -e " + older + "^{commit}"); err != nil {
		t.Skipf("the history of this clone does not reach back to %s: %v", older, err)
	}
	source := filepath.Join(dir, "source")
	if err := run(fmt.Sprintf("mkdir -p %[1]s; git archive %[2]s | tar -x -C %[1]s; cd %[1]s; go build -o .. ./cmd/drover ./cmd/drover-worker", source, older)); err != nil {
		t.Fatalf("build drover of %s: %v", older, err)
	}
	return dir
}

// TestUpgrade: the server of now takes over what the server of older stored, and its
// running workers. Nomad and Consul outlive both servers.
func TestUpgrade(t *testing.T) {
	before := buildOlder(t)
	s := newSpine(t)
	const other = "shop/delivery"
	if err := s.git.CreateRepo(other, map[string]string{"README.md": "a shop\n"}); err != nil {
		t.Fatal(err)
	}
	now := s.bin
	s.bin = s.olderBin(before)
	s.writeConfig()
	s.withoutNewerSettings()
	server := s.start()

	u := s.populate(other)
	var exported []work.Item
	export := func(items *[]work.Item) error {
		*items = nil
		return s.client.Export(t.Context(), control.Filter{}, func(item work.Item) error {
			*items = append(*items, item)
			return nil
		})
	}
	if err := export(&exported); err != nil {
		t.Fatal(err)
	}
	server.kill()
	s.bin, s.worker = now, fmt.Sprintf("driver = %q\n  binary = %q", "raw_exec", filepath.Join(now, "drover-worker"))
	s.writeConfig()
	s.start()

	var taken []work.Item
	testkit.Eventually(t, patience, func() error { return export(&taken) })
	u.wantSame(exported, taken)
	u.wantRecords(other)
	u.wantExclusion()
	u.wantRunningToComplete()
	u.wantRetried()
	s.wantReplayed(exported)
}

// olderBin returns a directory with the older programs and the agent, and has
// items run with them.
func (s *spine) olderBin(programs string) string {
	s.t.Helper()
	dir := s.t.TempDir()
	for _, name := range []string{"drover", "drover-worker"} {
		if err := os.Symlink(filepath.Join(programs, name), filepath.Join(dir, name)); err != nil {
			s.t.Fatal(err)
		}
	}
	s.worker = fmt.Sprintf("driver = %q\n  binary = %q", "raw_exec", filepath.Join(dir, "drover-worker"))
	return dir
}

// withoutNewerSettings leaves out of the configuration what the older server does not know.
func (s *spine) withoutNewerSettings() {
	s.t.Helper()
	text, err := os.ReadFile(s.config)
	if err == nil {
		text = regexp.MustCompile(`(?m)^\s*(requeue_backoff|lost_after|steady)\s*=.*$`).ReplaceAll(text, nil)
		err = os.WriteFile(s.config, text, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// upgraded is what the older server had when it was killed.
type upgraded struct {
	*spine
	running, queued, failed string // items
	release                 string // a file for which the agent of the running one waits
	token                   string
}

// populate brings items into every state, and makes every other kind of record.
func (s *spine) populate(other string) *upgraded {
	s.t.Helper()
	u := &upgraded{spine: s, release: filepath.Join(s.t.TempDir(), "go")}
	never := &work.RetryOverride{MaxRetries: new(int)}
	wait := []string{"sh", "-c", fmt.Sprintf("while ! [ -e %s ]; do sleep 0.1; done; echo done >work.txt; git add -A; git commit -qm work", u.release)}
	ids := s.submitSpecs([]work.Spec{
		{Task: "commits=1 delay=1ms"},
		{Task: "commits=1 delay=1ms exit=3", Retry: never},
		{Task: "commits=1 delay=1ms exit=1"},
		{Task: "commits=1 delay=1ms", PR: work.PR{Provider: work.ProviderGitHub, APIURL: "http://127.0.0.1:1"}},
		{Task: "waits for the release", Command: wait, Paths: []string{"src"}},
		{Task: "commits=1 delay=1ms", NotBefore: time.Now().Add(time.Hour)},
		{Task: "commits=1 delay=1ms", NotBefore: time.Now().Add(time.Hour)},
	})
	u.failed, u.running, u.queued = ids[1], ids[4], ids[5]
	for id, state := range map[string]work.State{ids[0]: work.StateCompleted, ids[1]: work.StateFailed, ids[2]: work.StateStuck, ids[3]: work.StateCompleted} {
		if item := s.await(id); item.State != state {
			s.t.Fatalf("item %q is %s under the older server, want %s: %s", item.Spec.Task, item.State, state, item.Why)
		}
	}
	ctx := s.t.Context()
	_, cancelled := s.client.Order(ctx, ids[6], control.Order{Verb: control.Cancel, By: "a test"})
	_, tripped := s.client.TripBreaker(ctx, control.Trip{Repository: s.git.URL(other), Why: "the release is near", By: "a test"})
	limit := 3
	_, set := s.client.SetQueue(ctx, "nightly", control.QueueChange{Set: work.QueueSettings{MaxInFlight: &limit}})
	_, paused := s.client.MoveQueue(ctx, "nightly", control.QueueTransition{State: work.QueuePaused, By: "a test"})
	token, created := s.client.CreateToken(ctx, control.TokenRequest{Name: "reader", Role: work.RoleRead})
	if err := errors.Join(cancelled, tripped, set, paused, created); err != nil {
		s.t.Fatal(err)
	}
	u.token = token.ID
	testkit.Eventually(s.t, patience, func() error {
		locks, err := s.client.Locks(ctx, "")
		if err == nil && len(locks) != 1 {
			err = fmt.Errorf("locks = %v, want one", locks)
		}
		return err
	})
	return u
}

// wantSame checks that the items of the new server are those of the older one.
func (u *upgraded) wantSame(before, after []work.Item) {
	u.t.Helper()
	if len(before) != 7 || len(after) != len(before) {
		u.t.Fatalf("%d items before and %d after, want 7", len(before), len(after))
	}
	for i := range before {
		was, is := before[i].Bound(), after[i]
		if is.ID == u.running { // goes on
			was, is = work.Item{ID: was.ID, State: was.State, Attempts: was.Attempts[:1]}, work.Item{ID: is.ID, State: is.State, Attempts: is.Attempts[:1]}
		}
		want, err := json.Marshal(was)
		got, bad := json.Marshal(is)
		if err != nil || bad != nil || string(got) != string(want) {
			u.t.Errorf("item after the upgrade:\n%s, want\n%s", got, want)
		}
	}
}

// wantRecords checks what else was stored.
func (u *upgraded) wantRecords(other string) {
	u.t.Helper()
	ctx := u.t.Context()
	breakers, err := u.client.Breakers(ctx)
	open := 0
	for _, b := range breakers {
		if b.Repository == work.RepositoryKey(u.git.URL(other)) && b.State == work.BreakerOpen && b.Why == "the release is near" {
			open++
		}
	}
	if err != nil || open != 1 {
		u.t.Errorf("breakers = %+v, %v; want that of %s open, once", breakers, err, other)
	}
	queue, err := u.client.Queue(ctx, "nightly")
	if err != nil || queue.State != work.QueuePaused || queue.By != "a test" || queue.Stored.MaxInFlight == nil || *queue.Stored.MaxInFlight != 3 {
		u.t.Errorf("queue = %+v, %v; want it paused, with at most 3 in flight", queue, err)
	}
	tokens, err := u.client.Tokens(ctx)
	if err != nil || len(tokens) != 1 || tokens[0].ID != u.token {
		u.t.Errorf("tokens = %+v, %v; want that of the older server", tokens, err)
	}
}

// wantExclusion checks that neither a worker of now nor one of the older kind gets
// what the older worker holds, and that the older kind gets nothing more.
func (u *upgraded) wantExclusion() {
	u.t.Helper()
	client, err := consul.Open(consul.Options{Address: u.consul, Prefix: u.prefix, Transport: u.transport})
	if err != nil {
		u.t.Fatal(err)
	}
	for _, c := range []struct {
		format  int
		path    string
		granted bool
	}{{work.StoredFormat, "src/main.go", false}, {work.StoredFormat, "docs", true}, {0, "src/main.go", false}, {0, "elsewhere", false}} {
		item := work.NewItem(work.NewID(time.Now()), work.Spec{Repository: u.git.URL(repository), Task: "x"}.WithDefaults(work.NewDefaults()), time.Now())
		e := work.Envelope{Item: item.ID, Attempt: item.NextAttempt(), Spec: item.Spec, Branch: item.Branch, Format: c.format}
		attempt, err := client.ClaimAttempt(u.t.Context(), e, "upgrade")
		if err != nil {
			u.t.Fatal(err)
		}
		paths, err := work.NewPathSet(c.path)
		if err != nil {
			u.t.Fatal(err)
		}
		const patience = 0
		_, err = attempt.Lock(u.t.Context(), paths, patience, nil)
		if (err == nil) != c.granted || err != nil && !errors.Is(err, work.ErrLocked) {
			u.t.Errorf("a worker of format %d that asks for %s: %v, want it granted: %t", c.format, c.path, err, c.granted)
		}
		if err := errors.Join(attempt.UnlockAll(u.t.Context()), attempt.Release(u.t.Context())); err != nil {
			u.t.Error(err)
		}
	}
}

// wantRunningToComplete lets the older worker go on.
func (u *upgraded) wantRunningToComplete() {
	u.t.Helper()
	locks, err := u.client.Locks(u.t.Context(), "")
	if err != nil || len(locks) != 1 || locks[0].Item != u.running || locks[0].Lost {
		u.t.Errorf("locks = %+v, %v; want that of the running item, once", locks, err)
	}
	if err := os.WriteFile(u.release, nil, 0o600); err != nil {
		u.t.Fatal(err)
	}
	if err := u.verify(u.running, 1); err != nil {
		u.t.Error(err)
	}
}

// wantRetried checks that an item of the older server can be run again by the new one.
func (u *upgraded) wantRetried() {
	u.t.Helper()
	if _, err := u.client.Order(u.t.Context(), u.failed, control.Order{Verb: control.Retry, By: "a test"}); err != nil {
		u.t.Fatal(err)
	}
	testkit.Eventually(u.t, patience, func() error {
		item, err := u.item(u.failed)
		if err == nil && (item.State != work.StateFailed || item.AttemptCount() != 2) {
			err = fmt.Errorf("item is %s after %d attempts: %s", item.State, item.AttemptCount(), item.Why)
		}
		return err
	})
}

// wantReplayed replays an export into another server.
func (s *spine) wantReplayed(items []work.Item) {
	s.t.Helper()
	next := newSpineOn(s.t, s.servers)
	next.start()
	testkit.Eventually(s.t, patience, func() error {
		_, err := next.client.Status(s.t.Context())
		return err
	})
	var ended []work.Item
	for _, item := range items {
		if item.State.Terminal() || item.State == work.StateQueued {
			ended = append(ended, item)
		}
	}
	done, err := next.client.Import(s.t.Context(), ended, false)
	if err != nil || done.Stored != len(ended) {
		s.t.Fatalf("import: %+v, %v; want %d stored", done, err, len(ended))
	}
	again, err := next.client.Import(s.t.Context(), ended, false)
	if err != nil || again.Identical != len(ended) {
		s.t.Errorf("import again: %+v, %v; want %d identical", again, err, len(ended))
	}
	for _, item := range ended {
		got, err := next.item(item.ID)
		if err != nil || got.State != item.State || !reflect.DeepEqual(got.Spec.Task, item.Spec.Task) || got.AttemptCount() != len(item.Attempts) {
			s.t.Errorf("item after the replay: %s after %d attempts, %v; want %s after %d", got.State, got.AttemptCount(), err, item.State, len(item.Attempts))
		}
	}
}
