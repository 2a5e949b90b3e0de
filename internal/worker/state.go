package worker

import (
	"context"
	"slices"
	"strings"
	"time"

	"drover/internal/work"
	"drover/internal/worker/agent"
	"drover/internal/worker/gitrepo"
)

// stateInterval is how often an agent's conversation is saved while it works.
const stateInterval = time.Minute

// stateRef is where an item's agent's conversation is kept on the remote.
func stateRef(item string) string { return gitrepo.KeptRefs(item) + "agent-state" }

// restoreState gives the agent back what it knew of the conversation that it is
// to go on with. Without it the agent begins a new one.
func (d *development) restoreState(ctx context.Context) {
	if d.conversation == nil || len(d.adapter.State()) == 0 || !d.repo.HasState() {
		return
	}
	packed, err := d.repo.LoadState(ctx)
	if err == nil {
		err = d.runOf(ctx, "", 1).UnpackState(ctx, packed)
	}
	if err != nil && ctx.Err() == nil {
		d.log.Warn("the agent's conversation could not be restored", "error", err)
	}
}

// converse takes note of what the agent calls its conversation. Some agents name
// another one than they were resumed with, and never keep it: what a run calls its
// conversation later counts once its state is seen, see settleConversation.
func (d *development) converse(id string, o *outcome) {
	if o.conversation == "" || o.conversation == id || d.spec.Agent == work.AgentPlain {
		o.conversation, o.renamed = id, ""
		d.journal.conversation(id)
		return
	}
	o.renamed = id
}

// settleConversation decides, after a run that gave its conversation another name,
// which of the two the next run goes on with: the new one, unless only the other
// one's state is there.
func (d *development) settleConversation(ctx context.Context, o outcome) {
	if o.renamed == "" {
		return
	}
	files, err := d.agentRun(d.adapter).StateFiles(context.WithoutCancel(ctx))
	if err != nil {
		d.log.Warn("which of its conversations the agent keeps is not known", "error", err)
	}
	holds := func(id string) bool {
		return slices.ContainsFunc(files, func(name string) bool { return strings.Contains(name, id) })
	}
	if holds(o.renamed) || !holds(o.conversation) {
		d.journal.conversation(o.renamed)
	}
}

// saveState keeps what the agent knows of its conversation, unless the attempt
// is not the worker's any more. An attempt is as good without.
func (w *worker) saveState(ctx context.Context) {
	adapter := agent.For(w.envelope.Spec.Agent)
	if adapter == nil || len(adapter.State()) == 0 || w.journal.progress().Conversation == nil {
		return
	}
	packed, err := w.agentRun(adapter).PackState(ctx, w.Redactor.String)
	if err == nil && packed != nil {
		w.pushing.Lock()
		defer w.pushing.Unlock()
		err = w.leased(ctx, func(ctx context.Context) error { return w.repo.SaveState(ctx, packed) })
	}
	if err != nil && ctx.Err() == nil {
		w.log.Warn("the agent's conversation is not kept", "error", err)
	}
}

// keepState saves the conversation of an attempt after which it is to be gone on with.
func (w *worker) keepState(ctx context.Context, reason work.Reason) {
	if reason.CutOff() {
		w.saveState(ctx)
	}
}

// forgetState leaves nothing of a completed item's conversations in its repository.
func (w *worker) forgetState(hold context.Context) {
	w.pushing.Lock()
	defer w.pushing.Unlock()
	if !w.repo.HasState() {
		return
	}
	if err := w.leased(hold, w.repo.RemoveState); err != nil && hold.Err() == nil {
		w.log.Warn("what was kept of the agent's conversation is not removed", "ref", stateRef(w.envelope.Item), "error", err)
	}
}
