package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// clientStatements are the writer's.
type clientStatements struct {
	insert, update, remove, find, working *stmt
	key, touch                            *stmt
}

func (s *clientStatements) prepare(c *conn) (err error) {
	for _, p := range []struct {
		stmt  **stmt
		query string
	}{
		{&s.insert, `INSERT INTO client (id, name, tier, rate, burst, daily_quota, recipients, scopes, suspended, created_at, revision)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT (id) DO NOTHING`},
		{&s.update, `UPDATE client SET name = ?2, tier = ?3, rate = ?4, burst = ?5, daily_quota = ?6, recipients = ?7, scopes = ?8,
			suspended = ?9, created_at = ?10, revision = revision + 1
			WHERE id = ?1 AND revision = ?11 AND deleted_at IS NULL`},
		{&s.remove, `UPDATE client SET deleted_at = ?2, revision = revision + 1, name = '', recipients = '' WHERE id = ?1`},
		{&s.find, `SELECT revision FROM client WHERE id = ? AND deleted_at IS NULL`},
		{&s.working, `SELECT count(*) FROM api_key WHERE client = ?1 AND revoked_at IS NULL AND coalesce(expires_at > ?2, true)`},
		// NULL is no end, and the scalar min of anything and NULL is NULL.
		{&s.key, `INSERT INTO api_key (hash, id, client, name, hint, scopes, created_at, expires_at, revoked_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (hash) DO UPDATE SET
			expires_at = coalesce(min(expires_at, excluded.expires_at), expires_at, excluded.expires_at),
			revoked_at = coalesce(revoked_at, excluded.revoked_at)
			WHERE client = excluded.client`},
		{&s.touch, `UPDATE api_key SET last_used_at = ?2 WHERE hash = ?1 AND coalesce(last_used_at < ?2, true)`},
	} {
		if *p.stmt, err = c.prepare(p.query); err != nil {
			return err
		}
	}
	return nil
}

// PutClient implements store.Clients.
func (s *Store) PutClient(ctx context.Context, c esh3ar.Client, e store.AuditEntry) (int64, error) {
	err := s.writer.do(ctx, 2, func(w *writer) error {
		args := []driver.Value{
			c.ID, c.Name, int64(c.Tier), int64(c.Rate), int64(c.Burst), c.DailyQuota, c.Recipients, int64(c.Scopes),
			c.Suspended, c.CreatedAt.UnixMicro(),
		}
		put := w.stmts.clients.insert
		if c.Revision != 0 {
			put, args = w.stmts.clients.update, append(args, c.Revision)
		}
		switch n, err := put.exec(args...); {
		case err != nil:
			return classify(err)
		case n == 0 && c.Revision == 0:
			return store.ErrConflict
		case n == 0:
			if err := w.stmts.clients.mustExist(c.ID); err != nil {
				return err
			}
			return store.ErrConflict
		}
		return w.audit(e)
	})
	return c.Revision + 1, err
}

// mustExist returns store.ErrNotFound unless there is such a client.
func (s *clientStatements) mustExist(id string) error {
	row, err := s.find.row(id)
	if err == nil && row == nil {
		return store.ErrNotFound
	}
	return classify(err)
}

// DeleteClient implements store.Clients.
func (s *Store) DeleteClient(ctx context.Context, id string, e store.AuditEntry) error {
	return s.writer.do(ctx, 2, func(w *writer) error {
		if err := w.stmts.clients.mustExist(id); err != nil {
			return err
		}
		working, err := w.stmts.clients.working.row(id, e.At.UnixMicro())
		if err != nil {
			return classify(err)
		}
		if working[0].(int64) > 0 {
			return store.ErrConflict
		}
		if _, err := w.stmts.clients.remove.exec(id, e.At.UnixMicro()); err != nil {
			return classify(err)
		}
		if err := w.deleteWebhooks(id); err != nil {
			return err
		}
		return w.audit(e)
	})
}

// PutKeys implements store.Clients.
func (s *Store) PutKeys(ctx context.Context, keys []esh3ar.APIKey, e store.AuditEntry) error {
	return s.writer.do(ctx, 1+len(keys), func(w *writer) error {
		for i := range keys {
			k := &keys[i]
			if err := w.stmts.clients.mustExist(k.Client); err != nil {
				return err
			}
			n, err := w.stmts.clients.key.exec(k.Hash[:], k.ID, k.Client, k.Name, k.Hint, int64(k.Scopes),
				k.CreatedAt.UnixMicro(), micros(k.ExpiresAt), micros(k.RevokedAt))
			if err != nil {
				if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code() == lib.SQLITE_CONSTRAINT_UNIQUE {
					return store.ErrConflict
				}
				return classify(err)
			}
			if n == 0 { // another client's
				return store.ErrConflict
			}
		}
		return w.audit(e)
	})
}

// TouchKeys implements store.Clients.
func (s *Store) TouchKeys(ctx context.Context, used map[[32]byte]time.Time) error {
	return s.writer.do(ctx, len(used), func(w *writer) error {
		for hash, at := range used {
			if _, err := w.stmts.clients.touch.exec(hash[:], at.UnixMicro()); err != nil {
				return classify(err)
			}
		}
		return nil
	})
}

// Client implements store.Clients.
func (s *Store) Client(ctx context.Context, id string) (esh3ar.Client, error) {
	var c esh3ar.Client
	err := scanInto(s.read.client.QueryRowContext(ctx, id), store.ClientFields(&c))
	return c, err
}

// ListClients implements store.Clients.
func (s *Store) ListClients(ctx context.Context, after string, limit int) ([]esh3ar.Client, error) {
	return scanner[esh3ar.Client](store.ClientFields).all(s.read.clients.QueryContext(ctx, after, limit))
}

// Keys implements store.Clients.
func (s *Store) Keys(ctx context.Context, client string, limit int) ([]esh3ar.APIKey, error) {
	return scanner[esh3ar.APIKey](store.KeyFields).all(s.read.keys.QueryContext(ctx, client, limit))
}

// ClientByKey implements store.Clients.
func (s *Store) ClientByKey(ctx context.Context, hash [32]byte) (esh3ar.APIKey, esh3ar.Client, error) {
	var k esh3ar.APIKey
	var c esh3ar.Client
	err := scanInto(s.read.apiKey.QueryRowContext(ctx, hash[:]), append(store.KeyFields(&k), store.ClientFields(&c)...))
	return k, c, err
}

// scanInto reads one row, or returns store.ErrNotFound.
func scanInto(row *sql.Row, fields []any) error {
	err := row.Scan(fields...)
	if errors.Is(err, sql.ErrNoRows) {
		return store.ErrNotFound
	}
	return classify(err)
}

// scanner says what the columns of a row are scanned into.
type scanner[T any] func(*T) []any

// all reads all rows of a query.
func (fields scanner[T]) all(rows *sql.Rows, err error) ([]T, error) {
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		var one T
		if err := rows.Scan(fields(&one)...); err != nil {
			return nil, classify(err)
		}
		list = append(list, one)
	}
	return list, classify(rows.Err())
}
