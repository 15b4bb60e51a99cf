package ingest

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/fair"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// slabSize is how much memory a batch request takes at one time, for the texts and the records of its
// messages.
const slabSize = 256 << 10

// slab is memory for texts and records.
type slab [slabSize]byte

// batchLookup bounds the look-ups of all the idempotency keys of a batch, so that its messages are in
// the journal soon after their AcceptedAt.
const batchLookup = time.Second

// batch is what one POST /v1/messages/batch works with. It is used again and again.
//
// First the whole body is read, and its messages are cut out of it as they arrive; then all are
// accepted at one time. So a body that turns out to be malformed has accepted nothing, and a body
// that arrives slowly does not hold back messages that are accepted already.
type batch struct {
	decoder
	message esh3ar.Message
	window  window
	texts   [][]byte // nil for a message that is too large
	results []result
	items   []journal.Item
	indexes []int          // of the results that the items belong to
	keys    map[string]int // idempotency key → index of the result that used it first
	slabs   []*slab
	free    []byte // of the last slab
	atBench bool
}

// result is the answer to one message of a batch.
type result struct {
	err    error // nil if the message is accepted
	id     esh3ar.ID
	to     string
	at     time.Time
	key    string
	digest [32]byte
	// sameAs is the index, plus one, of the result of an earlier message of the batch that this one
	// repeats; 0 if it repeats none.
	sameAs int
}

func newBatch() *batch {
	return &batch{window: window{buf: make([]byte, windowSize)}, keys: make(map[string]int)}
}

// acceptBatch serves POST /v1/messages/batch.
func (a *API) acceptBatch(w http.ResponseWriter, r *http.Request) error {
	client, err := a.keys.caller(r, esh3ar.ScopeSend)
	if err != nil {
		return err
	}
	if err := checkContentType(r.Header); err != nil {
		return err
	}
	if len(r.Header["Idempotency-Key"]) > 0 {
		return esh3ar.Errorf(esh3ar.KindInvalid, "idempotency_key_of_batch",
			"a batch has no Idempotency-Key of its own; give each message an idempotency_key")
	}
	if r.ContentLength > esh3ar.MaxBatchBytes {
		return tooLarge(esh3ar.MaxBatchBytes)
	}
	if a.load.full(client.Tier) {
		return a.overloaded(client.Tier)
	}
	b := a.batches.Get().(*batch)
	defer a.recycle(b)
	if err := a.readTexts(r.Body, b); err != nil {
		return err
	}
	if err := a.prepareBatch(r, client, b); err != nil {
		return err
	}
	// All of its new messages or none: half a batch would be as hard to go on from as to explain.
	charged, err := a.admit(&client.Client, len(b.items), a.now(), time.Sleep)
	if err != nil {
		return err
	}
	a.metrics.batch.Observe(float64(len(b.results)))
	a.appendBatch(context.WithoutCancel(r.Context()), fair.Flow{Tier: client.Tier, Client: client.ID}, b)
	charged.refund(a.settle(r.Context(), client, b))
	charged.standing.tell(w.Header())
	a.answerBatch(w, b)
	return nil
}

// appendBatch makes the items durable, part by part.
func (a *API) appendBatch(ctx context.Context, flow fair.Flow, b *batch) {
	a.load.batched.Add(int64(len(b.items)))
	defer a.load.batched.Add(-int64(len(b.items)))
	for rest := b.items; len(rest) > 0; {
		part := rest[:min(len(rest), a.company.part())]
		rest = rest[len(part):]
		turn := a.turns.take(flow, len(part))
		start := time.Now()
		a.journal.AppendAll(ctx, part)
		a.load.ended(len(part), time.Since(start))
		a.turns.done(turn)
	}
}

// readTexts reads the body and keeps the texts of its messages.
func (a *API) readTexts(body io.Reader, b *batch) error {
	b.window.reset(body)
	if err := b.window.openMessages(); err != nil {
		return err
	}
	for {
		text, err := b.window.element(len(b.texts))
		switch {
		case err != nil:
			return err
		case text == nil && !b.window.oversize:
			return b.window.closeMessages(len(b.texts))
		case len(b.texts) == esh3ar.MaxBatch:
			return esh3ar.Errorf(esh3ar.KindTooLarge, "batch_too_long", "a batch has at most %d messages", esh3ar.MaxBatch)
		}
		if text != nil {
			room, err := a.room(b, len(text))
			if err != nil {
				return err
			}
			text = append(room, text...)
			b.free = b.free[len(text):]
		}
		b.texts = append(b.texts, text)
	}
}

// prepareBatch makes a result of each text, and an item of each that is to be appended. An error means
// that the batch as a whole is refused.
func (a *API) prepareBatch(r *http.Request, client *grant, b *batch) error {
	trace := traceParent(r.Header)
	now := a.stamp()
	ctx, cancel := context.WithTimeout(r.Context(), batchLookup)
	defer cancel()
	a.bench.enter(b)
	defer a.bench.leave(b)
	for i, text := range b.texts {
		if i%batchYield == batchYield-1 {
			a.bench.leave(b)
		}
		a.bench.enter(b)
		res := result{err: esh3ar.Errorf(esh3ar.KindTooLarge, "message_too_large", "a message has at most %d bytes", esh3ar.MaxMessageBytes)}
		if text != nil {
			var err error
			if res, err = a.prepare(ctx, client, b, text, trace, now); err != nil {
				return err
			}
		}
		b.results = append(b.results, res)
	}
	return nil
}

