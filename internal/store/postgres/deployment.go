package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// FixShards implements store.Deployment.
func (s *Store) FixShards(ctx context.Context, shards int) (fixed int, err error) {
	err = s.pool.QueryRow(ctx, `INSERT INTO deployment (id, shards) VALUES (1, $1)
		ON CONFLICT (id) DO UPDATE SET shards = deployment.shards
		RETURNING shards`, shards).Scan(&fixed)
	return fixed, s.classify(err)
}

// Identify implements store.Deployment.
func (s *Store) Identify(ctx context.Context, id string, known bool) (fixed string, err error) {
	err = s.pool.QueryRow(ctx, `INSERT INTO identity (one, id) VALUES (1, $1)
		ON CONFLICT (one) DO UPDATE SET
			id = CASE WHEN $2 AND NOT EXISTS (SELECT 1 FROM shard) THEN excluded.id ELSE identity.id END
		RETURNING id`, id, known).Scan(&fixed)
	return fixed, s.classify(err)
}

// Adopt implements store.Deployment.
func (s *Store) Adopt(ctx context.Context, id string) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO identity (one, id) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET id = excluded.id`, id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE shard SET epoch = epoch + 1, commits = 0, position_gold = 0, position_silver = 0, position_bronze = 0`)
		return err
	})
	return s.classify(err)
}
