package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Claim implements store.Shards. It waits for a commit under way to the same shard.
func (s *Store) Claim(ctx context.Context, shard uint16) (store.Claim, error) {
	c := store.Claim{Epoch: store.Epoch{Token: store.NewToken()}}
	var p [esh3ar.Tiers]int64
	err := s.pool.QueryRow(ctx, `INSERT INTO shard AS s (shard, epoch, token) VALUES ($1, 1, $2)
		ON CONFLICT (shard) DO UPDATE SET epoch = s.epoch + 1, token = excluded.token, commits = 0
		RETURNING epoch, position_gold, position_silver, position_bronze`, int32(shard), [16]byte(c.Epoch.Token)).
		Scan(&c.Epoch.Number, &p[0], &p[1], &p[2])
	for t := range p {
		c.Positions[t] = uint64(p[t])
	}
	return c, s.classify(err)
}

// Commit implements store.Shards.
func (s *Store) Commit(ctx context.Context, b *store.Batch) error {
	if err := b.Check(); err != nil {
		return err
	}
	forgotten := s.keysForgotten.Load()
	if err := s.ensureDays(ctx, b, forgotten); err != nil {
		return s.passing(err)
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return s.classify(err)
	}
	// A connection that is not idle after an error is closed on release, which ends its transaction.
	defer conn.Release()
	w := works.Get().(*work)
	w.reset(b)
	w.forgotten = forgotten
	defer func() {
		w.reset(&store.Batch{}) // keeps the memory, not the batch
		works.Put(w)
	}()
	pg := conn.Conn().PgConn()
	err = w.lookUp(ctx, pg)
	if err == nil {
		w.plan()
		err = w.write(ctx, pg)
	}
	if errors.Is(err, store.ErrNotOwner) || errors.Is(err, store.ErrSetBack) {
		return err
	}
	if isNoPartition(err) {
		// Another node has dropped it since. The caller tries again, and then it is made.
		s.days.forget()
	}
	return s.classify(err)
}

// ensureDays makes the partitions that the batch may need. Forgotten is the time before which no keys are kept.
func (s *Store) ensureDays(ctx context.Context, b *store.Batch, forgotten int64) error {
	lastFinal, lastKey := day(-1), day(-1)
	for i := range b.Changes {
		c := &b.Changes[i]
		if c.State.Status.Final() {
			if err := s.days.ensureAfter(ctx, messages, dayOf(finalAt(b, c)), &lastFinal); err != nil {
				return err
			}
		}
		if at := c.Message.AcceptedAt.UnixMicro(); c.Message.Key != "" && at >= forgotten {
			if err := s.days.ensureAfter(ctx, keys, dayOf(at), &lastKey); err != nil {
				return err
			}
		}
	}
	return nil
}

// finalAt is when c made its message final, never before it was accepted, even if the clocks of those
// who accept and those who commit disagree.
func finalAt(b *store.Batch, c *store.Change) int64 {
	return max(b.At.UnixMicro(), c.Message.AcceptedAt.UnixMicro())
}

// work is one commit: what was found, what is to be done, and the memory for it, which is reused.
type work struct {
	b *store.Batch

	// lookUp
	queued, final column // ids to look for
	found         map[esh3ar.ID]found
	event         int64 // the last number of the shard's event sequence
	eventAt       int64 // of the events to be written; never before that of the last one

	// plan
	latest  map[esh3ar.ID]int     // the change that wins, by message
	keyed   []*esh3ar.Message     // fresh ones with an idempotency key
	hashes  map[[16]byte]struct{} // of their keys
	changes [moves]columns
	keys    columns
	events  columns
	rejects columns
	block   record.EventBlock

	forgotten int64 // keys of messages accepted before are not kept
}

// remembers reports whether the message has a key that is kept.
func (w *work) remembers(m *esh3ar.Message) bool {
	return m.Key != "" && m.AcceptedAt.UnixMicro() >= w.forgotten
}

// found is a message's row before the commit. FinalAt is 0 while it lies in the queue.
type found struct {
	seq     uint32
	finalAt int64
}

// move is one kind of change of a message's row, with a statement of its own.
type move int

const (
	insertFinal move = iota // nowhere → history
	insertQueue             // nowhere → queue, and history → queue after deleteFinal
	updateQueue             // queue → queue
	finish                  // queue → history
	updateFinal             // history → history
	deleteFinal             // history → nowhere

	moves
)

