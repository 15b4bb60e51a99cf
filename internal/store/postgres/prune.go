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

// Prune implements store.Pruner. Final messages and keys go by whole days: one partition of each a call,
// detached without blocking readers and writers, then dropped. Pruned has the server's estimate of its
// rows. The keys of a day that has begun before the cutoff and ends behind it are not found any more, as far
// as they are before. Of several nodes that prune at the same time one works and the others report nothing.
func (s *Store) Prune(ctx context.Context, older store.Cutoffs) (p store.Pruned, err error) {
	if !older.Keys.IsZero() {
		s.forgetKeys(older.Keys.UnixMicro())
	}
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

	for _, t := range []struct {
		table   partitioned
		before  time.Time
		dropped *int64
	}{{messages, older.Final, &p.Messages}, {keys, older.Keys, &p.Keys}} {
		if t.before.IsZero() {
			continue
		}
		more := false
		if *t.dropped, more, err = s.pruneDay(ctx, conn, t.table, t.before); err != nil {
			return p, err
		}
		p.More = p.More || more
	}
	for _, t := range []struct {
		before  time.Time
		query   string
		deleted *int64
	}{
		{older.Events, `DELETE FROM event WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM event WHERE at < $1 ORDER BY at, number LIMIT $2))`, &p.Events},
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

// forgetKeys moves the time before which keys are forgotten. It never moves back: a partition may be gone.
func (s *Store) forgetKeys(before int64) {
	for {
		old := s.keysForgotten.Load()
		if before <= old || s.keysForgotten.CompareAndSwap(old, before) {
			return
		}
	}
}

// pruneDay drops the oldest partition if all of its day is before the cutoff. It returns how many rows that
// had, about, and whether there may be another one to drop.
func (s *Store) pruneDay(ctx context.Context, conn *pgxpool.Conn, of partitioned, before time.Time) (dropped int64, more bool, err error) {
	// Names sort by day. A table that is not attached was detached by a Prune that went no further.
	rows, err := conn.Query(ctx, `SELECT c.relname, c.reltuples::bigint, i.inhrelid IS NOT NULL, coalesce(i.inhdetachpending, false)
		FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = to_regclass($1)
		WHERE c.relkind = 'r' AND c.relname ~ ('^' || $1 || '_[0-9]{8}$')
		AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass($1))
		ORDER BY c.relname LIMIT 2`, string(of))
	if err != nil {
		return 0, false, s.classify(err)
	}
	type partition struct {
		Table             string
		Rows              int64
		Attached, Pending bool // pending: an earlier detaching was interrupted
	}
	partitions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[partition])
	if err != nil {
		return 0, false, s.classify(err)
	}
	for i, part := range partitions {
		d, err := of.parse(part.Table)
		if err != nil {
			return dropped, false, err
		}
		if _, to := d.bounds(); to > before.UnixMicro() {
			return dropped, false, nil
		}
		if i == 1 {
			return dropped, true, nil
		}
		table := pgx.Identifier{part.Table}.Sanitize()
		if part.Attached {
			how := "CONCURRENTLY"
			if part.Pending {
				how = "FINALIZE"
			}
			if _, err := conn.Exec(ctx, fmt.Sprintf(`ALTER TABLE %s DETACH PARTITION %s %s`, of, table, how)); err != nil {
				return 0, false, s.classify(err)
			}
		}
		s.days.forget()
		if _, err := conn.Exec(ctx, `DROP TABLE `+table); err != nil {
			return 0, false, s.classify(err)
		}
		dropped = max(part.Rows, 0) // -1 when nobody has counted yet
	}
	return dropped, false, nil
}
