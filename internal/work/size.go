package work

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// MaxItemBytes bounds an item as it is stored. Consul takes 512 KiB for one
// transaction (txn_max_req_len), in which base64 adds a third to a value: this
// leaves 54 KiB for what changes along with the item.
const MaxItemBytes = 344 << 10

// Bounds of an item's texts as they are stored, in bytes. Together with
// MaxSpecBytes they stay below MaxItemBytes, so that a stored item can always be
// moved on.
const (
	maxDetailBytes   = 4 << 10
	maxCauseBytes    = 1536
	maxEventsBytes   = 4 << 10 // of all of an attempt's
	maxTestBytes     = 4 << 10
	maxListBytes     = 1 << 10 // of one list of a Tree
	maxPRErrorBytes  = 2 << 10
	maxPRLineBytes   = 1 << 10
	maxPRStoredBytes = 32 << 10 // of a pull request's text
	maxNameBytes     = 512      // of a commit, a branch, a conversation
)

// About what a record takes without its texts: names of fields, numbers, times.
const (
	bareItem       = 1400
	bareAttempt    = 900
	bareResult     = 1200
	bareTransition = 140
	bareSpec       = 2 << 10
	bareEarlier    = 1400
	bareElement    = 4
)

// jsonBytes returns how many bytes a text takes as stored, without its quotes.
func jsonBytes(s string) int {
	n := 0
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t':
				n += 2
			case c < ' ':
				n += 6
			default:
				n++
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || r == '\u2028' || r == '\u2029' {
			n += 6
		} else {
			n += size
		}
		i += size
	}
	return n
}

func jsonBytesOf(texts ...string) (n int) {
	for _, text := range texts {
		n += jsonBytes(text) + bareElement
	}
	return n
}

func (u Unknown) storedBytes() (n int) {
	for name, member := range u {
		n += jsonBytesOf(name) + len(member)
	}
	return n
}

// StoredBytes returns how many bytes the specification takes at most as stored.
func (s Spec) StoredBytes() int {
	n := bareSpec + s.Unknown.storedBytes() + jsonBytesOf(s.Repository, s.Base, s.Task, s.Queue, s.UniqueKey, s.Image, s.Agent, s.Prompt, s.Uncommitted,
		s.Loop.Mode, s.Loop.DonePhrase, s.Test.Command, s.Test.JUnit, s.PR.Provider, s.PR.APIURL, s.PR.Title, s.PR.Body, s.PR.Draft)
	for _, texts := range [][]string{s.Paths, s.DependsOn, s.Command, s.PR.Labels, s.PR.Reviewers} {
		n += jsonBytesOf(texts...)
	}
	for key, value := range s.Labels {
		n += jsonBytesOf(key, value)
	}
	if s.Retry != nil {
		const duration = 30 // bytes, at most
		n += duration * (len(s.Retry.Backoff) + len(s.Retry.RequeueBackoff) + len(s.Retry.StartBackoff) + 2*len(s.Retry.Actions))
	}
	return n
}

// CheckStoredSize returns ErrInvalid for a specification that is too large to be
// stored, with the size that counts.
func (s Spec) CheckStoredSize() error {
	if size := s.StoredBytes(); size > MaxSpecBytes {
		return fmt.Errorf("the item takes %d bytes as stored, where a control character counts 6 and a quote 2; at most %d are allowed: shorten the task, or put it into a file of the repository: %w",
			size, MaxSpecBytes, ErrInvalid)
	}
	return nil
}

// maxQueueBytes bounds a queue's record as it is stored: it changes along with items.
const maxQueueBytes = 16 << 10

// CheckStoredSize returns ErrInvalid for a record that is too large to be stored.
func (q QueueRecord) CheckStoredSize() error {
	data, err := EncodeStored(q)
	if err == nil && len(data) > maxQueueBytes {
		err = fmt.Errorf("queue %s: its settings take %d bytes as stored, at most %d are allowed: %w", q.Name, len(data), maxQueueBytes, ErrInvalid)
	}
	return err
}

func (p PullRequest) storedBytes() int { return jsonBytesOf(p.URL, p.Title, p.Body, p.Error) }

func (c *Conversation) storedBytes() int {
	if c == nil {
		return 0
	}
	return bareTransition + jsonBytesOf(c.ID)
}

func (r *Result) storedBytes() int {
	if r == nil {
		return 0
	}
	return bareResult + jsonBytesOf(r.Start) + r.Tree.storedBytes() + r.Unknown.storedBytes() + r.PR.storedBytes() + r.Conversation.storedBytes() +
		jsonBytesOf(r.Allocation, r.Detail, r.Branch, r.Commit, r.RemoteCommit, r.Test.Detail)
}

func (a *Attempt) storedBytes() int {
	return bareAttempt + a.Unknown.storedBytes() + jsonBytesOf(a.Detail, a.Child, a.Allocation, a.Node) + jsonBytesOf(a.Events...) + jsonBytesOf(a.Cleanup...) +
		a.Result.storedBytes() + a.LateResult.storedBytes()
}

