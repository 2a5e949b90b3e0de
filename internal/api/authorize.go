package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"drover/internal/work"
)

// authorized lets only requests pass whose token has the role. Every server
// looks itself, whether it leads or passes the request on.
func (h *handler) authorized(least work.Role, next http.Handler) http.Handler {
	if h.Token == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, err := h.authorize(r, least)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, name)))
	})
}

// callerKey is where a request's context holds the name of its token.
type callerKey struct{}

// caller returns the name of the token that a request shows, empty if it has none.
func caller(r *http.Request) string {
	name, _ := r.Context().Value(callerKey{}).(string)
	return name
}

// authorize returns the token's name. It returns ErrUnauthorized for a request without a token that is known
// and in force, and ErrForbidden where it has not the role.
func (h *handler) authorize(r *http.Request, least work.Role) (string, error) {
	shown, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return "", fmt.Errorf("the server wants a token (DROVER_TOKEN): %w", ErrUnauthorized)
	}
	name, role, err := h.roleOf(r.Context(), shown)
	switch {
	case errors.Is(err, work.ErrNotFound):
		return "", fmt.Errorf("the token (DROVER_TOKEN) is not one of the server's, or has expired: %w", ErrUnauthorized)
	case err != nil:
		return "", fmt.Errorf("the token can't be checked: %w", err)
	case !role.Allows(least):
		return "", fmt.Errorf("the token has the role %s, %s %s needs %s: %w", role, r.Method, r.URL.Path, least, ErrForbidden)
	}
	return name, nil
}

// roleOf returns the name and the role of a token: the server's own may do everything.
// Hashes are compared, so that the time taken says nothing about it, nor its
// length. It returns work.ErrNotFound for one that is not known or has expired.
func (h *handler) roleOf(ctx context.Context, shown string) (string, work.Role, error) {
	want, got := sha256.Sum256([]byte(h.Token)), sha256.Sum256([]byte(shown))
	if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
		return "", work.RoleOperate, nil
	}
	id, ok := work.TokenID(shown)
	if !ok {
		return "", "", work.ErrNotFound
	}
	token, err := h.StoredToken(ctx, id)
	if err != nil {
		return "", "", err
	}
	if !token.Matches(shown, time.Now()) {
		return "", "", work.ErrNotFound
	}
	return token.Name, token.Role, nil
}
