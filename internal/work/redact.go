package work

import "regexp"

// secretShapes are forms of well-known secrets. The worker has already replaced
// the values it was given; this is the net below, for what an agent found
// elsewhere, and for what was written before the worker could.
var secretShapes = []struct {
	shape *regexp.Regexp
	with  string
}{
	{regexp.MustCompile(`gh[pousr]_[A-Za-z0-9]{20,}`), mask},                                             // GitHub tokens
	{regexp.MustCompile(`github_pat_[A-Za-z0-9_]{20,}`), mask},                                           // GitHub fine-grained tokens
	{regexp.MustCompile(`glpat-[A-Za-z0-9_-]{20,}`), mask},                                               // GitLab tokens
	{regexp.MustCompile(`\bsk-[A-Za-z0-9_-]{20,}`), mask},                                                // model providers' keys
	{regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`), mask},                                          // AWS key ids
	{regexp.MustCompile(`\bxox[abprs]-[A-Za-z0-9-]{10,}`), mask},                                         // Slack tokens
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}`), mask},        // JSON web tokens
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{12,}`), "$1 " + mask},                 // Authorization headers
	{regexp.MustCompile(`([a-z][a-z0-9+.-]*://[^/\s:@]+):[^/\s@]+@`), "$1:" + mask + "@"},                // passwords in URLs
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`), mask},                                     // the first line of a private key
	{regexp.MustCompile(`(?i)\b([a-z0-9_]*(?:token|secret|password|api_key))=[^\s&]{6,}`), "$1=" + mask}, // NAME=value
}

// mask stands where a secret was.
const mask = "[redacted]"

// RedactSecrets replaces everything in a line that has the form of a secret.
func RedactSecrets(line string) string {
	for _, s := range secretShapes {
		line = s.shape.ReplaceAllString(line, s.with)
	}
	return line
}