// prepare reads one message of a batch. The error refuses the whole batch: it is no JSON, or there is
// no memory.
func (a *API) prepare(ctx context.Context, client *grant, b *batch, text []byte, trace string, now time.Time) (result, error) {
	if err := b.read(text, now, true); err != nil {
		if syntax := b.scanner.err; syntax != nil && syntax.Code == malformedCode {
			return result{}, inMessage(len(b.results), syntax)
		}
		return result{err: err}, nil
	}
	if b.key != "" {
		a.bench.leave(b) // the store may be asked about it
	}
	m := &b.message
	shard, first, err := a.identify(ctx, client, &b.decoder, m, now)
	if err != nil {
		return result{err: err}, nil
	}
	if first.ID != (esh3ar.ID{}) {
		a.metrics.repeated.Inc()
		return result{id: first.ID, to: first.To, at: first.AcceptedAt}, nil
	}
	if m.Key != "" {
		if i, ok := b.keys[m.Key]; ok {
			if b.results[i].digest != m.Digest {
				return result{err: esh3ar.Errorf(esh3ar.KindMismatch, "idempotency_key_reused",
					"message %d of the batch is another one with the same idempotency_key", i)}, nil
			}
			return result{sameAs: i + 1}, nil
		}
		b.keys[m.Key] = len(b.results)
	}
	m.TraceParent = trace
	// A record is little longer than the JSON was. Where this estimate falls short, append moves it
	// to memory of its own.
	room, err := a.room(b, len(text)+1024)
	if err != nil {
		return result{}, err
	}
	rec := record.AppendMessage(room, m)
	if len(rec) <= len(b.free) {
		b.free = b.free[len(rec):]
	}
	b.items = append(b.items, journal.Item{Partition: journal.Partition{Shard: shard, Tier: uint8(m.Tier)}, Record: rec})
	b.indexes = append(b.indexes, len(b.results))
	return result{id: m.ID, to: m.To, at: m.AcceptedAt, key: m.Key, digest: m.Digest}, nil
}

// room returns an empty slice with room for size bytes in the memory of a slab; the caller takes what
// it used off b.free. The error is of KindUnavailable: all batches together hold as much as they may.
func (a *API) room(b *batch, size int) ([]byte, error) {
	if len(b.free) < size {
		if a.batchBytes.Add(slabSize) > a.batchMemory {
			a.batchBytes.Add(-slabSize)
			return nil, esh3ar.Errorf(esh3ar.KindUnavailable, "overloaded", "too many batches arrive at one time; try again").After(time.Second)
		}
		s := a.slabs.Get().(*slab)
		b.slabs = append(b.slabs, s)
		b.free = s[:]
	}
	return b.free[:0], nil
}

// settle brings what became of the items into the results. It returns how many were surely not accepted.
func (a *API) settle(ctx context.Context, client *grant, b *batch) (lost int) {
	accepted := 0
	for i := range b.items {
		res := &b.results[b.indexes[i]]
		if err := b.items[i].Err; err != nil {
			e := appendError(err)
			if e.Kind != esh3ar.KindOutcomeUnknown {
				lost++
			}
			res.err = e
			continue
		}
		accepted++
		if res.key != "" {
			a.recent.put(hashKey(client.ID, res.key), store.Remembered{ID: res.id, Digest: res.digest, To: res.to, AcceptedAt: res.at})
		}
	}
	a.metrics.accepted[client.Tier].Add(float64(accepted))
	for i := range b.results {
		res := &b.results[i]
		if res.sameAs > 0 {
			a.metrics.repeated.Inc()
			*res = b.results[res.sameAs-1]
		}
		if res.err != nil {
			p := problemOf(res.err)
			a.metrics.refused.WithLabelValues(p.code).Inc()
			a.logFailure(ctx, "POST /v1/messages/batch", &p, res.err)
		}
	}
	return lost
}

// answerBatch writes one result a message: 202 if all are accepted, 207 otherwise.
func (a *API) answerBatch(w http.ResponseWriter, b *batch) {
	out := append(make([]byte, 0, 256*(len(b.results)+1)), `{"results":[`...)
	status := http.StatusAccepted
	var wait time.Duration
	for i := range b.results {
		if i > 0 {
			out = append(out, ',')
		}
		res := &b.results[i]
		if res.err == nil {
			out = append(out, `{"status":202,`...)
			out = append(appendReceipt(out, res.id, "", res.to, res.at), '}')
			continue
		}
		status = http.StatusMultiStatus
		p := problemOf(res.err)
		wait = max(wait, p.retryAfter)
		out = strconv.AppendInt(append(out, `{"status":`...), int64(p.status), 10)
		out = append(appendProblem(append(out, `,"problem":`...), &p), '}')
	}
	if wait > 0 {
		w.Header().Set("Retry-After", retrySeconds(wait))
	}
	a.answer(w, status, append(out, "]}\n"...))
}

// recycle gives back what a batch request held.
func (a *API) recycle(b *batch) {
	for _, s := range b.slabs {
		a.slabs.Put(s)
	}
	a.batchBytes.Add(-slabSize * int64(len(b.slabs)))
	clear(b.slabs)
	clear(b.texts)
	clear(b.results)
	clear(b.items)
	clear(b.keys)
	b.slabs, b.texts, b.results, b.items, b.indexes = b.slabs[:0], b.texts[:0], b.results[:0], b.items[:0], b.indexes[:0]
	b.free = nil
	b.window.reset(nil)
	b.reset("")
	b.draft, b.message = draft{}, esh3ar.Message{}
	a.batches.Put(b)
}

// inMessage says in which message of the batch a fault of syntax lies.
func inMessage(index int, err *esh3ar.Error) error {
	e := *err
	e.Message = "message " + strconv.Itoa(index) + ": " + e.Message
	return &e
}
