// Package memory is a journal in memory, for tests. What it holds lives in a
// Disk, which outlives the logs that are opened on it one after another, so
// that a test can stop a part and start it again. Every operation can be made
// to fail.
package memory

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// The operations that Options.Fail can stop.
const (
	OpAppend = "append"     // before the entry is stored: it surely is not
	OpAck    = "append.ack" // after it is stored: only the answer is lost
	OpRead   = "read"       // Log.Read
	OpNext   = "next"       // Reader.Next
	OpLast   = "last"
	OpPurge  = "purge"
)

// Disk keeps the entries of a journal. Its zero value is empty and ready.
type Disk struct {
	mu     sync.Mutex
	shards map[uint16]*shard
}

// shard is what a stream is to JetStream.
type shard struct {
	mu      sync.Mutex
	last    uint64            // sequence given out last
	bytes   int64             // of all entries
	tiers   map[uint8][]entry // in order
	changed chan struct{}     // closed and replaced when an entry comes
}

type entry = journal.Entry

func (d *Disk) shard(n uint16) *shard {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.shards[n]
	if s == nil {
		if d.shards == nil {
			d.shards = make(map[uint16]*shard)
		}
		s = &shard{tiers: make(map[uint8][]entry), changed: make(chan struct{})}
		d.shards[n] = s
	}
	return s
}

// Options configures a Log.
type Options struct {
	// Shards is how many there are. Required.
	Shards int

	// MaxBytes bounds each shard; at it, appends fail with journal.ErrFull.
	// 0 means no bound.
	MaxBytes int64

	// Fail, if set, is called with the name of each operation; the operation
	// fails with the error that it returns, if any. It may be called
	// concurrently, and an operation takes as long as it does. The errors of
	// OpAck should wrap journal.ErrUnknown.
	Fail func(op string, p journal.Partition) error
}

// Log is a journal.Log on a Disk.
type Log struct {
	disk *Disk
	opts Options
	ctx  context.Context // ends with the log
	end  context.CancelFunc
}

var _ journal.Log = (*Log)(nil)

// Open opens the journal on disk.
func Open(disk *Disk, o Options) (*Log, error) {
	if o.Shards < 1 || o.Shards > 1<<16 {
		return nil, fmt.Errorf("memory: %d shards: want 1 to %d", o.Shards, 1<<16)
	}
	l := &Log{disk: disk, opts: o}
	l.ctx, l.end = context.WithCancel(context.Background())
	return l, nil
}

// begin checks what every operation does first.
func (l *Log) begin(op string, p journal.Partition) (*shard, error) {
	if l.ctx.Err() != nil {
		return nil, journal.ErrClosed
	}
	if int(p.Shard) >= l.opts.Shards {
		return nil, fmt.Errorf("%w: shard %d of %d", journal.ErrNoPartition, p.Shard, l.opts.Shards)
	}
	if err := l.fail(op, p); err != nil {
		return nil, err
	}
	return l.disk.shard(p.Shard), nil
}

func (l *Log) fail(op string, p journal.Partition) error {
	if l.opts.Fail == nil {
		return nil
	}
	return l.opts.Fail(op, p)
}

// Append implements journal.Log.
func (l *Log) Append(ctx context.Context, p journal.Partition, data []byte) (uint64, error) {
	s, err := l.begin(OpAppend, p)
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", journal.ErrUnknown, context.Cause(ctx))
	}
	seq, err := s.append(p.Tier, data, l.opts.MaxBytes)
	if err != nil {
		return 0, err
	}
	if err := l.fail(OpAck, p); err != nil {
		return 0, err
	}
	return seq, nil
}

func (s *shard) append(tier uint8, data []byte, maxBytes int64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if maxBytes > 0 && s.bytes+int64(len(data)) > maxBytes {
		return 0, fmt.Errorf("%w: %d bytes", journal.ErrFull, s.bytes)
	}
	s.last++
	s.bytes += int64(len(data))
	s.tiers[tier] = append(s.tiers[tier], entry{Seq: s.last, Time: time.Now(), Data: append([]byte(nil), data...)})
	close(s.changed)
	s.changed = make(chan struct{})
	return s.last, nil
}

// Last implements journal.Log.
func (l *Log) Last(ctx context.Context, p journal.Partition) (uint64, error) {
	s, err := l.begin(OpLast, p)
	if err != nil {
		return 0, err
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := s.tiers[p.Tier]
	if len(entries) == 0 {
		return 0, nil
	}
	return entries[len(entries)-1].Seq, nil
}

// Purge implements journal.Log.
func (l *Log) Purge(ctx context.Context, p journal.Partition, below uint64) error {
	s, err := l.begin(OpPurge, p)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := s.tiers[p.Tier]
	for len(entries) > 0 && entries[0].Seq < below {
		s.bytes -= int64(len(entries[0].Data))
		entries[0] = entry{}
		entries = entries[1:]
	}
	s.tiers[p.Tier] = entries
	return nil
}

// Close implements journal.Log.
func (l *Log) Close() error {
	l.end()
	return nil
}
