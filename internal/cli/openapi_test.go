package cli_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"drover/internal/api"
	"drover/internal/control"
	"drover/internal/testkit"
	"drover/internal/work"
)

// exchange is a request to a server and its answer.
type exchange struct {
	method, path string
	status       int
	kind         string // content type of the request
	request      []byte
	answerKind   string
	answer       *bytes.Buffer
}

// recorder is a connection that keeps what goes over it.
type recorder struct {
	http.RoundTripper
	mu   sync.Mutex
	seen []*exchange
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	e := &exchange{method: req.Method, path: req.URL.Path, kind: req.Header.Get("Content-Type"), answer: &bytes.Buffer{}}
	if req.Body != nil {
		var err error
		if e.request, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(e.request))
	}
	resp, err := r.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	e.status, e.answerKind = resp.StatusCode, resp.Header.Get("Content-Type")
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(resp.Body, e.answer), resp.Body}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, e)
	return resp, nil
}

// document is the API's OpenAPI document.
type document struct {
	t        *testing.T
	compiler *jsonschema.Compiler
	paths    map[string]any
}

const documentURL = "https://drover.test/openapi.json"

func readDocument(t *testing.T) *document {
	t.Helper()
	text, err := api.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	d := &document{t: t, compiler: jsonschema.NewCompiler(), paths: parsed.(map[string]any)["paths"].(map[string]any)}
	if err := d.compiler.AddResource(documentURL, parsed); err != nil {
		t.Fatal(err)
	}
	return d
}

// template returns the path of the document that a request's path is one of.
func (d *document) template(path string) string {
	parts := strings.Split(path, "/")
	for template := range d.paths {
		names := strings.Split(template, "/")
		same := len(names) == len(parts)
		for i := 0; same && i < len(names); i++ {
			same = names[i] == parts[i] || strings.HasPrefix(names[i], "{")
		}
		if same {
			return template
		}
	}
	return ""
}

// check holds one exchange against the document.
func (d *document) check(e *exchange) error {
	template := d.template(e.path)
	pointer := []string{"paths", template, strings.ToLower(e.method)}
	operation, ok := d.paths[template].(map[string]any)[pointer[2]]
	if !ok {
		return fmt.Errorf("%s %s is not described", e.method, e.path)
	}
	if len(e.request) > 0 {
		if _, has := operation.(map[string]any)["requestBody"]; !has {
			return fmt.Errorf("%s %s: a body is not described", e.method, e.path)
		}
		if err := d.body(append(pointer, "requestBody", "content", e.kind, "schema"), e.kind, e.request); err != nil {
			return fmt.Errorf("request of %s %s: %w", e.method, e.path, err)
		}
	}
	at := append(pointer, "responses", fmt.Sprint(e.status), "content", e.answerKind, "schema")
	responses := operation.(map[string]any)["responses"].(map[string]any)
	response, described := responses[fmt.Sprint(e.status)].(map[string]any)
	if !described {
		at = []string{"components", "schemas", "Problem"}
		if e.answerKind != "application/problem+json" {
			return fmt.Errorf("%s %s answers %d as %s", e.method, e.path, e.status, e.answerKind)
		}
	} else if ref, isRef := response["$ref"].(string); isRef {
		at = append(strings.Split(strings.TrimPrefix(ref, "#/"), "/"), "content", e.answerKind, "schema")
	}
	if err := d.body(at, e.answerKind, e.answer.Bytes()); err != nil {
		return fmt.Errorf("answer %d of %s %s: %w", e.status, e.method, e.path, err)
	}
	return nil
}

// body checks a body, or each line of one that is a stream, against the schema at
// a place of the document.
func (d *document) body(at []string, kind string, body []byte) error {
	for i, part := range at {
		at[i] = strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(part)
	}
	schema, err := d.compiler.Compile(documentURL + "#/" + strings.Join(at, "/"))
	if err != nil {
		return err
	}
	parts := [][]byte{body}
	if kind != "application/json" && kind != "application/problem+json" {
		parts = nil
		for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
			if text := bytes.TrimPrefix(lines.Bytes(), []byte("data: ")); bytes.HasPrefix(text, []byte("{")) {
				parts = append(parts, slices.Clone(text))
			}
		}
	}
	for _, part := range parts {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(part))
		if err != nil {
			return err
		}
		if err := schema.Validate(value); err != nil {
			return fmt.Errorf("%w\n%s", err, part)
		}
	}
	return nil
}

