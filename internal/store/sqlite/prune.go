package sqlite

import (
	"context"
	"time"

	"github.com/esh3artech/esh3ar/internal/store"
)

// pruneRows bounds what one call of Prune looks at in each table, so that its transaction holds the
// writer for milliseconds.
const pruneRows = 1000

// Prune implements store.Pruner.
func (s *Store) Prune(ctx context.Context, older store.Cutoffs) (store.Pruned, error) {
	var p store.Pruned
	// Only what is indexed can be removed from the index. What is not yet is rarely old.
	if !older.Final.IsZero() && s.recipients.isBehind(older.Final) {
		if err := s.recipients.merge(ctx); err != nil {
			return p, err
		}
	}
	err := s.writer.do(ctx, pruneRows, func(w *writer) error {
		if !older.Final.IsZero() {
			if _, err := w.stmts.pruneIndex.exec(older.Final.UnixMicro(), int64(pruneRows)); err != nil {
				return classify(err)
			}
		}
		for _, t := range []struct {
			before  time.Time
			stmt    *stmt
			deleted *int64
		}{
			{older.Final, w.stmts.pruneMessages, &p.Messages},
			{older.Events, w.stmts.pruneEvents, &p.Events},
			{older.Keys, w.stmts.pruneKeys, &p.Keys},
			{older.Rejects, w.stmts.pruneRejects, &p.Rejects},
			{older.Audit, w.stmts.pruneAudit, &p.Audit},
			{older.Usage, w.stmts.pruneUsage, &p.Usage},
		} {
			if t.before.IsZero() {
				continue
			}
			var err error
			if *t.deleted, err = t.stmt.exec(t.before.UnixMicro(), int64(pruneRows)); err != nil {
				return classify(err)
			}
			// A few young rows may lie among the oldest ones for long, so that not all can be old.
			p.More = p.More || *t.deleted >= pruneRows/2
		}
		return nil
	})
	return p, err
}
