package sqlite

import (
	"context"

	"github.com/esh3artech/esh3ar/internal/store"
)

// Audit implements store.Auditor.
func (s *Store) Audit(ctx context.Context, e store.AuditEntry) error {
	return s.writer.do(ctx, 1, func(w *writer) error { return w.audit(e) })
}

// audit writes an entry of the audit log in the transaction under way.
func (w *writer) audit(e store.AuditEntry) error {
	_, err := w.stmts.audit.exec(e.At.UnixMicro(), e.Actor, e.Address, e.Action, e.Client, e.Object, e.Detail)
	return classify(err)
}

// Audited implements store.Auditor.
func (s *Store) Audited(ctx context.Context, q store.AuditQuery) ([]store.AuditEntry, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	query := `SELECT number, at, actor, address, action, client, object, detail FROM audit WHERE true`
	var args []any
	and := func(condition string, arg any) {
		query += " AND " + condition
		args = append(args, arg)
	}
	if q.Client != "" {
		and("client = ?", q.Client)
	}
	if q.Actor != "" {
		and("actor = ?", q.Actor)
	}
	if q.Action != "" {
		and("action = ?", q.Action)
	}
	if !q.From.IsZero() {
		and("at >= ?", store.CeilMicros(q.From))
	}
	if !q.Until.IsZero() {
		and("at < ?", store.CeilMicros(q.Until))
	}
	if q.Before != 0 {
		and("number < ?", q.Before)
	}
	args = append(args, q.Limit)
	return scanner[store.AuditEntry](store.AuditFields).all(s.reads.QueryContext(ctx, query+` ORDER BY number DESC LIMIT ?`, args...))
}
