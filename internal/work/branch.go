package work

import "strings"

// headsPrefix is what the full names of branches begin with.
const headsPrefix = "refs/heads/"

// ValidBranchName reports whether git takes a name for a branch: the rules of git check-ref-format --branch outside of
// a repository, where @{-1} is no branch.
func ValidBranchName(name string) bool {
	if name == "" || name == "HEAD" || name[0] == '-' || name[len(name)-1] == '.' {
		return false
	}
	if strings.Contains(name, "..") || strings.Contains(name, "@{") || strings.ContainsAny(name, ` ~^:?*[\`) {
		return false
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] == 0x7f {
			return false
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return true
}

// baseFault says what is wrong with a base, empty if nothing is.
func baseFault(base string) string {
	name, full := strings.CutPrefix(base, headsPrefix)
	switch {
	case base == "", ValidBranchName(base) && !full:
		return ""
	case base == "HEAD":
		return "leave it out to start from the remote's default branch"
	case full && ValidBranchName(name):
		return "give the branch's name alone: " + name
	}
	return "it is not a branch name (git check-ref-format --branch)"
}
