package breaker

import (
	"context"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Client implements store.Clients.
func (b *Store) Client(ctx context.Context, id string) (esh3ar.Client, error) {
	return call(ctx, b, b.read, func(ctx context.Context) (esh3ar.Client, error) { return b.Store.Client(ctx, id) })
}

// ListClients implements store.Clients.
func (b *Store) ListClients(ctx context.Context, after string, limit int) ([]esh3ar.Client, error) {
	return call(ctx, b, b.read, func(ctx context.Context) ([]esh3ar.Client, error) { return b.Store.ListClients(ctx, after, limit) })
}

// PutClient implements store.Clients.
func (b *Store) PutClient(ctx context.Context, c esh3ar.Client, e store.AuditEntry) (int64, error) {
	return call(ctx, b, b.write, func(ctx context.Context) (int64, error) { return b.Store.PutClient(ctx, c, e) })
}

// DeleteClient implements store.Clients.
func (b *Store) DeleteClient(ctx context.Context, id string, e store.AuditEntry) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.DeleteClient(ctx, id, e) })
}

// Keys implements store.Clients.
func (b *Store) Keys(ctx context.Context, client string, limit int) ([]esh3ar.APIKey, error) {
	return call(ctx, b, b.read, func(ctx context.Context) ([]esh3ar.APIKey, error) { return b.Store.Keys(ctx, client, limit) })
}

// PutKeys implements store.Clients.
func (b *Store) PutKeys(ctx context.Context, keys []esh3ar.APIKey, e store.AuditEntry) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.PutKeys(ctx, keys, e) })
}

// ClientByKey implements store.Clients.
func (b *Store) ClientByKey(ctx context.Context, hash [32]byte) (key esh3ar.APIKey, client esh3ar.Client, err error) {
	err = do(ctx, b, b.read, func(ctx context.Context) error {
		key, client, err = b.Store.ClientByKey(ctx, hash)
		return err
	})
	return key, client, err
}

// TouchKeys implements store.Clients.
func (b *Store) TouchKeys(ctx context.Context, used map[[32]byte]time.Time) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.TouchKeys(ctx, used) })
}

// AddUsage implements store.Usage.
func (b *Store) AddUsage(ctx context.Context, day int64, add map[string]int64) (map[string]int64, error) {
	return call(ctx, b, b.write, func(ctx context.Context) (map[string]int64, error) { return b.Store.AddUsage(ctx, day, add) })
}

// Audit implements store.Auditor.
func (b *Store) Audit(ctx context.Context, e store.AuditEntry) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.Audit(ctx, e) })
}

// Audited implements store.Auditor.
func (b *Store) Audited(ctx context.Context, q store.AuditQuery) ([]store.AuditEntry, error) {
	return call(ctx, b, b.read, func(ctx context.Context) ([]store.AuditEntry, error) { return b.Store.Audited(ctx, q) })
}
