package work_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"drover/internal/work"
)

func TestRolesIncludeTheLesserOnes(t *testing.T) {
	for i, have := range work.Roles() {
		for j, least := range work.Roles() {
			if got := have.Allows(least); got != (i >= j) {
				t.Errorf("%s for %s: %t", have, least, got)
			}
		}
		if have.Allows("root") || work.Role("root").Allows(have) || work.Role("").Allows(have) {
			t.Errorf("an unknown role has its place beside %s", have)
		}
	}
}

func TestTokenIsKnownByItsSecretUntilItExpires(t *testing.T) {
	token, text, err := work.NewToken("ci", work.RoleSubmit, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := work.TokenID(text); !ok || id != token.ID {
		t.Errorf("%s is the id of %s", id, text)
	}
	stored, err := json.Marshal(token)
	if _, secret, _ := strings.Cut(strings.TrimPrefix(text, "drover_"), "_"); err != nil || strings.Contains(string(stored), secret) {
		t.Fatalf("%s holds the secret", stored)
	}
	if !token.Matches(text, now) || token.Matches(text, now.Add(time.Hour)) {
		t.Error("a token is good until it expires, and no longer")
	}
	for _, wrong := range []string{"", text + "x", text[:len(text)-1], "drover_" + token.ID + "_", token.Hash} {
		if token.Matches(wrong, now) {
			t.Errorf("%q passes", wrong)
		}
	}
	if eternal, text, _ := work.NewToken("", work.RoleRead, 0, now); !eternal.Matches(text, now.AddDate(99, 0, 0)) {
		t.Error("a token without an end ended")
	}
}

func TestTokenThatCannotBeIsRefused(t *testing.T) {
	for name, f := range map[string]func() error{
		"role":     func() error { _, _, err := work.NewToken("x", "root", 0, now); return err },
		"no role":  func() error { _, _, err := work.NewToken("x", "", 0, now); return err },
		"name":     func() error { _, _, err := work.NewToken("a\nb", work.RoleRead, 0, now); return err },
		"lifetime": func() error { _, _, err := work.NewToken("x", work.RoleRead, -1, now); return err },
	} {
		if err := f(); !errors.Is(err, work.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "drover_", "drover_x_y", "secret"} {
		if id, ok := work.TokenID(text); ok {
			t.Errorf("%q has the id %q", text, id)
		}
	}
}
