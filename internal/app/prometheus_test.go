package app_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"drover/internal/control"
	"drover/internal/testkit"
	"drover/internal/work"
)

// TestPrometheusScrapesServerAndWorker has Prometheus itself scrape a server that
// has finished items, and the worker of one that runs. Every metric in the tables
// of docs/metrics.md must be there with its type and labels, and no other of drover's.
func TestPrometheusScrapesServerAndWorker(t *testing.T) {
	testkit.PrometheusBinary(t, "prometheus")
	s := newSpine(t)
	health := fmt.Sprintf("127.0.0.1:%d", testkit.FreePorts(t, 1)[0])
	s.worker += fmt.Sprintf("\n  env = { DROVER_HEALTH_ADDR = %q }", health)
	s.writeConfig()
	s.start()
	done := s.submitSpecs([]work.Spec{{Task: "x", Command: []string{"sh", "-c", `[ "$DROVER_ATTEMPT" != 1 ] || exit 3; echo '{"type":"tokens","in":5,"out":5}'; echo x >x; git add -A; git commit -qm x`}}})
	s.await(done[0])
	s.keptLogs(done[0])
	running := s.submitSpecs([]work.Spec{{Task: "x", Command: []string{"sh", "-c", `while :; do echo busy; sleep 0.2; done`}}})[0]
	testkit.Eventually(t, patience, func() error {
		item, err := s.item(running)
		if err == nil && item.State != work.StateInProgress {
			err = fmt.Errorf("item is %s", item.State)
		}
		return err
	})
	rules := filepath.Join(testkit.ModuleRoot(t), "docs", "monitoring", "alerts.yml")
	targets := map[string][]string{"drover": {s.address}, "worker": {health}}

	t.Run("documented", func(t *testing.T) {
		p := testkit.StartPrometheus(t, targets, []string{rules})
		for job, heading := range map[string]string{"drover": "Server", "worker": "Worker"} {
			documented := testkit.DocumentedMetrics(t, heading)
			testkit.Eventually(t, patience, func() error { return scraped(p, job, documented) })
		}
		testkit.Eventually(t, patience, func() error { return evaluated(p) })
		for _, expression := range dashboardExpressions(t) {
			if _, err := p.Query(expression); err != nil {
				t.Errorf("the dashboard's %s: %v", expression, err)
			}
		}
	})
	t.Run("native histograms", func(t *testing.T) {
		p := testkit.StartPrometheus(t, targets, nil, "--enable-feature=native-histograms")
		testkit.Eventually(t, patience, func() error {
			for _, metric := range []string{"drover_state_duration_seconds", "drover_queue_wait_seconds", "drover_dispatch_latency_seconds"} {
				if n, err := p.Query("histogram_quantile(0.5, " + metric + ") and histogram_count(" + metric + ") > 0"); err != nil || n == 0 {
					return fmt.Errorf("%s: %d series %w", metric, n, err)
				}
			}
			return nil
		})
	})
	for name, address := range map[string]string{"server": s.address, "worker": health} {
		metrics, err := s.read("http://" + address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		check := exec.Command(testkit.PrometheusBinary(t, "promtool"), "check", "metrics")
		check.Stdin = strings.NewReader(metrics)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("promtool check metrics of the %s: %v\n%s", name, err, out)
		}
	}
	if _, err := s.client.Order(t.Context(), running, control.Order{Verb: control.Cancel, By: "the test"}); err != nil {
		t.Fatal(err)
	}
}

// scraped checks what Prometheus has of a job against its table.
func scraped(p *testkit.Prometheus, job string, documented map[string]testkit.DocumentedMetric) error {
	types, err := p.Types(job)
	if err != nil {
		return err
	}
	for name := range types {
		if _, ok := documented[name]; !ok && strings.HasPrefix(name, "drover_") {
			return fmt.Errorf("%s of %s is not documented", name, job)
		}
	}
	for name, want := range documented {
		if types[name] != want.Type {
			return fmt.Errorf("%s of %s is %q, documented as %s", name, job, types[name], want.Type)
		}
		suffix := ""
		if want.Type == "histogram" {
			suffix = "_count"
		}
		series, err := p.Series(fmt.Sprintf("%s%s{job=%q}", name, suffix, job))
		if err != nil || len(series) == 0 {
			return fmt.Errorf("%s of %s has no series: %w", name, job, err)
		}
		var labels []string
		for label := range series[0] {
			if !slices.Contains([]string{"__name__", "job", "instance"}, label) {
				labels = append(labels, label)
			}
		}
		slices.Sort(labels)
		if strings.Join(labels, " ") != strings.Join(want.Labels, " ") {
			return fmt.Errorf("%s of %s has the labels %v, documented are %v", name, job, labels, want.Labels)
		}
	}
	return nil
}

// evaluated checks that Prometheus evaluates every rule, and alerts of nothing.
func evaluated(p *testkit.Prometheus) error {
	rules, err := p.Rules()
	if err != nil || len(rules) == 0 {
		return fmt.Errorf("no rules: %w", err)
	}
	for _, r := range rules {
		if r.Health != "ok" || r.State == "firing" {
			return fmt.Errorf("rule %s is %s (%s), %s", r.Name, r.Health, r.LastError, r.State)
		}
	}
	return nil
}

// dashboardExpressions returns what the dashboard asks of Prometheus.
func dashboardExpressions(t *testing.T) (expressions []string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testkit.ModuleRoot(t), "docs", "monitoring", "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			expressions = append(expressions, strings.ReplaceAll(target.Expr, "$queue", ".*"))
		}
	}
	if len(expressions) == 0 {
		t.Fatal("the dashboard asks for nothing")
	}
	return expressions
}

var metricName = regexp.MustCompile(`drover_[a-z_]+`)

// TestAlertsAndDashboardUseMetricsThatExist needs no Prometheus.
func TestAlertsAndDashboardUseMetricsThatExist(t *testing.T) {
	documented := testkit.DocumentedMetrics(t, "Server")
	rules, err := os.ReadFile(filepath.Join(testkit.ModuleRoot(t), "docs", "monitoring", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, text := range append(dashboardExpressions(t), string(rules)) {
		for _, name := range metricName.FindAllString(text, -1) {
			base := strings.TrimSuffix(name, "_bucket")
			used[base] = true
			metric, ok := documented[base]
			if !ok || (metric.Type == "histogram") != (base != name) {
				t.Errorf("%s is used, and is no metric of a server", name)
			}
		}
	}
	for name := range documented {
		if !used[name] && name != "drover_build_info" && name != "drover_attempts_in_flight_limit" {
			t.Errorf("neither an alert nor the dashboard uses %s", name)
		}
	}
}

func TestAlertRulesPassPromtool(t *testing.T) {
	promtool := testkit.PrometheusBinary(t, "promtool")
	dir := filepath.Join(testkit.ModuleRoot(t), "docs", "monitoring")
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(filepath.Join(dir, "alerts_test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(string(text), -1) {
		if !regexp.MustCompile(`alertname: ` + match[1] + `\n\s+exp_alerts:`).Match(tests) {
			t.Errorf("no test has the alert %s fire", match[1])
		}
	}
}
