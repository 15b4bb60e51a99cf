package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// PutClient implements store.Clients.
func (s *Store) PutClient(ctx context.Context, c esh3ar.Client) error {
	return s.writer.do(ctx, 1, func(w *writer) error {
		_, err := w.stmts.client.exec(c.ID, c.Name, int64(c.Tier), c.MintTokens, c.CreatedAt.UnixMicro())
		return classify(err)
	})
}

// Client implements store.Clients.
func (s *Store) Client(ctx context.Context, id string) (esh3ar.Client, error) {
	var c esh3ar.Client
	var created int64
	err := s.read.client.QueryRowContext(ctx, id).Scan(&c.ID, &c.Name, &c.Tier, &c.MintTokens, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return c, store.ErrNotFound
	}
	c.CreatedAt = time.UnixMicro(created).UTC()
	return c, classify(err)
}

// PutKey implements store.Clients.
func (s *Store) PutKey(ctx context.Context, k esh3ar.APIKey) error {
	return s.writer.do(ctx, 1, func(w *writer) error {
		_, err := w.stmts.apiKey.exec(k.Hash[:], k.Client, k.Hint, k.CreatedAt.UnixMicro(), micros(k.RevokedAt))
		return classify(err)
	})
}

// ClientByKey implements store.Clients.
func (s *Store) ClientByKey(ctx context.Context, hash [32]byte) (esh3ar.APIKey, esh3ar.Client, error) {
	k := esh3ar.APIKey{Hash: hash}
	var c esh3ar.Client
	var keyCreated, clientCreated int64
	var revoked sql.NullInt64
	err := s.read.apiKey.QueryRowContext(ctx, hash[:]).Scan(&k.Hint, &keyCreated, &revoked,
		&c.ID, &c.Name, &c.Tier, &c.MintTokens, &clientCreated)
	if errors.Is(err, sql.ErrNoRows) {
		return k, c, store.ErrNotFound
	}
	k.Client = c.ID
	k.CreatedAt = time.UnixMicro(keyCreated).UTC()
	c.CreatedAt = time.UnixMicro(clientCreated).UTC()
	if revoked.Valid {
		k.RevokedAt = time.UnixMicro(revoked.Int64).UTC()
	}
	return k, c, classify(err)
}
