package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// PutClient implements store.Clients.
func (s *Store) PutClient(ctx context.Context, c esh3ar.Client) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO client (id, name, tier, mint_tokens, created_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, tier = excluded.tier,
		mint_tokens = excluded.mint_tokens, created_at = excluded.created_at`,
		c.ID, c.Name, int16(c.Tier), c.MintTokens, c.CreatedAt.UnixMicro())
	return s.classify(err)
}

// Client implements store.Clients.
func (s *Store) Client(ctx context.Context, id string) (esh3ar.Client, error) {
	var c esh3ar.Client
	var tier int16
	var created int64
	err := s.pool.QueryRow(ctx, `SELECT id, name, tier, mint_tokens, created_at FROM client WHERE id = $1`, id).
		Scan(&c.ID, &c.Name, &tier, &c.MintTokens, &created)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, store.ErrNotFound
	}
	c.Tier, c.CreatedAt = esh3ar.Tier(tier), fromMicros(created)
	return c, s.classify(err)
}

// PutKey implements store.Clients.
func (s *Store) PutKey(ctx context.Context, k esh3ar.APIKey) error {
	var revoked *int64
	if !k.RevokedAt.IsZero() {
		at := k.RevokedAt.UnixMicro()
		revoked = &at
	}
	_, err := s.pool.Exec(ctx, `INSERT INTO api_key (hash, client, hint, created_at, revoked_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (hash) DO UPDATE SET client = excluded.client, hint = excluded.hint,
		created_at = excluded.created_at, revoked_at = excluded.revoked_at`,
		k.Hash[:], k.Client, k.Hint, k.CreatedAt.UnixMicro(), revoked)
	return s.classify(err)
}

// ClientByKey implements store.Clients.
func (s *Store) ClientByKey(ctx context.Context, hash [32]byte) (esh3ar.APIKey, esh3ar.Client, error) {
	k := esh3ar.APIKey{Hash: hash}
	var c esh3ar.Client
	var tier int16
	var keyCreated, clientCreated int64
	var revoked *int64
	err := s.pool.QueryRow(ctx, `SELECT k.hint, k.created_at, k.revoked_at, c.id, c.name, c.tier, c.mint_tokens, c.created_at
		FROM api_key k JOIN client c ON c.id = k.client WHERE k.hash = $1`, hash[:]).
		Scan(&k.Hint, &keyCreated, &revoked, &c.ID, &c.Name, &tier, &c.MintTokens, &clientCreated)
	if errors.Is(err, pgx.ErrNoRows) {
		return k, c, store.ErrNotFound
	}
	k.Client, k.CreatedAt = c.ID, fromMicros(keyCreated)
	c.Tier, c.CreatedAt = esh3ar.Tier(tier), fromMicros(clientCreated)
	if revoked != nil {
		k.RevokedAt = fromMicros(*revoked)
	}
	return k, c, s.classify(err)
}
