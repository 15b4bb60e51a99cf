package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of AppenderOptions.
const (
	DefaultBatchBytes   = 512 << 10
	DefaultPendingBytes = 64 << 20
	DefaultTimeout      = 5 * time.Second
)

// lingerEnough is the number of records over which the cost of a sync is spread
// well enough.
const lingerEnough = 32

// AppenderOptions configures an Appender. The zero value of a field means its
// default.
type AppenderOptions struct {
	// Shards and Tiers say which partitions there are: every shard below
	// Shards with every tier below Tiers. Both are required.
	Shards, Tiers int

	// BatchBytes is the size at which a batch is closed, and therefore the
	// most that a record may take up in one. Default 512 KiB.
	BatchBytes int

	// PendingBytes bounds what callers wait for, over all partitions: the
	// batches that fill, that wait for their turn and that are under way. When
	// it is reached, records are refused with ErrOverloaded. Default 64 MiB.
	PendingBytes int

	// Timeout is how long an append to the log may take before its records
	// fail with ErrUnknown. Default 5 s.
	Timeout time.Duration

	// StopTimeout is how long Run goes on at most after its context has ended.
	// What is not durable by then fails with ErrUnknown or ErrClosed.
	// Default Timeout.
	StopTimeout time.Duration

	// InFlight is how many batches of a partition may be under way at once, in
	// order. More than one needs an AsyncLog, and pays where the log waits for
	// other machines; one file on one disk writes one batch after another
	// anyway. Default 1.
	InFlight int

	// Linger is how long a batch that is not full waits for more records
	// before it is appended, if the one before held a few: more than one, and
	// fewer than lingerEnough. A lone caller never waits, and nobody does where
	// batches fill by themselves. At rates between it saves syncs, which cost
	// more processor time than the records that they make durable.
	Linger time.Duration

	// Observe, if set, is called after each batch, in order for a partition if
	// InFlight is 1. It must not block.
	Observe func(BatchStats)
}

// BatchStats describes a batch that was appended or failed.
type BatchStats struct {
	Partition Partition
	Records   int
	Bytes     int
	Took      time.Duration // the append to the log
	Err       error         // what its callers were told, nil if durable
}

// Appender is the group commit: it joins the records that concurrent callers
// append to one partition into one entry of the log, so that they share the
// cost of making it durable. While one batch is under way the next one fills.
//
// If a call returned before another on the same partition began, the records
// of the first precede those of the second in the log.
type Appender struct {
	log     Log
	async   AsyncLog // set if InFlight > 1
	opts    AppenderOptions
	queues  []*queue // by shard*Tiers + tier
	pending atomic.Int64
	buffers sync.Pool // of *[]byte, empty: of finished batches, for the next ones
}

// Item is one record of an AppendAll and, after it, what became of it.
type Item struct {
	Partition Partition
	Record    []byte
	Err       error // as from Append

	batch *batch // that holds the record, during AppendAll
}

// batch is one entry in the making. It belongs to its queue while it fills,
// then to the worker; after done is closed nothing but err may be read.
type batch struct {
	data    *[]byte
	records int
	done    chan struct{}
	err     error // written before done is closed
}

// queue is the part of an Appender for one partition.
type queue struct {
	partition Partition
	wake      chan struct{} // cap 1: there may be something to take

	mu      sync.Mutex
	stopped bool
	filling *batch   // takes new records; nil if there are none
	full    []*batch // closed by size, oldest first; all precede filling
}

// NewAppender returns an Appender to log. Records are taken at once, but
// nothing is appended until Run is called.
func NewAppender(log Log, o AppenderOptions) (*Appender, error) {
	if o.BatchBytes == 0 {
		o.BatchBytes = DefaultBatchBytes
	}
	if o.PendingBytes == 0 {
		o.PendingBytes = DefaultPendingBytes
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = o.Timeout
	}
	if o.InFlight == 0 {
		o.InFlight = 1
	}
	switch {
	case o.Shards < 1 || o.Shards > 1<<16:
		return nil, fmt.Errorf("journal: %d shards: want 1 to %d", o.Shards, 1<<16)
	case o.Tiers < 1 || o.Tiers > 1<<8:
		return nil, fmt.Errorf("journal: %d tiers: want 1 to %d", o.Tiers, 1<<8)
	case o.BatchBytes < 0 || o.PendingBytes < o.BatchBytes:
		return nil, fmt.Errorf("journal: %d pending bytes and %d bytes a batch: pending must hold a batch", o.PendingBytes, o.BatchBytes)
	case o.Timeout < 0 || o.StopTimeout < 0 || o.InFlight < 0 || o.Linger < 0:
		return nil, errors.New("journal: negative timeout, number in flight or linger")
	}
	a := &Appender{log: log, opts: o}
	a.buffers.New = func() any { return new([]byte) }
	if o.InFlight > 1 {
		async, ok := log.(AsyncLog)
		if !ok {
			return nil, fmt.Errorf("journal: %d batches in flight: %T takes one append at a time", o.InFlight, log)
		}
		a.async = async
	}
	a.queues = make([]*queue, o.Shards*o.Tiers)
	for i := range a.queues {
		a.queues[i] = &queue{
			partition: Partition{Shard: uint16(i / o.Tiers), Tier: uint8(i % o.Tiers)},
			wake:      make(chan struct{}, 1),
		}
	}
	return a, nil
}

// Append makes record durable in the partition and returns. The record is
// copied: it may be changed after the return, whatever the result.
//
// Errors: ErrOverloaded, ErrTooLarge, ErrNoPartition, ErrClosed: surely not
// stored, told at once. Otherwise that of the log's Append of the batch with
// the record, or ErrUnknown together with ctx's when ctx ends before.
func (a *Appender) Append(ctx context.Context, p Partition, record []byte) error {
	b, err := a.enqueue(p, record)
	if err != nil {
		return err
	}
	return b.wait(ctx)
}

