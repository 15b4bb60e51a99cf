package dispatch

import (
	"context"
	"sync"

	"github.com/esh3artech/esh3ar"
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

	pages chan page // cap inboxReaders: read, and not yet trusted; readers wait when it is full
}

type request struct {
	r      *recipient
	flow   fair.Flow // in whose turn it was asked for
	effect delivery.Effect
}

// page is what was read for a request.
type page struct {
	request
	items []*delivery.Item
	// stored are the shard's positions before the reading. A store that has not reached them any more was set back:
	// what the page lacks may be lost, and what comes after it would overtake it.
	stored [esh3ar.Tiers]uint64
}

func newInbox(d *Dispatcher) *inbox {
	return &inbox{d: d, queue: fair.New[request](d.opts.Weights), signal: make(chan struct{}, inboxReaders), pages: make(chan page, inboxReaders)}
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
	readers.Go(func() { b.verify(ctx) })
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

// read reads for one request. While the store is down each reader fails a request at the pace of its
// retry, and the recipient asks anew: so reading starts by itself when the store is back. It returns the
// number of rows.
func (b *inbox) read(ctx context.Context, q request, retry *retry) (int, error) {
	s := q.r.shard
	stored := s.committer.positions()
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
	p := page{request: q, items: make([]*delivery.Item, len(rows)), stored: stored}
	for i := range rows {
		p.items[i] = itemOf(&rows[i])
	}
	select {
	case b.pages <- p:
		return len(rows), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// verify hands pages over, after a look at whether the store had been set back when they were read. It takes as many
// pages at a look as have come, until ctx ends.
func (b *inbox) verify(ctx context.Context) {
	for {
		var read []page
		select {
		case <-ctx.Done():
			return
		case p := <-b.pages:
			read = append(read, p)
		}
		for len(b.pages) > 0 {
			read = append(read, <-b.pages)
		}
		found, err := b.d.opts.Store.Positions(ctx)
		for _, p := range read {
			e := event{kind: evPage, ticket: p.effect.Ticket, items: p.items}
			s := p.r.shard
			switch {
			case err != nil: // asked anew, which is paced
				e = event{kind: evReadFailed, ticket: p.effect.Ticket}
			case !reached(found[s.id], p.stored):
				e = event{kind: evReadFailed, ticket: p.effect.Ticket}
				s.suspect()
			}
			s.post(p.r.name, e)
		}
	}
}