// moveStatements are in the order of execution: a replayed row leaves before it is inserted.
var moveStatements = [...]struct {
	move move
	stmt statement
}{
	{deleteFinal, stmtDeleteFinal},
	{insertFinal, stmtInsertFinal},
	{insertQueue, stmtInsertQueue},
	{updateQueue, stmtUpdateQueue},
	{finish, stmtFinish},
	{updateFinal, stmtUpdateFinal},
}

// Types of array elements.
const (
	oidBytea = 17
	oidInt8  = 20
	oidInt2  = 21
	oidInt4  = 23
	oidText  = 25
	oidUUID  = 2950
)

var moveColumns = [moves][]uint32{
	insertFinal: {oidUUID, oidBytea, oidBytea, oidInt8, oidInt8, oidInt8, oidInt2, oidInt4, oidInt8, oidInt8, oidBytea, oidBytea},
	insertQueue: {oidUUID, oidBytea, oidBytea, oidInt8, oidInt8, oidInt8, oidInt2, oidInt4, oidInt8, oidInt8, oidInt8, oidBytea, oidBytea},
	updateQueue: {oidUUID, oidInt8, oidInt2, oidInt4, oidInt8, oidBytea},
	finish:      {oidUUID, oidInt8, oidInt2, oidInt4, oidInt8, oidBytea},
	updateFinal: {oidUUID, oidInt8, oidInt8, oidInt2, oidInt4, oidBytea},
	deleteFinal: {oidUUID, oidInt8},
}

var (
	keyColumns    = []uint32{oidUUID, oidUUID, oidBytea, oidBytea, oidInt8}
	eventColumns  = []uint32{oidInt8, oidBytea}
	rejectColumns = []uint32{oidInt4, oidInt8, oidBytea, oidBytea, oidInt8, oidBytea}
)

// columns are the arrays of one statement, all of the same length.
type columns []column

func (c *columns) reset(types []uint32) {
	if *c == nil {
		*c = make([]column, len(types))
	}
	for i, t := range types {
		(*c)[i].reset(t)
	}
}

var works = sync.Pool{New: func() any {
	return &work{found: map[esh3ar.ID]found{}, latest: map[esh3ar.ID]int{}, hashes: map[[16]byte]struct{}{}}
}}

func (w *work) reset(b *store.Batch) {
	w.b = b
	w.queued.reset(oidUUID)
	w.final.reset(oidUUID)
	clear(w.found)
	clear(w.latest)
	clear(w.keyed)
	w.keyed = w.keyed[:0]
	clear(w.hashes)
	for m := range w.changes {
		w.changes[m].reset(moveColumns[m])
	}
	w.keys.reset(keyColumns)
	w.events.reset(eventColumns)
	w.rejects.reset(rejectColumns)
	w.block.Reset()
}

// lookUp begins the transaction, takes the shard's row if the epoch is still ours, and finds the rows
// of the batch's messages. Only the owner changes them, so that they stay as they are found.
func (w *work) lookUp(ctx context.Context, pg *pgconn.PgConn) error {
	b := w.b
	accepted := int64(math.MaxInt64)
	w.queued.reset(oidUUID)
	w.final.reset(oidUUID)
	for i := range b.Changes {
		c := &b.Changes[i]
		w.queued.bytes(c.Message.ID[:])
		// A waiting row is believed to wait; those that do not are looked for again.
		if c.From != store.InQueue {
			w.final.bytes(c.Message.ID[:])
			accepted = min(accepted, c.Message.AcceptedAt.UnixMicro())
		}
	}
	var batch pgconn.Batch
	add(&batch, stmtBegin)
	add(&batch, stmtOwner, int32Value(int32(b.Shard)), int64Value(b.Epoch.Number), b.Epoch.Token[:])
	add(&batch, stmtFind, w.queued.value(), w.final.value(), int64Value(accepted))
	refusal := store.ErrNotOwner
	if err := w.run(ctx, pg, &batch, func(result int, row [][]byte) {
		switch result {
		case 1:
			if refusal = nil; int64(binary.BigEndian.Uint64(row[2])) < b.Number-1 {
				refusal = store.ErrSetBack
			}
			w.event = int64(binary.BigEndian.Uint64(row[0]))
			w.eventAt = max(int64(binary.BigEndian.Uint64(row[1])), b.At.UnixMicro())
		case 2:
			w.find(row)
		}
	}); err != nil {
		return err
	}
	if refusal != nil {
		return w.refuse(ctx, pg, refusal)
	}

	w.queued.reset(oidUUID)
	w.final.reset(oidUUID)
	accepted = math.MaxInt64
	for i := range b.Changes {
		c := &b.Changes[i]
		if _, ok := w.found[c.Message.ID]; !ok && c.From == store.InQueue {
			w.final.bytes(c.Message.ID[:])
			accepted = min(accepted, c.Message.AcceptedAt.UnixMicro())
		}
	}
	if w.final.n == 0 {
		return nil
	}
	batch = pgconn.Batch{}
	add(&batch, stmtFind, w.queued.value(), w.final.value(), int64Value(accepted))
	return w.run(ctx, pg, &batch, func(_ int, row [][]byte) { w.find(row) })
}

