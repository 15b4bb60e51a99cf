package postgres

import "context"

// FixShards implements store.Deployment.
func (s *Store) FixShards(ctx context.Context, shards int) (fixed int, err error) {
	err = s.pool.QueryRow(ctx, `INSERT INTO deployment (id, shards) VALUES (1, $1)
		ON CONFLICT (id) DO UPDATE SET shards = deployment.shards
		RETURNING shards`, shards).Scan(&fixed)
	return fixed, s.classify(err)
}
