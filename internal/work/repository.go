package work

import (
	"net/url"
	"strings"
)

// RepositoryKey names a repository whatever URL it is cloned by: host and path in
// lower case, without scheme, user, port and .git; GitHub's hosts are one. Two
// keys are equal for one repository; in doubt, such as for two servers on one
// host, they are, too.
func RepositoryKey(repository string) string {
	host, path := hostAndPath(repository)
	parts := strings.FieldsFunc(strings.ToLower(host+"/"+path), func(r rune) bool { return r == '/' })
	return strings.TrimSuffix(strings.Join(parts, "/"), ".git")
}

// hostAndPath splits a repository's URL, or its remote as scp has it. The host is
// one for all the names under which it serves the same repositories.
func hostAndPath(repository string) (host, path string) {
	if before, after, ok := strings.Cut(repository, ":"); ok && scpRemote.MatchString(repository) {
		return canonicalHost(before[strings.LastIndexByte(before, '@')+1:]), after
	}
	u, err := url.Parse(repository)
	if err != nil {
		return "", repository
	}
	return canonicalHost(u.Hostname()), u.Path
}

const (
	gitHubHost       = "github.com"
	gitHubTenants    = ".ghe.com" // GitHub Enterprise Cloud with data residency: each tenant has a host below it
	gitHubTenantsAPI = "https://api."
)

// hostAliases are other names of hosts: of web sites, and of SSH at the port of HTTPS
// (docs.github.com, "Using SSH over the HTTPS port"; docs.gitlab.com, "altssh.gitlab.com"; Bitbucket's "altssh").
var hostAliases = map[string]string{
	"www.github.com": gitHubHost, "ssh.github.com": gitHubHost,
	"www.gitlab.com": "gitlab.com", "altssh.gitlab.com": "gitlab.com",
	"www.bitbucket.org": "bitbucket.org", "altssh.bitbucket.org": "bitbucket.org",
}

func canonicalHost(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".") // of a fully qualified name
	if name := hostAliases[host]; name != "" {
		return name
	}
	return host
}

// GitHubAPI reports whether a repository is on one of GitHub's own hosts, and returns the root of its REST API, empty
// for api.github.com. A GitHub Enterprise Server has a host of its own, and is not known by its name.
func GitHubAPI(repository string) (root string, ok bool) {
	host, _ := hostAndPath(repository)
	tenant, isTenant := strings.CutSuffix(host, gitHubTenants)
	switch {
	case host == gitHubHost:
		return "", true
	case isTenant && tenant != "":
		return gitHubTenantsAPI + host + "/", true
	}
	return "", false
}

// guessProvider guesses who makes the pull requests of a repository, and where.
func guessProvider(repository string) (provider, apiURL string) {
	if root, ok := GitHubAPI(repository); ok {
		return ProviderGitHub, root
	}
	return ProviderRequestPull, ""
}