// TestServerSpeaksAsItsDescriptionSays makes every call there is of a real server
// and holds what was asked and answered against the OpenAPI document.
func TestServerSpeaksAsItsDescriptionSays(t *testing.T) {
	consul := testkit.ConsulAddress(t, `check_update_interval = "0s"`)
	server, err := startServer(t.Context(), t, consul, playedNomad(t, consul))
	if err != nil {
		t.Fatal(err)
	}
	defer server.stop()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	record := &recorder{RoundTripper: base}
	client, err := api.NewClient(api.ClientOptions{Address: server.url, Token: serverToken, Transport: record})
	if err != nil {
		t.Fatal(err)
	}
	everyCall(t, client, server)
	d := readDocument(t)
	called := map[string]bool{}
	for _, e := range record.seen {
		called[e.method+" "+d.template(e.path)] = true
		if err := d.check(e); err != nil {
			t.Error(err)
		}
	}
	for path, methods := range d.paths {
		for method := range methods.(map[string]any) {
			if call := strings.ToUpper(method) + " " + path; method != "parameters" && !called[call] && !unasked[path] {
				t.Errorf("%s was not called", call)
			}
		}
	}
}

// unasked are the calls that no client of drover's makes.
var unasked = map[string]bool{
	"/v1/openapi.json": true, "/health": true, "/health/ready": true, "/health/live": true, "/v1/server/debug": true, "/v1/server/log-level": true,
}

