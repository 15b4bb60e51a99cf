package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/esh3artech/esh3ar/internal/store"
)

// execer is a pool or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// insertAudit adds an entry to the audit log. Its error is the driver's.
func insertAudit(ctx context.Context, db execer, e store.AuditEntry) error {
	_, err := db.Exec(ctx, `INSERT INTO audit (at, actor, address, action, client, object, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		e.At.UnixMicro(), e.Actor, e.Address, e.Action, e.Client, e.Object, e.Detail)
	return err
}

// Audit implements store.Auditor.
func (s *Store) Audit(ctx context.Context, e store.AuditEntry) error {
	return s.classify(insertAudit(ctx, s.pool, e))
}

// audited runs something and adds an entry to the audit log, in one transaction. An error of package store
// is returned as it is.
func (s *Store) audited(ctx context.Context, e store.AuditEntry, do func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := do(tx); err != nil {
			return err
		}
		return insertAudit(ctx, tx, e)
	})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return err
	}
	return s.classify(err)
}

// Audited implements store.Auditor.
func (s *Store) Audited(ctx context.Context, q store.AuditQuery) ([]store.AuditEntry, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	query := `SELECT number, at, actor, address, action, client, object, detail FROM audit WHERE true`
	args := []any{q.Limit}
	and := func(condition string, arg any) {
		args = append(args, arg)
		query += fmt.Sprintf(" AND %s $%d", condition, len(args))
	}
	if q.Client != "" {
		and("client =", q.Client)
	}
	if q.Actor != "" {
		and("actor =", q.Actor)
	}
	if q.Action != "" {
		and("action =", q.Action)
	}
	if !q.From.IsZero() {
		and("at >=", store.CeilMicros(q.From))
	}
	if !q.Until.IsZero() {
		and("at <", store.CeilMicros(q.Until))
	}
	if q.Before != 0 {
		and("number <", q.Before)
	}
	rows, err := s.pool.Query(ctx, query+` ORDER BY number DESC LIMIT $1`, args...)
	return scanAll(s, rows, err, store.AuditFields)
}
