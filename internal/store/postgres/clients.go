package postgres

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// PutClient implements store.Clients.
func (s *Store) PutClient(ctx context.Context, c esh3ar.Client, e store.AuditEntry) (int64, error) {
	err := s.audited(ctx, e, func(tx pgx.Tx) error {
		args := []any{
			c.ID, c.Name, int16(c.Tier), c.Rate, c.Burst, c.DailyQuota, c.Recipients, int64(c.Scopes), c.Suspended, c.CreatedAt.UnixMicro(),
		}
		query := `INSERT INTO client (id, name, tier, rate, burst, daily_quota, recipients, scopes, suspended, created_at, revision)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1) ON CONFLICT (id) DO NOTHING`
		if c.Revision != 0 {
			query = `UPDATE client SET name = $2, tier = $3, rate = $4, burst = $5, daily_quota = $6, recipients = $7, scopes = $8,
				suspended = $9, created_at = $10, revision = revision + 1
				WHERE id = $1 AND revision = $11 AND deleted_at IS NULL`
			args = append(args, c.Revision)
		}
		tag, err := tx.Exec(ctx, query, args...)
		switch {
		case err != nil:
			return err
		case tag.RowsAffected() == 1:
			return nil
		case c.Revision == 0:
			return store.ErrConflict
		}
		if err := holdClient(ctx, tx, c.ID); err != nil {
			return err
		}
		return store.ErrConflict
	})
	return c.Revision + 1, err
}

// holdClient keeps a client as it is until the transaction ends, or returns store.ErrNotFound.
func holdClient(ctx context.Context, tx pgx.Tx, id string) error {
	err := tx.QueryRow(ctx, `SELECT id FROM client WHERE id = $1 AND deleted_at IS NULL FOR UPDATE`, id).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return store.ErrNotFound
	}
	return err
}

// DeleteClient implements store.Clients.
func (s *Store) DeleteClient(ctx context.Context, id string, e store.AuditEntry) error {
	return s.audited(ctx, e, func(tx pgx.Tx) error {
		if err := holdClient(ctx, tx, id); err != nil {
			return err
		}
		var working bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM api_key
			WHERE client = $1 AND revoked_at IS NULL AND coalesce(expires_at > $2, true))`, id, e.At.UnixMicro()).Scan(&working); err != nil {
			return err
		}
		if working {
			return store.ErrConflict
		}
		b := new(pgx.Batch)
		b.Queue(`UPDATE client SET deleted_at = $2, revision = revision + 1, name = '', recipients = '' WHERE id = $1`, id, e.At.UnixMicro())
		queueDeleteWebhooks(b, id)
		return tx.SendBatch(ctx, b).Close()
	})
}

// PutKeys implements store.Clients.
func (s *Store) PutKeys(ctx context.Context, keys []esh3ar.APIKey, e store.AuditEntry) error {
	return s.audited(ctx, e, func(tx pgx.Tx) error {
		for i := range keys {
			k := &keys[i]
			// Held, so that the client is not deleted meanwhile.
			if err := holdClient(ctx, tx, k.Client); err != nil {
				return err
			}
			// least takes no notice of NULL, which is no end.
			tag, err := tx.Exec(ctx, `INSERT INTO api_key (hash, id, client, name, hint, scopes, created_at, expires_at, revoked_at)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
				ON CONFLICT (hash) DO UPDATE SET
				expires_at = least(api_key.expires_at, excluded.expires_at),
				revoked_at = coalesce(api_key.revoked_at, excluded.revoked_at)
				WHERE api_key.client = excluded.client`,
				k.Hash[:], k.ID, k.Client, k.Name, k.Hint, int64(k.Scopes), k.CreatedAt.UnixMicro(), micros(k.ExpiresAt), micros(k.RevokedAt))
			if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.ConstraintName == "api_key_id" {
				return store.ErrConflict
			}
			if err != nil {
				return err
			}
			if tag.RowsAffected() == 0 { // another client's
				return store.ErrConflict
			}
		}
		return nil
	})
}

// TouchKeys implements store.Clients.
func (s *Store) TouchKeys(ctx context.Context, used map[[32]byte]time.Time) error {
	// Always in one order, so that nodes that touch the same keys do not wait for each other in a circle.
	hashes := make([][]byte, 0, len(used))
	for hash := range used {
		hashes = append(hashes, hash[:])
	}
	slices.SortFunc(hashes, slices.Compare)
	times := make([]int64, len(hashes))
	for i, hash := range hashes {
		times[i] = used[[32]byte(hash)].UnixMicro()
	}
	_, err := s.pool.Exec(ctx, `WITH held AS (
			SELECT k.hash, u.at FROM unnest($1::bytea[], $2::bigint[]) AS u (hash, at)
			JOIN api_key k ON k.hash = u.hash ORDER BY k.hash FOR NO KEY UPDATE OF k)
		UPDATE api_key k SET last_used_at = held.at FROM held
		WHERE k.hash = held.hash AND coalesce(k.last_used_at < held.at, true)`, hashes, times)
	return s.classify(err)
}

// Client implements store.Clients.
func (s *Store) Client(ctx context.Context, id string) (esh3ar.Client, error) {
	var c esh3ar.Client
	row := s.pool.QueryRow(ctx, `SELECT `+store.ClientColumns+` FROM client c WHERE id = $1 AND deleted_at IS NULL`, id)
	return c, s.scanInto(row, store.ClientFields(&c))
}

// ListClients implements store.Clients.
func (s *Store) ListClients(ctx context.Context, after string, limit int) ([]esh3ar.Client, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+store.ClientColumns+` FROM client c
		WHERE id COLLATE "C" > $1 AND deleted_at IS NULL ORDER BY id COLLATE "C" LIMIT $2`, after, limit)
	return scanAll(s, rows, err, store.ClientFields)
}

// Keys implements store.Clients.
func (s *Store) Keys(ctx context.Context, client string, limit int) ([]esh3ar.APIKey, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+store.KeyColumns+` FROM api_key k
		WHERE client = $1 ORDER BY created_at DESC, id COLLATE "C" DESC LIMIT $2`, client, limit)
	return scanAll(s, rows, err, store.KeyFields)
}

// ClientByKey implements store.Clients.
func (s *Store) ClientByKey(ctx context.Context, hash [32]byte) (esh3ar.APIKey, esh3ar.Client, error) {
	var k esh3ar.APIKey
	var c esh3ar.Client
	row := s.pool.QueryRow(ctx, `SELECT `+store.KeyColumns+`, `+store.ClientColumns+`
		FROM api_key k JOIN client c ON c.id = k.client AND c.deleted_at IS NULL WHERE k.hash = $1`, hash[:])
	return k, c, s.scanInto(row, append(store.KeyFields(&k), store.ClientFields(&c)...))
}

// scanInto reads one row, or returns store.ErrNotFound.
func (s *Store) scanInto(row pgx.Row, fields []any) error {
	err := row.Scan(fields...)
	if errors.Is(err, pgx.ErrNoRows) {
		return store.ErrNotFound
	}
	return s.classify(err)
}

// scanAll reads all rows of a query, each into what fields says.
func scanAll[T any](s *Store, rows pgx.Rows, err error, fields func(*T) []any) ([]T, error) {
	if err != nil {
		return nil, s.classify(err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (one T, err error) {
		err = row.Scan(fields(&one)...)
		return one, err
	})
	if err != nil {
		return nil, s.classify(err)
	}
	return list, nil
}

// micros is how times are stored: NULL for the zero time.
func micros(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	at := t.UnixMicro()
	return &at
}
