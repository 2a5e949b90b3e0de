package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"drover/internal/control"
	"drover/internal/testkit/forgetest"
	"drover/internal/work"
)

// Kinds of cases about base names and pull requests.
const (
	kindBaseValid   = "base that git takes"
	kindBaseInvalid = "base that git does not take, or that means something else"
	kindRenamed     = "renamed owner or repository"
	kindEarly       = "pull request right after the push"
	kindReviewers   = "teams and people as reviewers"
	kindHost        = "spellings of GitHub's hosts"
	kindSpelling    = "one repository under two URLs"
)

// forgeRows are about base names, hosts and pull requests.
func forgeRows() []row {
	return slices.Concat(baseRows(), pullRows(), reviewerRows(), hostRows(), spellingRows())
}

// baseRows submits each base of the recorded list, and has items start from some.
func baseRows() []row {
	var rows []row
	for i, line := range strings.Split(strings.TrimSpace(input("other/base-names.txt")), "\n") {
		observed, base, _ := strings.Cut(line, "\t")
		r := row{ID: fmt.Sprintf("G13 %d", i+1), Kind: kindBaseInvalid, SubmitOnly: true, Spec: fields{"base": base}, Right: outcome{Refused: fmt.Sprintf("base %q", base)}}
		if observed == "refused but valid" {
			r.Kind, r.Right = kindBaseValid, outcome{}
		}
		rows = append(rows, r)
	}
	for i, base := range []string{"a..b", "-x", "a.lock/b", "a b", "x@{1}", "refs/heads/feature/x"} {
		rows = append(rows, row{ID: fmt.Sprintf("G13 own %d", i+1), Own: true, Kind: kindBaseInvalid, SubmitOnly: true, Spec: fields{"base": base}, Right: outcome{Refused: fmt.Sprintf("base %q", base)}})
	}
	for i, base := range []string{"feature/#123-fix", "日本", "@", "a&b;c'd|e"} {
		rows = append(rows, row{
			ID: fmt.Sprintf("G13 run %d", i+1), Own: true, Kind: kindBaseValid, Remote: "git --git-dir=\"$1\" branch " + quote(base) + " main",
			Agent: agent{Script: "commit one"}, Spec: fields{"base": base},
			Right: onePull(func(s *seen) []string {
				if got := s.Pulls[0].Base.Ref; got != base {
					return []string{fmt.Sprintf("the pull request's base is %q, right is %q", got, base)}
				}
				return nil
			}),
		})
	}
	return rows
}

func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// onePull is the outcome of an item that makes one commit and one pull request. also may be nil.
func onePull(also func(*seen) []string) outcome {
	return outcome{
		State: work.StateCompleted, Reasons: reasons(work.ReasonCompleted), Commits: []string{"one"}, Files: files{"work.txt": "one\n"},
		PR: work.PRCreated, Also: func(s *seen) []string {
			if also == nil || len(s.Pulls) != 1 {
				return nil // the number is compared elsewhere
			}
			return also(s)
		},
	}
}

func treat(rules forgetest.Rules) func(*forgetest.Server, string) error {
	return func(f *forgetest.Server, repository string) error {
		f.Treat(repository, rules)
		return nil
	}
}

func pullRows() []row {
	pull := func(id, kind string, rules forgetest.Rules) row {
		return row{ID: id, Kind: kind, Agent: agent{Script: "commit one"}, Forge: treat(rules), Right: onePull(nil)}
	}
	given := pull("P1", kindRenamed, forgetest.Rules{Renamed: "newname/p1", LostAnswers: 1})
	gone := pull("P2 for good", kindEarly, forgetest.Rules{HeadInvalid: 100})
	gone.Right.PR, gone.Right.PRError = work.PRFailed, "Field:head"
	return []row{
		given,
		own(pull("P1 quiet", kindRenamed, forgetest.Rules{Renamed: "newname/p1-quiet"})),
		own(pull("P1 repository", kindRenamed, forgetest.Rules{Renamed: owner + "/another-name", LostAnswers: 1})),

		pull("P2", kindEarly, forgetest.Rules{HeadInvalid: 2}),
		own(pull("P2 renamed", kindEarly, forgetest.Rules{HeadInvalid: 1, Renamed: "newname/p2"})),
		own(gone),
	}
}

