package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// rowColumns are what scanRow reads.
const rowColumns = `payload, state, ord, final_at IS NOT NULL AS final`

// forgotten is the number of the last write of a shard's events that is not kept any more.
const forgotten = `coalesce((SELECT min(number) FROM event e WHERE e.shard = s.shard), event + 1) - 1`

// readStatements are prepared on the reading connections. Those of listings are built for each
// query, because their conditions vary.
type readStatements struct {
	message, waiting, due, key, events *sql.Stmt
	eventRanges, forgotten, rejects    *sql.Stmt
	client, clients, keys, apiKey      *sql.Stmt
}

func (r *readStatements) prepare(ctx context.Context, db *sql.DB) (err error) {
	for _, p := range []struct {
		stmt  **sql.Stmt
		query string
	}{
		{&r.message, `SELECT ` + rowColumns + ` FROM message WHERE id = ? AND client = ?`},
		{&r.waiting, `SELECT ` + rowColumns + ` FROM message INDEXED BY message_waiting
			WHERE shard = ? AND recipient = ? AND ord > ? AND ord < ? AND final_at IS NULL AND status <> 2
			ORDER BY ord LIMIT ?`},
		{&r.due, `SELECT * FROM (SELECT ` + rowColumns + ` FROM message INDEXED BY message_scheduled
				WHERE shard = ? AND not_before <= ? AND status = 2 ORDER BY not_before LIMIT ?)
			UNION ALL
			SELECT * FROM (SELECT ` + rowColumns + ` FROM message INDEXED BY message_expiring
				WHERE shard = ? AND expires_at <= ? AND final_at IS NULL ORDER BY expires_at LIMIT ?)`},
		{&r.key, `SELECT id, digest, recipient, accepted_at FROM idempotency WHERE client = ? AND key = ?`},
		{&r.events, `SELECT number, block FROM event WHERE shard = ? AND number > ? ORDER BY number`},
		{&r.eventRanges, `SELECT shard, event, ` + forgotten + ` FROM shard s`},
		{&r.forgotten, `SELECT ` + forgotten + ` FROM shard s WHERE shard = ?`},
		{&r.client, `SELECT ` + store.ClientColumns + ` FROM client c WHERE id = ? AND deleted_at IS NULL`},
		{&r.clients, `SELECT ` + store.ClientColumns + ` FROM client c WHERE id > ? AND deleted_at IS NULL ORDER BY id LIMIT ?`},
		{&r.keys, `SELECT ` + store.KeyColumns + ` FROM api_key k WHERE client = ? ORDER BY created_at DESC, id DESC LIMIT ?`},
		{&r.apiKey, `SELECT ` + store.KeyColumns + `, ` + store.ClientColumns + `
			FROM api_key k JOIN client c ON c.id = k.client AND c.deleted_at IS NULL WHERE k.hash = ?`},
		{&r.rejects, `SELECT seq, shard, tier, ord, at, reason, detail, record FROM reject WHERE seq > ? ORDER BY seq LIMIT ?`},
	} {
		if *p.stmt, err = db.PrepareContext(ctx, p.query); err != nil {
			return fmt.Errorf("store: prepare %q: %w", p.query, err)
		}
	}
	return nil
}

// Message implements store.Reader.
func (s *Store) Message(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	rows, err := collect(s.read.message.QueryContext(ctx, id[:], client))
	switch {
	case err != nil:
		return store.Row{}, err
	case len(rows) == 0:
		return store.Row{}, store.ErrNotFound
	}
	return rows[0], nil
}

// Rows implements store.Shards.
func (s *Store) Rows(ctx context.Context, shard uint16, ids []esh3ar.ID) ([]store.Row, error) {
	const most = 1000 // parameters of one query
	var all []store.Row
	for part := range slices.Chunk(ids, most) {
		args := make([]any, 0, 1+len(part))
		args = append(args, int64(shard))
		for i := range part {
			args = append(args, part[i][:])
		}
		rows, err := collect(s.reads.QueryContext(ctx, `SELECT `+rowColumns+` FROM message
			WHERE shard = ? AND id IN (?`+strings.Repeat(", ?", len(part)-1)+`)`, args...))
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
	}
	return all, nil
}

// Waiting implements store.Shards.
func (s *Store) Waiting(ctx context.Context, q store.Waiting) ([]store.Row, error) {
	after, before := bound(q.After), bound(q.Before)
	if before == 0 {
		before = bound(^uint64(0))
	}
	return collect(s.read.waiting.QueryContext(ctx, int64(q.Shard), q.Recipient, after, before, q.Limit))
}

