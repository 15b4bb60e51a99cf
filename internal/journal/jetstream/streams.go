package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/journal"
)

const (
	streamPrefix  = "ESH3AR_JOURNAL_"
	subjectPrefix = "esh3ar.journal."

	// noIdentities is the shortest window that JetStream takes. Entries to a
	// stream that is not replicated carry no identifiers. Two appends of the
	// same bytes are two entries in any case.
	noIdentities = 100 * time.Millisecond

	// shardsKey is under which a stream's metadata says of how many it is one.
	// Another number would send recipients to other shards than before.
	shardsKey = "esh3ar-shards"

	// filler is the last token of the subject of the empty entries that only
	// use up sequences, and of barriers. No tier has that name.
	filler = "filler"
)

// ErrSettings means that the streams were made for other settings than these: of another number of shards, or to be
// kept by more servers. It does not pass by waiting.
var ErrSettings = errors.New("the journal was made with other settings")

func streamName(shard int) string { return streamPrefix + strconv.Itoa(shard) }

func subject(p journal.Partition) string {
	return subjectPrefix + strconv.Itoa(int(p.Shard)) + "." + strconv.Itoa(int(p.Tier))
}

// StreamNames returns the names of the streams of so many shards.
func StreamNames(shards int) []string {
	names := make([]string, shards)
	for shard := range names {
		names[shard] = streamName(shard)
	}
	return names
}

// openStreams finds or creates the stream of every shard.
func (l *Log) openStreams(ctx context.Context) ([]jetstream.Stream, error) {
	var positions map[journal.Partition]uint64
	var unknown error // why the positions are not known
	if l.opts.Positions != nil {
		if positions, unknown = l.opts.Positions(ctx); unknown != nil {
			l.opts.Logger.Warn("journal opened without the store's positions", "error", unknown)
		}
	}
	streams := make([]jetstream.Stream, l.opts.Shards)
	l.first = make([]uint64, l.opts.Shards)
	for shard := range streams {
		s, err := l.awaitStream(ctx, shard, positions, unknown)
		if errors.Is(err, ErrSettings) || isForeign(err) {
			return nil, fmt.Errorf("jetstream: stream %s: %w", streamName(shard), err)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: stream %s: %w", journal.ErrUnavailable, streamName(shard), err)
		}
		streams[shard] = s
		l.first[shard] = s.CachedInfo().State.LastSeq
	}
	return streams, nil
}

// Behind returns an error if a stream was older than these positions of the store when the log was opened.
// Whoever opened it without them asks as soon as they are known, before anything is read: entries that were
// appended since may lie below a position, where they would be taken for done.
func (l *Log) Behind(positions map[journal.Partition]uint64) error {
	for p, position := range positions {
		if int(p.Shard) < len(l.first) && l.first[p.Shard] < position {
			return fmt.Errorf("jetstream: stream %s ended at %d when it was opened, but the store has all up to %d: "+
				"the journal is older than the store", streamName(int(p.Shard)), l.first[p.Shard], position)
		}
	}
	return nil
}

// Opened returns where the stream of a shard ended when the log was opened.
func (l *Log) Opened(shard uint16) uint64 { return l.first[shard] }

// openPause is between attempts to open a stream of a cluster that is not ready.
const openPause = 250 * time.Millisecond

// openTimeout bounds an attempt, but for what has to be waited for in it. Using
// up sequences one by one goes on in the next where it was.
const openTimeout = settleTime + 2*time.Second

// findTimeout bounds a question that is answered at once or not at all.
const findTimeout = time.Second

// codeNoPeers is JetStream's refusal to create a stream when it does not know
// enough servers.
const codeNoPeers = 10005

// passes says whether a failure to open a stream may pass by waiting: several
// servers have no leader at times, and are few while they start.
func passes(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code == http.StatusServiceUnavailable || api.ErrorCode == codeNoPeers ||
			api.ErrorCode == jetstream.JSErrCodeStreamNotFound // not everywhere known yet
	}
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, journal.ErrUnknown) || errors.Is(err, journal.ErrUnavailable)
}

// pause waits and returns ctx's error if ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitStream is openStream, tried again in a cluster while what fails may pass.
// Each attempt is bounded, because a stream without a leader does not answer: it
// has none for a moment after it was created, perhaps by another node.
func (l *Log) awaitStream(ctx context.Context, shard int, positions map[journal.Partition]uint64, unknown error) (jetstream.Stream, error) {
	if l.opts.Replicas == 1 {
		return l.openStream(ctx, shard, positions, unknown)
	}
	for told := false; ; {
		trying, cancel := context.WithTimeout(ctx, openTimeout)
		s, err := l.openStream(trying, shard, positions, unknown)
		cancel()
		if err == nil || !passes(err) {
			return s, err
		}
		if !told && !errors.Is(err, context.DeadlineExceeded) {
			told = true
			l.opts.Logger.Info("journal waits for its servers", "stream", streamName(shard), "reason", err)
		}
		if wait := pause(ctx, openPause); wait != nil {
			return nil, errors.Join(err, wait)
		}
	}
}

