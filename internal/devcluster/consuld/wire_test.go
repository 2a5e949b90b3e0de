package consuld_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"drover/internal/devcluster/consuld"
	"drover/internal/testkit"
)

// wireCalls are made in turn to both servers. $K is a prefix of the run's own, $S and $T are sessions of it.
var wireCalls = []struct{ method, path, body string }{
	{"PUT", "/v1/kv/$K/a", "v"},
	{"GET", "/v1/kv/$K/a", ""},
	{"GET", "/v1/kv/$K/a?raw", ""},
	{"GET", "/v1/kv/$K/none", ""},
	{"GET", "/v1/kv/$K/none?raw", ""},
	{"GET", "/v1/kv/$K/?recurse", ""},
	{"GET", "/v1/kv/$K/?keys", ""},
	{"GET", "/v1/kv/$K/none?keys", ""},
	{"GET", "/v1/kv/$K/none?recurse", ""},
	{"POST", "/v1/kv/$K/a", "v"},
	{"OPTIONS", "/v1/kv/$K/a", ""},
	{"PUT", "/v1/kv/$K/a?cas=0", "v"},
	{"PUT", "/v1/kv/$K/b?cas=0&flags=18446744073709551615", "v"},
	{"GET", "/v1/kv/$K/b", ""},
	{"PUT", "/v1/kv/$K/b?cas=x", "v"},
	{"PUT", "/v1/kv/$K/b?flags=x", "v"},
	{"PUT", "/v1/kv/$K/b?release=x&cas=1", "v"},
	{"DELETE", "/v1/kv/$K/b?cas=1&recurse", ""},
	{"DELETE", "/v1/kv/$K/b?cas=1", ""},
	{"DELETE", "/v1/kv/", ""},
	{"GET", "/v1/kv/$K/a?index=x", ""},
	{"GET", "/v1/kv/$K/a?wait=x", ""},
	{"GET", "/v1/kv/$K//a", ""},
	{"PUT", "/v1/kv/$K/e", ""},
	{"GET", "/v1/kv/$K/e", ""},
	{"GET", "/v1/kv/$K/e?raw", ""},

	{"PUT", "/v1/session/renew/$S", ""},
	{"GET", "/v1/session/info/$S", ""},
	{"GET", "/v1/session/info/none", ""},
	{"PUT", "/v1/session/renew/none", ""},
	{"PUT", "/v1/session/destroy/none", ""},
	{"PUT", "/v1/session/create", "{bad"},
	{"PUT", "/v1/kv/$K/l?acquire=$S", "held"},
	{"GET", "/v1/kv/$K/l", ""},
	{"PUT", "/v1/kv/$K/l?acquire=$T", "held"},
	{"PUT", "/v1/kv/$K/l?release=$S", ""},
	{"GET", "/v1/kv/$K/l", ""},

	{"PUT", "/v1/txn", ""},
	{"PUT", "/v1/txn", "{"},
	{"PUT", "/v1/txn", "[]"},
	{"PUT", "/v1/txn", "[{}]"},
	{"PUT", "/v1/txn", `[{"KV":{"Verb":"set","Key":"$K/t","Value":"YQ==","Flags":3}},{"KV":{"Verb":"get","Key":"$K/t"}}]`},
	{"PUT", "/v1/txn", `[{"KV":{"Verb":"get-or-empty","Key":"$K/z","Value":"YQ==","Flags":4,"Index":3}}]`},
	{"PUT", "/v1/txn", `[{"KV":{"Verb":"lock","Key":"$K/t","Value":"YQ==","Session":"$T"}},{"KV":{"Verb":"check-session","Key":"$K/t","Session":"$T"}}]`},
	{"PUT", "/v1/txn", `[{"KV":{"Verb":"set","Key":"$K/t"}},{"KV":{"Verb":"get","Key":"$K/z"}}]`},
	{"PUT", "/v1/txn", `[{"KV":{"Verb":"get","Key":"$K/z"}}]`},
	{"PUT", "/v1/session/destroy/$T", ""},

	{"PUT", "/v1/agent/service/register", `{"Name":"$K","ID":"$K-1","Tags":["a"],"Meta":{"x":"1"},"Address":"10.0.0.1","Port":80,"Check":{"TTL":"60s","Notes":"n"}}`},
	{"PUT", "/v1/agent/service/register", `{"Name":"$K","ID":"$K-2","Checks":[{"TTL":"60s","Status":"passing"},{"TTL":"60s","Status":"warning","Name":"x"}]}`},
	{"PUT", "/v1/agent/service/register", "{bad"},
	{"GET", "/v1/agent/service/$K-1", ""},
	{"GET", "/v1/agent/service/$K-2", ""},
	{"GET", "/v1/agent/service/none", ""},
	{"GET", "/v1/catalog/service/$K", ""},
	{"GET", "/v1/catalog/service/none", ""},
	{"GET", "/v1/catalog/nodes", ""},
	{"GET", "/v1/catalog/node/none", ""},
	{"GET", "/v1/catalog/datacenters", ""},
	{"GET", "/v1/health/service/$K", ""},
	{"GET", "/v1/health/service/$K?passing&stale", ""},
	{"GET", "/v1/health/service/$K?passing=0&consistent", ""},
	{"GET", "/v1/health/checks/$K", ""},
	{"GET", "/v1/health/state/none", ""},
	{"PUT", "/v1/agent/check/fail/service:$K-2:1?note=why", ""},
	{"PUT", "/v1/agent/check/update/service:$K-2:2", `{"Status":"passing","Output":"fine"}`},
	{"PUT", "/v1/agent/check/update/service:$K-2:2", ""},
	{"GET", "/v1/health/checks/$K", ""},
	{"PUT", "/v1/agent/service/deregister/$K-1", ""},
	{"PUT", "/v1/agent/service/deregister/$K-2", ""},
	{"PUT", "/v1/agent/service/deregister/$K-2", ""},

	{"GET", "/v1/agent/members", ""},
	{"GET", "/v1/agent/members?wan=1", ""},
	{"GET", "/v1/status/leader", ""},
	{"GET", "/v1/status/peers", ""},
	{"GET", "/v1/none", ""},
	{"GET", "/none", ""},
	{"DELETE", "/v1/agent/self", ""},
	{"PUT", "/v1/session/destroy/$S", ""},
	{"DELETE", "/v1/kv/$K/?recurse", ""},
}

