package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// webhookStatements are the writer's for webhooks.
type webhookStatements struct {
	count, insert, version, update, remove *stmt
	hold, release                          *stmt

	progress, restart, heal              *stmt
	park, unpark, revive, unparkAll, log *stmt
	ofClient                             [3]*stmt
	trimLog, dropLog, pruneLog           *stmt
}

func (s *webhookStatements) prepare(c *conn) (err error) {
	for _, p := range []struct {
		stmt  **stmt
		query string
	}{
		{&s.count, `SELECT count(*) FROM webhook WHERE client = ?`},
		{&s.insert, `INSERT INTO webhook (id, client, url, description, statuses, format, batch_max, secret, old_secret, old_until,
			created_at, updated_at, disabled_at, disabled_reason, version, epoch, cursor, failing_since, resume_at, succeeded_at, lost_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 1, ?, ?, ?, ?, ?)`},
		{&s.version, `SELECT version, client, holder, epoch FROM webhook WHERE id = ?`},
		// Not every time: a right that is good for long needs no write.
		{&s.hold, `UPDATE webhook SET holder = ?1, held_until = ?3 WHERE disabled_at IS NULL AND
			(holder = ?1 AND held_until < (?2 + ?3) / 2 OR holder <> ?1 AND held_until < ?2)`},
		{&s.release, `UPDATE webhook SET holder = '', held_until = 0 WHERE holder = ?`},
		{&s.update, `UPDATE webhook SET url = ?2, description = ?3, statuses = ?4, format = ?5, batch_max = ?6, secret = ?7,
			old_secret = ?8, old_until = ?9, updated_at = ?10, disabled_at = ?11, disabled_reason = ?12, version = version + 1, epoch = epoch + ?13
			WHERE id = ?1`},
		{&s.restart, `UPDATE webhook SET cursor = ? WHERE id = ?`},
		{&s.revive, `UPDATE webhook_parked SET attempts = 0, first_at = NULL, next_at = ? WHERE webhook = ?`},
		{&s.heal, `UPDATE webhook SET failing_since = NULL, resume_at = NULL WHERE id = ?`},
		{&s.remove, `DELETE FROM webhook WHERE id = ?`},
		{&s.unparkAll, `DELETE FROM webhook_parked WHERE webhook = ?`},
		{&s.dropLog, `DELETE FROM webhook_delivery WHERE webhook = ?`},

		{&s.ofClient[0], `DELETE FROM webhook_parked WHERE webhook IN (SELECT id FROM webhook WHERE client = ?)`},
		{&s.ofClient[1], `DELETE FROM webhook_delivery WHERE webhook IN (SELECT id FROM webhook WHERE client = ?)`},
		{&s.ofClient[2], `DELETE FROM webhook WHERE client = ?`},

		{&s.progress, `UPDATE webhook SET cursor = ?, failing_since = ?, resume_at = ?, succeeded_at = ?, lost_at = ? WHERE id = ?`},
		{&s.park, `INSERT OR REPLACE INTO webhook_parked (webhook, message, seq, event, attempts, first_at, next_at)
			VALUES (?, ?, ?, ?, ?, ?, ?)`},
		{&s.unpark, `DELETE FROM webhook_parked WHERE webhook = ? AND message = ? AND seq = ?`},
		{&s.log, `INSERT INTO webhook_delivery (webhook, at, request_id, events, count, attempt, outcome, status_code, duration, error, response)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`},
		{&s.trimLog, `DELETE FROM webhook_delivery WHERE webhook = ?1 AND number <=
			(SELECT number FROM webhook_delivery WHERE webhook = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)`},
		{&s.pruneLog, `DELETE FROM webhook_delivery WHERE number IN (SELECT number FROM webhook_delivery ORDER BY number LIMIT ?2) AND at < ?1`},
	} {
		if *p.stmt, err = c.prepare(p.query); err != nil {
			return err
		}
	}
	return nil
}