// bound returns v as it is compared with ord, which is below 2^63.
func bound(v uint64) int64 { return int64(min(v, 1<<63-1)) }

// Due implements store.Shards.
func (s *Store) Due(ctx context.Context, shard uint16, now time.Time, limit int) ([]store.Row, error) {
	at := now.UnixMicro()
	rows, err := collect(s.read.due.QueryContext(ctx, int64(shard), at, limit, int64(shard), at, limit))
	if err != nil {
		return nil, err
	}
	return store.MergeDue(rows, limit), nil
}

// Messages implements store.Reader.
func (s *Store) Messages(ctx context.Context, q store.Query) (store.Page, error) {
	if err := q.Check(); err != nil {
		return store.Page{}, err
	}
	var cursor *store.Cursor
	if q.Cursor != "" {
		c, err := store.ParseCursor(q.Cursor)
		if err != nil {
			return store.Page{}, err
		}
		cursor = &c
	}
	query, args := s.listing(&q, cursor)
	rows, err := collect(s.reads.QueryContext(ctx, query, args...))
	if err != nil {
		return store.Page{}, err
	}
	return store.NewPage(rows, q.Limit), nil
}

// listing returns the query for one row more than the page takes.
func (s *Store) listing(q *store.Query, cursor *store.Cursor) (query string, args []any) {
	var where strings.Builder
	and := func(condition string, values ...any) {
		where.WriteString(" AND ")
		where.WriteString(condition)
		args = append(args, values...)
	}
	and("m.client = ?", q.Client)
	if q.Status != 0 {
		and("status = ?", int64(q.Status))
	}
	if !q.From.IsZero() {
		and("m.accepted_at >= ?", store.CeilMicros(q.From))
	}
	if !q.Until.IsZero() {
		and("m.accepted_at < ?", store.CeilMicros(q.Until))
	}
	if cursor != nil {
		at := cursor.AcceptedAt.UnixMicro()
		and("m.accepted_at <= ? AND (m.accepted_at < ? OR m.id < ?)", at, at, cursor.ID[:])
	}
	const order = ` ORDER BY accepted_at DESC, id DESC LIMIT ?`
	// Indexes and the order of joins are named, so that plans do not depend on what the planner
	// believes.
	if q.To == "" {
		from := `message m INDEXED BY message_client WHERE client_key = ?`
		if q.Status != 0 && q.Status != esh3ar.StatusDelivered {
			from = `message m INDEXED BY message_status WHERE status <> 5 AND client_key = ?`
		}
		return `SELECT ` + rowColumns + ` FROM ` + from + where.String() + order,
			slices.Concat([]any{store.ClientKey(q.Client)}, args, []any{q.Limit + 1})
	}

	// What is indexed, and what is not: see recipientIndex.
	and("m.recipient = ?", q.To)
	behind, err := json.Marshal(s.recipients.lookUp(q, cursor))
	if err != nil {
		panic(err) // of numbers
	}
	const columns = `SELECT m.accepted_at, m.id, ` + rowColumns
	indexed := columns + ` FROM recipient r CROSS JOIN message m ON m.seq = r.seq
		WHERE r.recipient_key = ? AND r.seq <= (SELECT seq FROM indexer)` +
		strings.ReplaceAll(where.String(), "m.accepted_at", "r.accepted_at") +
		` ORDER BY r.accepted_at DESC, m.id DESC LIMIT ?`
	others := columns + ` FROM json_each(?) j CROSS JOIN message m ON m.seq = j.value
		WHERE m.seq > (SELECT seq FROM indexer)` + where.String() + ` ORDER BY m.accepted_at DESC, m.id DESC LIMIT ?`
	return `SELECT payload, state, ord, final FROM (SELECT * FROM (` + indexed + `) UNION ALL SELECT * FROM (` + others + `))` + order,
		slices.Concat([]any{store.RecipientKey(q.Client, q.To)}, args, []any{q.Limit + 1},
			[]any{string(behind)}, args, []any{q.Limit + 1}, []any{q.Limit + 1})
}

