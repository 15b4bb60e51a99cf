package breaker

import (
	"context"
	"time"

	"github.com/esh3artech/esh3ar/internal/store"
)

// CreateWebhook implements store.Webhooks.
func (b *Store) CreateWebhook(ctx context.Context, w store.Webhook, most int, e store.AuditEntry) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.CreateWebhook(ctx, w, most, e) })
}

// Webhook implements store.Webhooks.
func (b *Store) Webhook(ctx context.Context, client, id string) (store.Webhook, error) {
	return call(ctx, b, b.read, func(ctx context.Context) (store.Webhook, error) { return b.Store.Webhook(ctx, client, id) })
}

// Webhooks implements store.Webhooks.
func (b *Store) Webhooks(ctx context.Context, client string) ([]store.Webhook, error) {
	return call(ctx, b, b.read, func(ctx context.Context) ([]store.Webhook, error) { return b.Store.Webhooks(ctx, client) })
}

// HoldWebhooks implements store.Webhooks.
func (b *Store) HoldWebhooks(ctx context.Context, holder string, d time.Duration) ([]store.WebhookRef, error) {
	return call(ctx, b, b.write, func(ctx context.Context) ([]store.WebhookRef, error) { return b.Store.HoldWebhooks(ctx, holder, d) })
}

// ReleaseWebhooks implements store.Webhooks.
func (b *Store) ReleaseWebhooks(ctx context.Context, holder string) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.ReleaseWebhooks(ctx, holder) })
}

// WebhookByRef implements store.Webhooks.
func (b *Store) WebhookByRef(ctx context.Context, ref store.WebhookRef) (w store.Webhook, parked []store.ParkedEvent, err error) {
	err = do(ctx, b, b.read, func(ctx context.Context) error {
		w, parked, err = b.Store.WebhookByRef(ctx, ref)
		return err
	})
	return w, parked, err
}

// UpdateWebhook implements store.Webhooks.
func (b *Store) UpdateWebhook(ctx context.Context, u store.WebhookUpdate, e store.AuditEntry) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.UpdateWebhook(ctx, u, e) })
}

// DeleteWebhook implements store.Webhooks.
func (b *Store) DeleteWebhook(ctx context.Context, client, id string, e store.AuditEntry) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.DeleteWebhook(ctx, client, id, e) })
}

// SaveWebhook implements store.Webhooks.
func (b *Store) SaveWebhook(ctx context.Context, s store.WebhookSave) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.SaveWebhook(ctx, s) })
}

// Deliveries implements store.Webhooks.
func (b *Store) Deliveries(ctx context.Context, id string, before int64, outcome string, limit int) ([]store.WebhookDelivery, error) {
	return call(ctx, b, b.read, func(ctx context.Context) ([]store.WebhookDelivery, error) {
		return b.Store.Deliveries(ctx, id, before, outcome, limit)
	})
}

// LogDelivery implements store.Webhooks.
func (b *Store) LogDelivery(ctx context.Context, id string, d store.WebhookDelivery, keep int, e store.AuditEntry) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.LogDelivery(ctx, id, d, keep, e) })
}

// PruneDeliveries implements store.Webhooks.
func (b *Store) PruneDeliveries(ctx context.Context, before time.Time) (bool, error) {
	return call(ctx, b, b.write, func(ctx context.Context) (bool, error) { return b.Store.PruneDeliveries(ctx, before) })
}

// EventTime implements store.Webhooks.
func (b *Store) EventTime(ctx context.Context, shard uint16, number int64) (time.Time, error) {
	return call(ctx, b, b.read, func(ctx context.Context) (time.Time, error) { return b.Store.EventTime(ctx, shard, number) })
}
