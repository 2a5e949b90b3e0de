package work_test

import (
	"strings"
	"testing"

	"drover/internal/work"
)

func TestCloneIsShallowOrPartial(t *testing.T) {
	s := work.Spec{Repository: "https://git.example.org/a/b.git", Task: "x", CloneDepth: 3, ClonePartial: true}
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "clone_depth or clone_partial, not both") {
		t.Errorf("both: %v", err)
	}
}

func TestFaultsOfTestsAndPullRequestAreNamed(t *testing.T) {
	spec := func(change func(*work.Spec)) work.Spec {
		s := work.Spec{Repository: "https://forge.example/owner/name.git", Task: "Fix {{it}}.", Labels: map[string]string{"ticket": "A-7"}}
		change(&s)
		return s
	}
	for _, good := range []work.Spec{
		spec(func(*work.Spec) {}),
		spec(func(s *work.Spec) { s.Test.JUnit = "**/build/*.xml" }),
		spec(func(s *work.Spec) { s.PR.Title, s.PR.Draft = "{{.Labels.ticket}}: {{.Task}}", work.DraftNever }),
		spec(func(s *work.Spec) { s.PR.Body = work.DefaultPRBody + `{{if eq .Test.Status "passed"}}ready{{end}}` }),
	} {
		if err := good.Validate(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for says, bad := range map[string]work.Spec{
		`test.junit "[": `:                 spec(func(s *work.Spec) { s.Test.JUnit = "[" }),
		`test.junit "../x.xml": `:          spec(func(s *work.Spec) { s.Test.JUnit = "../x.xml" }),
		`test.junit "/tmp/x.xml": `:        spec(func(s *work.Spec) { s.Test.JUnit = "/tmp/x.xml" }),
		`pull_request.draft "sometimes": `: spec(func(s *work.Spec) { s.PR.Draft = "sometimes" }),
		"clone_depth -1: ":                 spec(func(s *work.Spec) { s.CloneDepth = -1 }),
		"unknown name .Tsk":                spec(func(s *work.Spec) { s.PR.Title = "{{.Tsk}}" }),
		"unknown name .Author":             spec(func(s *work.Spec) { s.PR.Body = `{{if .Task}}x{{else}}{{.Author}}{{end}}` }),
		`map has no entry for key "owner"`: spec(func(s *work.Spec) { s.PR.Body = "{{.Labels.owner}}" }),
		"pull_request.body":                spec(func(s *work.Spec) { s.PR.Body = "{{range 1000000000}}x{{end}}" }),
		"pull_request.title":               spec(func(s *work.Spec) { s.PR.Title = `{{printf "%1000000000d" 1}}` }),
	} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
}

func TestTextOfAPullRequestIsBounded(t *testing.T) {
	data := work.PRData{Task: strings.Repeat("é", work.MaxTaskBytes/2)}
	title, body, err := work.PR{}.Text(data)
	if err != nil || len([]rune(title)) > 72 || len(body) > work.MaxPRBodyBytes || !strings.HasPrefix(body, "éé") {
		t.Errorf("title of %d bytes, body of %d, %v", len(title), len(body), err)
	}
}