// Idempotent implements store.Reader.
func (s *Store) Idempotent(ctx context.Context, client, key string) (store.Remembered, error) {
	var r store.Remembered
	var id, digest []byte
	var at int64
	err := s.read.key.QueryRowContext(ctx, client, key).Scan(&id, &digest, &r.To, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return r, store.ErrNotFound
	}
	if err != nil {
		return r, classify(err)
	}
	copy(r.ID[:], id)
	copy(r.Digest[:], digest)
	r.AcceptedAt = time.UnixMicro(at).UTC()
	return r, nil
}

// Events implements store.Reader.
func (s *Store) Events(ctx context.Context, shard uint16, after int64, limit int) ([]store.EventWrite, error) {
	rows, err := s.read.events.QueryContext(ctx, int64(shard), after)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var writes []store.EventWrite
	for n := 0; n < limit && rows.Next(); {
		var w store.EventWrite
		var block sql.RawBytes
		if err := rows.Scan(&w.Number, &block); err != nil {
			return nil, classify(err)
		}
		if w.Number != after+int64(len(writes))+1 {
			if len(writes) == 0 {
				return nil, store.ErrForgotten
			}
			break
		}
		if w.Events, err = record.AppendEvents(nil, block); err != nil {
			return nil, fmt.Errorf("store: events %d of shard %d: %w", w.Number, shard, err)
		}
		n += len(w.Events)
		writes = append(writes, w)
	}
	if err := rows.Err(); err != nil {
		return nil, classify(err)
	}
	if len(writes) == 0 {
		// Nothing yet, or nothing any more.
		var forgotten int64
		err := s.read.forgotten.QueryRowContext(ctx, int64(shard)).Scan(&forgotten)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil, nil // nobody has claimed the shard yet
		case err != nil:
			return nil, classify(err)
		case forgotten > after:
			return nil, store.ErrForgotten
		}
	}
	return writes, nil
}

// EventRanges implements store.Reader.
func (s *Store) EventRanges(ctx context.Context) (map[uint16]store.EventRange, error) {
	rows, err := s.read.eventRanges.QueryContext(ctx)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	all := make(map[uint16]store.EventRange)
	for rows.Next() {
		var shard uint16
		var r store.EventRange
		if err := rows.Scan(&shard, &r.Last, &r.Forgotten); err != nil {
			return nil, classify(err)
		}
		all[shard] = r
	}
	return all, classify(rows.Err())
}

// Rejected implements store.RejectReader.
func (s *Store) Rejected(ctx context.Context, after int64, limit int) ([]store.Rejected, error) {
	rows, err := s.read.rejects.QueryContext(ctx, after, limit)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var list []store.Rejected
	for rows.Next() {
		var r store.Rejected
		var at int64
		if err := rows.Scan(&r.Number, &r.Shard, &r.Tier, &r.Ord, &at, &r.Reason, &r.Detail, &r.Record); err != nil {
			return nil, classify(err)
		}
		r.At = time.UnixMicro(at).UTC()
		list = append(list, r)
	}
	return list, classify(rows.Err())
}

// collect reads all rows of a query for rowColumns.
func collect(rows *sql.Rows, err error) ([]store.Row, error) {
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var list []store.Row
	for rows.Next() {
		var payload, state sql.RawBytes
		var final bool
		r := store.Row{Place: store.InQueue}
		if err := rows.Scan(&payload, &state, &r.Ord, &final); err != nil {
			return nil, classify(err)
		}
		if err := record.DecodeMessage(payload, &r.Message); err != nil {
			return nil, fmt.Errorf("store: stored message: %w", err)
		}
		if r.State, err = record.DecodeState(state); err != nil {
			return nil, fmt.Errorf("store: state of message %s: %w", r.Message.ID, err)
		}
		if final {
			r.Place = store.InHistory
		}
		list = append(list, r)
	}
	return list, classify(rows.Err())
}

// Positions implements store.Shards.
func (s *Store) Positions(ctx context.Context) (map[uint16][esh3ar.Tiers]uint64, error) {
	rows, err := s.reads.QueryContext(ctx, `SELECT shard, position_gold, position_silver, position_bronze FROM shard`)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	all := make(map[uint16][esh3ar.Tiers]uint64)
	for rows.Next() {
		var (
			shard uint16
			p     [esh3ar.Tiers]uint64
		)
		if err := rows.Scan(&shard, &p[esh3ar.TierGold], &p[esh3ar.TierSilver], &p[esh3ar.TierBronze]); err != nil {
			return nil, classify(err)
		}
		all[shard] = p
	}
	return all, classify(rows.Err())
}