// refuse ends the transaction and returns why: the refusal, and if that is that somebody else owns the shard, in more words.
func (w *work) refuse(ctx context.Context, pg *pgconn.PgConn, refusal error) error {
	var batch pgconn.Batch
	add(&batch, stmtClaim, int32Value(int32(w.b.Shard)))
	add(&batch, stmtRollback)
	var stored store.Epoch
	if err := w.run(ctx, pg, &batch, func(_ int, row [][]byte) {
		stored.Number = int64(binary.BigEndian.Uint64(row[0]))
		copy(stored.Token[:], row[1])
	}); err != nil || errors.Is(refusal, store.ErrSetBack) {
		return refusal // the connection is closed after an error, which is a rollback too
	}
	if err := w.b.Epoch.Check(stored); err != nil {
		return err
	}
	return refusal
}

// find notes a row of stmtFind.
func (w *work) find(row [][]byte) {
	f := found{seq: binary.BigEndian.Uint32(row[1]), finalAt: int64(binary.BigEndian.Uint64(row[2]))}
	w.found[esh3ar.ID(row[0])] = f
}

// plan decides what becomes of each message and fills the parameters of the statements.
func (w *work) plan() {
	b := w.b
	for i := range b.Changes {
		c := &b.Changes[i]
		id := c.Message.ID
		f, known := w.found[id]
		seq := f.seq
		if last, again := w.latest[id]; again {
			seq, known = b.Changes[last].State.Seq(), true
		}
		if c.State.Seq() <= seq {
			continue // the row is as far or further
		}
		w.latest[id] = i
		if !known && w.remembers(c.Message) {
			w.keyed = append(w.keyed, c.Message)
		}
		for t := c.NewFrom; t < len(c.State.Timeline); t++ {
			w.block.Add(&esh3ar.Event{Message: id, Client: c.Message.Client, To: c.Message.To,
				TraceParent: c.Message.TraceParent, Transition: c.State.Timeline[t]})
			if w.block.Len() == store.MaxEventsPerWrite {
				w.flushEvents()
			}
		}
	}
	w.flushEvents()
	for i := range b.Changes {
		if last, ok := w.latest[b.Changes[i].Message.ID]; ok && last == i {
			w.addChange(&b.Changes[i])
		}
	}
	for _, m := range w.keyed {
		key, k := store.KeyHash(m.Client, m.Key), w.keys
		if _, again := w.hashes[key]; again {
			continue // the first one's
		}
		w.hashes[key] = struct{}{}
		k[0].bytes(key[:])
		k[1].bytes(m.ID[:])
		k[2].bytes(m.Digest[:])
		k[3].string(m.To)
		k[4].int64(m.AcceptedAt.UnixMicro())
	}
	for i := range b.Rejects {
		r, k := &b.Rejects[i], w.rejects
		k[0].int32(int32(r.Tier))
		k[1].int64(int64(r.Ord))
		k[2].string(string(r.Reason))
		k[3].string(r.Detail)
		k[4].int64(store.RecordKey(r.Record))
		k[5].bytes(r.Record)
	}
}

func (w *work) flushEvents() {
	if w.block.Len() == 0 {
		return
	}
	w.event++
	w.events[0].int64(w.event)
	w.events[1].bytes(w.block.Bytes())
	w.block.Reset()
}

