package control_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"drover/internal/control"
	"drover/internal/work"
)

const aLine = `{"id":"%d","spec":{"repository":"https://example.com/r.git","task":"t"}}` + "\n"

func itself(s *control.Submission) (control.Submission, error) {
	if s.Spec.Task == "refused" {
		return *s, work.ErrConflict
	}
	return *s, nil
}

// TestSubmissionsKeepTheirOrder: they are decoded side by side.
func TestSubmissionsKeepTheirOrder(t *testing.T) {
	const count = 5000
	var stream strings.Builder
	for n := range count {
		fmt.Fprintf(&stream, aLine, n)
		if n%1000 == 0 {
			stream.WriteString(" \n")
		}
	}
	submissions, err := control.ReadSubmissions(strings.NewReader(stream.String()), itself)
	if err != nil || len(submissions) != count {
		t.Fatalf("%d submissions of %d: %v", len(submissions), count, err)
	}
	for n, s := range submissions {
		if s.ID != fmt.Sprint(n) || s.Spec.Task != "t" {
			t.Fatalf("submission %d is %+v", n, s)
		}
	}
}

func TestFaultySubmissionsAreRefused(t *testing.T) {
	good := strings.Repeat(fmt.Sprintf(aLine, 1), 2000)
	for name, test := range map[string]struct {
		stream io.Reader
		says   string
	}{
		"unknown field":  {strings.NewReader(good + `{"id":"x","spek":{}}` + "\n" + good + "{"), `line 2001: unknown field "spek"`},
		"no id":          {strings.NewReader(good + "\n" + `{"spec":{}}`), "line 2002: give each line of a stream an id"},
		"a key":          {strings.NewReader(`{"id":"x","key":"k","spec":{}}`), "line 1: give each line of a stream an id, and no key"},
		"two on a line":  {strings.NewReader(`{"id":"x","spec":{}} {"id":"y","spec":{}}`), "line 1: text follows"},
		"over two lines": {strings.NewReader(good + `{"id":"x",` + "\n" + `"spec":{}}`), "line 2001: it goes on on the next line"},
		"too long":       {strings.NewReader(good + strings.Repeat(" ", work.MaxSpecBytes+2<<10)), "line 2001 is over"},
		"broken off":     {io.MultiReader(strings.NewReader(good), iotest.ErrReader(errors.New("reset"))), "broke off after line 2000, nothing was stored: reset"},
		"too many":       {strings.NewReader(strings.Repeat("\n", control.MaxStream+1)), "more than 1000000 lines"},
		"first of a few": {strings.NewReader(good + "[]\n" + good + "{\n"), "line 2001: "},
	} {
		t.Run(name, func(t *testing.T) {
			submissions, err := control.ReadSubmissions(test.stream, itself)
			if !errors.Is(err, work.ErrInvalid) || !strings.Contains(err.Error(), test.says) || submissions != nil {
				t.Errorf("%d submissions, %v, want an error with %q", len(submissions), err, test.says)
			}
		})
	}
}

// TestWhatBecomesOfASubmissionCanBeAFault: whoever reads a stream may refuse one of it.
func TestWhatBecomesOfASubmissionCanBeAFault(t *testing.T) {
	stream := strings.Repeat(fmt.Sprintf(aLine, 1), 700) + `{"id":"x","spec":{"task":"refused"}}` + "\n"
	all, err := control.ReadSubmissions(strings.NewReader(stream), itself)
	if !errors.Is(err, work.ErrConflict) || !strings.HasPrefix(err.Error(), "line 701: ") || all != nil {
		t.Errorf("%d, %v", len(all), err)
	}
}