func reviewerRows() []row {
	reviewers := func(id string, names, unknown, people, teams []string) row {
		right := onePull(func(s *seen) []string {
			var c comparison
			if got := s.Pulls[0]; !slices.Equal(got.Reviewers, people) || !slices.Equal(got.Teams, teams) {
				c.differ("who is asked for a review", fmt.Sprint(got.Reviewers, got.Teams), fmt.Sprint(people, teams))
			}
			return c.faults
		})
		for _, name := range unknown {
			right.PRError = "reviewer " + name
		}
		return row{
			ID: id, Kind: kindReviewers, Agent: agent{Script: "commit one"}, Spec: fields{"pull_request": fields{"reviewers": names}},
			Forge: treat(forgetest.Rules{Unknown: unknown}), Right: right,
		}
	}
	return []row{
		reviewers("P3", []string{"acme/backend", "alice"}, nil, []string{"alice"}, []string{"backend"}),
		own(reviewers("P3 codeowners", []string{"@acme/backend", "@alice"}, nil, []string{"alice"}, []string{"backend"})),
		own(reviewers("P3 unknown", []string{"nobody", "alice", "acme/backend"}, []string{"nobody"}, []string{"alice"}, []string{"backend"})),
		own(reviewers("P3 team", []string{"acme/backend"}, nil, nil, []string{"backend"})),
	}
}

func hostRows() []row {
	host := func(id, repository, provider, api string) row {
		return row{
			ID: id, Kind: kindHost, SubmitOnly: true,
			Spec: fields{"repository": repository, "pull_request": fields{"provider": nil, "api_url": nil}},
			Right: outcome{Also: func(s *seen) []string {
				var c comparison
				equal(&c, "the provider", s.Item.Spec.PR.Provider, provider)
				equal(&c, "the API", s.Item.Spec.PR.APIURL, api)
				return c.faults
			}},
		}
	}
	const gitHub, text = work.ProviderGitHub, work.ProviderRequestPull
	return []row{
		host("P5", "https://GitHub.com/o/r", gitHub, ""),
		host("P5 www", "https://www.github.com/o/r", gitHub, ""),
		host("P5 ssh", "ssh://git@ssh.github.com:443/o/r.git", gitHub, ""),
		host("P5 tenant", "https://acme.ghe.com/o/r", gitHub, "https://api.acme.ghe.com/"),
		own(host("P5 scp", "org-1@GitHub.com:o/r.git", gitHub, "")),
		own(host("P5 port", "https://someone@github.com.:443/o/r/", gitHub, "")),
		own(host("P5 other", "https://github.com.example.org/o/r", text, "")),
	}
}

// spellingRows have an item whose paths keep another item of the same repository waiting, which names it by another URL.
func spellingRows() []row {
	spelling := func(id, from, to string) row {
		return row{
			ID: id, Own: true, Kind: kindSpelling, Spec: fields{"paths": []string{"src/"}},
			Agent:     agent{Script: `commit one; until [ -e "$REMOTE/go" ]; do sleep 0.1; done`},
			Meanwhile: func(ctx context.Context, r *run) error { return r.secondWaits(ctx, from, to) },
			Right:     onePull(nil),
		}
	}
	return []row{
		spelling("P5 slash", ".git", ".git/"),
		spelling("P5 user", "http://", "http://someone@"),
		spelling("P5 slashes", "/acme/", "//acme//"),
	}
}

// secondWaits submits the row's item once more, with a part of its URL replaced, while the first runs, and checks that
// it waits for the first one's paths.
func (r *run) secondWaits(ctx context.Context, from, to string) error {
	running := func(item work.Item) bool { return item.State == work.StateInProgress }
	if _, err := r.await(running); err != nil {
		return fmt.Errorf("wait for the first item to run: %w", err)
	}
	spec := r.spec()
	spec["repository"] = strings.Replace(r.git.URL(r.repository), from, to, 1)
	second, err := r.post("/v1/items", spec)
	if err != nil {
		return fmt.Errorf("submit the second item: %w", err)
	}
	err = poll(ctx, DefaultWithin, func() (bool, error) {
		var why control.Explanation
		if err := r.call(ctx, http.MethodGet, "/v1/items/"+second.ID+"/explain", nil, &why); err != nil {
			return false, err
		}
		if why.State != work.StateQueued {
			return false, fmt.Errorf("the second item is %s, right is to wait for the first one's paths", why.State)
		}
		return slices.ContainsFunc(why.Waits, func(w control.Wait) bool { return strings.Contains(w.Sentence, r.id) }), nil
	})
	if err == nil {
		err = r.call(ctx, http.MethodPost, "/v1/items/"+second.ID+"/cancel", nil, nil)
	}
	return errors.Join(err, os.WriteFile(filepath.Join(r.git.Path(r.repository), "go"), nil, 0o600))
}
