package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// What collect reads from either table.
const (
	queueRow = `payload, state, ord, false FROM queue`
	finalRow = `payload, state, ord, true FROM message`
)

// idAhead is how far the time in an identifier of version 7 may lie ahead of the time of acceptance,
// with room for clocks that disagree (esh3ar.DeriveID allows five minutes).
const idAhead = time.Hour

// notFinalBefore returns a time before which a message with that id cannot have become final, so that
// a look-up leaves out the days before: a message is final after it is accepted, and accepted about
// when its id says. An id that says nothing may be of any day.
func notFinalBefore(id esh3ar.ID) int64 {
	if t := id.Time(); !t.IsZero() {
		return t.Add(-idAhead).UnixMicro()
	}
	return 0
}

// Message implements store.Reader.
func (s *Store) Message(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	rows, err := s.collect(s.pool.Query(ctx, `
		SELECT `+queueRow+` WHERE id = $1 AND client = $2
		UNION ALL
		SELECT `+finalRow+` WHERE id = $1 AND client = $2 AND final_at >= $3`,
		id, []byte(client), notFinalBefore(id)))
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
	if len(ids) == 0 {
		return nil, ctx.Err()
	}
	since := notFinalBefore(ids[0])
	for _, id := range ids {
		since = min(since, notFinalBefore(id))
	}
	return s.collect(s.pool.Query(ctx, `
		SELECT `+queueRow+` WHERE id = ANY ($1::uuid[]) AND shard = $2
		UNION ALL
		SELECT `+finalRow+` WHERE id = ANY ($1::uuid[]) AND shard = $2 AND final_at >= $3`,
		ids, int32(shard), since))
}

// Waiting implements store.Shards.
func (s *Store) Waiting(ctx context.Context, q store.Waiting) ([]store.Row, error) {
	before := bound(q.Before)
	if before == 0 {
		before = bound(^uint64(0))
	}
	return s.collect(s.pool.Query(ctx, `
		SELECT `+queueRow+` WHERE shard = $1 AND recipient = $2 AND ord > $3 AND ord < $4 AND status <> 2
		ORDER BY ord LIMIT $5`,
		int32(q.Shard), []byte(q.Recipient), bound(q.After), before, q.Limit))
}

// bound returns v as it is compared with ord, which is below 2^63.
func bound(v uint64) int64 { return int64(min(v, 1<<63-1)) }

// Due implements store.Shards.
func (s *Store) Due(ctx context.Context, shard uint16, now time.Time, limit int) ([]store.Row, error) {
	rows, err := s.collect(s.pool.Query(ctx, `
		(SELECT `+queueRow+` WHERE shard = $1 AND not_before <= $2 AND status = 2 ORDER BY not_before LIMIT $3)
		UNION ALL
		(SELECT `+queueRow+` WHERE shard = $1 AND expires_at <= $2 ORDER BY expires_at LIMIT $3)`,
		int32(shard), now.UnixMicro(), limit))
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
	var where strings.Builder
	var args []any
	// and adds a condition, in which # stands for the value.
	and := func(condition string, value any) {
		args = append(args, value)
		where.WriteString(" AND ")
		where.WriteString(strings.ReplaceAll(condition, "#", fmt.Sprintf("$%d", len(args))))
	}
	and("client = #", []byte(q.Client))
	if q.To != "" {
		and("recipient_key = #", store.RecipientKey(q.Client, q.To))
		and("recipient = #", []byte(q.To))
	} else {
		and("client_key = #", store.ClientKey(q.Client))
	}
	if q.Status != 0 {
		and("status = #", int16(q.Status))
		// In words that the partial indexes know, since the value is not in the plan.
		if q.Status != esh3ar.StatusDelivered {
			where.WriteString(" AND status <> 5")
		}
		if q.Status != esh3ar.StatusQueued {
			where.WriteString(" AND status <> 3")
		}
	}
	if !q.Until.IsZero() {
		and("accepted_at < #", store.CeilMicros(q.Until))
	}
	if q.Cursor != "" {
		c, err := store.ParseCursor(q.Cursor)
		if err != nil {
			return store.Page{}, err
		}
		and("accepted_at <= #", c.AcceptedAt.UnixMicro())
		and(fmt.Sprintf("(accepted_at < $%d OR id < #)", len(args)), c.ID)
	}
	since := ""
	if !q.From.IsZero() {
		and("accepted_at >= #", store.CeilMicros(q.From))
		since = fmt.Sprintf(" AND final_at >= $%d", len(args)) // leaves out the days before
	}
	args = append(args, q.Limit+1)
	tail := fmt.Sprintf(" ORDER BY accepted_at DESC, id DESC LIMIT $%d", len(args))
	sub := func(from, more string) string {
		return `(SELECT accepted_at, id, ` + from + ` WHERE true` + where.String() + more + tail + `)`
	}
	rows, err := s.collect(s.pool.Query(ctx, `SELECT payload, state, ord, final FROM (`+
		sub(strings.Replace(queueRow, "false", "false AS final", 1), "")+` UNION ALL `+
		sub(strings.Replace(finalRow, "true", "true AS final", 1), since)+`) AS rows`+tail, args...))
	if err != nil {
		return store.Page{}, err
	}
	return store.NewPage(rows, q.Limit), nil
}

// Idempotent implements store.Reader.
func (s *Store) Idempotent(ctx context.Context, client, key string) (store.Remembered, error) {
	var r store.Remembered
	var id [16]byte
	var digest, to []byte
	var at int64
	err := s.pool.QueryRow(ctx, `SELECT id, digest, recipient, accepted_at FROM idempotency
		WHERE key = $1 AND accepted_at >= $2 ORDER BY number LIMIT 1`,
		store.KeyHash(client, key), s.keysForgotten.Load()).Scan(&id, &digest, &to, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		s.heard()
		return r, store.ErrNotFound
	}
	r = store.Remembered{ID: id, To: string(to), AcceptedAt: fromMicros(at)}
	copy(r.Digest[:], digest)
	return r, s.classify(err)
}

