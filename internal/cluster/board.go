package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// boards is how many buckets the members report to. A bucket without a
	// leader stands still until one is elected, for up to ten seconds after the
	// old one died; with leaders on two servers the other goes on meanwhile.
	boards = 2

	// boardBytes bounds a bucket. Five hundred nodes with 4 KiB of load each fit into it.
	boardBytes = 16 << 20

	// boardHistory is how many values of a key are kept, so that an operator
	// can look up who held a shard and when.
	boardHistory = 8

	// recordTTL is after how long the server forgets the record of a node that
	// does not report any more, whatever the members think of it.
	recordTTL = time.Minute

	// watchHeartbeat is how often the server says that it has nothing new.
	// After two without one the watch begins anew.
	watchHeartbeat = 500 * time.Millisecond

	// watchExpiry is how long the server keeps a request of the watch.
	watchExpiry = 10 * time.Second

	// watchPatience is after how long without a watch that is something to look at. One that ends after so long is told again.
	watchPatience = 10 * time.Second

	// watchForgotten is after how long the server forgets a watch that ended.
	watchForgotten = 30 * time.Second

	// retryPause is between attempts at what failed.
	retryPause = 250 * time.Millisecond

	// findTimeout bounds a question that is answered at once or not at all.
	findTimeout = 500 * time.Millisecond

	// requestTimeout bounds a request.
	requestTimeout = 2 * time.Second
)

// board is one bucket of JetStream's replicated key-value store, as this node
// reads and writes it.
type board struct {
	name string
	js   jetstream.JetStream
	cfg  jetstream.KeyValueConfig
	log  *slog.Logger

	// observed: the bucket is of others, and neither made nor changed.
	observed bool

	// apply gets every change, in order, and after the watch began anew the
	// last value of every key again.
	apply func(boardEntry)
}

// boardEntry is a value of a key. An entry without a key says that all that
// was there when the watch began has been told.
type boardEntry struct {
	key      string
	value    []byte // nil if the key was removed
	revision uint64
}

// boardName is the name of the i-th bucket.
func boardName(i int) string { return fmt.Sprintf("ESH3AR_CLUSTER_%d", i) }

func newBoard(i, replicas int, js jetstream.JetStream, log *slog.Logger, apply func(boardEntry)) *board {
	return &board{name: boardName(i), js: js, log: log, apply: apply, cfg: jetstream.KeyValueConfig{
		Bucket:         boardName(i),
		Description:    "Members and shard leases of Esh3ar",
		History:        boardHistory,
		MaxBytes:       boardBytes,
		Storage:        jetstream.FileStorage,
		Replicas:       replicas,
		LimitMarkerTTL: recordTTL,
	}}
}

// run watches the bucket until ctx ends. That a watch ends is ordinary, its server may have died. That none can be begun for long
// is not.
func (b *board) run(ctx context.Context) {
	told := ""         // what was logged last, so that a long outage is one line
	held := time.Now() // when the bucket was last seen
	for ctx.Err() == nil {
		began := time.Now()
		seen, err := b.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		if seen {
			held = now
		}
		if now.Sub(began) > watchPatience {
			told = ""
		}
		level := slog.LevelInfo
		if now.Sub(held) > watchPatience {
			level = slog.LevelWarn
		}
		if text := level.String() + err.Error(); text != told {
			told = text
			b.log.Log(ctx, level, "watch of the cluster's state begins anew", "bucket", b.name, "error", err)
		}
		pause(ctx, retryPause)
	}
}

// open finds or creates the bucket's stream.
func (b *board) open(ctx context.Context) (jetstream.Stream, error) {
	s, err := b.find(ctx)
	if b.observed {
		return s, err
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = b.js.CreateKeyValue(ctx, b.cfg); err != nil && !errors.Is(err, jetstream.ErrBucketExists) {
			return nil, fmt.Errorf("create: %w", err) // not a node that was faster
		}
		s, err = b.find(ctx)
	}
	if err != nil {
		return nil, err
	}
	if have := s.CachedInfo().Config; have.Replicas < b.cfg.Replicas {
		if _, err := b.js.UpdateKeyValue(ctx, b.cfg); err != nil {
			return nil, fmt.Errorf("change from %d to %d replicas: %w", have.Replicas, b.cfg.Replicas, err)
		}
	}
	return s, nil
}