func (t Transition) storedBytes() int { return bareTransition + jsonBytesOf(t.Cause, t.Key) }

// StoredBytes returns how many bytes the item takes at most as stored.
func (i *Item) StoredBytes() int {
	n := bareItem + i.Unknown.storedBytes() + i.Spec.StoredBytes() + jsonBytesOf(i.Why, i.Commit, i.Test.Detail) + i.PR.storedBytes() +
		i.Conversation.storedBytes() + i.Finished.storedBytes() + i.Proof.storedBytes()
	if i.Earlier != nil {
		n += bareEarlier + i.Earlier.Unknown.storedBytes()
	}
	for at := range i.Attempts {
		n += i.Attempts[at].storedBytes()
	}
	for _, t := range i.History {
		n += t.storedBytes()
	}
	return n
}

const cutMark = "…"

// cut returns the beginning of a text that takes at most so many bytes as stored.
func cut(s string, most int) string {
	if len(s) <= most/6 || jsonBytes(s) <= most {
		return s
	}
	n := 0
	for i := 0; i < len(s); {
		_, size := utf8.DecodeRuneInString(s[i:])
		if n += jsonBytes(s[i : i+size]); n > most-len(cutMark) {
			return s[:i] + cutMark
		}
		i += size
	}
	return s
}

// cutFront returns the end of a text that takes at most so many bytes as stored.
func cutFront(s string, most int) string {
	if len(s) <= most/6 || jsonBytes(s) <= most {
		return s
	}
	n := 0
	for end := len(s); end > 0; {
		_, size := utf8.DecodeLastRuneInString(s[:end])
		if n += jsonBytes(s[end-size : end]); n > most-len(cutMark) {
			return cutMark + s[end:]
		}
		end -= size
	}
	return s
}

// cutEvents returns the last of an attempt's events that may be stored.
func cutEvents(events []string) []string {
	n := 0
	for at, event := range slices.Backward(events) {
		if n += jsonBytesOf(event); n > maxEventsBytes {
			if at == len(events)-1 {
				return []string{cut(event, maxEventsBytes)}
			}
			return events[at+1:]
		}
	}
	return events
}

func (p PullRequest) bounded() PullRequest {
	p.URL, p.Title = cut(p.URL, maxPRLineBytes), cut(p.Title, maxPRLineBytes)
	p.Error, p.Body = cut(p.Error, maxPRErrorBytes), cut(p.Body, maxPRStoredBytes)
	return p
}

func (t Tree) storedBytes() int {
	return jsonBytesOf(t.LeftOut...) + jsonBytesOf(t.Left...) + jsonBytesOf(t.Notes...)
}

func (t Tree) bounded() Tree {
	t.LeftOut, t.Left, t.Notes = cutList(t.LeftOut), cutList(t.Left), cutList(t.Notes)
	return t
}

// cutList returns the first of the names that may be stored.
func cutList(names []string) []string {
	n := 0
	for at, name := range names {
		if n += jsonBytesOf(name); n > maxListBytes {
			return names[:at]
		}
	}
	return names
}

func (t TestOutcome) bounded() TestOutcome {
	t.Detail = cutFront(t.Detail, maxTestBytes)
	return t
}

func (c *Conversation) bounded() *Conversation {
	if c == nil || jsonBytes(c.ID) <= maxNameBytes {
		return c
	}
	return nil // a part of an id is none
}

// Bounded returns the result with its texts cut to what may be stored.
func (r Result) Bounded() Result {
	r.Detail, r.Test, r.PR, r.Conversation = cut(r.Detail, maxDetailBytes), r.Test.bounded(), r.PR.bounded(), r.Conversation.bounded()
	r.Allocation, r.Branch = cut(r.Allocation, maxNameBytes), cut(r.Branch, maxNameBytes)
	r.Start, r.Tree = cut(r.Start, maxNameBytes), r.Tree.bounded()
	r.Commit, r.RemoteCommit = cut(r.Commit, maxNameBytes), cut(r.RemoteCommit, maxNameBytes)
	return r
}

// ofAttempt returns the result as an attempt keeps it. The pull request's text is
// the item's.
func (r *Result) ofAttempt() *Result {
	if r == nil {
		return nil
	}
	kept := r.Bounded()
	kept.PR.Body = ""
	return &kept
}

func (e Ending) bounded() Ending {
	e.Detail, e.Events = cut(e.Detail, maxDetailBytes), cutEvents(e.Events)
	e.Finished, e.Conversation, e.Commit = e.Finished.ofAttempt(), e.Conversation.bounded(), cut(e.Commit, maxNameBytes)
	if e.Result != nil {
		r := e.Result.Bounded()
		e.Result = &r
	}
	return e
}