// CreateWebhook implements store.Webhooks.
func (s *Store) CreateWebhook(ctx context.Context, h store.Webhook, most int, e store.AuditEntry) error {
	return s.writer.do(ctx, 2, func(w *writer) error {
		row, err := w.stmts.webhooks.count.row(h.Client)
		if err != nil {
			return classify(err)
		}
		if row[0].(int64) >= int64(most) {
			return store.ErrTooMany
		}
		if _, err := w.stmts.webhooks.insert.exec(h.ID, h.Client, h.URL, h.Description, store.EncodeStatuses(h.Statuses), h.Format,
			int64(h.BatchMax), h.Secret, blob(h.OldSecret), micros(h.OldUntil), h.CreatedAt.UnixMicro(), h.UpdatedAt.UnixMicro(),
			micros(h.DisabledAt), h.DisabledReason, h.Cursor, micros(h.FailingSince), micros(h.ResumeAt),
			micros(h.SucceededAt), micros(h.LostAt)); err != nil {
			return classify(err)
		}
		return w.audit(e)
	})
}

// blob is b as a value for the driver, nil for none.
func blob(b []byte) driver.Value {
	if b == nil {
		return nil
	}
	return b
}

// Webhook implements store.Webhooks.
func (s *Store) Webhook(ctx context.Context, client, id string) (store.Webhook, error) {
	h, err := store.ScanWebhook(s.reads.QueryRowContext(ctx, `SELECT `+store.WebhookColumns+` FROM webhook WHERE id = ? AND client = ?`, id, client).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return h, store.ErrNotFound
	}
	return h, classify(err)
}

// Webhooks implements store.Webhooks.
func (s *Store) Webhooks(ctx context.Context, client string) (list []store.Webhook, err error) {
	err = s.each(ctx, func(r *sql.Rows) error {
		h, err := store.ScanWebhook(r.Scan)
		list = append(list, h)
		return err
	}, `SELECT `+store.WebhookColumns+` FROM webhook WHERE client = ? ORDER BY created_at, id`, client)
	return list, err
}

// HoldWebhooks implements store.Webhooks.
func (s *Store) HoldWebhooks(ctx context.Context, holder string, d time.Duration) (list []store.WebhookRef, err error) {
	now := time.Now()
	if err := s.writer.do(ctx, 1, func(w *writer) error {
		_, err := w.stmts.webhooks.hold.exec(holder, now.UnixMicro(), now.Add(d).UnixMicro())
		return classify(err)
	}); err != nil {
		return nil, err
	}
	err = s.each(ctx, func(r *sql.Rows) error {
		var ref store.WebhookRef
		err := r.Scan(&ref.ID, &ref.Version)
		list = append(list, ref)
		return err
	}, `SELECT id, version FROM webhook WHERE disabled_at IS NULL AND holder = ?`, holder)
	return list, err
}

// ReleaseWebhooks implements store.Webhooks.
func (s *Store) ReleaseWebhooks(ctx context.Context, holder string) error {
	return s.writer.do(ctx, 1, func(w *writer) error {
		_, err := w.stmts.webhooks.release.exec(holder)
		return classify(err)
	})
}

// each runs a query and calls do for each of its rows.
func (s *Store) each(ctx context.Context, do func(*sql.Rows) error, query string, args ...any) error {
	rows, err := s.reads.QueryContext(ctx, query, args...)
	if err != nil {
		return classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := do(rows); err != nil {
			return classify(err)
		}
	}
	return classify(rows.Err())
}

