package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// CreateWebhook implements store.Webhooks.
func (s *Store) CreateWebhook(ctx context.Context, h store.Webhook, most int, e store.AuditEntry) error {
	return s.audited(ctx, e, func(tx pgx.Tx) error {
		// One at a time for each client, so that what is counted stays true until it is committed.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, store.ClientKey(h.Client)); err != nil {
			return err
		}
		var count int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM webhook WHERE client = $1`, h.Client).Scan(&count); err != nil {
			return err
		}
		if count >= most {
			return store.ErrTooMany
		}
		_, err := tx.Exec(ctx, `INSERT INTO webhook (id, client, url, description, statuses, format, batch_max, secret, old_secret, old_until,
			created_at, updated_at, disabled_at, disabled_reason, version, epoch, cursor, failing_since, resume_at, succeeded_at, lost_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 1, 1, $15, $16, $17, $18, $19)`,
			h.ID, h.Client, h.URL, h.Description, store.EncodeStatuses(h.Statuses), h.Format, h.BatchMax, h.Secret, h.OldSecret, micros(h.OldUntil),
			h.CreatedAt.UnixMicro(), h.UpdatedAt.UnixMicro(), micros(h.DisabledAt), h.DisabledReason, h.Cursor,
			micros(h.FailingSince), micros(h.ResumeAt), micros(h.SucceededAt), micros(h.LostAt))
		return err
	})
}

func scanWebhook(row pgx.CollectableRow) (store.Webhook, error) { return store.ScanWebhook(row.Scan) }

func scanDelivery(row pgx.CollectableRow) (store.WebhookDelivery, error) {
	return store.ScanDelivery(row.Scan)
}

// Webhook implements store.Webhooks.
func (s *Store) Webhook(ctx context.Context, client, id string) (store.Webhook, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+store.WebhookColumns+` FROM webhook WHERE id = $1 AND client = $2`, id, client)
	if err != nil {
		return store.Webhook{}, s.classify(err)
	}
	h, err := pgx.CollectOneRow(rows, scanWebhook)
	if errors.Is(err, pgx.ErrNoRows) {
		return h, store.ErrNotFound
	}
	return h, s.classify(err)
}

// Webhooks implements store.Webhooks.
func (s *Store) Webhooks(ctx context.Context, client string) ([]store.Webhook, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+store.WebhookColumns+` FROM webhook WHERE client = $1 ORDER BY created_at, id`, client)
	if err != nil {
		return nil, s.classify(err)
	}
	list, err := pgx.CollectRows(rows, scanWebhook)
	return list, s.classify(err)
}

// HoldWebhooks implements store.Webhooks.
func (s *Store) HoldWebhooks(ctx context.Context, holder string, d time.Duration) (list []store.WebhookRef, err error) {
	b := new(pgx.Batch)
	// Not every time: a right that is good for long needs no write.
	b.Queue(`UPDATE webhook SET holder = $1, held_until = now.us + $2::bigint
		FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) now
		WHERE disabled_at IS NULL AND (holder = $1 AND held_until < now.us + $2::bigint / 2 OR holder <> $1 AND held_until < now.us)`,
		holder, d.Microseconds())
	b.Queue(`SELECT id, version FROM webhook WHERE disabled_at IS NULL AND holder = $1`, holder).Query(func(rows pgx.Rows) error {
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[store.WebhookRef])
		return err
	})
	if err := s.pool.SendBatch(ctx, b).Close(); err != nil {
		return nil, s.classify(err)
	}
	return list, nil
}

// ReleaseWebhooks implements store.Webhooks.
func (s *Store) ReleaseWebhooks(ctx context.Context, holder string) error {
	_, err := s.pool.Exec(ctx, `UPDATE webhook SET holder = '', held_until = 0 WHERE holder = $1`, holder)
	return s.classify(err)
}

// WebhookByRef implements store.Webhooks.
func (s *Store) WebhookByRef(ctx context.Context, ref store.WebhookRef) (h store.Webhook, parked []store.ParkedEvent, err error) {
	// One view of both tables: what a save moves between the cursor and the parked events is in one of them.
	view := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, view, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+store.WebhookColumns+` FROM webhook WHERE id = $1`, ref.ID)
		if err != nil {
			return err
		}
		h, err = pgx.CollectOneRow(rows, scanWebhook)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return store.ErrNotFound
		case err != nil:
			return err
		case h.Version != ref.Version:
			return store.ErrConflict
		}
		if rows, err = tx.Query(ctx, `SELECT event, attempts, first_at, next_at FROM webhook_parked
			WHERE webhook = $1 ORDER BY message, seq`, ref.ID); err != nil {
			return err
		}
		parked, err = pgx.CollectRows(rows, scanParked)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return h, nil, err
	}
	return h, parked, s.classify(err)
}

func scanParked(row pgx.CollectableRow) (p store.ParkedEvent, err error) {
	var block []byte
	if err := row.Scan(&block, &p.Attempts, (*store.Instant)(&p.FirstAt), (*store.Instant)(&p.NextAt)); err != nil {
		return p, err
	}
	events, err := record.AppendEvents(nil, block)
	if err == nil && len(events) != 1 {
		err = fmt.Errorf("a block of %d events", len(events))
	}
	if err != nil {
		return p, fmt.Errorf("parked event: %w", err)
	}
	p.Event = events[0]
	return p, nil
}

// UpdateWebhook implements store.Webhooks.
func (s *Store) UpdateWebhook(ctx context.Context, u store.WebhookUpdate, e store.AuditEntry) error {
	h := &u.Webhook
	raise := int64(0)
	if u.Cursor != "" || u.Revive {
		raise = 1
	}
	return s.audited(ctx, e, func(tx pgx.Tx) error {
		var version int64
		err := tx.QueryRow(ctx, `SELECT version FROM webhook WHERE id = $1 FOR NO KEY UPDATE`, h.ID).Scan(&version)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return store.ErrNotFound
		case err != nil:
			return err
		case version != h.Version:
			return store.ErrConflict
		}
		b := new(pgx.Batch)
		b.Queue(`UPDATE webhook SET url = $2, description = $3, statuses = $4, format = $5, batch_max = $6, secret = $7,
			old_secret = $8, old_until = $9, updated_at = $10, disabled_at = $11, disabled_reason = $12, version = version + 1, epoch = epoch + $13
			WHERE id = $1`,
			h.ID, h.URL, h.Description, store.EncodeStatuses(h.Statuses), h.Format, h.BatchMax, h.Secret,
			h.OldSecret, micros(h.OldUntil), h.UpdatedAt.UnixMicro(), micros(h.DisabledAt), h.DisabledReason, raise)
		if u.Cursor != "" {
			b.Queue(`UPDATE webhook SET cursor = $2 WHERE id = $1`, h.ID, u.Cursor)
		}
		if u.Revive {
			b.Queue(`UPDATE webhook SET failing_since = NULL, resume_at = NULL WHERE id = $1`, h.ID)
			b.Queue(`UPDATE webhook_parked SET attempts = 0, first_at = NULL, next_at = $2 WHERE webhook = $1`, h.ID, h.UpdatedAt.UnixMicro())
		}
		return tx.SendBatch(ctx, b).Close()
	})
}

// DeleteWebhook implements store.Webhooks.
func (s *Store) DeleteWebhook(ctx context.Context, client, id string, e store.AuditEntry) error {
	return s.audited(ctx, e, func(tx pgx.Tx) error {
		// The row first: a save that runs waits for it, and so do the rows that it adds.
		tag, err := tx.Exec(ctx, `DELETE FROM webhook WHERE id = $1 AND client = $2`, id, client)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return store.ErrNotFound
		}
		b := new(pgx.Batch)
		b.Queue(`DELETE FROM webhook_parked WHERE webhook = $1`, id)
		b.Queue(`DELETE FROM webhook_delivery WHERE webhook = $1`, id)
		return tx.SendBatch(ctx, b).Close()
	})
}

// queueDeleteWebhooks removes all webhooks of a client that goes.
func queueDeleteWebhooks(b *pgx.Batch, client string) {
	for _, query := range []string{
		`DELETE FROM webhook_parked WHERE webhook IN (SELECT id FROM webhook WHERE client = $1)`,
		`DELETE FROM webhook_delivery WHERE webhook IN (SELECT id FROM webhook WHERE client = $1)`,
		`DELETE FROM webhook WHERE client = $1`,
	} {
		b.Queue(query, client)
	}
}

// SaveWebhook implements store.Webhooks.
func (s *Store) SaveWebhook(ctx context.Context, save store.WebhookSave) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		id, p := save.ID, &save.Progress
		var epoch int64
		var holder string
		err := tx.QueryRow(ctx, `SELECT epoch, holder FROM webhook WHERE id = $1 FOR NO KEY UPDATE`, id).Scan(&epoch, &holder)
		switch {
		case err != nil && !errors.Is(err, pgx.ErrNoRows):
			return err
		case err != nil || epoch != save.Epoch || save.Holder == "" || holder != save.Holder:
			return store.ErrConflict
		}
		b := new(pgx.Batch)
		b.Queue(`UPDATE webhook SET cursor = $2, failing_since = $3, resume_at = $4, succeeded_at = $5, lost_at = $6 WHERE id = $1`,
			id, p.Cursor, micros(p.FailingSince), micros(p.ResumeAt), micros(p.SucceededAt), micros(p.LostAt))
		for _, k := range save.Unpark {
			b.Queue(`DELETE FROM webhook_parked WHERE webhook = $1 AND message = $2 AND seq = $3`, id, k.Message[:], int64(k.Seq))
		}
		for i := range save.Park {
			p := &save.Park[i]
			var block record.EventBlock
			block.Add(&p.Event)
			b.Queue(`INSERT INTO webhook_parked (webhook, message, seq, event, attempts, first_at, next_at)
				VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (webhook, message, seq) DO UPDATE SET
				event = excluded.event, attempts = excluded.attempts, first_at = excluded.first_at, next_at = excluded.next_at`,
				id, p.Event.Message[:], int64(p.Event.Seq), block.Bytes(), p.Attempts, micros(p.FirstAt), p.NextAt.UnixMicro())
		}
		queueDeliveries(b, id, save.Deliveries, save.KeepDeliveries)
		return tx.SendBatch(ctx, b).Close()
	})
	if errors.Is(err, store.ErrConflict) {
		return err
	}
	return s.classify(err)
}

// queueDeliveries adds to the log of a webhook and takes what is more than keep away.
func queueDeliveries(b *pgx.Batch, id string, list []store.WebhookDelivery, keep int) {
	if len(list) == 0 {
		return
	}
	for i := range list {
		d := &list[i]
		b.Queue(`INSERT INTO webhook_delivery
			(webhook, at, request_id, events, count, attempt, outcome, status_code, duration, error, response)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			id, d.At.UnixMicro(), d.RequestID, store.EncodeEventKeys(d.Events), d.Count, d.Attempt, d.Outcome, d.StatusCode,
			d.Duration.Microseconds(), d.Error, d.Response)
	}
	b.Queue(`DELETE FROM webhook_delivery WHERE webhook = $1 AND number <=
		(SELECT number FROM webhook_delivery WHERE webhook = $1 ORDER BY number DESC LIMIT 1 OFFSET $2)`, id, keep)
}