// find looks for the bucket's stream. Without a leader it does not answer, and
// gets one soon after it was created.
func (b *board) find(ctx context.Context) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	return b.js.Stream(ctx, b.stream())
}

// watch tells all values and then every change, until it fails. The consumer is
// a plain one in the server's memory, whose silence shows within a second.
// nats.go's own watch of a bucket would notice that its server died only after
// ten. Seen says that it could be begun.
func (b *board) watch(ctx context.Context) (seen bool, err error) {
	opening, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	s, err := b.open(opening)
	if err != nil {
		return false, fmt.Errorf("open: %w", err)
	}
	consumer, err := s.CreateConsumer(opening, jetstream.ConsumerConfig{
		FilterSubject:     b.subject(">"),
		DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: watchForgotten,
	})
	if err != nil {
		return false, fmt.Errorf("create a consumer: %w", err)
	}
	entries, err := consumer.Messages(jetstream.PullExpiry(watchExpiry), jetstream.PullHeartbeat(watchHeartbeat),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return false, err
	}
	defer entries.Stop()
	if consumer.CachedInfo().NumPending == 0 {
		b.apply(boardEntry{})
	}
	complete := false
	for delivered := uint64(1); ; delivered++ {
		msg, err := entries.Next(jetstream.NextContext(ctx))
		if err != nil {
			return true, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return true, err
		}
		if meta.Sequence.Consumer != delivered {
			return true, fmt.Errorf("change %d came in the place of %d", meta.Sequence.Consumer, delivered)
		}
		b.apply(boardEntry{key: msg.Subject()[len(b.subject("")):], value: b.value(msg), revision: meta.Sequence.Stream})
		if !complete && meta.NumPending == 0 {
			complete = true
			b.apply(boardEntry{})
		}
	}
}

// value is what a message says a key's value is. Messages with headers of the
// server or of the key-value store's deletions say that it has none.
func (b *board) value(msg jetstream.Msg) []byte {
	if h := msg.Headers(); h.Get("KV-Operation") != "" || h.Get(jetstream.MarkerReasonHeader) != "" {
		return nil
	}
	return msg.Data()
}

func (b *board) stream() string { return "KV_" + b.name }

func (b *board) subject(key string) string { return "$KV." + b.name + "." + key }

// put stores a value whatever was there, for recordTTL.
func (b *board) put(ctx context.Context, key string, value []byte) error {
	_, err := b.js.PublishMsg(ctx, &nats.Msg{Subject: b.subject(key), Data: value}, jetstream.WithMsgTTL(recordTTL))
	return err
}

// errChanged: the key has another revision than the one to be replaced.
var errChanged = errors.New("changed by another node")

// JetStream's codes for "wrong last sequence", the second of replicated streams.
const (
	codeWrongLastSequence           = 10071
	codeWrongLastSequenceReplicated = 10164
)

// replace stores a value in the place of the given revision, 0 for none, and
// returns its own. Errors: errChanged, or another, after which the value may
// be stored or not.
func (b *board) replace(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	ack, err := b.js.PublishMsg(ctx, &nats.Msg{Subject: b.subject(key), Data: value}, jetstream.WithExpectLastSequencePerSubject(revision))
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == codeWrongLastSequence || api.ErrorCode == codeWrongLastSequenceReplicated) {
		return 0, errChanged
	}
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// get reads the value of a key, which may not be the newest: it may come from a server that is behind. The revision is 0
// if there is none.
func (b *board) get(ctx context.Context, key string) (boardEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := b.find(ctx)
	if err != nil {
		return boardEntry{}, err
	}
	msg, err := s.GetLastMsgForSubject(ctx, b.subject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return boardEntry{key: key}, nil
	}
	if err != nil {
		return boardEntry{}, err
	}
	return boardEntry{key: key, value: msg.Data, revision: msg.Sequence}, nil
}

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
