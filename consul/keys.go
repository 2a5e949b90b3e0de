package consul

import (
	"strings"

	"drover/internal/work"
)

// DefaultPrefix is where drover keeps its keys.
const DefaultPrefix = "drover/"

// Keys is the layout of drover's keys below one prefix. Nothing else builds a key.
//
//	leader                 lock of the leading server; value: its id and address
//	items/<item>           work.Item; written by the leader only
//	claims/<attempt>       work.Claim; which allocation runs an attempt
//	envelopes/<attempt>    work.Envelope too large for a dispatch payload
//	progress/<attempt>     work.Progress; written by the worker, throttled
//	results/<attempt>      work.Result; written by the worker, consumed by the leader
//	locks/<repo>/guard     changes with every lock that is granted in the repository
//	locks/<repo>/<attempt> work.Lock; locked by the attempt's session
//	queues/<name>          work.QueueRecord; written by the leader only
//	breakers/<repository>  work.Breaker; written by the leader only
//	logs/<item>/<attempt>  last lines of an attempt's output, compressed
//	tokens/<token>         work.Token; a client's credential, its secret hashed
//	probes/<name>          what a probe of the doctor writes, for a moment
//
// The folders results/ and locks/ have empty keys of their own, see Term.keepFolders.
type Keys struct{ prefix string }

// NewKeys returns the layout below prefix, DefaultPrefix if it is empty.
func NewKeys(prefix string) Keys {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	return Keys{prefix: strings.TrimSuffix(prefix, "/") + "/"}
}

// Prefix returns the prefix, with its closing slash.
func (k Keys) Prefix() string { return k.prefix }

// Leader is the lock of the leading server.
func (k Keys) Leader() string { return k.prefix + "leader" }

// Items is the folder of all items.
func (k Keys) Items() string { return k.prefix + "items/" }

// Item holds one item.
func (k Keys) Item(id string) string { return k.Items() + id }

// Claims is the folder of all claims.
func (k Keys) Claims() string { return k.prefix + "claims/" }

// Claim says which allocation runs an attempt.
func (k Keys) Claim(a work.AttemptID) string { return k.Claims() + string(a) }

// Envelopes is the folder of envelopes kept by reference.
func (k Keys) Envelopes() string { return k.prefix + "envelopes/" }

// Envelope holds an envelope that did not fit a payload.
func (k Keys) Envelope(a work.AttemptID) string { return k.Envelopes() + string(a) }

// ProgressFolder is the folder of all attempts' progress.
func (k Keys) ProgressFolder() string { return k.prefix + "progress/" }

// Progress holds how far an attempt has come.
func (k Keys) Progress(a work.AttemptID) string { return k.ProgressFolder() + string(a) }

// Results is the folder of results that wait for the leader.
func (k Keys) Results() string { return k.prefix + "results/" }

// Result holds an attempt's result until the leader has applied it.
func (k Keys) Result(a work.AttemptID) string { return k.Results() + string(a) }

// Tokens is the folder of all clients' tokens.
func (k Keys) Tokens() string { return k.prefix + "tokens/" }

// Token holds one client's token.
func (k Keys) Token(id string) string { return k.Tokens() + id }

// Probes is the folder of what the doctor's probes write.
func (k Keys) Probes() string { return k.prefix + "probes/" }

// Probe is the key that one probe writes.
func (k Keys) Probe(name string) string { return k.Probes() + name }

// ItemLogs is the folder of an item's kept logs.
func (k Keys) ItemLogs(item string) string { return k.prefix + "logs/" + item + "/" }

// Logs holds the kept output of one attempt.
func (k Keys) Logs(a work.AttemptID) string { return k.ItemLogs(a.Item()) + string(a) }

// Locks is the folder of all locks.
func (k Keys) Locks() string { return k.prefix + "locks/" }

// RepositoryLocks is the folder of the locks in one repository, named by its
// work.RepositoryKey. No repository's folder lies in another's.
func (k Keys) RepositoryLocks(repository string) string {
	return k.Locks() + strings.ReplaceAll(repository, "/", ":") + "/"
}

// Lock holds what an attempt has locked.
func (k Keys) Lock(repository string, a work.AttemptID) string {
	return k.RepositoryLocks(repository) + string(a)
}

// LockGuard changes with every lock that is granted in the repository. It stays.
func (k Keys) LockGuard(repository string) string { return k.RepositoryLocks(repository) + "guard" }

// parseLock returns what a lock's key names, not ok for another key.
func (k Keys) parseLock(key string) (repository string, a work.AttemptID, ok bool) {
	folder, name, _ := strings.Cut(strings.TrimPrefix(key, k.Locks()), "/")
	a, err := work.ParseAttemptID(name)
	return strings.ReplaceAll(folder, ":", "/"), a, err == nil
}

// Queues is the folder of all queues' records.
func (k Keys) Queues() string { return k.prefix + "queues/" }

// Queue holds what is stored of a queue.
func (k Keys) Queue(name string) string { return k.Queues() + name }

// Breakers is the folder of all breakers.
func (k Keys) Breakers() string { return k.prefix + "breakers/" }

// Breaker holds the breaker of a repository, named by its work.RepositoryKey.
func (k Keys) Breaker(repository string) string {
	return k.Breakers() + strings.ReplaceAll(repository, "/", ":")
}
