package api_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"drover/internal/api"
	"drover/internal/work"
)

// open answers every call of the service, whatever it is, by panicking: a call
// that was let in is told by that from one that was not.
type open struct{ api.Service }

// credentials are the tokens of the table, and what they may do.
func credentials(t *testing.T) (shown map[string]string, roles map[string]work.Role, stored func(context.Context, string) (work.Token, error)) {
	t.Helper()
	kept := map[string]work.Token{}
	shown = map[string]string{"none": "", "wrong": "wrong", "empty": " ", "server's own": "right"}
	roles = map[string]work.Role{"server's own": work.RoleOperate}
	for _, role := range work.Roles() {
		for name, age := range map[string]time.Duration{"": 0, "expired ": 2 * time.Hour} {
			token, text, err := work.NewToken("", role, time.Hour, time.Now().Add(-age))
			ok(t, err)
			kept[token.ID] = token
			shown[name+string(role)] = text
			if name == "" {
				roles[string(role)] = role
			}
		}
		_, unknown, err := work.NewToken("", role, 0, time.Now())
		ok(t, err)
		shown["revoked "+string(role)] = unknown
		shown["another's secret "+string(role)] = shown[string(role)][:len(shown[string(role)])-3] + "abc"
	}
	return shown, roles, func(_ context.Context, id string) (work.Token, error) {
		token, ok := kept[id]
		if !ok {
			return token, fmt.Errorf("token %s: %w", id, work.ErrNotFound)
		}
		return token, nil
	}
}

// TestAuthorisation goes through every call of the API with every kind of
// token, on a server that leads and on one that does not.
func TestAuthorisation(t *testing.T) {
	shown, roles, stored := credentials(t)
	leads := func(context.Context) (string, bool, error) { return "", true, nil }
	follows := func(context.Context) (string, bool, error) { return "", false, work.ErrNoLeader }
	for server, leader := range map[string]func(context.Context) (string, bool, error){"leader": leads, "follower": follows} {
		handler := api.NewHandler(api.Options{Service: open{}, Token: "right", StoredToken: stored, Leader: leader})
		for _, route := range api.Table() {
			for who, token := range shown {
				want := http.StatusOK // let in
				switch {
				case route.Role == "": // open to all
				case roles[who] == "":
					want = http.StatusUnauthorized
				case !roles[who].Allows(route.Role):
					want = http.StatusForbidden
				}
				if got := try(handler, route, token); got != want {
					t.Errorf("%s, %s %s, token: %s: %d, want %d", server, route.Method, route.Pattern, who, got, want)
				}
			}
		}
	}
}

// try returns 401 and 403 as they are answered, and 200 for a request that was let in.
func try(handler http.Handler, route api.Route, token string) (status int) {
	defer func() {
		if recover() != nil {
			status = http.StatusOK
		}
	}()
	r := httptest.NewRequest(route.Method, strings.NewReplacer("{", "", "}", "").Replace(route.Pattern), strings.NewReader("{}"))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code == http.StatusUnauthorized || w.Code == http.StatusForbidden {
		if w.Header().Get("Content-Type") != "application/problem+json" {
			return 0
		}
		return w.Code
	}
	return http.StatusOK
}

func TestTokensThatCannotBeCheckedOpenNothing(t *testing.T) {
	_, text, err := work.NewToken("", work.RoleOperate, 0, time.Now())
	ok(t, err)
	handler := api.NewHandler(api.Options{Service: open{}, Token: "right", StoredToken: func(context.Context, string) (work.Token, error) {
		return work.Token{}, work.ErrUnavailable
	}})
	r := httptest.NewRequest(http.MethodGet, "/v1/items", nil)
	r.Header.Set("Authorization", "Bearer "+text)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
