// Package jetstream is the journal on NATS JetStream: one stream a shard, one
// subject a tier.
//
//	Append ──► guard ──► publisher ──► stream ESH3AR_JOURNAL_<shard>
//	           space,    reply inbox      subject esh3ar.journal.<shard>.<tier>
//	           health                          │
//	Next ◄──── ordered consumer ◄──────────────┘
//
// Streams keep what is in them until it is purged, and refuse what does not
// fit. Readers never acknowledge: the position lives in the store.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// Defaults of Options.
const (
	DefaultMaxBytes         = 8 << 30
	DefaultReadAheadEntries = 256
	DefaultReadAheadBytes   = 4 << 20
)

// maxData is the longest entry. What remains of NATS's default payload limit of
// 1 MiB is room for headers.
const maxData = 1<<20 - 4<<10

// requestTimeout bounds a request to JetStream: of several servers none answers
// while there is no leader.
const requestTimeout = 5 * time.Second

// purgeTimeout bounds a purge, which walks over all that it removes.
const purgeTimeout = 30 * time.Second

// Server is the NATS server that keeps the streams. An embedded one is also a
// Host.
type Server interface {
	Connect(options ...nats.Option) (*nats.Conn, error)
}

// Host is the ability of a Server that runs in this process: the log can see
// its disk and bring it back after a failed write.
type Host interface {
	Server

	// FreeBytes returns how much may still be written to the disk with the
	// streams.
	FreeBytes() (uint64, error)

	// WriteError returns the error that has stopped writes to a stream or kept
	// it from being recovered. It stays until Restart.
	WriteError() error

	// Restart closes and opens the server. Connections come back by themselves.
	Restart() error
}

// Options configures a Log. The zero value of an optional field means its
// default.
type Options struct {
	Server Server       // required
	Shards int          // how many there are, each a stream; required
	Logger *slog.Logger // required

	// Replicas is how many servers keep each stream. Default 1. Existing streams
	// are brought to more, and never to fewer. With more than one, Open
	// waits for the servers until its context ends, and an append while a
	// stream's servers elect a leader fails with ErrUnavailable. One that was
	// under way waits for the new leader, who tells what became of it, and
	// fails with ErrUnknown if there is none before its context ends.
	Replicas int

	// MaxBytes bounds each stream; at it, appends fail with ErrFull.
	// Default 8 GiB.
	MaxBytes int64

	// DiskReserve is how many bytes of the disk appends must leave free: they
	// fail with ErrFull before. It counts if Server is a Host.
	DiskReserve uint64

	// Positions returns the positions that the store has reached. Sequences
	// given out from now on are above them, also if the streams were lost or
	// are older than the store, because the store would take an entry at or
	// below its position for done. Nil means that there is no store.
	//
	// If it fails, existing streams are taken as they are, but Open creates
	// none and fails. See Behind for what is left to be asked then.
	Positions func(context.Context) (map[journal.Partition]uint64, error)

	// Identify returns the identifier of the store's deployment, given that of the streams, which an unused store takes; "" if
	// they have none. It is asked before anything is changed. Streams without an identifier get it, and Open fails with a
	// *ForeignError if they have another. "" means that it cannot be told now: existing streams are taken as they are, and
	// Mark is to be called as soon as it can. Nil means that nobody wants to know.
	Identify func(ctx context.Context, streams string) (store string, err error)

	// Leaving, if set, says of a server of several, by its name, whether it is about to stop. Readers do not begin to read from it
	// then, if there is another.
	Leaving func(server string) bool

	// ReadAheadEntries and ReadAheadBytes bound what a reader fetches before
	// Next asks for it. Default 256 and 4 MiB.
	ReadAheadEntries, ReadAheadBytes int
}

// Log is a journal.AsyncLog on JetStream.
type Log struct {
	opts    Options
	nc      *nats.Conn
	js      jetstream.JetStream
	streams []jetstream.Stream // by shard
	first   []uint64           // the last sequence of each when it was opened

	deployment string // of the streams, as far as is known
	publish    *publisher
	marks      chan mark // those below which is to be purged; there is room for two of each shard
	guard      *guard    // nil if the server is no Host

	ctx     context.Context // ends with the log; readers and the guard follow it
	end     context.CancelFunc
	running sync.WaitGroup
}

var _ journal.AsyncLog = (*Log)(nil)

