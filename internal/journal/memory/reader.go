package memory

import (
	"context"
	"sort"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// reader looks each entry up when it is asked for: it fetches nothing ahead.
type reader struct {
	log       *Log
	shard     *shard
	partition journal.Partition
	after     uint64
	ctx       context.Context // ends with Close or with the log
	end       context.CancelFunc
}

// Read implements journal.Log.
func (l *Log) Read(ctx context.Context, p journal.Partition, after uint64) (journal.Reader, error) {
	s, err := l.begin(OpRead, p)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r := &reader{log: l, shard: s, partition: p, after: after}
	r.ctx, r.end = context.WithCancel(l.ctx)
	return r, nil
}

// Next implements journal.Reader.
func (r *reader) Next(ctx context.Context) (journal.Entry, error) {
	if r.ctx.Err() != nil {
		return journal.Entry{}, journal.ErrClosed
	}
	if err := r.log.fail(OpNext, r.partition); err != nil {
		return journal.Entry{}, err
	}
	for {
		e, ok, changed := r.shard.first(r.partition.Tier, r.after)
		if ok {
			r.after = e.Seq
			return e, nil
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return journal.Entry{}, journal.ErrClosed
		case <-ctx.Done():
			return journal.Entry{}, context.Cause(ctx)
		}
	}
}

// first returns the tier's first entry after the sequence, or what will be
// closed when there may be one.
func (s *shard) first(tier uint8, after uint64) (entry, bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := s.tiers[tier]
	i := sort.Search(len(entries), func(i int) bool { return entries[i].Seq > after })
	if i == len(entries) {
		return entry{}, false, s.changed
	}
	return entries[i], true, nil
}

// Close implements journal.Reader.
func (r *reader) Close() { r.end() }
