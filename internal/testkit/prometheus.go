package testkit

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const prometheusStart = 60 * time.Second

// Prometheus is a running Prometheus.
type Prometheus struct {
	t   testing.TB
	url string
}

// PrometheusBinary returns the path of prometheus or promtool; without one the test is skipped, see SkipWithout.
func PrometheusBinary(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		SkipWithout(t, "prometheus", name+" is not on the PATH")
	}
	return path
}

// StartPrometheus starts Prometheus for the length of a test. It scrapes the addresses of each job once a second, at
// /metrics, and evaluates the rule files. Flags are added to its command line.
func StartPrometheus(t testing.TB, jobs map[string][]string, rules []string, flags ...string) *Prometheus {
	t.Helper()
	binary, dir := PrometheusBinary(t, "prometheus"), t.TempDir()
	type static struct {
		Targets []string `json:"targets"`
	}
	type job struct {
		Name    string   `json:"job_name"`
		Targets []static `json:"static_configs"`
	}
	config := map[string]any{
		"global":     map[string]string{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files": rules,
	}
	var scraped []job
	for name, targets := range jobs {
		scraped = append(scraped, job{name, []static{{targets}}})
	}
	config["scrape_configs"] = scraped
	text, err := json.Marshal(config) // which is YAML too
	file := filepath.Join(dir, "prometheus.yml")
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", FreePorts(t, 1)[0])
	cmd := exec.Command(binary, append([]string{
		"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + address,
	}, flags...)...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("prometheus:\n%s", log.String())
		}
	})
	p := &Prometheus{t: t, url: "http://" + address}
	Eventually(t, prometheusStart, func() error { return p.get("/-/ready", nil, nil) })
	return p
}

// get reads an answer of the API; the data of one that is JSON.
func (p *Prometheus) get(path string, query url.Values, into any) error {
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport, Timeout: prometheusStart}).Get(p.url + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", path, resp.Status)
		}
		return nil
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", path, resp.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// Types returns the type of each metric that the targets of a job have.
func (p *Prometheus) Types(job string) (map[string]string, error) {
	var found []struct{ Metric, Type string }
	err := p.get("/api/v1/targets/metadata", url.Values{"match_target": {fmt.Sprintf("{job=%q}", job)}}, &found)
	types := map[string]string{}
	for _, m := range found {
		types[m.Metric] = m.Type
	}
	return types, err
}

// Series returns the series that a selector finds, as their labels.
func (p *Prometheus) Series(selector string) (series []map[string]string, err error) {
	err = p.get("/api/v1/series", url.Values{"match[]": {selector}}, &series)
	return series, err
}

// Query evaluates an expression and returns how many series it gives.
func (p *Prometheus) Query(expression string) (int, error) {
	var answer struct{ Result []json.RawMessage }
	err := p.get("/api/v1/query", url.Values{"query": {expression}}, &answer)
	return len(answer.Result), err
}

// Rule is an alert rule.
type Rule struct {
	Name, Health, LastError, State string
}

// Rules returns the rules that are evaluated.
func (p *Prometheus) Rules() (rules []Rule, err error) {
	var answer struct{ Groups []struct{ Rules []Rule } }
	err = p.get("/api/v1/rules", nil, &answer)
	for _, group := range answer.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules, err
}