// everyCall makes every call of the API, those that go wrong too.
func everyCall(t *testing.T, c *api.Client, server *running) {
	t.Helper()
	ctx := t.Context()
	may := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mayNot := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	submit := func(task string) work.Item {
		t.Helper()
		items, err := c.Submit(ctx, []control.Submission{{ID: work.NewID(time.Now()), Spec: work.Spec{
			Repository: "https://example.com/r.git", Task: task, Labels: map[string]string{"a": "b"}, Retry: &work.RetryOverride{Actions: map[work.Reason]work.Action{work.ReasonStuck: work.ActFail}},
		}}})
		may(err)
		return items[0]
	}
	await := func(id string, state work.State) (item work.Item) {
		t.Helper()
		testkit.Eventually(t, patience, func() error {
			var err error
			item, _, err = c.Item(ctx, id)
			if err == nil && item.State != state {
				err = fmt.Errorf("%s is %s", id, item.State)
			}
			return err
		})
		return item
	}
	done, run := submit("done x"), submit("run y")
	await(done.ID, work.StateCompleted)
	await(run.ID, work.StateInProgress)
	_, err := c.Check(ctx, []control.Submission{{ID: work.NewID(time.Now()), Spec: work.Spec{Repository: "https://example.com/r.git", Task: "x"}}})
	may(err)
	_, err = c.Submit(ctx, []control.Submission{{ID: work.NewID(time.Now()), Spec: work.Spec{Task: "x"}}})
	mayNot(err, work.ErrInvalid)
	_, err = c.SubmitStream(ctx, strings.NewReader(`{"id":"`+work.NewID(time.Now())+`","spec":{"repository":"https://example.com/r.git","task":"stuck z"}}`))
	may(err)
	_, err = c.Items(ctx, control.Query{Filter: control.Filter{States: work.States()}, Limit: 1})
	may(err)
	_, _, err = c.Item(ctx, "nothing")
	mayNot(err, work.ErrNotFound)
	_, err = c.Logs(ctx, done.ID, 1)
	may(err)
	_, err = c.Overview(ctx)
	may(err)
	_, err = c.Status(ctx)
	may(err)
	seven := 7
	for _, order := range []control.Order{
		{Verb: control.Prioritize, Priority: &seven}, {Verb: control.Requeue, By: "me", Key: "k"}, {Verb: control.Kill, NoRetry: true}, {Verb: control.Edit, Patch: json.RawMessage(`{"labels":{"c":"d"}}`)},
		{Verb: control.Retry}, {Verb: control.Cancel},
	} {
		if order.Verb == control.Kill {
			await(run.ID, work.StateInProgress)
		}
		_, err = c.Order(ctx, run.ID, order)
		may(err)
	}
	_, err = c.Order(ctx, done.ID, control.Order{Verb: control.Retry})
	mayNot(err, work.ErrIllegalTransition)
	_, err = c.Order(ctx, run.ID, control.Order{Verb: control.Retry, Match: `"other"`})
	mayNot(err, control.ErrChanged)
	var kept []work.Item
	may(c.Export(ctx, control.Filter{}, func(item work.Item) error { kept = append(kept, item); return nil }))
	_, err = c.Import(ctx, kept, true)
	may(err)
	var output []work.KeptLogs
	may(c.ExportLogs(ctx, control.Filter{}, func(logs work.KeptLogs) error { output = append(output, logs); return nil }))
	_, err = c.ImportLogs(ctx, output)
	may(err)
	_, err = c.ImportLogs(ctx, []work.KeptLogs{{Attempt: work.NewAttemptID(work.NewID(time.Now()), 1)}})
	mayNot(err, work.ErrNotFound)
	_, err = c.Order(ctx, run.ID, control.Order{Verb: control.Remove, Force: true})
	may(err)
	again := submit("run again")
	await(again.ID, work.StateInProgress)
	followed := make(chan error, 1)
	go func() { followed <- c.Follow(ctx, again.ID, io.Discard, io.Discard) }()
	enough := errors.New("enough")
	events := 0
	_, err = c.Order(ctx, again.ID, control.Order{Verb: control.Kill, NoRetry: true})
	may(err)
	mayNot(c.Events(ctx, "", func(control.Event) error {
		if events++; events == 1 {
			go func() { _, _ = c.Order(ctx, again.ID, control.Order{Verb: control.Retry}) }() // gives the second one
			return nil
		}
		return enough
	}), enough)
	<-followed
	token, err := c.CreateToken(ctx, control.TokenRequest{Name: "x", Role: work.RoleRead, Lifetime: work.Duration(time.Hour)})
	may(err)
	_, err = c.Tokens(ctx)
	may(err)
	_, err = c.RevokeToken(ctx, token.ID)
	may(err)
	queue := "extra"
	_, err = c.SetQueue(ctx, queue, control.QueueChange{})
	may(err)
	_, err = c.MoveQueue(ctx, queue, control.QueueTransition{State: work.QueuePaused, By: "a test"})
	may(err)
	_, err = c.Queues(ctx)
	may(err)
	_, err = c.Queue(ctx, queue)
	may(err)
	may(c.DeleteQueue(ctx, queue))
	_, err = c.TripBreaker(ctx, control.Trip{Repository: "https://example.com/other.git"})
	may(err)
	_, err = c.Breakers(ctx)
	may(err)
	_, err = c.ResetBreaker(ctx, "https://example.com/other.git")
	may(err)
	_, err = c.RetryPR(ctx, again.ID)
	mayNot(err, work.ErrConflict)
	holder := work.NewID(time.Now())
	release, err := holdPaths(server.consul, server.prefix, holder, "https://example.com/r.git", "src")
	may(err)
	_, err = c.Locks(ctx, "https://example.com/r.git")
	may(err)
	_, err = c.ReleaseLocks(ctx, control.LockRelease{ID: holder, By: "me"})
	may(err)
	may(release())
	_, err = c.Explain(ctx, done.ID)
	may(err)
	_, err = c.Report(ctx, time.Now().Add(-time.Hour))
	may(err)
	_, err = c.Examine(ctx)
	may(err)
	_, err = c.LogLevels(ctx)
	may(err)
	_, err = c.RevokeToken(ctx, token.ID)
	mayNot(err, work.ErrNotFound)
}
