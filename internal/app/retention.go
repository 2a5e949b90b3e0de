package app

import (
	"drover/internal/archive"
	"drover/internal/orchestrator"
)

// retention is how long finished items are kept, and who takes them then.
func (s *Server) retention() orchestrator.Retention {
	cfg := s.opts.Config.Retention
	r := orchestrator.Retention{KeepFor: cfg.KeepFor.Std(), Keep: cfg.Keep}
	switch {
	case len(cfg.ArchiveCmd) > 0:
		r.Archive = archive.Command(cfg.ArchiveCmd)
	case cfg.ArchiveFile != "":
		r.Archive = archive.File{Path: cfg.ArchiveFile}
	}
	return r
}
