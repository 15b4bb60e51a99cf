// Package journal is the durable, ordered log in front of the store. The
// append to it is the commit point of an accepted message: what is in the
// journal is never lost, and what is not in it was never promised.
//
// A Log holds entries. An entry is a batch of message records (see
// AppendRecord and Records) that an Appender collected from concurrent callers
// and made durable with one append. What a message record looks like inside is
// not the journal's business.
package journal

import (
	"context"
	"errors"
	"time"
)

// Partition names one ordered sequence of entries: a shard and an SLA tier.
// Tier 0 has the highest priority.
type Partition struct {
	Shard uint16
	Tier  uint8
}

// Entry is one durable unit of a partition.
type Entry struct {
	Seq  uint64    // position within the shard, over all its tiers; 1 or above
	Time time.Time // when the log stored it, by the log's clock
	Data []byte    // a batch; see Records
}

// Log is a durable ordered log. All methods may be called concurrently.
//
// Sequences are given out per shard, across its tiers: they grow, are never
// used twice, and start at 1 or above. A partition's own sequences therefore
// have gaps, where other tiers' entries or purged ones are.
//
// An error wraps exactly one of the Err values below where one applies, so
// that errors.Is tells a caller what it may conclude.
type Log interface {
	// Append makes data durable as one entry of the partition and returns its
	// sequence. Data is not retained after the return.
	//
	// If one Append returned before another on the same partition was called,
	// the first entry has the lower sequence. An Append that failed with
	// ErrUnknown may still become durable for a while after its return.
	//
	// Errors: ErrUnavailable, ErrFull, ErrTooLarge, ErrNoPartition and
	// ErrClosed: surely not stored. ErrUnknown: it may or may not be stored
	// (no confirmation in time, connection lost, ctx ended).
	Append(ctx context.Context, p Partition, data []byte) (seq uint64, err error)

	// Read delivers the partition's entries with a sequence above after, in
	// order, now and as they are appended, leaving out none but purged ones.
	// Ctx bounds the opening alone.
	//
	// Errors: ErrUnavailable, ErrNoPartition, ErrClosed, or ctx's.
	Read(ctx context.Context, p Partition, after uint64) (Reader, error)

	// Last returns the sequence of the partition's last entry, 0 if it has
	// none.
	//
	// Errors: ErrUnavailable, ErrNoPartition, ErrClosed, or ctx's.
	Last(ctx context.Context, p Partition) (uint64, error)

	// Purge removes the partition's entries with a sequence below the given
	// one. Sequences are not given out again.
	//
	// Errors: ErrUnavailable, ErrNoPartition, ErrClosed, or ctx's. After an
	// error any part of the range may be gone; to repeat is harmless.
	Purge(ctx context.Context, p Partition, below uint64) error

	// Close ends all readers and releases the log. Appends under way fail with
	// ErrUnknown. Closing again does nothing.
	Close() error
}

// Reader delivers one partition's entries. It is for one goroutine, except
// that Close may be called from any.
//
// A reader fetches ahead of its consumer, bounded in entries and in bytes, and
// stops fetching while Next is not called.
type Reader interface {
	// Next blocks for the next entry. Its Data stays valid and must not be
	// modified. After an error a further call may succeed, unless the error is
	// ErrClosed.
	//
	// A reader outlives lost connections and restarts of the log's server by
	// itself: Next blocks meanwhile.
	//
	// Errors: ErrUnavailable, ErrClosed (the reader or the log), or ctx's,
	// after which no entry is lost to the following call.
	Next(ctx context.Context) (Entry, error)

	// Close ends the reader and a Next under way.
	Close()
}

// AsyncLog is the optional ability of a Log to have several appends to one
// partition under way and still in order, which pays where an append waits
// for other machines.
type AsyncLog interface {
	Log

	// AppendAsync is Append without the wait: done is called once, with what
	// Append would have returned, from any goroutine and perhaps before
	// AppendAsync returns; it must not block. Data must not be modified until
	// then. Entries of successive calls on one partition are stored in the
	// order of the calls. Ctx ends the wait, not the append.
	AppendAsync(ctx context.Context, p Partition, data []byte, done func(seq uint64, err error))
}

// The kinds of failure. Of those that an append can meet, only ErrUnknown
// leaves open whether the data is stored; all others mean that it surely is not.
var (
	// ErrUnavailable: the log cannot be reached or is not able to serve now.
	ErrUnavailable = errors.New("journal unavailable")

	// ErrUnknown: the outcome of an append is not known.
	ErrUnknown = errors.New("journal append outcome unknown")

	// ErrFull: the log's size limit or the disk reserve is reached.
	ErrFull = errors.New("journal full")

	// ErrOverloaded: an Appender holds as many pending bytes as it may.
	ErrOverloaded = errors.New("journal overloaded")

	// ErrTooLarge: the data is longer than the log or the Appender takes.
	ErrTooLarge = errors.New("journal record too large")

	// ErrNoPartition: the log has no such partition.
	ErrNoPartition = errors.New("no such journal partition")

	// ErrClosed: the log, reader or appender was closed.
	ErrClosed = errors.New("journal closed")
)
