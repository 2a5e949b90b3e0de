package work_test

import (
	"testing"

	"drover/internal/work"
)

func TestRepositoryKeyIsOneForAllURLs(t *testing.T) {
	for want, urls := range map[string][]string{
		"git.example.org/team/app": {
			"https://git.example.org/Team/app.git", "https://someone@git.example.org/team/app", "ssh://git@git.example.org:2222/team/app.git",
			"git@git.example.org:team/app.git", "https://GIT.example.org//team/app/", "https://git.example.org./team/app.git/", "http://git.example.org:80/team/app",
			"git@git.example.org:/team/app", "git://git.example.org/team/app.git",
		},
		"github.com/o/r": {
			"https://github.com/o/r", "https://GitHub.com/O/R.git", "https://www.github.com/o/r/", "ssh://git@ssh.github.com:443/o/r.git",
			"git@github.com:o/r.git", "org-1@GitHub.com:o/r", "git@ssh.github.com:o/r.git", "https://github.com:443/o/r.git/", "https://token@github.com./o/r",
		},
		"acme.ghe.com/o/r":    {"https://acme.ghe.com/o/r", "https://Acme.GHE.com/o/r.git", "acme@acme.ghe.com:o/r.git"},
		"gitlab.com/g/o/r":    {"https://gitlab.com/g/o/r", "ssh://git@altssh.gitlab.com:443/g/o/r.git"},
		"bitbucket.org/o/r":   {"https://bitbucket.org/o/r.git", "ssh://git@altssh.bitbucket.org:443/o/r.git"},
		"srv/git/app":         {"file:///srv/git/app.git"},
		"www.example.org/a/b": {"https://www.example.org/a/b"},
	} {
		for _, url := range urls {
			if got := work.RepositoryKey(url); got != want {
				t.Errorf("RepositoryKey(%s) = %s, want %s", url, got, want)
			}
		}
	}
}

func TestProviderIsGuessedFromTheHost(t *testing.T) {
	for url, want := range map[string][2]string{
		"https://GitHub.com/o/r":               {work.ProviderGitHub, ""},
		"https://www.github.com/o/r":           {work.ProviderGitHub, ""},
		"ssh://git@ssh.github.com:443/o/r.git": {work.ProviderGitHub, ""},
		"https://someone@github.com:443/o/r/":  {work.ProviderGitHub, ""},
		"org-1@github.com:o/r.git":             {work.ProviderGitHub, ""},
		"git@GITHUB.com:o/r.git":               {work.ProviderGitHub, ""},
		"https://acme.ghe.com/o/r":             {work.ProviderGitHub, "https://api.acme.ghe.com/"},
		"acme@Acme.ghe.com:o/r":                {work.ProviderGitHub, "https://api.acme.ghe.com/"},
		"https://ghe.com/o/r":                  {work.ProviderRequestPull, ""},
		"https://github.com.example.org/o/r":   {work.ProviderRequestPull, ""},
		"https://notgithub.com/o/r":            {work.ProviderRequestPull, ""},
		"https://github.example.org/o/r":       {work.ProviderRequestPull, ""},
		"https://example.org/github.com/r":     {work.ProviderRequestPull, ""},
		"git@example.org:github.com/r":         {work.ProviderRequestPull, ""},
		"https://github.com@example.org/o/r":   {work.ProviderRequestPull, ""},
		"file:///github.com/o/r":               {work.ProviderRequestPull, ""},
	} {
		pr := work.Spec{Repository: url}.WithDefaults(work.NewDefaults()).PR
		if got := [2]string{pr.Provider, pr.APIURL}; got != want {
			t.Errorf("%s: provider and API = %q, want %q", url, got, want)
		}
	}
	configured := work.Defaults{PR: work.PR{Provider: work.ProviderGitHub, APIURL: "https://ghe.example.org/api/v3"}}
	if pr := (work.Spec{Repository: "https://acme.ghe.com/o/r"}).WithDefaults(configured).PR; pr.APIURL != configured.PR.APIURL {
		t.Errorf("API = %s, want the configured %s", pr.APIURL, configured.PR.APIURL)
	}
}
