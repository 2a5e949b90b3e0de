package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"drover/internal/work"
)

const (
	callTimeout  = 15 * time.Second
	maxHosts     = 5 // that are looked at of what items name
	githubDotCom = "github.com"
)

func (e *exam) examineGit(ctx context.Context) {
	repositories := e.Repositories
	if len(repositories) == 0 {
		repositories = e.known(ctx)
	}
	if len(repositories) == 0 {
		e.add("git", Skipped, "Name a repository with --repo.", "no item names a repository yet")
		return
	}
	for _, repository := range repositories {
		e.examineRepository(ctx, repository)
	}
}

// known returns a repository of each host that items name, the newest first.
func (e *exam) known(ctx context.Context) (repositories []string) {
	items, err := e.consul.Items(ctx)
	if err != nil {
		return nil
	}
	var hosts []string
	for _, item := range slices.Backward(items) {
		u := hosted(item.Spec.Repository)
		if u == nil || slices.Contains(hosts, u.Host) || len(hosts) == maxHosts {
			continue
		}
		hosts, repositories = append(hosts, u.Host), append(repositories, item.Spec.Repository)
	}
	return repositories
}

// examineRepository asks a repository for its references, as git would.
func (e *exam) examineRepository(ctx context.Context, repository string) {
	check := "git " + work.RedactURL(repository)
	u := hosted(repository)
	if u == nil {
		e.add(check, Skipped, "", "only https and http are looked at")
		return
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/info/refs"
	u.RawQuery = "service=git-upload-pack"
	token, from := e.secret(ctx, "DROVER_GIT_TOKEN")
	user, _ := e.secret(ctx, "DROVER_GIT_USERNAME")
	if user == "" {
		user = "x-access-token"
	}
	status, err := e.get(ctx, u.String(), func(r *http.Request) {
		if token != "" {
			r.SetBasicAuth(user, token)
		}
	}, nil)
	switch {
	case err != nil:
		e.add(check, Failure, "See whether the host is right and reachable from here and from the nodes: DNS, firewall, proxy.", "%v", err)
	case status == http.StatusOK:
		e.add(check, OK, "", "it can be read")
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound:
		if token == "" {
			e.add(check, Failure, "Put DROVER_GIT_TOKEN into the Nomad variable "+e.Config.Worker.SecretsPath+".", "it wants credentials (%d), and there are none", status)
			return
		}
		e.add(check, Failure, "Renew the token, or let it read and write the repository.", "it refuses %s (%d)", from, status)
	default:
		e.add(check, Warning, "Try again later, or ask who runs it.", "it answers %d", status)
	}
}

// examineForge looks at the token that makes pull requests.
func (e *exam) examineForge(ctx context.Context) {
	const check = "github token"
	provider := e.Config.ItemDefaults.PRProvider
	if provider != "" && provider != work.ProviderGitHub || provider == "" && !e.usesGitHub(ctx) {
		e.add(check, Skipped, "", "no pull requests are made on GitHub")
		return
	}
	token, from := e.secret(ctx, "DROVER_FORGE_TOKEN", "DROVER_GIT_TOKEN")
	if token == "" {
		e.add(check, Failure, "Put DROVER_FORGE_TOKEN into the Nomad variable "+e.Config.Worker.SecretsPath+".", "there is none, neither in this environment nor in the Nomad variable")
		return
	}
	var header http.Header
	status, err := e.get(ctx, e.apiURL()+"/user", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }, &header)
	switch {
	case err != nil:
		e.add(check, Failure, "See whether defaults.pr_api_url is right and reachable.", "%v", err)
	case status == http.StatusUnauthorized:
		e.add(check, Failure, "Renew the token.", "GitHub refuses %s", from)
	case status != http.StatusOK && status != http.StatusForbidden: // a token of an app has no user
		e.add(check, Warning, "Try again later.", "GitHub answers %d", status)
	default:
		e.scopes(check, from, header)
		e.pushes(ctx, token, from)
	}
}

// scopes looks at what a classic token may do; a fine-grained one has none.
func (e *exam) scopes(check, from string, header http.Header) {
	const scopes = "X-Oauth-Scopes"
	if _, classic := header[scopes]; !classic {
		e.add(check, OK, "", "GitHub takes %s, a fine-grained one: it needs contents and pull requests, to read and write", from)
		return
	}
	has := strings.FieldsFunc(header.Get(scopes), func(r rune) bool { return r == ',' || r == ' ' })
	if slices.Contains(has, "repo") || slices.Contains(has, "public_repo") {
		e.add(check, OK, "", "GitHub takes %s, with the scopes %s", from, strings.Join(has, ", "))
		return
	}
	e.add(check, Failure, "Give the token the scope repo, or public_repo where all repositories are public.", "%s has the scopes %q, and can neither push nor make pull requests", from, strings.Join(has, ", "))
}

// pushes looks whether the token may push to the repositories that were named.
func (e *exam) pushes(ctx context.Context, token, from string) {
	for _, repository := range e.Repositories {
		u := hosted(repository)
		if u == nil {
			continue
		}
		name := strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")
		check := "github " + name
		var about struct{ Permissions struct{ Push bool } }
		status, err := e.read(ctx, e.apiURL()+"/repos/"+name, token, &about)
		switch {
		case err != nil:
			e.add(check, Warning, "See whether defaults.pr_api_url is right and reachable.", "%v", err)
		case status != http.StatusOK:
			e.add(check, Failure, "Let the token see the repository, or correct its name.", "GitHub does not show it to %s (%d)", from, status)
		case !about.Permissions.Push:
			e.add(check, Failure, "Give the token's owner the right to write, and the token contents and pull requests to read and write.", "%s may not push to it", from)
		default:
			e.add(check, OK, "", "%s may push to it", from)
		}
	}
}

func (e *exam) usesGitHub(ctx context.Context) bool {
	for _, repository := range append(slices.Clone(e.Repositories), e.known(ctx)...) {
		if u := hosted(repository); u != nil && u.Hostname() == githubDotCom {
			return true
		}
	}
	return false
}

// get returns the status of an answer, and its header.
func (e *exam) get(ctx context.Context, address string, prepare func(*http.Request), header *http.Header) (int, error) {
	resp, cancel, err := e.call(ctx, address, prepare)
	if err != nil {
		return 0, err
	}
	defer cancel()
	defer resp.Body.Close()
	if header != nil {
		*header = resp.Header
	}
	return resp.StatusCode, nil
}

func (e *exam) read(ctx context.Context, address, token string, into any) (int, error) {
	resp, cancel, err := e.call(ctx, address, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
	if err != nil {
		return 0, err
	}
	defer cancel()
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, nil
	}
	return resp.StatusCode, json.NewDecoder(resp.Body).Decode(into)
}

func (e *exam) call(ctx context.Context, address string, prepare func(*http.Request)) (*http.Response, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("%s: %w", work.RedactURL(address), err)
	}
	prepare(req)
	client := &http.Client{Transport: e.Transport, CheckRedirect: sameHost}
	resp, err := client.Do(req)
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("%s can't be reached: %w", req.URL.Host, err)
	}
	return resp, cancel, nil
}

// sameHost keeps credentials from going to another host.
func sameHost(req *http.Request, via []*http.Request) error {
	host := func(r *http.Request) string {
		name, _, err := net.SplitHostPort(r.URL.Host)
		if err != nil {
			return r.URL.Host
		}
		return name
	}
	const most = 5
	if host(req) != host(via[0]) || len(via) > most {
		return http.ErrUseLastResponse
	}
	return nil
}
