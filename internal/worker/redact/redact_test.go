package redact_test

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"drover/internal/worker/redact"
)

func TestSecretIsReplacedHoweverItIsWritten(t *testing.T) {
	const secret = "p@ss/w0rd&more"
	r := redact.FromEnviron([]string{"DROVER_GIT_USERNAME=bot", "DROVER_GIT_TOKEN=" + secret, "PLAIN=visible-value", "X_KEY=true"})
	for _, form := range []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)),
		base64.StdEncoding.EncodeToString([]byte("bot:" + secret)),
	} {
		if got := r.String("a " + form + " b"); got != "a [redacted] b" {
			t.Errorf("%q became %q", form, got)
		}
	}
	for _, text := range []string{"visible-value", "it is true", ""} {
		if got := r.String(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestPasswordOfAProxyIsReplaced(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "http_proxy"} {
		r := redact.FromEnviron([]string{name + "=http://me:pass%20word@proxy:3128"})
		for _, form := range []string{"pass word", "pass%20word"} {
			if got := r.String("http://me:" + form + "@proxy:3128"); got != "http://me:[redacted]@proxy:3128" {
				t.Errorf("%s: %q became %q", name, form, got)
			}
		}
	}
}

func TestNamesTellSecrets(t *testing.T) {
	for name, secret := range map[string]bool{
		"CONSUL_HTTP_TOKEN": true, "AGENT_API_KEY": true, "A_SECRET": true, "db_password": true, "TOKEN": true,
		"PATH": false, "MONKEY": false, "TOKENS": false, "KEY_FILE": false,
	} {
		got := redact.FromEnviron([]string{name + "=some-long-value"}).String("some-long-value") == redact.Mask
		if got != secret {
			t.Errorf("%s is taken for a secret: %v", name, got)
		}
	}
}

func TestEachLineOfAKeyIsReplaced(t *testing.T) {
	r := redact.New("-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----\n")
	if got := r.String("x abcdefgh y ijklmnop"); strings.ContainsAny(got, "abcdfghijklmnop") && got != "x [redacted] y [redacted]" {
		t.Errorf("%q", got)
	}
}

func TestWriterCutsNoSecretInTwo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secrets := []string{"secret-one", "secret-one-longer", "aaaaaab"}
		part := rapid.SampledFrom(append(secrets, "sec", "aaa", "x", "\n", "ret-"))
		text := strings.Join(rapid.SliceOfN(part, 0, 12).Draw(t, "parts"), "")
		r := redact.New(secrets...)
		var out bytes.Buffer
		w := r.Writer(&out)
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "write")
			if _, err := w.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			if strings.Contains(out.String(), secret) {
				t.Fatalf("%q is in %q", secret, out.String())
			}
		}
		if !strings.Contains(text, "secret-one") && !strings.Contains(text, "aaaaaab") && out.String() != text {
			t.Fatalf("%q became %q", text, out.String())
		}
	})
}

func TestWriterHoldsBackNoMoreThanItMust(t *testing.T) {
	var out bytes.Buffer
	w := redact.New("secret-one").Writer(&out)
	for _, text := range []string{"line\n", "then sec", "ond\n"} {
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if text == "then sec" && out.String() != "line\nthen " {
			t.Errorf("passed on %q", out.String())
		}
	}
	if out.String() != "line\nthen second\n" {
		t.Errorf("passed on %q", out.String())
	}
}