// unsettled is what may differ from server to server and call to call, and what stands for it when answers are compared.
var unsettled = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "<uuid>"},
	{regexp.MustCompile(`"(CreateIndex|ModifyIndex)":[1-9]\d*`), `"$1":<index>`},
	{regexp.MustCompile(`(X-Consul-(Index|Contenthash)): \w+`), "$1: <any>"},
	{regexp.MustCompile(`"ContentHash":"[0-9a-f]+"`), `"ContentHash":<hash>`},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "<address>"},
	{regexp.MustCompile(`("Port":|"port":")\d{4,5}`), "$1<port>"},
}

// TestWire compares the embedded server's answers with the real one's: status, headers, and every field of the body.
func TestWire(t *testing.T) {
	t.Parallel()
	genuine := &wire{T: t, base: "http://" + testkit.ConsulAddress(t, `check_update_interval = "0s"`)}
	var self struct{ Config struct{ NodeName string } }
	genuine.decode("GET", "/v1/agent/self", "", &self)

	server := consuld.New(consuld.Options{NodeName: self.Config.NodeName})
	listener := httptest.NewServer(server)
	t.Cleanup(func() {
		server.Close()
		listener.Close()
	})
	embedded := &wire{T: t, base: listener.URL}

	prefix := "wire-" + rand.Text()
	genuine.begin(prefix)
	embedded.begin(prefix)
	for _, call := range wireCalls {
		want := genuine.answer(call.method, call.path, call.body)
		if got := embedded.answer(call.method, call.path, call.body); got != want {
			t.Errorf("%s %s %s\nembedded: %s\nreal:     %s", call.method, call.path, call.body, got, want)
		}
	}
	t.Logf("%d calls compared", len(wireCalls))
}

// wire speaks HTTP to one server without a client library.
type wire struct {
	*testing.T
	base  string
	names *strings.Replacer
}

// begin makes the two sessions of the run.
func (w *wire) begin(prefix string) {
	w.Helper()
	w.names = strings.NewReplacer()
	var s, t struct{ ID string }
	w.decode("PUT", "/v1/session/create", `{"LockDelay":"1ms","TTL":"60s","Name":"s"}`, &s)
	w.decode("PUT", "/v1/session/create", `{"Behavior":"delete","NodeChecks":[]}`, &t)
	w.names = strings.NewReplacer("$K", prefix, "$S", s.ID, "$T", t.ID)
}

func (w *wire) call(method, path, body string) (*http.Response, []byte) {
	w.Helper()
	if w.names != nil {
		path, body = w.names.Replace(path), w.names.Replace(body)
	}
	request, err := http.NewRequestWithContext(w.Context(), method, w.base+path, strings.NewReader(body))
	if err != nil {
		w.Fatalf("%s %s: %v", method, path, err)
	}
	request.Close = true
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		w.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		w.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	return response, text
}

func (w *wire) decode(method, path, body string, into any) {
	w.Helper()
	response, text := w.call(method, path, body)
	if response.StatusCode != http.StatusOK {
		w.Fatalf("%s %s: %s %s", method, path, response.Status, text)
	}
	if err := json.Unmarshal(text, into); err != nil {
		w.Fatalf("%s %s: parse the answer: %v", method, path, err)
	}
}

// answer is an answer as text, without what is unsettled.
func (w *wire) answer(method, path, body string) string {
	w.Helper()
	response, text := w.call(method, path, body)
	var lines []string
	for name, values := range response.Header {
		if strings.HasPrefix(name, "X-") || slices.Contains([]string{"Allow", "Content-Type", "Location"}, name) {
			lines = append(lines, fmt.Sprintf("%s: %s", name, strings.Join(values, " ")))
		}
	}
	slices.Sort(lines)
	var compact bytes.Buffer
	if json.Compact(&compact, text) == nil { // it is JSON; the real server indents it in -dev mode
		text = compact.Bytes()
	}
	all := response.Status + "\n" + strings.Join(lines, "\n") + "\n" + string(text)
	for _, u := range unsettled {
		all = u.pattern.ReplaceAllString(all, u.instead)
	}
	return all
}
