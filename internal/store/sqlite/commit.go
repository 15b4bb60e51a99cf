package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Claim implements store.Shards.
func (s *Store) Claim(ctx context.Context, shard uint16) (store.Claim, error) {
	claim := store.Claim{Epoch: store.Epoch{Token: store.NewToken()}}
	err := s.writer.do(ctx, 1, func(w *writer) error {
		row, err := w.stmts.claim.row(int64(shard), claim.Epoch.Token[:])
		if err != nil {
			return classify(err)
		}
		claim.Epoch.Number = row[0].(int64)
		for t := range claim.Positions {
			claim.Positions[t] = uint64(row[1+t].(int64))
		}
		return nil
	})
	return claim, err
}

// Commit implements store.Shards.
func (s *Store) Commit(ctx context.Context, b *store.Batch) error {
	if err := b.Check(); err != nil {
		return err
	}
	// Encoding is done here, so that callers do it beside each other and beside the writer.
	e := encodings.Get().(*encoded)
	defer encodings.Put(e)
	e.encode(b)
	return s.writer.do(ctx, len(b.Changes)+len(b.Rejects), func(w *writer) error {
		return w.commitBatch(b, e)
	})
}

// encoded holds the encodings of a batch's changes, end to end.
type encoded struct {
	buf    []byte
	rows   []encodedRow
	events record.EventBlock
	keyed  []*esh3ar.Message // inserted with an idempotency key
}

// encodedRow is one change's payload and state. The payload is nil where a row is
// expected that has it already.
type encodedRow struct {
	payload, state []byte
}

var encodings = sync.Pool{New: func() any { return new(encoded) }}

// yield lets others have the processor now and then: a transaction of thousands of rows takes tens of
// milliseconds, and a message on its way, which changes goroutines a dozen times, would wait for a whole slice
// of it each time.
func yield(i int) {
	const every = 16
	if i%every == every-1 {
		runtime.Gosched()
	}
}

func (e *encoded) encode(b *store.Batch) {
	e.buf, e.rows = e.buf[:0], e.rows[:0]
	for i := range b.Changes {
		c := &b.Changes[i]
		// A slice taken before the buffer grows keeps the old array, whose bytes are right.
		var r encodedRow
		if c.From == store.Nowhere {
			start := len(e.buf)
			e.buf = record.AppendRow(e.buf, c.Message)
			r.payload = e.buf[start:]
		}
		start := len(e.buf)
		e.buf = record.AppendState(e.buf, &c.State)
		r.state = e.buf[start:]
		e.rows = append(e.rows, r)
	}
}

// commitBatch applies a batch within the writer's transaction.
func (w *writer) commitBatch(b *store.Batch, e *encoded) error {
	if err := w.step(store.StepOwner); err != nil {
		return err
	}
	owner, err := w.stmts.owner.row(int64(b.Shard))
	if err != nil {
		return classify(err)
	}
	var stored store.Epoch
	if owner != nil {
		stored.Number = owner[0].(int64)
		copy(stored.Token[:], owner[1].([]byte))
	}
	if err := b.Epoch.Check(stored); err != nil {
		return err
	}
	if b.Number > 0 && owner[4].(int64) < b.Number-1 {
		return store.ErrSetBack
	}
	events := eventWriter{
		w: w, shard: b.Shard, number: owner[2].(int64), at: max(owner[3].(int64), b.At.UnixMicro()), block: &e.events,
	}
	e.events.Reset()

	if err := w.step(store.StepMessages); err != nil {
		return err
	}
	e.keyed = e.keyed[:0]
	for i := range b.Changes {
		yield(i)
		c := &b.Changes[i]
		how, err := w.apply(b, c, &e.rows[i])
		if err != nil {
			return fmt.Errorf("message %s: %w", c.Message.ID, classify(err))
		}
		if how == skipped {
			continue
		}
		if how == upserted && c.Message.Key != "" {
			e.keyed = append(e.keyed, c.Message)
		}
		// Events are collected as the rows are written and stored in runs.
		for t := c.NewFrom; t < len(c.State.Timeline); t++ {
			if err := events.add(c.Message, &c.State.Timeline[t]); err != nil {
				return err
			}
		}
	}

	if err := w.step(store.StepKeys); err != nil {
		return err
	}
	for _, m := range e.keyed {
		if _, err := w.stmts.key.exec(m.Client, m.Key, m.ID[:], m.Digest[:], m.To, m.AcceptedAt.UnixMicro()); err != nil {
			return fmt.Errorf("key of message %s: %w", m.ID, classify(err))
		}
	}

	if err := w.step(store.StepEvents); err != nil {
		return err
	}
	if err := events.flush(); err != nil {
		return err
	}

	if err := w.step(store.StepRejects); err != nil {
		return err
	}
	for i := range b.Rejects {
		r := &b.Rejects[i]
		if _, err := w.stmts.reject.exec(int64(b.Shard), int64(r.Tier), int64(r.Ord), b.At.UnixMicro(),
			string(r.Reason), r.Detail, store.RecordKey(r.Record), notNil(r.Record)); err != nil {
			return fmt.Errorf("reject %d: %w", r.Ord, classify(err))
		}
	}

	if err := w.step(store.StepPositions); err != nil {
		return err
	}
	n, err := w.stmts.positions.exec(int64(b.Positions[esh3ar.TierGold]), int64(b.Positions[esh3ar.TierSilver]),
		int64(b.Positions[esh3ar.TierBronze]), events.number, events.at, b.Number, int64(b.Shard), b.Epoch.Number, b.Epoch.Token[:])
	if err != nil {
		return classify(err)
	}
	if n != 1 {
		return store.ErrNotOwner
	}
	return nil
}

