package dispatch

import (
	"context"
	"sync"

	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/fair"
	"github.com/esh3artech/esh3ar/internal/store"
)

// inboxReaders is how many pages of waiting messages are read from the store at one time.
const inboxReaders = 4

// inbox reads waiting messages from the store for recipients that have room for them, by weighted fair
// queueing over the clients that they were last served for. A recipient has at most one request out, so the
// queue is bounded by the number of connected recipients.
type inbox struct {
	d *Dispatcher

	mu     sync.Mutex
	queue  *fair.Queue[request]
	signal chan struct{} // cap inboxReaders: somebody may find work
}

type request struct {
	r      *recipient
	flow   fair.Flow // in whose turn it was asked for
	effect delivery.Effect
}

func newInbox(d *Dispatcher) *inbox {
	return &inbox{d: d, queue: fair.New[request](d.opts.Weights), signal: make(chan struct{}, inboxReaders)}
}

func (b *inbox) ask(q request) {
	b.mu.Lock()
	b.queue.Push(q.flow, q)
	b.mu.Unlock()
	select {
	case b.signal <- struct{}{}:
	default: // all readers are called already
	}
}

func (b *inbox) take() (request, fair.Turn, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queue.Pop()
}

func (b *inbox) done(t fair.Turn, cost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue.Done(t, float64(cost))
}

// run reads until ctx ends.
func (b *inbox) run(ctx context.Context) {
	var readers sync.WaitGroup
	for range inboxReaders {
		readers.Go(func() { b.serve(ctx) })
	}
	readers.Wait()
}

func (b *inbox) serve(ctx context.Context) {
	retry := newRetry()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.signal:
		}
		for {
			q, turn, ok := b.take()
			if !ok {
				break
			}
			rows, err := b.read(ctx, q, retry)
			if err != nil {
				return
			}
			b.done(turn, 1+rows)
		}
	}
}

// read answers one request. While the store is down each reader fails a request at the pace of its
// retry, and the recipient asks anew: so reading starts by itself when the store is back. It returns the
// number of rows.
func (b *inbox) read(ctx context.Context, q request, retry *retry) (int, error) {
	s := q.r.shard
	rows, err := b.d.opts.Store.Waiting(ctx, store.Waiting{
		Shard:     s.id,
		Recipient: q.r.name,
		After:     q.effect.After,
		Before:    q.effect.Before,
		Limit:     q.effect.Limit,
	})
	if err != nil {
		if werr := retry.wait(ctx); werr != nil {
			return 0, werr
		}
		s.post(q.r.name, event{kind: evReadFailed, ticket: q.effect.Ticket})
		return 0, nil
	}
	retry.reset()
	items := make([]*delivery.Item, len(rows))
	for i := range rows {
		items[i] = itemOf(&rows[i])
	}
	s.post(q.r.name, event{kind: evPage, ticket: q.effect.Ticket, items: items})
	return len(rows), nil
}
