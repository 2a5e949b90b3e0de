package worker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"drover/internal/work"
	"drover/internal/worker/gitrepo"
)

// removeRefs removes what drover keeps of other items in the repository, and does
// nothing else. It takes no paths: nobody works on those references.
func (w *worker) removeRefs(ctx, hold context.Context) (work.Result, error) {
	items := w.envelope.Resume.Cleanup
	w.journal.phase(work.PhaseCleanup)
	var removed int
	err := w.leased(ctx, func(ctx context.Context) (err error) {
		removed, err = gitrepo.RemoveRefs(ctx, w.gitOptions(), items)
		return err
	})
	if lost := context.Cause(hold); lost != nil {
		return work.Result{}, lost
	}
	if stopped := context.Cause(ctx); err != nil && errors.Is(stopped, ErrStopped) {
		return work.Result{}, stopped
	}
	end := ending{reason: work.ReasonCompleted, detail: fmt.Sprintf("removed %d references of %d items", removed, len(items))}
	switch {
	case errors.Is(err, gitrepo.ErrAuth):
		end = ending{reason: work.ReasonGitAuthFailed, detail: err.Error()}
	case err != nil:
		end = ending{reason: work.ReasonStartFailed, detail: "references of ended items were not removed: " + err.Error()}
	}
	return w.result(end), nil
}

// gitOptions are what every use of the repository needs.
func (w *worker) gitOptions() gitrepo.Options {
	return gitrepo.Options{
		URL: w.envelope.Spec.Repository, Dir: filepath.Join(w.Dir, "git"),
		Username: w.env["DROVER_GIT_USERNAME"], Token: w.env["DROVER_GIT_TOKEN"],
		Agent: w.Agent, Environ: w.Environ, Redact: w.Redactor.String, Alive: w.heart.touch,
	}
}