// WebhookByRef implements store.Webhooks.
func (s *Store) WebhookByRef(ctx context.Context, ref store.WebhookRef) (h store.Webhook, parked []store.ParkedEvent, err error) {
	// One view of both tables: what a save moves between the cursor and the parked events is in one of them.
	tx, err := s.reads.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return h, nil, classify(err)
	}
	defer tx.Rollback()
	h, err = store.ScanWebhook(tx.QueryRowContext(ctx, `SELECT `+store.WebhookColumns+` FROM webhook WHERE id = ?`, ref.ID).Scan)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return h, nil, store.ErrNotFound
	case err != nil:
		return h, nil, classify(err)
	case h.Version != ref.Version:
		return h, nil, store.ErrConflict
	}
	rows, err := tx.QueryContext(ctx, `SELECT event, attempts, first_at, next_at FROM webhook_parked
		WHERE webhook = ? ORDER BY message, seq`, ref.ID)
	if err != nil {
		return h, nil, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var p store.ParkedEvent
		var block sql.RawBytes
		if err := rows.Scan(&block, &p.Attempts, (*store.Instant)(&p.FirstAt), (*store.Instant)(&p.NextAt)); err != nil {
			return h, nil, classify(err)
		}
		if p.Event, err = decodeParked(block); err != nil {
			return h, nil, err
		}
		parked = append(parked, p)
	}
	return h, parked, classify(rows.Err())
}

// encodeParked returns the block of one event.
func encodeParked(e *esh3ar.Event) []byte {
	var b record.EventBlock
	b.Add(e)
	return b.Bytes()
}

func decodeParked(block []byte) (esh3ar.Event, error) {
	events, err := record.AppendEvents(nil, block)
	if err == nil && len(events) != 1 {
		err = fmt.Errorf("a block of %d events", len(events))
	}
	if err != nil {
		return esh3ar.Event{}, fmt.Errorf("store: parked event: %w", err)
	}
	return events[0], nil
}

// UpdateWebhook implements store.Webhooks.
func (s *Store) UpdateWebhook(ctx context.Context, u store.WebhookUpdate, e store.AuditEntry) error {
	h := &u.Webhook
	return s.writer.do(ctx, 3+h.Parked, func(w *writer) error {
		row, err := w.stmts.webhooks.version.row(h.ID)
		switch {
		case err != nil:
			return classify(err)
		case row == nil:
			return store.ErrNotFound
		case row[0].(int64) != h.Version:
			return store.ErrConflict
		}
		q := &w.stmts.webhooks
		_, err = q.update.exec(h.ID, h.URL, h.Description, store.EncodeStatuses(h.Statuses), h.Format, int64(h.BatchMax), h.Secret,
			blob(h.OldSecret), micros(h.OldUntil), h.UpdatedAt.UnixMicro(), micros(h.DisabledAt), h.DisabledReason, u.Cursor != "" || u.Revive)
		if err == nil && u.Cursor != "" {
			_, err = q.restart.exec(u.Cursor, h.ID)
		}
		if err == nil && u.Revive {
			if _, err = q.heal.exec(h.ID); err == nil {
				_, err = q.revive.exec(h.UpdatedAt.UnixMicro(), h.ID)
			}
		}
		if err != nil {
			return classify(err)
		}
		return w.audit(e)
	})
}

// DeleteWebhook implements store.Webhooks.
func (s *Store) DeleteWebhook(ctx context.Context, client, id string, e store.AuditEntry) error {
	return s.writer.do(ctx, 1000, func(w *writer) error {
		q := &w.stmts.webhooks
		row, err := q.version.row(id)
		if err != nil {
			return classify(err)
		}
		if row == nil || row[1].(string) != client {
			return store.ErrNotFound
		}
		for _, st := range []*stmt{q.remove, q.unparkAll, q.dropLog} {
			if _, err := st.exec(id); err != nil {
				return classify(err)
			}
		}
		return w.audit(e)
	})
}

// deleteWebhooks removes all webhooks of a client that goes.
func (w *writer) deleteWebhooks(client string) error {
	for _, st := range w.stmts.webhooks.ofClient {
		if _, err := st.exec(client); err != nil {
			return classify(err)
		}
	}
	return nil
}

