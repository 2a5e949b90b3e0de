package gitrepo_test

import (
	"testing"
	"time"
)

// TestMarkReadsNothingButRefs has the agent put what is none in their place: a
// pipe that nobody writes to held the watch for commits up for ever.
func TestMarkReadsNothingButRefs(t *testing.T) {
	t.Parallel()
	const patience = 30 * time.Second
	d := newDesk(t)
	before := d.repo.Mark()
	d.commits("f", "one")
	if after := d.repo.Mark(); before == "" || after == before {
		t.Fatalf("a commit leaves the mark at %q", after)
	}
	head := "ref: refs/heads/" + branch + "\n"
	for name, script := range map[string]string{
		"pipe":      "rm $ref; mkfifo $ref",
		"directory": "rm $ref; mkdir $ref",
		"link":      "echo outside >../outside; ln -sf ../../../../../outside $ref",
		"nothing":   "rm -r $ref",
	} {
		d.agent("ref=.git/refs/heads/" + branch + "; rm -rf $ref; touch $ref; " + script)
		mark := make(chan string, 1)
		go func() { mark <- d.repo.Mark() }()
		select {
		case got := <-mark:
			if got != head {
				t.Errorf("%s: the mark is %q", name, got)
			}
		case <-time.After(patience):
			t.Fatalf("%s: the mark is still being read after %s", name, patience)
		}
	}
}
