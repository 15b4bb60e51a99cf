package jetstream

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// endPause is between two tries to find out what the last entry is.
const endPause = 20 * time.Millisecond

// wrongLastConstant is JetStream's code for a wrong last sequence where the right one is about to change.
const wrongLastConstant jetstream.ErrorCode = 10164

// End returns the sequence of the partition's last entry, which is not below that of any that was acknowledged before the
// call. That is what Last cannot promise of several servers: one that was cut off as the leader of a stream answers
// everybody for up to some seconds after it is back, until it hears that there is another leader. It costs a few writes.
//
// Errors: those of Barrier.
func (l *Log) End(ctx context.Context, p journal.Partition) (uint64, error) {
	barrier, err := l.Barrier(ctx, p.Shard)
	if err != nil {
		return 0, err
	}
	for {
		seq, err := l.Last(ctx, p)
		if err != nil || seq > barrier { // whoever says that had the barrier already
			return seq, err
		}
		// A write under the condition that this is the last one is acknowledged by a majority or not at all.
		last, err := l.isLast(ctx, p, seq)
		if err != nil || last {
			return seq, err
		}
		select {
		case <-time.After(endPause):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// isLast reports whether a majority of the servers confirms that this is the partition's last entry.
func (l *Log) isLast(ctx context.Context, p journal.Partition, seq uint64) (bool, error) {
	asking, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := l.js.Publish(asking, fillers(int(p.Shard)), nil, jetstream.WithExpectLastSequenceForSubject(seq, subject(p)))
	var refused *jetstream.APIError
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &refused) && (refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || refused.ErrorCode == wrongLastConstant):
		return false, nil
	}
	return false, l.requestError(ctx, "confirm the last entry", err)
}
