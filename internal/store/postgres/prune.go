package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/esh3artech/esh3ar/internal/store"
)

// pruneRows bounds what one call of Prune deletes from each table that is not partitioned.
const pruneRows = 5000

// Prune implements store.Pruner. Final messages go by whole days: one partition a call, detached
// without blocking readers and writers, then dropped. Pruned.Messages is the server's estimate of its
// rows. Of several nodes that prune at the same time one works and the others report nothing.
func (s *Store) Prune(ctx context.Context, older store.Cutoffs) (p store.Pruned, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return p, s.classify(err)
	}
	defer conn.Release()
	var mine bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtext('esh3ar.prune'))`).Scan(&mine); err != nil || !mine {
		return p, s.classify(err)
	}
	defer func() {
		// When ctx has ended the connection is closed, and the lock with it.
		_, unlockErr := conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(hashtext('esh3ar.prune'))`)
		if err == nil {
			err = s.classify(unlockErr)
		}
	}()

	if !older.Final.IsZero() {
		if err := s.pruneDay(ctx, conn, older.Final, &p); err != nil {
			return p, err
		}
	}
	for _, t := range []struct {
		before  time.Time
		query   string
		deleted *int64
	}{
		{older.Events, `DELETE FROM event WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM event WHERE at < $1 ORDER BY at, number LIMIT $2))`, &p.Events},
		{older.Keys, `DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM idempotency WHERE accepted_at < $1 ORDER BY accepted_at LIMIT $2))`, &p.Keys},
		{older.Rejects, `DELETE FROM reject WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM reject WHERE at < $1 ORDER BY at LIMIT $2))`, &p.Rejects},
		// In the order of time, near enough: only the oldest ones are looked at.
		{older.Audit, `DELETE FROM audit WHERE at < $1 AND number = ANY (ARRAY(
			SELECT number FROM audit ORDER BY number LIMIT $2))`, &p.Audit},
		{older.Usage, `DELETE FROM usage WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM usage WHERE day < $1 / 86400000000 LIMIT $2))`, &p.Usage},
	} {
		if t.before.IsZero() {
			continue
		}
		tag, err := conn.Exec(ctx, t.query, t.before.UnixMicro(), pruneRows)
		if err != nil {
			return p, s.classify(err)
		}
		*t.deleted = tag.RowsAffected()
		p.More = p.More || *t.deleted == pruneRows
	}
	return p, nil
}

// pruneDay drops the oldest partition if all of its day is before the cutoff.
func (s *Store) pruneDay(ctx context.Context, conn *pgxpool.Conn, before time.Time, p *store.Pruned) error {
	// Names sort by day. A table that is not attached was detached by a Prune that went no further.
	rows, err := conn.Query(ctx, `SELECT c.relname, c.reltuples::bigint, i.inhrelid IS NOT NULL, coalesce(i.inhdetachpending, false)
		FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'message'::regclass
		WHERE c.relkind = 'r' AND c.relname ~ '^message_[0-9]{8}$'
		AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'message'::regclass)
		ORDER BY c.relname LIMIT 2`)
	if err != nil {
		return s.classify(err)
	}
	type partition struct {
		Table             string
		Rows              int64
		Attached, Pending bool // pending: an earlier detaching was interrupted
	}
	partitions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[partition])
	if err != nil {
		return s.classify(err)
	}
	for i, part := range partitions {
		d, err := parsePartition(part.Table)
		if err != nil {
			return err
		}
		if _, to := d.bounds(); to > before.UnixMicro() {
			return nil
		}
		if i == 1 {
			p.More = true
			return nil
		}
		table := pgx.Identifier{part.Table}.Sanitize()
		if part.Attached {
			how := "CONCURRENTLY"
			if part.Pending {
				how = "FINALIZE"
			}
			if _, err := conn.Exec(ctx, fmt.Sprintf(`ALTER TABLE message DETACH PARTITION %s %s`, table, how)); err != nil {
				return s.classify(err)
			}
		}
		s.days.forget()
		if _, err := conn.Exec(ctx, `DROP TABLE `+table); err != nil {
			return s.classify(err)
		}
		p.Messages = max(part.Rows, 0) // -1 when nobody has counted yet
	}
	return nil
}
