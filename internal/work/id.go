package work

import (
	"crypto/rand"
	"fmt"
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

// Branch returns the name of the branch an item's work is pushed to. It comes
// from the item's id alone, so that there is at most one branch and one pull
// request for an item, whatever happens.
func Branch(item string) string { return "drover/" + item }
