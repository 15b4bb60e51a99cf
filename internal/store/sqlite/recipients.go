package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar/internal/store"
)

const (
	// indexInterval is after how long a few rows are indexed too.
	indexInterval = 30 * time.Second
	// indexChunk is how many of them share a transaction, and with it the wait of a commit between.
	indexChunk = 2000
	// indexTuple is how many of them share a statement.
	indexTuple = 50
)

// recipientIndex is the table recipient, which finds a client's messages to one recipient, with what
// is not in it yet.
//
// Recipients come in no order, so that an index of them takes a page of its own from almost every
// message: more than half of all that a commit writes. Therefore the table is filled behind the
// commits, many rows at a time in the order of the index, when most pages take several. The rows that
// it does not have are here, in memory; a start reads them back from the table message.
//
// The row indexer.seq divides the two: up to it every message is in the table, above it everyone is
// here. It moves in the transaction that ends a run of merging, and only then are rows forgotten here.
// So a reader that first asks here and then looks at the database, at both sides of what indexer.seq
// is by then, misses none and sees none twice.
type recipientIndex struct {
	w    *writer
	most int // rows that may be behind before it is time to merge

	mu     sync.RWMutex
	behind []indexEntry           // by seq
	byKey  map[int64][]indexEntry // the same, by recipient
	due    chan struct{}          // holds a token when there are enough

	merging sync.Mutex // held by the one who merges
	stop    context.CancelFunc
	done    chan struct{}
}

// indexEntry is a row of the table recipient.
type indexEntry struct {
	key, acceptedAt, seq int64
}

// newRecipientIndex reads what the table does not have and starts to fill it.
func newRecipientIndex(ctx context.Context, w *writer, db *sql.DB, most int) (*recipientIndex, error) {
	x := &recipientIndex{
		w: w, most: most, byKey: make(map[int64][]indexEntry), due: make(chan struct{}, 1), done: make(chan struct{}),
	}
	rows, err := db.QueryContext(ctx, `SELECT recipient_key, accepted_at, seq FROM message
		WHERE seq > (SELECT seq FROM indexer) ORDER BY seq`)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var behind []indexEntry
	for rows.Next() {
		var e indexEntry
		if err := rows.Scan(&e.key, &e.acceptedAt, &e.seq); err != nil {
			return nil, classify(err)
		}
		behind = append(behind, e)
	}
	if err := rows.Err(); err != nil {
		return nil, classify(err)
	}
	x.add(behind)
	ctx, x.stop = context.WithCancel(context.Background())
	go x.loop(ctx)
	return x, nil
}

func (x *recipientIndex) close() {
	x.stop()
	<-x.done
}

func (x *recipientIndex) loop(ctx context.Context) {
	defer close(x.done)
	tick := time.NewTicker(indexInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.due:
		case <-tick.C:
		}
		// After an error, of a full disk for instance, the rows are still here for the next time.
		_ = x.merge(ctx)
	}
}

// add takes rows that are committed, in the order of their seq.
func (x *recipientIndex) add(entries []indexEntry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range entries {
		x.byKey[e.key] = append(x.byKey[e.key], e)
	}
	x.behind = append(x.behind, entries...)
	if len(x.behind) >= x.most {
		select {
		case x.due <- struct{}{}:
		default: // one is due already
		}
	}
}

// isBehind reports whether the table lacks a message that was accepted before that time.
func (x *recipientIndex) isBehind(before time.Time) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.ContainsFunc(x.behind, func(e indexEntry) bool { return e.acceptedAt < before.UnixMicro() })
}

// merge brings the table up to the last row that is here now. Commits go on between its transactions.
func (x *recipientIndex) merge(ctx context.Context) error {
	x.merging.Lock()
	defer x.merging.Unlock()
	x.mu.RLock()
	entries := slices.Clone(x.behind)
	x.mu.RUnlock()
	if len(entries) == 0 {
		return nil
	}
	last := entries[len(entries)-1].seq
	slices.SortFunc(entries, func(a, b indexEntry) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.acceptedAt, b.acceptedAt), cmp.Compare(a.seq, b.seq))
	})
	for chunk := range slices.Chunk(entries, indexChunk) {
		if err := x.w.do(ctx, len(chunk), func(w *writer) error { return classify(w.index(chunk)) }); err != nil {
			return fmt.Errorf("index recipients: %w", err)
		}
	}
	if err := x.w.do(ctx, 1, func(w *writer) error {
		_, err := w.stmts.indexed.exec(last)
		return classify(err)
	}); err != nil {
		return fmt.Errorf("index recipients: %w", err)
	}
	x.forget(entries, last)
	return nil
}

// index adds rows to the table. Some may be there from a run that did not come to its end.
func (w *writer) index(entries []indexEntry) error {
	for tuple := range slices.Chunk(entries, indexTuple) {
		runtime.Gosched() // as in yield
		if len(tuple) == indexTuple {
			if err := w.stmts.indexMany.execEntries(tuple); err != nil {
				return err
			}
			continue
		}
		for i := range tuple {
			if err := w.stmts.indexOne.execEntries(tuple[i : i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stmt) execEntries(entries []indexEntry) error {
	args := s.room(3 * len(entries))
	for i, e := range entries {
		args[3*i].Value, args[3*i+1].Value, args[3*i+2].Value = e.key, e.acceptedAt, e.seq
	}
	_, err := s.run(args)
	return err
}

// forget drops the entries, all of those up to last, from memory.
func (x *recipientIndex) forget(entries []indexEntry, last int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.behind = slices.Delete(x.behind, 0, len(entries))
	for i, e := range entries {
		if i > 0 && e.key == entries[i-1].key {
			continue
		}
		list := x.byKey[e.key]
		n := 0
		for n < len(list) && list[n].seq <= last {
			n++
		}
		if n == len(list) {
			delete(x.byKey, e.key)
			continue
		}
		x.byKey[e.key] = slices.Clone(list[n:])
	}
}

// lookUp returns the rows of a recipient's messages that the table may not have and that can be on
// the page that q asks for: those within its times, the newest first, and no more than the page takes
// unless their status matters too.
func (x *recipientIndex) lookUp(q *store.Query, cursor *store.Cursor) []int64 {
	x.mu.RLock()
	list := x.byKey[store.RecipientKey(q.Client, q.To)]
	match := make([]indexEntry, 0, min(len(list), q.Limit+1))
	// Rows of one time are told apart by their ids, which are not known here: those of the cursor's
	// time may all be behind us.
	ties := 0
	for _, e := range list {
		if !q.From.IsZero() && e.acceptedAt < store.CeilMicros(q.From) ||
			!q.Until.IsZero() && e.acceptedAt >= store.CeilMicros(q.Until) {
			continue
		}
		if cursor != nil {
			switch at := cursor.AcceptedAt.UnixMicro(); {
			case e.acceptedAt > at:
				continue
			case e.acceptedAt == at:
				ties++
			}
		}
		match = append(match, e)
	}
	x.mu.RUnlock()
	slices.SortFunc(match, func(a, b indexEntry) int { return cmp.Compare(b.acceptedAt, a.acceptedAt) })
	enough := ties + q.Limit + 1
	seqs := make([]int64, 0, len(match))
	for i, e := range match {
		if q.Status == 0 && i >= enough && e.acceptedAt != match[enough-1].acceptedAt {
			break
		}
		seqs = append(seqs, e.seq)
	}
	return seqs
}
