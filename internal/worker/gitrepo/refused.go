package gitrepo

import (
	"fmt"
	"strings"
)

// What servers say when they refuse commits, or the branch, in a way that pushing
// again does not mend; in lower case. Sources, read 2026-11-30:
// docs.github.com: about repository rules, push protection, large files, and
// "refusing to allow" of tokens without the workflow permission;
// docs.gitlab.com: push rules, protected branches, secret push protection;
// gitea and forgejo: routers/private/hook_pre_receive.go; bitbucket.org and Azure
// DevOps: branch restrictions, TF402455, VS403654; git: builtin/receive-pack.c.
var refusedForGood = []string{
	"gh001:", "gh003:", "gh007:", "gh008:", "gh009:", "gh013:", "refusing to allow", "push declined due to",
	"push blocked", "secrets detected", "is protected from", "protected file", "vs403654", "tf402462", "prohibited by gerrit",
	"must be signed", "is not signed", "not signed", "unsigned", "unverified commit", "verified signature", "verified user",
	"size limit", "too large", "exceeds the maximum", "exceeds maximum allowed size", "maximum file size", "quota exceeded", "exceeded its",
	"does not follow the pattern", "is not allowed to", "not permitted", "you are not allowed", "not a member of team",
}

// refusedBranch are those that no other commits would mend.
var refusedBranch = []string{
	"gh006:", "protected branch", "archived so it is read-only", "permission denied to update branch", "branch restrictions", "tf402455", "tf401027",
	"exists; cannot create", "deny updating a hidden ref", "branch is currently checked out", "shallow update not allowed",
}

// notNow is what they say when they refuse a push that may pass later, in lower case.
var notNow = []string{
	"cannot lock ref", "unable to lock", "failed to lock", "unable to create", "failed to update ref", "failed to write", "internal server error", "internal error",
	"internal api", "api is not accessible", "timeout", "timed out", "temporarily", "unavailable", "rate limit", "too many requests", "no space left", "unpacker error",
	"missing necessary objects", "hung up", "maintenance",
}

// refusal explains a push that the server refused; nil if this is none. What the
// server's hooks alone know may pass: it is ErrDeclined, and worth another try.
func (r *Repo) refusal(what, stderr string) error {
	text, lower := r.opts.Redact(reason(stderr)), strings.ToLower(stderr)
	contains := func(phrases []string) bool {
		for _, phrase := range phrases {
			if strings.Contains(lower, phrase) {
				return true
			}
		}
		return false
	}
	tooLarge := strings.Contains(lower, "returned error: 413") || strings.Contains(lower, "http 413")
	switch {
	case tooLarge:
		return fmt.Errorf("%s: %w: the server takes no push of this size (HTTP 413): %s", what, ErrRefused, text)
	case strings.Contains(lower, "archived so it is read-only"):
		return fmt.Errorf("%s: %w: %w: %s", what, ErrRefused, ErrBranch, text)
	case !strings.Contains(lower, "[remote rejected]"):
		return nil
	case contains(refusedBranch):
		return fmt.Errorf("%s: %w: %w: %s%s", what, ErrRefused, ErrBranch, text, advice(lower))
	case contains(refusedForGood):
		return fmt.Errorf("%s: %w: %s%s", what, ErrRefused, text, advice(lower))
	case contains(notNow):
		return fmt.Errorf("%s: the server can't take it now: %s", what, text)
	case strings.Contains(lower, "remote: gitlab: "):
		return fmt.Errorf("%s: %w: %s", what, ErrRefused, text)
	}
	return fmt.Errorf("%s: %w: %s", what, ErrDeclined, text)
}

// advice is what to do about a refusal whose cause is known.
func advice(lower string) string {
	switch {
	case strings.Contains(lower, "refusing to allow") && strings.Contains(lower, "workflow"):
		return "; the workers' token lacks the permission to change workflows: the scope `workflow`, or Workflows: write of a GitHub App or fine-grained token"
	case strings.Contains(lower, "secret"):
		return "; the commits hold a secret: take it out of them, or allow it at the git host"
	case strings.Contains(lower, "signed") || strings.Contains(lower, "signature"):
		return "; the branch demands signed commits, and workers sign none: exempt drover/* from the rule"
	case strings.Contains(lower, "exists; cannot create"):
		return "; a branch whose name is the beginning of the item's, or begins with it, is in its way"
	case strings.Contains(lower, "protected branch"), strings.Contains(lower, "is protected from"), strings.Contains(lower, "tf402455"):
		return "; let the workers' user push to drover/*"
	}
	return ""
}

// Bounds of a refusal's text: its beginning names the rule, its end the ref.
const (
	maxReasonHead = 2 << 10
	maxReasonTail = 1 << 10
)

// reason is the whole of what a server said about a push, in one line.
func reason(stderr string) string {
	var said []string
	for line := range strings.FieldsFuncSeq(stderr, func(c rune) bool { return c == '\n' || c == '\r' }) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "remote:"))
		switch {
		case strings.Trim(line, "-—–=*#| ") == "", strings.HasPrefix(line, "hint:"), isProgress(line):
		case strings.HasPrefix(line, "error: failed to push some refs"), strings.HasPrefix(line, "To "):
		default:
			said = append(said, line)
		}
	}
	text := strings.Join(said, " / ")
	if len(text) > maxReasonHead+maxReasonTail {
		text = strings.ToValidUTF8(text[:maxReasonHead], "") + " … " + strings.ToValidUTF8(text[len(text)-maxReasonTail:], "")
	}
	return text
}

// isProgress reports whether a line is the progress that git and servers print.
func isProgress(line string) bool {
	return strings.Contains(line, "objects:") || strings.Contains(line, "deltas:") || strings.HasPrefix(line, "Total ") ||
		strings.HasPrefix(line, "Delta compression") || strings.HasPrefix(line, "Processing changes")
}
