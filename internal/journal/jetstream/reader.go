package jetstream

import (
	"context"
	"errors"
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

	// openPatience is how long the first request for a consumer waits for its
	// answer, the next for half as long again, and so on: a leader that steps
	// down may lose what it was asked.
	openPatience = 150 * time.Millisecond

	// mostTries is how often another consumer is asked for because a server is
	// about to stop.
	mostTries = 12

	// stepDown is how long a server that is being stopped needs to give up what
	// it leads, and leavingFor how long nothing is to be read from it, if it
	// does not come to its end: it may be back later under the same name.
	stepDown   = 100 * time.Millisecond
	leavingFor = 5 * time.Second
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

	after     uint64        // the last sequence that Next returned, or where it began
	delivered uint64        // how many entries came from the consumer
	pause     time.Duration // before a consumer is made, as the last ones were of no use
	leaving   string        // the server that said last that it is being stopped
	leavingAt time.Time     // when it did

	mu   sync.Mutex
	feed *feed // nil while there is no consumer
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
		f, err := r.current(ctx)
		if err != nil {
			return journal.Entry{}, err
		}
		msg, err := f.next(ctx)
		switch {
		case err == nil:
			meta, err := msg.Metadata()
			if err == nil && meta.Sequence.Consumer == r.delivered+1 && meta.Sequence.Stream > r.after {
				r.delivered++
				r.pause = 0
				r.after = meta.Sequence.Stream
				return journal.Entry{Seq: r.after, Time: meta.Timestamp, Data: msg.Data()}, nil
			}
		case ctx.Err() != nil:
			return journal.Entry{}, context.Cause(ctx)
		}
		r.drop()
		r.log.opts.Logger.Debug("a journal reader begins anew", "stream", streamName(int(r.partition.Shard)), "server", f.server, "after", r.after, "error", err)
		switch {
		case errors.Is(err, jetstream.ErrServerShutdown):
			r.leaving, r.leavingAt, r.pause = f.server, time.Now(), stepDown
		case time.Since(f.began) > retryMax:
			r.pause = retryMin // it was of use
		default:
			r.slower()
		}
	}
}

// slower has the next attempt wait for longer.
func (r *reader) slower() { r.pause = min(max(2*r.pause, retryMin), retryMax) }

// current returns what delivers entries, after making it if need be.
func (r *reader) current(ctx context.Context) (*feed, error) {
	for {
		r.mu.Lock()
		f := r.feed
		r.mu.Unlock()
		if r.ctx.Err() != nil {
			return nil, journal.ErrClosed
		}
		if f != nil {
			return f, nil
		}
		timer := time.NewTimer(r.pause)
		select {
		case <-timer.C:
		case <-r.ctx.Done():
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		timer.Stop()
		if r.ctx.Err() == nil && r.open(ctx) != nil {
			r.slower()
		}
	}
}

// open makes a consumer that begins after the last entry.
func (r *reader) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)() //nolint:contextcheck // closing the reader ends the attempt too
	consumer, err := r.consumer(ctx)
	if err != nil {
		return err
	}
	f, err := consume(consumer,
		jetstream.PullMaxMessagesWithBytesLimit(r.log.opts.ReadAheadEntries, r.log.opts.ReadAheadBytes),
		jetstream.PullExpiry(pullExpiry),
		jetstream.PullHeartbeat(heartbeat),
	)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		f.stop()
		return r.ctx.Err()
	}
	r.feed, r.delivered = f, 0
	return nil
}

// leaves reports whether a server is about to stop, as far as is known.
func (r *reader) leaves(server string) bool {
	return server != "" && (server == r.leaving && time.Since(r.leavingAt) < leavingFor || r.log.opts.Leaving != nil && r.log.opts.Leaving(server))
}

// consumer asks until there is a consumer at a server that stays, or ctx ends. Those that are at others the servers forget; after
// mostTries any will do.
func (r *reader) consumer(ctx context.Context) (jetstream.Consumer, error) {
	patience := openPatience
	for tries := 1; ; tries++ {
		try, cancel := context.WithTimeout(ctx, patience)
		consumer, err := r.log.streams[r.partition.Shard].CreateConsumer(try, jetstream.ConsumerConfig{
			FilterSubject:     subject(r.partition),
			DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
			OptStartSeq:       r.after + 1,
			AckPolicy:         jetstream.AckNonePolicy,
			MemoryStorage:     true,
			Replicas:          1,
			InactiveThreshold: inactiveThreshold,
		})
		unanswered := try.Err() != nil
		cancel()
		switch {
		case err == nil:
			// Where it is JetStream leaves to chance.
			if tries >= mostTries || !r.leaves(serverOf(consumer)) {
				return consumer, nil
			}
		case unanswered && ctx.Err() == nil:
			patience += patience / 2
		default:
			return nil, err
		}
	}
}

// drop leaves the consumer, which the server will forget.
func (r *reader) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.feed != nil {
		r.feed.stop()
		r.feed = nil
	}
}

// Close implements journal.Reader.
func (r *reader) Close() {
	r.end()
	r.drop()
}