// Open connects to the server and makes sure that every shard has its stream.
// Several nodes may open the same streams at once. The log does not close the
// server.
//
// Errors: ErrSettings, a *ForeignError, what Identify returns, what the server's Connect returns, journal.ErrUnavailable,
// which may pass by waiting, and others.
func Open(ctx context.Context, o Options) (*Log, error) {
	if o.Server == nil || o.Logger == nil {
		return nil, errors.New("jetstream: server and logger are required")
	}
	if o.Shards < 1 || o.Shards > 1<<16 {
		return nil, fmt.Errorf("jetstream: %d shards: want 1 to %d", o.Shards, 1<<16)
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.ReadAheadEntries == 0 {
		o.ReadAheadEntries = DefaultReadAheadEntries
	}
	if o.ReadAheadBytes == 0 {
		o.ReadAheadBytes = DefaultReadAheadBytes
	}
	if o.Replicas < 0 || o.MaxBytes < 0 || o.ReadAheadEntries < 0 {
		return nil, errors.New("jetstream: negative replicas, size or read-ahead")
	}
	if o.ReadAheadBytes < maxData {
		return nil, fmt.Errorf("jetstream: read-ahead of %d bytes: an entry may have %d", o.ReadAheadBytes, maxData)
	}

	replicated := 0
	if o.Replicas > 1 {
		replicated = o.Shards
	}
	l := &Log{opts: o, publish: newPublisher(replicated, o.Logger), marks: make(chan mark, 2*o.Shards)}
	l.publish.purge = l.purgeLater
	l.ctx, l.end = context.WithCancel(context.Background())
	if err := l.open(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Log) open(ctx context.Context) (err error) {
	l.nc, err = l.opts.Server.Connect(
		nats.Name("journal"),
		nats.MaxReconnects(-1),
		// What cannot be sent now is refused, not kept for later: only so
		// does a caller learn that it surely is not stored.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err == nil { // closed in good order
				err = nats.ErrDisconnected
			}
			if l.publish.replicated() {
				l.publish.disconnected()
				return
			}
			l.publish.failAll(fmt.Errorf("%w: connection lost: %w", journal.ErrUnknown, err))
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			l.opts.Logger.Warn("journal connection", "error", err)
		}),
	)
	if err != nil {
		return fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	}
	if l.js, err = jetstream.New(l.nc, jetstream.WithDefaultTimeout(requestTimeout)); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	if err := l.publish.start(l.nc); err != nil {
		return fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
	}
	if l.publish.replicated() {
		l.running.Go(func() { l.publish.run(l.ctx) })
	}
	host, hosted := l.opts.Server.(Host)
	if hosted {
		// A stream that could not be recovered looks like one that does not
		// exist, and must not be created anew over its remains.
		if err := host.WriteError(); err != nil {
			return fmt.Errorf("%w: %w", journal.ErrUnavailable, err)
		}
	}
	if err := l.identify(ctx); err != nil {
		return err
	}
	if l.streams, err = l.openStreams(ctx); isForeign(err) {
		// Servers that had just started may not have told of the streams, and then an unused store has taken another identifier.
		if err = l.identify(ctx); err == nil {
			l.streams, err = l.openStreams(ctx)
		}
	}
	if err != nil {
		return err
	}
	l.running.Go(l.purgeMarks)
	if hosted {
		l.guard = newGuard(host, l.opts.DiskReserve, l.opts.Logger)
		l.running.Go(func() {
			l.guard.run(l.ctx, func(err error) { l.publish.failAll(err) })
		})
	}
	return nil
}

// Connected says whether there is a connection to a server just now. Without one it is being made all the time, and
// appends fail with ErrUnavailable.
func (l *Log) Connected() bool { return l.nc.IsConnected() }

// Append implements journal.Log.
func (l *Log) Append(ctx context.Context, p journal.Partition, data []byte) (uint64, error) {
	return wait(func(done func(uint64, error)) { l.AppendAsync(ctx, p, data, done) })
}

// wait turns an asynchronous append into one that returns its outcome.
func wait(appendAsync func(done func(uint64, error))) (uint64, error) {
	type outcome struct {
		seq uint64
		err error
	}
	outcomes := make(chan outcome, 1)
	appendAsync(func(seq uint64, err error) { outcomes <- outcome{seq, err} })
	o := <-outcomes
	return o.seq, o.err
}

