package agent

import (
	"slices"
	"strconv"
	"strings"
)

// Variables by which a worker is told where the others of its environment come
// from: the job's own specification sets them, over whatever an image holds. Each
// has names, with spaces between.
const (
	jobNames    = "DROVER_JOB_NAMES"    // what the job gives the worker
	secretNames = "DROVER_SECRET_NAMES" // what comes from the operator's Nomad variable
	agentNames  = "DROVER_AGENT_ENV"    // what of either the operator lets an agent see, see Matches
)

// passed are the variables that whatever runs as the agent may see, wherever they
// come from: the terminal's, the way to the network, and where toolchains are.
var passed = []string{
	"PATH", "LANG", "LANGUAGE", "LC_*", "TERM", "TMPDIR", "TZ",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "FTP_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy", "ftp_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "PIP_CERT",
	"GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO", "DENO_CERT", "CODEX_CA_CERTIFICATE",
	"JAVA_HOME", "MAVEN_HOME", "M2_HOME", "GRADLE_HOME", "GRADLE_USER_HOME", "ANDROID_HOME", "ANDROID_SDK_ROOT", "CARGO_HOME", "RUSTUP_HOME",
	"GOROOT", "GOPATH", "GOTOOLCHAIN", "NODE_PATH", "NVM_DIR", "PNPM_HOME", "VOLTA_HOME", "PYENV_ROOT", "VIRTUAL_ENV", "CONDA_PREFIX",
	"GEM_HOME", "GEM_PATH", "RBENV_ROOT", "DOTNET_ROOT", "SDKMAN_DIR", "ASDF_DIR", "ASDF_DATA_DIR", "LD_LIBRARY_PATH", "PKG_CONFIG_PATH",
	"AGENT_*", "GIT_AUTHOR_*", "GIT_COMMITTER_*", // meant for the agent
}

// refused never pass, whoever allows them: they are the worker's, or open doors.
var refused = []string{"DROVER_*", "CONSUL_*", "NOMAD_*", "VAULT_*"}

// own are the agent's, not the image's.
var own = []string{"HOME", "PWD", "OLDPWD", "SHLVL", "_"}

// Matches reports whether a pattern is the name, or ends in a * and begins it.
func Matches(pattern, name string) bool {
	if prefix, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return Matches(pattern, name) })
}

// environment is all that the agent sees.
func (r Run) environment() []string {
	e := r.Envelope
	more := strings.Fields(variable(r.Environ, agentNames))
	for _, prefix := range r.Adapter.Variables() {
		more = append(more, prefix+"*")
	}
	return append(Environment(r.Environ, r.Home, more...),
		"DROVER_TASK_FILE="+r.TaskFile,
		"DROVER_ITEM="+e.Item,
		"DROVER_ATTEMPT="+strconv.Itoa(e.Attempt.Number()),
		"DROVER_ITERATION="+strconv.Itoa(r.Iteration),
		"DROVER_LAST_REASON="+string(e.Resume.LastReason),
		"DROVER_SESSION="+r.Options.Conversation,
		"DROVER_LOCK_SOCKET="+r.LockSocket,
	)
}

// Environment is what of the worker's environment an agent, and the tests of its
// work, may see: what is listed, what is the image's own, and what matches more.
// No variable of Nomad, Consul or git's credentials is among them.
func Environment(environ []string, home string, more ...string) []string {
	env := []string{"HOME=" + home, "GIT_TERMINAL_PROMPT=0"}
	isImages, trace := images(environ), ""
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		switch {
		case name == "TRACEPARENT", name == "NOMAD_META_traceparent":
			trace = value // the last: programs differ in which of two variables of one name they see
		case matchesAny(refused, name), slices.Contains(own, name), name == "GIT_TERMINAL_PROMPT":
		case matchesAny(passed, name), matchesAny(more, name), isImages(name):
			env = append(env, pair)
		}
	}
	if trace != "" {
		env = append(env, "TRACEPARENT="+trace)
	}
	return env
}

// images returns what tells whether a variable is the image's own: it is what
// neither the job nor the operator's variable gave. Where a job does not say what
// it gave, or there is no image, nothing is.
func images(environ []string) func(name string) bool {
	if !set(environ, jobNames) || !set(environ, secretNames) {
		return func(string) bool { return false }
	}
	given := append(strings.Fields(variable(environ, jobNames)), strings.Fields(variable(environ, secretNames))...)
	return func(name string) bool { return !slices.Contains(given, name) }
}

// variable returns the value of a variable, empty if it is not set.
func variable(environ []string, name string) (value string) {
	for _, pair := range environ {
		if v, ok := strings.CutPrefix(pair, name+"="); ok {
			value = v
		}
	}
	return value
}

func set(environ []string, name string) bool {
	return slices.ContainsFunc(environ, func(pair string) bool { return strings.HasPrefix(pair, name+"=") })
}