// SaveWebhook implements store.Webhooks.
func (s *Store) SaveWebhook(ctx context.Context, save store.WebhookSave) error {
	return s.writer.do(ctx, 1+len(save.Park)+len(save.Unpark)+len(save.Deliveries), func(w *writer) error {
		id := save.ID
		row, err := w.stmts.webhooks.version.row(id)
		switch {
		case err != nil:
			return classify(err)
		case row == nil || row[3].(int64) != save.Epoch || save.Holder == "" || row[2].(string) != save.Holder:
			return store.ErrConflict
		}
		q := &w.stmts.webhooks
		p := &save.Progress
		if _, err := q.progress.exec(p.Cursor, micros(p.FailingSince), micros(p.ResumeAt), micros(p.SucceededAt), micros(p.LostAt), id); err != nil {
			return classify(err)
		}
		for i := range save.Unpark {
			k := &save.Unpark[i]
			if _, err := q.unpark.exec(id, k.Message[:], int64(k.Seq)); err != nil {
				return classify(err)
			}
		}
		for i := range save.Park {
			p := &save.Park[i]
			if _, err := q.park.exec(id, p.Event.Message[:], int64(p.Event.Seq), encodeParked(&p.Event), int64(p.Attempts),
				micros(p.FirstAt), p.NextAt.UnixMicro()); err != nil {
				return classify(err)
			}
		}
		return w.logDeliveries(id, save.Deliveries, save.KeepDeliveries)
	})
}

// logDeliveries adds to the log of a webhook and takes what is more than keep away.
func (w *writer) logDeliveries(id string, list []store.WebhookDelivery, keep int) error {
	if len(list) == 0 {
		return nil
	}
	for i := range list {
		d := &list[i]
		if _, err := w.stmts.webhooks.log.exec(id, d.At.UnixMicro(), d.RequestID, store.EncodeEventKeys(d.Events), int64(d.Count), int64(d.Attempt),
			d.Outcome, int64(d.StatusCode), d.Duration.Microseconds(), d.Error, d.Response); err != nil {
			return classify(err)
		}
	}
	_, err := w.stmts.webhooks.trimLog.exec(id, int64(keep))
	return classify(err)
}

// LogDelivery implements store.Webhooks.
func (s *Store) LogDelivery(ctx context.Context, id string, d store.WebhookDelivery, keep int, e store.AuditEntry) error {
	return s.writer.do(ctx, 2, func(w *writer) error {
		if err := w.logDeliveries(id, []store.WebhookDelivery{d}, keep); err != nil {
			return err
		}
		return w.audit(e)
	})
}

// Deliveries implements store.Webhooks.
func (s *Store) Deliveries(ctx context.Context, id string, before int64, outcome string, limit int) (list []store.WebhookDelivery, err error) {
	query, args := `SELECT `+store.DeliveryColumns+`
		FROM webhook_delivery WHERE webhook = ?`, []any{id}
	if before > 0 {
		query, args = query+` AND number < ?`, append(args, before)
	}
	if outcome != "" {
		query, args = query+` AND outcome = ?`, append(args, outcome)
	}
	err = s.each(ctx, func(r *sql.Rows) error {
		d, err := store.ScanDelivery(r.Scan)
		list = append(list, d)
		return err
	}, query+` ORDER BY number DESC LIMIT ?`, append(args, limit)...)
	return list, err
}

// PruneDeliveries implements store.Webhooks.
func (s *Store) PruneDeliveries(ctx context.Context, before time.Time) (more bool, err error) {
	err = s.writer.do(ctx, pruneRows, func(w *writer) error {
		n, err := w.stmts.webhooks.pruneLog.exec(before.UnixMicro(), int64(pruneRows))
		more = n >= pruneRows/2
		return classify(err)
	})
	return more, err
}

// EventTime implements store.Webhooks.
func (s *Store) EventTime(ctx context.Context, shard uint16, number int64) (time.Time, error) {
	var at int64
	err := s.reads.QueryRowContext(ctx, `SELECT at FROM event WHERE shard = ? AND number = ?`, int64(shard), number).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, store.ErrForgotten
	}
	return time.UnixMicro(at).UTC(), classify(err)
}
