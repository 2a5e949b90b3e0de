package app_test

import (
	"strings"
	"testing"

	"drover/internal/testkit"
	"drover/internal/work"
)

// burglar tries everything that an agent is not to be able to do, and says what it got away with.
const burglar = `
user() { sed -n 's/^Uid:.\([0-9]*\).*/\1/p' "$1/status" 2>/dev/null; }
got() { echo "burgled: $*"; burgled=yes; }
[ "$(id -u)" = 1001 ] || got "I am user $(id -u)"
[ "$(id -G)" = 1001 ] || got "I am in the groups $(id -G)"
grep -q '^CapEff:.0*$' /proc/self/status || got "capabilities: $(grep Cap /proc/self/status)"
grep -q '^CapPrm:.0*$' /proc/self/status || got "capabilities: $(grep Cap /proc/self/status)"
grep -q '^NoNewPrivs:.1$' /proc/self/status || got "privileges may be gained"
env | grep -E 'CONSUL|NOMAD|DROVER_GIT|TOKEN' && got "the environment"
[ -z "$OTHERS_ACCOUNT" ] || got "a variable of the operator's that is not for agents"
[ "$MODEL_REGION $DEMO_IMAGE" = "here yes" ] || got "no variable that is allowed, or the image's own: $(env)"

for f in /secrets/drover.env /proc/1/environ /proc/$PPID/environ /proc/1/mem /local/work/git/askpass /local/work/git/repository.git/HEAD; do
	cat "$f" >/dev/null 2>&1 && got "read $f"
done
for d in /secrets /alloc /local/work/git /home/drover /root; do
	ls "$d" >/dev/null 2>&1 && got "list $d"
done
for p in /proc/[0-9]*; do
	tr '\0' '\n' 2>/dev/null <"$p/environ" | grep -q GIT_TOKEN && got "secrets of $p"
	[ "$(user "$p")" = 1001 ] || ! ls "$p/fd" >/dev/null 2>&1 || got "files of $p"
	[ "$(user "$p")" = 1001 ] || [ ! -e "$p" ] || [ "$(cat /proc/self/oom_score_adj)" -gt "$(cat "$p/oom_score_adj")" ] || got "to outlive $p where memory is short"
	[ "$(user "$p")" != 1000 ] || ! kill -TERM "${p#/proc/}" 2>/dev/null || got "signal the worker"
done
for f in /local/item.json /local/task.txt /local/x /local/work/x /local/work/task.txt /local/work/git/x /alloc/x /alloc/logs/x \
	/secrets/x /usr/local/bin/drover-worker /etc/passwd; do
	(: >"$f") 2>/dev/null && got "write $f"
done
mv /local/work /local/mine 2>/dev/null && got "move the worker's directory"
mv /local/agent /local/mine 2>/dev/null && got "move the agent's directory"
kill -TERM 1 2>/dev/null && got "signal the first process"
command -v unshare >/dev/null && unshare --user --map-root-user true 2>/dev/null && got "a user namespace"

daemon='while :; do sleep 0.1; date >>/tmp/daemon-was-here; done'
setsid sh -c "(setsid sh -c '$daemon' daemon-of-the-agent </dev/null >/dev/null 2>&1 &) &"
until [ -e /tmp/daemon-was-here ]; do sleep 0.05; echo waiting for the daemon; done
[ -z "$burgled" ] || exit 1
echo nothing to burgle
`

// TestAgentIsIsolatedInItsContainer runs an agent that tries to break out, and a
// test that looks for what it left running.
func TestAgentIsIsolatedInItsContainer(t *testing.T) {
	image, engine := workerImage(t)
	s := newStage(t, embeddedNomad(t), image, engine)
	s.burgle()
}

// TestAgentIsIsolatedOnNomad does so on a real Nomad, with its directories and its driver.
func TestAgentIsIsolatedOnNomad(t *testing.T) {
	image, engine := workerImage(t)
	s := newStage(t, testkit.Nomad(t).Address(), image, engine)
	s.burgle()
}

func (s *stage) burgle() {
	s.t.Helper()
	s.giveWorkers(map[string]string{"MODEL_REGION": "here", "OTHERS_ACCOUNT": "not-for-agents"})
	s.play([]ending{{
		name: "isolated", first: burglar, reason: work.ReasonCompleted, says: "tests passed", attempt: work.AttemptCompleted,
		spec: work.Spec{Test: work.Test{Command: strings.TrimSpace(`
			[ "$(id -u)" = 1001 ] || exit 2
			[ "$MODEL_REGION$OTHERS_ACCOUNT$DEMO_IMAGE" = yes ] || exit 5
			for p in /proc/[0-9]*; do
				tr '\0' ' ' <$p/cmdline 2>/dev/null | grep daemon-of-the-agent | grep -v grep && exit 3
				grep -q '^State:.Z' $p/status 2>/dev/null && exit 4
			done
			exit 0`)}},
		item: work.StateCompleted, attempts: 1, pushed: []string{firstCommit, "Step 1 of 1"}, logs: "nothing to burgle",
	}})
}