// addChange adds a change to the statement that brings its row from where it is to where it belongs.
func (w *work) addChange(c *store.Change) {
	f, known := w.found[c.Message.ID]
	final := c.State.Status.Final()
	switch {
	case !known && final:
		w.insert(insertFinal, c)
	case !known:
		w.insert(insertQueue, c)
	case f.finalAt == 0 && final:
		k := w.changes[finish]
		k[0].bytes(c.Message.ID[:])
		progress(k[1:], c)
		k[4].int64(finalAt(w.b, c))
		k[5].encode(state(c))
	case f.finalAt == 0:
		k := w.changes[updateQueue]
		k[0].bytes(c.Message.ID[:])
		progress(k[1:], c)
		k[4].time(c.State.NotBefore)
		k[5].encode(state(c))
	case final:
		k := w.changes[updateFinal]
		k[0].bytes(c.Message.ID[:])
		k[1].int64(f.finalAt)
		progress(k[2:], c)
		k[5].encode(state(c))
	default:
		k := w.changes[deleteFinal]
		k[0].bytes(c.Message.ID[:])
		k[1].int64(f.finalAt)
		// With the payload from here, not from the row: that one's day may be dropped meanwhile.
		w.insert(insertQueue, c)
	}
}

// insert adds a whole row to insertFinal or insertQueue.
func (w *work) insert(how move, c *store.Change) {
	m, k := c.Message, w.changes[how]
	k[0].bytes(m.ID[:])
	k[1].string(m.Client)
	k[2].string(m.To)
	k[3].int64(store.ClientKey(m.Client))
	k[4].int64(store.RecipientKey(m.Client, m.To))
	progress(k[5:], c)
	k[8].int64(m.AcceptedAt.UnixMicro())
	k = k[9:]
	if how == insertFinal {
		k[0].int64(finalAt(w.b, c))
		k = k[1:]
	} else {
		k[0].time(c.State.NotBefore)
		k[1].time(m.ExpiresAt)
		k = k[2:]
	}
	k[0].encode(func(dst []byte) []byte { return record.AppendRow(dst, m) })
	k[1].encode(state(c))
}

// progress fills the columns ord, status and status_seq.
func progress(k columns, c *store.Change) {
	k[0].int64(int64(c.Ord))
	k[1].int16(int16(c.State.Status))
	k[2].int32(int32(c.State.Seq()))
}

func state(c *store.Change) func([]byte) []byte {
	return func(dst []byte) []byte { return record.AppendState(dst, &c.State) }
}

// write sends everything with the commit behind it.
func (w *work) write(ctx context.Context, pg *pgconn.PgConn) error {
	b := w.b
	var batch pgconn.Batch
	shard, at := int32Value(int32(b.Shard)), int64Value(b.At.UnixMicro())
	for _, m := range moveStatements {
		switch m.move {
		case insertFinal, insertQueue:
			addColumns(&batch, m.stmt, w.changes[m.move], shard)
		default:
			addColumns(&batch, m.stmt, w.changes[m.move])
		}
	}
	addColumns(&batch, stmtKeys, w.keys)
	addColumns(&batch, stmtEvents, w.events, shard, int64Value(w.eventAt))
	addColumns(&batch, stmtRejects, w.rejects, shard, at)
	p := b.Positions
	add(&batch, stmtPositions, shard, int64Value(b.Epoch.Number), int64Value(int64(p[esh3ar.TierGold])),
		int64Value(int64(p[esh3ar.TierSilver])), int64Value(int64(p[esh3ar.TierBronze])), int64Value(w.event), int64Value(w.eventAt), int64Value(b.Number), b.Epoch.Token[:])
	add(&batch, stmtCommit)
	return w.run(ctx, pg, &batch, func(int, [][]byte) {})
}

func add(batch *pgconn.Batch, s statement, values ...[]byte) {
	batch.ExecPrepared(s.name, values, binaryFormat, binaryFormat)
}

// addColumns adds a statement over columns and single values, unless it has no rows.
func addColumns(batch *pgconn.Batch, s statement, c columns, values ...[]byte) {
	if c[0].n == 0 {
		return
	}
	params := make([][]byte, 0, len(c)+len(values))
	for i := range c {
		params = append(params, c[i].value())
	}
	add(batch, s, append(params, values...)...)
}

// run sends the batch in one round trip and hands each row to do, with the number of its statement.
func (w *work) run(ctx context.Context, pg *pgconn.PgConn, batch *pgconn.Batch, do func(result int, row [][]byte)) error {
	results := pg.ExecBatch(ctx, batch)
	for i := 0; results.NextResult(); i++ {
		rows := results.ResultReader()
		for rows.NextRow() {
			do(i, rows.Values())
		}
	}
	return results.Close()
}
