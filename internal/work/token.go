package work

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Role says what a client may do. Each role may do what the ones before it may.
type Role string

// The roles, from the least.
const (
	RoleRead    Role = "read"    // look at items, logs and queues
	RoleSubmit  Role = "submit"  // and submit items
	RoleOperate Role = "operate" // and change what is there
)

// Roles lists every Role, from the least.
func Roles() []Role { return []Role{RoleRead, RoleSubmit, RoleOperate} }

// Allows reports whether r may do what needs the role least. An unknown role may
// do nothing.
func (r Role) Allows(least Role) bool {
	have, want := -1, len(Roles())
	for i, role := range Roles() {
		if role == r {
			have = i
		}
		if role == least {
			want = i
		}
	}
	return have >= want
}

// Token is a client's credential as it is stored: the hash of its secret alone.
type Token struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"` // whose it is, for people
	Role      Role      `json:"role"`
	Hash      string    `json:"hash,omitempty"` // SHA-256 of the secret, in hex
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // never if zero
	Unknown   Unknown   `json:"-"`
}

// tokenPrefix begins every token that drover makes, so that scanners for leaked
// secrets can know one.
const tokenPrefix = "drover_"

// secretBytes is the size of a token's secret. It is random and this long, so a
// plain hash of it tells nothing.
const secretBytes = 32

// MaxTokenName bounds a token's name, in bytes.
const MaxTokenName = 100

// NewToken returns a token and the text that its owner shows, which is kept
// nowhere. A lifetime of zero is for ever. It returns ErrInvalid.
func NewToken(name string, role Role, lifetime time.Duration, now time.Time) (Token, string, error) {
	switch {
	case !role.Allows(RoleRead):
		return Token{}, "", fmt.Errorf("role %q: use one of %s: %w", role, join(Roles()), ErrInvalid)
	case len(name) > MaxTokenName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }):
		return Token{}, "", fmt.Errorf("name of a token: at most %d bytes on one line: %w", MaxTokenName, ErrInvalid)
	case lifetime < 0:
		return Token{}, "", fmt.Errorf("lifetime %s of a token: must not be negative: %w", lifetime, ErrInvalid)
	}
	secret := make([]byte, secretBytes)
	rand.Read(secret) // never fails
	t := Token{ID: NewID(now), Name: name, Role: role, CreatedAt: now}
	if lifetime > 0 {
		t.ExpiresAt = now.Add(lifetime)
	}
	text := base64.RawURLEncoding.EncodeToString(secret)
	t.Hash = hashSecret(text)
	return t, tokenPrefix + t.ID + "_" + text, nil
}

// TokenID returns the id of the token that a client shows, false when it has
// not the form of one.
func TokenID(shown string) (string, bool) {
	rest, ok := strings.CutPrefix(shown, tokenPrefix)
	id, _, found := strings.Cut(rest, "_")
	return id, ok && found && ValidID(id)
}

// Matches reports whether shown is the token's text and the token has not
// expired.
func (t Token) Matches(shown string, now time.Time) bool {
	_, secret, _ := strings.Cut(strings.TrimPrefix(shown, tokenPrefix), "_")
	same := subtle.ConstantTimeCompare([]byte(hashSecret(secret)), []byte(t.Hash)) == 1
	return same && (t.ExpiresAt.IsZero() || now.Before(t.ExpiresAt))
}

func hashSecret(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
