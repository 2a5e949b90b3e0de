package probe

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"drover/internal/work"
)

const (
	githubAPI    = "https://api.github.com"
	checkToken   = "github token"
	scopesHeader = "X-Oauth-Scopes"
	// maxAnswerBytes bounds what is read of an answer.
	maxAnswerBytes = 1 << 20
)

// forge tries the token that makes pull requests.
func (p prober) forge(ctx context.Context) []work.Finding {
	if p.Probe.Forge != work.ProviderGitHub {
		return []work.Finding{{Check: checkToken, Status: work.FindingSkipped, Says: "no pull requests are made on GitHub"}}
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	name := "DROVER_FORGE_TOKEN"
	if p.Env[name] == "" {
		name = "DROVER_GIT_TOKEN"
	}
	f := work.Finding{Check: checkToken, Status: work.FindingFailure}
	if p.Env[name] == "" {
		f.Says, f.Do = "workers have none", "Put DROVER_FORGE_TOKEN into the Nomad variable "+p.Probe.SecretsPath+"."
		return []work.Finding{f}
	}
	header, status, err := p.ask(ctx, "/user", p.Env[name], nil)
	switch {
	case err != nil:
		f.Says, f.Do = err.Error(), "Check that defaults.pr_api_url is right and that workers reach it: DNS, firewall, proxy (HTTPS_PROXY in worker.env), certificates."
	case status == http.StatusUnauthorized:
		f.Says, f.Do = "GitHub refuses "+name, "Renew the token in the Nomad variable "+p.Probe.SecretsPath+"."
	case status != http.StatusOK && status != http.StatusForbidden: // an app's token has no user
		f.Status, f.Says, f.Do = work.FindingWarning, fmt.Sprintf("GitHub answers %d", status), "Try again later."
	default:
		f = scopes(f, name, header)
		return append([]work.Finding{f}, p.pushes(ctx, name)...)
	}
	return []work.Finding{f}
}

// scopes checks the scopes of a classic token; a fine-grained one states none.
func scopes(f work.Finding, name string, header http.Header) work.Finding {
	if _, classic := header[scopesHeader]; !classic {
		f.Status = work.FindingOK
		f.Says = "GitHub accepts " + name + ", a fine-grained token: it needs read and write access to contents and pull requests"
		return f
	}
	has := strings.FieldsFunc(header.Get(scopesHeader), func(r rune) bool { return r == ',' || r == ' ' })
	if slices.Contains(has, "repo") || slices.Contains(has, "public_repo") {
		f.Status, f.Says = work.FindingOK, fmt.Sprintf("GitHub accepts %s, with the scopes %s", name, strings.Join(has, ", "))
		return f
	}
	f.Says = fmt.Sprintf("%s has the scopes %q, and can neither push nor make pull requests", name, strings.Join(has, ", "))
	f.Do = "Give the token the scope repo, or public_repo where all repositories are public."
	return f
}

// pushes checks whether the token's owner may push to the repositories.
func (p prober) pushes(ctx context.Context, name string) (findings []work.Finding) {
	for _, repository := range p.Probe.Repositories {
		if !p.isOfForge(repository) {
			continue
		}
		_, path, _ := strings.Cut(work.RepositoryKey(repository), "/")
		var about struct{ Permissions struct{ Push bool } }
		_, status, err := p.ask(ctx, "/repos/"+path, p.Env[name], &about)
		f := work.Finding{Check: "github " + path, Status: work.FindingFailure}
		switch {
		case err != nil:
			f.Status, f.Says, f.Do = work.FindingWarning, err.Error(), "Check that defaults.pr_api_url is right and that workers reach it."
		case status != http.StatusOK:
			f.Says, f.Do = fmt.Sprintf("GitHub does not show it to %s (%d)", name, status), "Let the token see the repository, or correct its name."
		case !about.Permissions.Push:
			f.Says, f.Do = name+" may not push to it", "Let the token's owner write to it, and the token read and write contents and pull requests."
		default:
			f.Status, f.Says = work.FindingOK, name+" may push to it"
		}
		findings = append(findings, f)
	}
	return findings
}

// isOfForge reports whether the API that is asked is the repository's: GitHub's own
// are known by their hosts, and any other serves what is on no host of GitHub's.
func (p prober) isOfForge(repository string) bool {
	if root, known := work.GitHubAPI(repository); known {
		return root == p.Probe.APIURL
	}
	return p.Probe.APIURL != "" && !slices.ContainsFunc(p.Probe.Repositories, func(other string) bool {
		root, known := work.GitHubAPI(other)
		return known && root == p.Probe.APIURL
	})
}

// ask calls the forge's API. A body is decoded into what is given, of status 200 alone.
func (p prober) ask(ctx context.Context, path, token string, into any) (http.Header, int, error) {
	address := strings.TrimSuffix(cmp.Or(p.Probe.APIURL, githubAPI), "/") + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("call %s: %w", work.RedactURL(address), err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	// The client keeps the token from a redirect to another host.
	resp, err := (&http.Client{Transport: p.Transport}).Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("%s can't be reached: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	if into != nil && resp.StatusCode == http.StatusOK {
		err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswerBytes)).Decode(into)
	}
	return resp.Header, resp.StatusCode, err
}
