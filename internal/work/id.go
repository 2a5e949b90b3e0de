package work

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// NewID returns a new item id: a ULID in lower case, which sorts by time and
// is safe in job names, branch names and KV keys.
func NewID(now time.Time) string {
	return strings.ToLower(ulid.MustNew(ulid.Timestamp(now), rand.Reader).String())
}

// ValidID reports whether id has the form that NewID gives.
func ValidID(id string) bool {
	_, err := ulid.ParseStrict(strings.ToUpper(id))
	return err == nil && id == strings.ToLower(id)
}

// randomPart is where the part of an id begins that does not tell the time.
const randomPart = 10

// KeyedID returns an id whose part that is not time comes from a key: SameKey
// knows another id of that key by it.
func KeyedID(key string, now time.Time) string {
	sum := sha256.Sum256([]byte(key))
	return strings.ToLower(ulid.MustNew(ulid.Timestamp(now), bytes.NewReader(sum[:])).String())
}

// SameKey reports whether two ids come from one key.
func SameKey(a, b string) bool {
	return len(a) > randomPart && len(b) > randomPart && a[randomPart:] == b[randomPart:]
}

// AttemptID names one attempt of one item: "<item>.<number>", numbers from 1.
// It is also the idempotency token of the attempt's dispatch.
type AttemptID string

// NewAttemptID returns the id of an item's attempt.
func NewAttemptID(item string, number int) AttemptID {
	return AttemptID(item + "." + strconv.Itoa(number))
}

// ParseAttemptID checks the form of s.
// It returns ErrInvalid when s does not name an attempt.
func ParseAttemptID(s string) (AttemptID, error) {
	item, number, ok := strings.Cut(s, ".")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 1 || !ValidID(item) || string(NewAttemptID(item, n)) != s {
		return "", fmt.Errorf("attempt id %q: %w", s, ErrInvalid)
	}
	return AttemptID(s), nil
}

// Item returns the id of the item the attempt belongs to.
func (a AttemptID) Item() string {
	item, _, _ := strings.Cut(string(a), ".")
	return item
}

// Number returns the attempt's number, from 1.
func (a AttemptID) Number() int {
	_, number, _ := strings.Cut(string(a), ".")
	n, _ := strconv.Atoi(number)
	return n
}

// dispatchedName is how Nomad ends the id of a dispatched job: unix seconds and
// a random part.
var dispatchedName = regexp.MustCompile(`/dispatch-(?:.*-)?([0-9]{9,11})-[0-9a-f]{8}$`)

// HandDispatched returns the attempt that a child dispatched by hand is adopted
// as. It comes from the child's name alone, so that the server and the worker in
// the child agree on it without a word.
// It returns ErrInvalid for a name that Nomad does not give.
func HandDispatched(child string) (AttemptID, error) {
	match := dispatchedName.FindStringSubmatch(child)
	if match == nil {
		return "", fmt.Errorf("%q is not the name of a dispatched job: %w", child, ErrInvalid)
	}
	seconds, err := strconv.ParseUint(match[1], 10, 64)
	if err != nil {
		return "", fmt.Errorf("%q: %v: %w", child, err, ErrInvalid)
	}
	sum := sha256.Sum256([]byte(child))
	id, err := ulid.New(seconds*1000, bytes.NewReader(sum[:]))
	if err != nil {
		return "", fmt.Errorf("%q: %v: %w", child, err, ErrInvalid)
	}
	return NewAttemptID(strings.ToLower(id.String()), 1), nil
}

// Branch returns the name of the branch an item's work is pushed to. It comes
// from the item's id alone, so that there is at most one branch and one pull
// request for an item, whatever happens.
func Branch(item string) string { return "drover/" + item }