// LogDelivery implements store.Webhooks.
func (s *Store) LogDelivery(ctx context.Context, id string, d store.WebhookDelivery, keep int, e store.AuditEntry) error {
	return s.audited(ctx, e, func(tx pgx.Tx) error {
		b := new(pgx.Batch)
		queueDeliveries(b, id, []store.WebhookDelivery{d}, keep)
		return tx.SendBatch(ctx, b).Close()
	})
}

// Deliveries implements store.Webhooks.
func (s *Store) Deliveries(ctx context.Context, id string, before int64, outcome string, limit int) ([]store.WebhookDelivery, error) {
	query, args := `SELECT `+store.DeliveryColumns+`
		FROM webhook_delivery WHERE webhook = $1`, []any{id, limit}
	if before > 0 {
		args = append(args, before)
		query += fmt.Sprintf(` AND number < $%d`, len(args))
	}
	if outcome != "" {
		args = append(args, outcome)
		query += fmt.Sprintf(` AND outcome = $%d`, len(args))
	}
	rows, err := s.pool.Query(ctx, query+` ORDER BY number DESC LIMIT $2`, args...)
	if err != nil {
		return nil, s.classify(err)
	}
	list, err := pgx.CollectRows(rows, scanDelivery)
	return list, s.classify(err)
}

// PruneDeliveries implements store.Webhooks.
func (s *Store) PruneDeliveries(ctx context.Context, before time.Time) (more bool, err error) {
	tag, err := s.pool.Exec(ctx, `DELETE FROM webhook_delivery WHERE number IN
		(SELECT number FROM webhook_delivery ORDER BY number LIMIT $2) AND at < $1`, before.UnixMicro(), pruneRows)
	return tag.RowsAffected() >= pruneRows/2, s.classify(err)
}

// EventTime implements store.Webhooks.
func (s *Store) EventTime(ctx context.Context, shard uint16, number int64) (time.Time, error) {
	var at int64
	err := s.pool.QueryRow(ctx, `SELECT at FROM event WHERE shard = $1 AND number = $2`, int32(shard), number).Scan(&at)
	if errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, store.ErrForgotten
	}
	return fromMicros(at), s.classify(err)
}