// AppendAsync implements journal.AsyncLog. It blocks only while earlier entries of the shard wait for so long that they may have
// to be sent again, before this one.
func (l *Log) AppendAsync(ctx context.Context, p journal.Partition, data []byte, done func(uint64, error)) {
	if err := l.check(p); err != nil {
		done(0, err)
		return
	}
	if len(data) > maxData {
		done(0, fmt.Errorf("%w: %d bytes", journal.ErrTooLarge, len(data)))
		return
	}
	if l.guard != nil {
		if err := l.guard.admit(len(data)); err != nil {
			done(0, err)
			return
		}
	}
	l.publish.send(ctx, int(p.Shard), subject(p), data, done)
}

// Last implements journal.Log.
func (l *Log) Last(ctx context.Context, p journal.Partition) (uint64, error) {
	if err := l.check(p); err != nil {
		return 0, err
	}
	asking, cancel := context.WithTimeout(ctx, requestTimeout) // a stream without a leader does not answer
	defer cancel()
	seq, err := lastSeq(asking, l.streams[p.Shard], subject(p))
	if err != nil {
		return 0, l.requestError(ctx, "last entry", err)
	}
	return seq, nil
}

// Barrier makes an empty entry durable that belongs to no partition, and returns
// its sequence: every entry of the shard that was acknowledged before the call
// has a lower one. That is what Last cannot promise of several servers, because
// one that was cut off may take itself for a stream's leader for some seconds.
//
// Errors: those of Append, and ErrUnknown if there is no answer in time.
func (l *Log) Barrier(ctx context.Context, shard uint16) (uint64, error) {
	if err := l.check(journal.Partition{Shard: shard}); err != nil {
		return 0, err
	}
	// A leader that is lost with the entry, or paused, never answers.
	writing, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	seq, err := wait(func(done func(uint64, error)) { l.publish.send(writing, int(shard), fillers(int(shard)), nil, done) })
	if err != nil {
		return 0, err
	}
	// The last barrier is enough to keep, and nobody needs even that.
	l.purgeLater(int(shard), seq)
	return seq, nil
}

// mark is an entry that belongs to no partition: a barrier, or a probe of the publisher.
type mark struct {
	shard int
	seq   uint64
}

// purgeLater has the shard's marks removed below the one of the given sequence. Nobody waits for that: a leader that steps down
// may never answer. It may be called before the log is open.
func (l *Log) purgeLater(shard int, below uint64) {
	select {
	case l.marks <- mark{shard, below}:
	default: // the next one removes what this one would have
	}
}

// purgeMarks does what purgeLater is told, until the log ends.
func (l *Log) purgeMarks() {
	for {
		select {
		case m := <-l.marks:
			asking, cancel := context.WithTimeout(l.ctx, requestTimeout)
			err := l.streams[m.shard].Purge(asking, jetstream.WithPurgeSubject(fillers(m.shard)), jetstream.WithPurgeSequence(m.seq))
			if err != nil {
				l.opts.Logger.Debug("old barriers and probes are not purged", "stream", streamName(m.shard), "error", err)
			}
			cancel()
		case <-l.ctx.Done():
			return
		}
	}
}

// lastSeq returns the sequence of the subject's last entry, 0 if it has none.
// The stream's leader is asked.
func lastSeq(ctx context.Context, s jetstream.Stream, subject string) (uint64, error) {
	msg, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return msg.Sequence, nil
}

// Purge implements journal.Log.
func (l *Log) Purge(ctx context.Context, p journal.Partition, below uint64) error {
	if err := l.check(p); err != nil {
		return err
	}
	if below <= 1 { // JetStream takes 0 for "no limit"
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	err := l.streams[p.Shard].Purge(asking, jetstream.WithPurgeSubject(subject(p)), jetstream.WithPurgeSequence(below))
	if err != nil {
		return l.requestError(ctx, "purge", err)
	}
	return nil
}

// Close implements journal.Log.
func (l *Log) Close() error {
	l.end()
	l.running.Wait()
	if l.nc != nil {
		l.nc.Close()
	}
	l.publish.failAll(fmt.Errorf("%w: journal closed", journal.ErrUnknown))
	return nil
}

// check refuses what cannot be served at all.
func (l *Log) check(p journal.Partition) error {
	if l.ctx.Err() != nil {
		return journal.ErrClosed
	}
	if int(p.Shard) >= len(l.streams) {
		return fmt.Errorf("%w: shard %d of %d", journal.ErrNoPartition, p.Shard, len(l.streams))
	}
	return nil
}

// requestError gives the failure of a request its kind.
func (l *Log) requestError(ctx context.Context, what string, err error) error {
	switch {
	case l.ctx.Err() != nil:
		return journal.ErrClosed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %s: %w", journal.ErrUnavailable, what, err)
}