// AppendAll makes the records of all items durable and sets the Err of each,
// to what Append would return. Items of one partition keep their order. It
// returns when the last one is decided.
func (a *Appender) AppendAll(ctx context.Context, items []Item) {
	for i := range items {
		it := &items[i]
		it.batch, it.Err = a.enqueue(it.Partition, it.Record)
	}
	for i := range items {
		if it := &items[i]; it.batch != nil {
			it.Err = it.batch.wait(ctx)
			it.batch = nil
		}
	}
}

// wait blocks until the batch is decided or ctx ends.
func (b *batch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx))
	}
}

// enqueue copies the record into the batch that fills and returns that batch.
func (a *Appender) enqueue(p Partition, record []byte) (*batch, error) {
	if int(p.Shard) >= a.opts.Shards || int(p.Tier) >= a.opts.Tiers {
		return nil, fmt.Errorf("%w: shard %d, tier %d", ErrNoPartition, p.Shard, p.Tier)
	}
	size := recordSize(len(record))
	if size > a.opts.BatchBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(record))
	}
	if a.pending.Add(int64(size)) > int64(a.opts.PendingBytes) {
		a.pending.Add(int64(-size))
		return nil, ErrOverloaded
	}
	q := a.queues[int(p.Shard)*a.opts.Tiers+int(p.Tier)]
	q.mu.Lock()
	if q.stopped {
		q.mu.Unlock()
		a.pending.Add(int64(-size))
		return nil, ErrClosed
	}
	b := q.filling
	if b != nil && len(*b.data)+size > a.opts.BatchBytes {
		q.full = append(q.full, b)
		b = nil
	}
	// The worker needs waking for a new batch alone: it takes whole batches,
	// and looks again after each. A linger ends early for a full one.
	wake := b == nil
	if b == nil {
		b = &batch{data: a.buffers.Get().(*[]byte), done: make(chan struct{})}
		q.filling = b
	}
	*b.data = AppendRecord(*b.data, record)
	b.records++
	q.mu.Unlock()
	if wake {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return b, nil
}

// take returns the oldest batch, which then takes no more records, or nil.
func (q *queue) take() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.full) > 0 {
		b := q.full[0]
		q.full[0] = nil
		q.full = q.full[1:]
		return b
	}
	b := q.filling
	q.filling = nil
	return b
}

// stop has records refused from now on.
func (q *queue) stop() {
	q.mu.Lock()
	q.stopped = true
	q.mu.Unlock()
}

// Run appends what the callers bring until ctx ends. Then records are refused
// with ErrClosed, what was taken before is appended, for up to StopTimeout, and
// it returns nil. It must be called once.
func (a *Appender) Run(ctx context.Context) error {
	live, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(a.opts.StopTimeout, func() { giveUp(context.DeadlineExceeded) })
	})()
	var workers sync.WaitGroup
	for _, q := range a.queues {
		workers.Go(func() { a.work(ctx, live, q) })
	}
	workers.Wait()
	return nil
}

// work appends the batches of one queue, in order, until ctx ends, and then what
// is left until live does.
func (a *Appender) work(ctx, live context.Context, q *queue) {
	// A slot for each append under way; all are free again before the return,
	// so that Run outlives every append that it began.
	slots := make(chan struct{}, a.opts.InFlight)
	defer func() {
		for range a.opts.InFlight {
			slots <- struct{}{}
		}
	}()

	company := false // the batch before held a few records
	for ctx.Err() == nil {
		slots <- struct{}{}
		if a.opts.Linger > 0 && company {
			a.linger(ctx, q)
		}
		b := q.take()
		for b == nil && ctx.Err() == nil {
			select {
			case <-q.wake:
				b = q.take()
			case <-ctx.Done():
			}
		}
		if b == nil {
			<-slots
			break
		}
		company = 1 < b.records && b.records < lingerEnough
		a.append(live, q, b, slots)
	}

	q.stop()
	for b := q.take(); b != nil; b = q.take() {
		if live.Err() != nil {
			a.finish(q, b, 0, ErrClosed)
			continue
		}
		slots <- struct{}{}
		a.append(live, q, b, slots)
	}
}

// linger waits for the batch that fills to close by size, at most for the
// configured time.
func (a *Appender) linger(ctx context.Context, q *queue) {
	timer := time.NewTimer(a.opts.Linger)
	defer timer.Stop()
	for {
		q.mu.Lock()
		full := len(q.full) > 0
		q.mu.Unlock()
		if full {
			return
		}
		select {
		case <-q.wake:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// append hands one batch to the log. The slot that the caller has taken is free
// again when the batch is finished, which for an AsyncLog is later than the
// return.
func (a *Appender) append(ctx context.Context, q *queue, b *batch, slots <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, a.opts.Timeout)
	start := time.Now()
	done := func(_ uint64, err error) {
		cancel()
		a.finish(q, b, time.Since(start), err)
		<-slots
	}
	a.write(ctx, q.partition, *b.data, done)
}

// finish tells the callers of a batch what became of it.
func (a *Appender) finish(q *queue, b *batch, took time.Duration, err error) {
	stats := BatchStats{Partition: q.partition, Records: b.records, Bytes: len(*b.data), Took: took, Err: err}
	a.pending.Add(int64(-stats.Bytes))
	*b.data = (*b.data)[:0]
	a.buffers.Put(b.data)
	b.err = err
	close(b.done)
	if a.opts.Observe != nil {
		a.opts.Observe(stats)
	}
}