// forgotten is the number of the last write of a shard's events that is not kept any more.
const forgotten = `coalesce((SELECT min(number) FROM event e WHERE e.shard = s.shard), event + 1) - 1`

// Events implements store.Reader.
func (s *Store) Events(ctx context.Context, shard uint16, after int64, limit int) ([]store.EventWrite, error) {
	const runs = 16 // rows of one query; most callers need no second
	var writes []store.EventWrite
	n, gap := 0, false
	for n < limit && !gap {
		rows, err := s.pool.Query(ctx, `SELECT number, block FROM event WHERE shard = $1 AND number > $2 ORDER BY number LIMIT $3`,
			int32(shard), after+int64(len(writes)), runs)
		if err != nil {
			return nil, s.classify(err)
		}
		var number int64
		var block pgtype.DriverBytes
		found := 0
		_, err = pgx.ForEachRow(rows, []any{&number, &block}, func() error {
			found++
			if n >= limit || gap {
				return nil // read in vain
			}
			if gap = number != after+int64(len(writes))+1; gap {
				return nil
			}
			events, err := record.AppendEvents(nil, block)
			if err != nil {
				return fmt.Errorf("store: events %d of shard %d: %w", number, shard, err)
			}
			n += len(events)
			writes = append(writes, store.EventWrite{Number: number, Events: events})
			return nil
		})
		if err != nil {
			return nil, s.classify(err)
		}
		if found < runs {
			break
		}
	}
	if gap && len(writes) == 0 {
		return nil, store.ErrForgotten
	}
	if len(writes) == 0 {
		// Nothing yet, or nothing any more.
		var last int64
		err := s.pool.QueryRow(ctx, `SELECT `+forgotten+` FROM shard s WHERE shard = $1`, int32(shard)).Scan(&last)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return nil, nil // nobody has claimed the shard yet
		case err != nil:
			return nil, s.classify(err)
		case last > after:
			return nil, store.ErrForgotten
		}
	}
	return writes, nil
}

// EventRanges implements store.Reader.
func (s *Store) EventRanges(ctx context.Context) (map[uint16]store.EventRange, error) {
	rows, err := s.pool.Query(ctx, `SELECT shard, event, `+forgotten+` FROM shard s`)
	if err != nil {
		return nil, s.classify(err)
	}
	all := make(map[uint16]store.EventRange)
	var shard int32
	var r store.EventRange
	_, err = pgx.ForEachRow(rows, []any{&shard, &r.Last, &r.Forgotten}, func() error {
		all[uint16(shard)] = r
		return nil
	})
	return all, s.classify(err)
}

// Rejected implements store.RejectReader.
func (s *Store) Rejected(ctx context.Context, after int64, limit int) ([]store.Rejected, error) {
	rows, err := s.pool.Query(ctx, `SELECT seq, shard, tier, ord, at, reason, detail, record FROM reject
		WHERE seq > $1 ORDER BY seq LIMIT $2`, after, limit)
	if err != nil {
		return nil, s.classify(err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (store.Rejected, error) {
		var r store.Rejected
		var shard, tier int32
		var ord, at int64
		var reason, detail []byte
		err := row.Scan(&r.Number, &shard, &tier, &ord, &at, &reason, &detail, &r.Record)
		r.Shard, r.Tier, r.Ord, r.At = uint16(shard), esh3ar.Tier(tier), uint64(ord), fromMicros(at)
		r.Reason, r.Detail = esh3ar.Reason(reason), string(detail)
		return r, err
	})
	return list, s.classify(err)
}

// collect reads all rows of a query for queueRow or finalRow.
func (s *Store) collect(rows pgx.Rows, err error) ([]store.Row, error) {
	if err != nil {
		return nil, s.classify(err)
	}
	var list []store.Row
	var payload, state pgtype.DriverBytes // not copied: decoding does
	var ord int64
	var final bool
	if _, err := pgx.ForEachRow(rows, []any{&payload, &state, &ord, &final}, func() error {
		r := store.Row{Ord: uint64(ord), Place: store.InQueue}
		if final {
			r.Place = store.InHistory
		}
		if err := record.DecodeMessage(payload, &r.Message); err != nil {
			return fmt.Errorf("stored message: %w", err)
		}
		var err error
		if r.State, err = record.DecodeState(state); err != nil {
			return fmt.Errorf("state of message %s: %w", r.Message.ID, err)
		}
		list = append(list, r)
		return nil
	}); err != nil {
		return nil, s.classify(err)
	}
	return list, nil
}

func fromMicros(v int64) time.Time { return time.UnixMicro(v).UTC() }

// Positions implements store.Shards.
func (s *Store) Positions(ctx context.Context) (map[uint16][esh3ar.Tiers]uint64, error) {
	rows, err := s.pool.Query(ctx, `SELECT shard, position_gold, position_silver, position_bronze FROM shard`)
	if err != nil {
		return nil, s.classify(err)
	}
	all := make(map[uint16][esh3ar.Tiers]uint64)
	var shard int32
	var p [esh3ar.Tiers]int64
	_, err = pgx.ForEachRow(rows, []any{&shard, &p[esh3ar.TierGold], &p[esh3ar.TierSilver], &p[esh3ar.TierBronze]}, func() error {
		all[uint16(shard)] = [esh3ar.Tiers]uint64{uint64(p[0]), uint64(p[1]), uint64(p[2])}
		return nil
	})
	return all, s.classify(err)
}