// openStream finds or creates the stream of one shard, and sees to it that its
// next sequence is above the store's positions.
func (l *Log) openStream(ctx context.Context, shard int, positions map[journal.Partition]uint64, unknown error) (jetstream.Stream, error) {
	var floor uint64 // no sequence up to here may be given out
	for p, position := range positions {
		if int(p.Shard) == shard {
			floor = max(floor, position)
		}
	}
	s, err := l.find(ctx, shard)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if unknown != nil {
			return nil, fmt.Errorf("it does not exist, and must not be created while the store's positions are unknown: %w", unknown)
		}
		var first uint64 // JetStream's own
		if floor > 0 {
			first = floor + 1
			l.opts.Logger.Error("journal stream is lost: what was in it and not in the store is gone",
				"stream", streamName(shard), "first_sequence", first)
		}
		s, err = l.js.CreateStream(ctx, l.streamConfig(shard, first))
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another node was faster
			s, err = l.find(ctx, shard)
		}
	}
	if err != nil {
		return nil, err
	}
	have := s.CachedInfo().Config
	if err := l.own(have.Metadata); err != nil {
		return nil, err
	}
	if shards := have.Metadata[shardsKey]; shards != strconv.Itoa(l.opts.Shards) {
		return nil, fmt.Errorf("%w: it is one of %s shards, not of %d: their number cannot be changed", ErrSettings, shards, l.opts.Shards)
	}
	// Fewer than before is more likely one node's mistake than a wish, and would break the promise of all nodes' 202s.
	if have.Replicas > l.opts.Replicas {
		return nil, fmt.Errorf("%w: it is kept by %d servers, not %d, and a node does not lower their number", ErrSettings, have.Replicas, l.opts.Replicas)
	}
	want := l.streamConfig(shard, have.FirstSeq)
	if id := have.Metadata[deploymentKey]; id != "" {
		want.Metadata[deploymentKey] = id // also if nobody said whose the store is
	}
	if have.MaxBytes != want.MaxBytes || have.Duplicates != want.Duplicates || have.Replicas != want.Replicas || have.Metadata[deploymentKey] != want.Metadata[deploymentKey] {
		if s, err = l.js.UpdateStream(ctx, want); err != nil {
			return nil, err
		}
	}
	last, err := l.settled(ctx, s, floor)
	if err != nil {
		return nil, err
	}
	if last < floor {
		l.opts.Logger.Error("journal stream is older than the store: what it lacks is only in the store, if there",
			"stream", streamName(shard), "last_sequence", last, "store_position", floor)
		if err := l.raise(ctx, s, shard, last, floor, positions); err != nil {
			return nil, fmt.Errorf("raise the sequence from %d to %d: %w", last, floor, err)
		}
	}
	return s, nil
}

// find looks for a shard's stream.
func (l *Log) find(ctx context.Context, shard int) (jetstream.Stream, error) {
	if l.opts.Replicas > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, findTimeout)
		defer cancel()
	}
	return l.js.Stream(ctx, streamName(shard))
}

// settleTime is how long a stream may take to reach what has been read from it.
const settleTime = 2 * time.Second

// settled returns the stream's last sequence. Of several servers one may have
// delivered an entry, and the store taken it, a moment before the stream's
// leader knows it to be stored; so what lies below the floor is asked for again
// before it is believed. Other nodes may be appending meanwhile.
func (l *Log) settled(ctx context.Context, s jetstream.Stream, floor uint64) (uint64, error) {
	last := s.CachedInfo().State.LastSeq
	for began := time.Now(); l.opts.Replicas > 1 && last < floor && time.Since(began) < settleTime; {
		if err := pause(ctx, openPause); err != nil {
			return 0, err
		}
		info, err := s.Info(ctx)
		if err != nil {
			return 0, err
		}
		last = info.State.LastSeq
	}
	return last, nil
}

func (l *Log) streamConfig(shard int, firstSeq uint64) jetstream.StreamConfig {
	window := noIdentities
	if l.opts.Replicas > 1 {
		window = identityWindow
	}
	return jetstream.StreamConfig{
		Name:       streamName(shard),
		Subjects:   []string{subjectPrefix + strconv.Itoa(shard) + ".*"},
		Storage:    jetstream.FileStorage,
		Retention:  jetstream.LimitsPolicy,
		Discard:    jetstream.DiscardNew,
		MaxBytes:   l.opts.MaxBytes,
		MaxMsgs:    -1,
		MaxMsgSize: -1,
		Duplicates: window,
		Replicas:   l.opts.Replicas,
		FirstSeq:   firstSeq,
		Metadata:   l.metadata(),
	}
}

// raise uses up the sequences of the stream after last up to floor.
func (l *Log) raise(ctx context.Context, s jetstream.Stream, shard int, last, floor uint64, positions map[journal.Partition]uint64) error {
	unread, err := l.unread(ctx, s, shard, positions)
	if err != nil {
		return err
	}
	if !unread {
		// Emptying a stream can set its sequence, at once.
		return s.Purge(ctx, jetstream.WithPurgeSequence(floor+1))
	}
	for last < floor {
		last, err = wait(func(done func(uint64, error)) { l.publish.send(ctx, shard, fillers(shard), nil, done) })
		if err != nil {
			return err
		}
	}
	return s.Purge(ctx, jetstream.WithPurgeSubject(fillers(shard)))
}

// fillers is the subject of a shard's entries that belong to no partition.
func fillers(shard int) string { return subjectPrefix + strconv.Itoa(shard) + "." + filler }

// unread says whether the stream holds entries that the store does not have.
func (l *Log) unread(ctx context.Context, s jetstream.Stream, shard int, positions map[journal.Partition]uint64) (bool, error) {
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(subjectPrefix+strconv.Itoa(shard)+".*"))
	if err != nil {
		return false, err
	}
	reached := make(map[string]uint64, len(positions))
	for p, position := range positions {
		reached[subject(p)] = position
	}
	for subject := range maps.Keys(info.State.Subjects) {
		if subject == fillers(shard) {
			continue // a barrier
		}
		seq, err := lastSeq(ctx, s, subject)
		if err != nil {
			return false, err
		}
		if seq > reached[subject] {
			return true, nil
		}
	}
	return false, nil
}
