package jetstream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/journal"
)

const (
	// heartbeat is how often a consumer with nothing to deliver says that it is
	// there. After two without one a reader makes itself a new consumer.
	heartbeat = 500 * time.Millisecond

	// pullExpiry is how long the server keeps a reader's request. A reader
	// that is not asked for entries costs the server nothing after it.
	pullExpiry = 10 * time.Second

	// inactiveThreshold is after how long the server forgets a consumer that
	// nobody reads from.
	inactiveThreshold = 30 * time.Second

	// retryMin and retryMax bound the growing pause between attempts to make a
	// consumer.
	retryMin = 20 * time.Millisecond
	retryMax = time.Second
)

// reader delivers a subject's entries by a consumer that lives in the server's
// memory, delivers in order and is never acknowledged to. The reader counts
// what it gets: on a gap, an error or silence it makes a new consumer that
// begins after the last entry that Next has returned. nats.go's ordered
// consumer does the same, but waits for the server without regard to a context.
type reader struct {
	log       *Log
	partition journal.Partition
	ctx       context.Context // ends with Close or with the log
	end       context.CancelFunc

	after     uint64 // the last sequence that Next returned, or where it began
	delivered uint64 // how many entries came from the consumer

	mu      sync.Mutex
	entries jetstream.MessagesContext // nil while there is no consumer
}

// Read implements journal.Log.
func (l *Log) Read(ctx context.Context, p journal.Partition, after uint64) (journal.Reader, error) {
	if err := l.check(p); err != nil {
		return nil, err
	}
	r := &reader{log: l, partition: p, after: after}
	r.ctx, r.end = context.WithCancel(l.ctx)
	if err := r.open(ctx); err != nil {
		r.Close()
		return nil, l.requestError(ctx, "open a reader", err)
	}
	context.AfterFunc(r.ctx, r.Close) //nolint:contextcheck // a reader outlives the call that opens it
	return r, nil
}

// Next implements journal.Reader.
func (r *reader) Next(ctx context.Context) (journal.Entry, error) {
	for {
		entries, err := r.current(ctx)
		if err != nil {
			return journal.Entry{}, err
		}
		msg, err := entries.Next(jetstream.NextContext(ctx))
		if err == nil {
			meta, err := msg.Metadata()
			if err == nil && meta.Sequence.Consumer == r.delivered+1 && meta.Sequence.Stream > r.after {
				r.delivered++
				r.after = meta.Sequence.Stream
				return journal.Entry{Seq: r.after, Time: meta.Timestamp, Data: msg.Data()}, nil
			}
		} else if ctx.Err() != nil {
			return journal.Entry{}, context.Cause(ctx)
		}
		r.drop()
	}
}

// current returns what delivers entries, after making it if need be.
func (r *reader) current(ctx context.Context) (jetstream.MessagesContext, error) {
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		r.mu.Lock()
		entries := r.entries
		r.mu.Unlock()
		if r.ctx.Err() != nil {
			return nil, journal.ErrClosed
		}
		if entries != nil {
			return entries, nil
		}
		if err := r.open(ctx); err == nil {
			continue
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-r.ctx.Done():
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		timer.Stop()
	}
}

// open makes a consumer that begins after the last entry.
func (r *reader) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)() //nolint:contextcheck // closing the reader ends the attempt too
	consumer, err := r.log.streams[r.partition.Shard].CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject:     subject(r.partition),
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.after + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: inactiveThreshold,
	})
	if err != nil {
		return err
	}
	entries, err := consumer.Messages(
		jetstream.PullMaxMessagesWithBytesLimit(r.log.opts.ReadAheadEntries, r.log.opts.ReadAheadBytes),
		jetstream.PullExpiry(pullExpiry),
		jetstream.PullHeartbeat(heartbeat),
		jetstream.WithMessagesErrOnMissingHeartbeat(true),
	)
	if err != nil {
		return fmt.Errorf("read from the consumer: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		entries.Stop()
		return r.ctx.Err()
	}
	r.entries, r.delivered = entries, 0
	return nil
}

// drop leaves the consumer, which the server will forget.
func (r *reader) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.entries != nil {
		r.entries.Stop()
		r.entries = nil
	}
}

// Close implements journal.Reader.
func (r *reader) Close() {
	r.end()
	r.drop()
}