// outcome is what became of one change.
type outcome uint8

const (
	skipped  outcome = iota // the row is as far or further
	updated                 // the state of a row was replaced
	upserted                // a row was inserted, or one found that nobody expected
)

// apply stores one change if there is no row or one with a lower status_seq.
func (w *writer) apply(b *store.Batch, c *store.Change, r *encodedRow) (outcome, error) {
	m, s := c.Message, &c.State
	var finalAt driver.Value
	if s.Status.Final() {
		finalAt = b.At.UnixMicro()
	}
	if c.From != store.Nowhere {
		n, err := w.stmts.update.exec(m.ID[:], int64(c.Ord), int64(s.Status), int64(s.Seq()), micros(s.NotBefore), r.state, finalAt)
		if n != 0 || err != nil {
			return updated, err
		}
		// Either the row is further on, or somebody has removed it. The insert tells.
		r.payload = record.AppendRow(nil, m)
	}
	w.seq++
	recipientKey := store.RecipientKey(m.Client, m.To)
	acceptedAt := m.AcceptedAt.UnixMicro()
	result, err := w.stmts.upsert.run(w.stmts.upsert.bind([]driver.Value{w.seq, m.ID[:], m.Client, m.To,
		store.ClientKey(m.Client), recipientKey, int64(b.Shard), int64(c.Ord), int64(s.Status), int64(s.Seq()),
		acceptedAt, micros(s.NotBefore), micros(m.ExpiresAt), finalAt, r.payload, r.state}))
	if err != nil {
		return skipped, err
	}
	if n, err := result.RowsAffected(); n == 0 || err != nil {
		return skipped, err
	}
	// A row that was found keeps its own number, and the last one inserted is an earlier one.
	if last, err := result.LastInsertId(); err != nil {
		return skipped, err
	} else if last == w.seq {
		w.inserted = append(w.inserted, indexEntry{key: recipientKey, acceptedAt: acceptedAt, seq: last})
	}
	return upserted, nil
}

// eventWriter numbers a shard's events and stores them in runs.
type eventWriter struct {
	w      *writer
	shard  uint16
	number int64 // the last one used
	at     int64 // never before that of the last one, also if the clock was set back
	block  *record.EventBlock
}

func (e *eventWriter) add(m *esh3ar.Message, t *esh3ar.Transition) error {
	e.block.Add(&esh3ar.Event{Message: m.ID, Client: m.Client, To: m.To, TraceParent: m.TraceParent, Transition: *t})
	if e.block.Len() < store.MaxEventsPerWrite {
		return nil
	}
	return e.flush()
}

func (e *eventWriter) flush() error {
	if e.block.Len() == 0 {
		return nil
	}
	e.number++
	_, err := e.w.stmts.event.exec(int64(e.shard), e.number, e.at, e.block.Bytes())
	e.block.Reset()
	return classify(err)
}

// micros is how times are stored: NULL for the zero time.
func micros(t time.Time) driver.Value {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// notNil keeps the driver from storing NULL for an empty value.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
