package dispatch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/fair"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// intake reads one tier of a shard's journal, in order, and brings what is new to its recipients.
type intake struct {
	s      *shard
	p      journal.Partition
	tier   esh3ar.Tier
	dedupe *dedupe
	gap    *gap
	lag    *lag
}

// barrierAgain is how long after a full journal has refused a barrier it is asked for one again.
const barrierAgain = time.Second

// entry is how much of one journal entry is not stored yet. Its fields are guarded by committer.mu.
type entry struct {
	seq uint64
	// open counts the messages that no transaction has stored, those included that were left in the journal
	// for later. At zero, and with all earlier entries of the tier at zero, the position moves to seq in that
	// same transaction.
	open int
}

// charge is what messages of one journal entry, all or some of them, take in memory until they are stored.
type charge struct {
	entry *entry
	bytes int64  // of shard.memory
	parts []part // of that, by whose messages
	open  int    // messages that no transaction has stored; guarded by committer.mu
}

func newIntake(s *shard, tier esh3ar.Tier, d *dedupe) *intake {
	in := &intake{s: s, p: journal.Partition{Shard: s.id, Tier: uint8(tier)}, tier: tier, dedupe: d, lag: &s.lags[tier]}
	in.gap = newGap(in)
	return in
}

// run reads from behind the position until ctx ends or the journal is closed.
func (in *intake) run(ctx context.Context, position uint64) error {
	retry := newRetry()
	seenBefore, reader, err := in.begin(ctx, position)
	if err != nil {
		return err
	}
	defer reader.Close()
	asked, last := in.s.d.opts.Now(), 0
	for {
		if err := in.holdBack(ctx, last); err != nil {
			return err
		}
		if err := in.gap.wait(ctx); err != nil {
			return err
		}
		in.lag.wait(in.s.d.opts.Now())
		e, err := in.next(ctx, reader, retry)
		if err != nil {
			return err
		}
		last = len(e.Data)
		if now := in.s.d.opts.Now(); seenBefore == math.MaxUint64 && now.Sub(asked) >= barrierAgain {
			asked = now
			if end, err := in.end(ctx); err == nil {
				seenBefore = end
			}
		}
		if err := in.take(ctx, e, e.Seq <= seenBefore); err != nil {
			return err
		}
	}
}

// begin finds out up to where an earlier owner may have stored messages beyond the position, and opens a reader of what is behind
// that: at one time, because the recipients wait for both.
func (in *intake) begin(ctx context.Context, position uint64) (seenBefore uint64, reader journal.Reader, err error) {
	g, both := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		seenBefore, err = in.seenBefore(both)
		return err
	})
	g.Go(func() (err error) {
		reader, err = in.open(both, position, newRetry())
		return err
	})
	if err := g.Wait(); err != nil {
		if reader != nil {
			reader.Close()
		}
		return 0, nil, err
	}
	return seenBefore, reader, nil
}

// seenBefore returns a sequence that nothing is above which an earlier owner may have stored, however long it takes.
func (in *intake) seenBefore(ctx context.Context) (uint64, error) {
	retry := newRetry()
	for {
		seq, err := in.end(ctx)
		if err == nil {
			return seq, nil
		}
		if errors.Is(err, journal.ErrFull) {
			// There will be room when what is there was read: all of it may have been seen, until a barrier says where that ends.
			in.s.d.opts.Logger.Warn("the journal is full: the store is asked about all that is read of it until there is room",
				"shard", in.s.id, "tier", in.tier.String())
			return math.MaxUint64, nil
		}
		if err := in.failed(ctx, "asking for the last entry", err, retry); err != nil {
			return 0, err
		}
	}
}

// end returns a sequence that no entry is above which an earlier owner may have seen.
func (in *intake) end(ctx context.Context) (uint64, error) {
	if barrier := in.s.d.opts.Barrier; barrier != nil {
		return barrier(ctx, in.s.id)
	}
	return in.s.d.opts.Log.Last(ctx, in.p)
}

// open opens a reader of what is behind the position, however long it takes.
func (in *intake) open(ctx context.Context, position uint64, retry *retry) (journal.Reader, error) {
	for {
		reader, err := in.s.d.opts.Log.Read(ctx, in.p, position)
		if err == nil {
			retry.reset()
			return reader, nil
		}
		if err := in.failed(ctx, "opening a reader", err, retry); err != nil {
			return nil, err
		}
	}
}

// next waits for the next entry.
func (in *intake) next(ctx context.Context, reader journal.Reader, retry *retry) (journal.Entry, error) {
	for {
		e, err := reader.Next(ctx)
		if err == nil {
			retry.reset()
			return e, nil
		}
		if err := in.failed(ctx, "reading", err, retry); err != nil {
			return e, err
		}
	}
}

// failed waits before what failed is tried again. It returns why it is not to be.
func (in *intake) failed(ctx context.Context, doing string, err error, retry *retry) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, journal.ErrClosed) || errors.Is(err, journal.ErrNoPartition) {
		return fmt.Errorf("shard %d, tier %s: %s: %w", in.s.id, in.tier, doing, err)
	}
	if retry.first() {
		in.s.d.opts.Logger.Warn("journal does not answer; it is tried again", "shard", in.s.id, "tier", in.tier.String(), "doing", doing, "err", err)
	}
	return retry.wait(ctx)
}

// take brings one entry's messages to their recipients, or leaves them for later. It blocks while too much is
// in memory.
func (in *intake) take(ctx context.Context, je journal.Entry, lookAll bool) error {
	s := in.s
	in.dedupe.turn(s.d.opts.Now(), je.Time, s.committer.positions())
	// Noted before its messages are added: a generation is not forgotten before this entry is stored.
	in.dedupe.read(in.tier, je.Seq)

	all, rejects := in.decode(je, true)
	in.lag.took(accepted(je, all))
	msgs, later, left := in.gap.split(all, in.busy(je.Time) && s.d.tightness() == 0)
	var size int64
	if len(msgs) > 0 {
		size = min(int64(len(je.Data))*int64(len(msgs))/int64(len(all))+int64(len(msgs)*messageCost), s.d.opts.Memory)
		if err := s.memory.Acquire(ctx, size); err != nil {
			return err
		}
	}
	msgs, doubtful, err := in.unknown(ctx, msgs, lookAll)
	if err != nil {
		s.memory.Release(size)
		return err
	}
	e := &entry{seq: je.Seq, open: len(msgs) + len(later)}
	c := &charge{entry: e, bytes: size, open: len(msgs)}
	s.memory.charge(c, msgs)
	s.committer.begin(in.tier, c, rejects)
	if len(later) > 0 {
		in.gap.add(&leftover{entry: e, is: left, n: len(later), lookAll: lookAll}, later)
	}
	in.bring(c, msgs, doubtful)
	return nil
}

// accepted returns when an entry with these messages was accepted: by their own time, which comes of clocks that follow no jump,
// rather than by that of the journal's server, which does.
func accepted(je journal.Entry, all []*esh3ar.Message) time.Time {
	if len(all) == 0 {
		return je.Time
	}
	return all[0].AcceptedAt
}

// aside says which messages are to wait in the store, because their clients have more than their share in
// memory: nil for none. While the store does not answer that would gain nothing.
func (in *intake) aside(msgs []*esh3ar.Message) []bool {
	s := in.s
	if !s.memory.crowded() || s.committer.failing.Load() {
		return nil
	}
	var (
		marks []bool
		last  fair.Flow
		over  bool
	)
	for i, m := range msgs {
		f := flowOf(m)
		if i == 0 || f != last {
			last, over = f, s.memory.over(f)
		}
		if !over {
			continue
		}
		if marks == nil {
			marks = make([]bool, len(msgs))
		}
		marks[i] = true
		s.d.metrics.aside.Inc()
	}
	return marks
}

// decode returns the messages of an entry and what of it cannot be one, and tells of that in the log.
func (in *intake) decode(je journal.Entry, tell bool) ([]*esh3ar.Message, []store.Reject) {
	var (
		msgs    []*esh3ar.Message
		rejects []store.Reject
	)
	reject := func(raw []byte, err error) {
		if !tell {
			return
		}
		in.s.d.opts.Logger.Error("undecodable journal record goes to the dead letters",
			"shard", in.s.id, "tier", in.tier.String(), "seq", je.Seq, "err", err)
		rejects = append(rejects, store.Reject{
			Tier: in.tier, Ord: je.Seq<<16 | uint64(len(rejects)), Record: raw,
			Reason: esh3ar.ReasonUndecodable, Detail: err.Error(),
		})
	}
	for rec, err := range journal.Records(je.Data) {
		if err != nil {
			reject(je.Data, err)
			break
		}
		m := new(esh3ar.Message)
		if err := record.DecodeMessage(rec, m); err != nil {
			reject(rec, err)
			continue
		}
		if own := esh3ar.ShardOf(m.To, len(in.s.d.shards)); own != in.s.id {
			reject(rec, fmt.Errorf("record of shard %d in the journal of shard %d", own, in.s.id))
			continue
		}
		msgs = append(msgs, m)
	}
	return msgs, rejects
}

// unknown leaves out the messages that are known already: those that an earlier owner stored, and
// repetitions under an idempotency key. Doubtful are those of the rest that the store would have to tell
// about and did not.
func (in *intake) unknown(ctx context.Context, msgs []*esh3ar.Message, lookAll bool) (fresh []*esh3ar.Message, doubtful map[esh3ar.ID]struct{}, err error) {
	var ask []esh3ar.ID
	fresh = msgs[:0]
	for _, m := range msgs {
		if m.Key != "" && !in.dedupe.add(m.ID) {
			in.s.d.metrics.repeated.Inc()
			continue
		}
		fresh = append(fresh, m)
		if lookAll || m.Unchecked && !in.firstUse(m) || m.Key != "" && !in.dedupe.covers(m.AcceptedAt) {
			ask = append(ask, m.ID)
		}
	}
	known, err := in.lookUp(ctx, ask)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		doubtful = make(map[esh3ar.ID]struct{}, len(ask))
		for _, id := range ask {
			doubtful[id] = struct{}{}
		}
		return fresh, doubtful, nil
	}
	if len(known) == 0 {
		return fresh, nil, nil
	}
	all := fresh
	fresh = fresh[:0]
	for _, m := range all {
		if _, ok := known[m.ID]; !ok {
			fresh = append(fresh, m)
		}
	}
	return fresh, nil, nil
}

// firstUse reports whether a message whose key could not be looked up cannot be a repetition of one that
// is stored. That is so when the key tells when it was made, and everything with a key that was accepted
// since then is remembered here. A key of the future tells nothing.
func (in *intake) firstUse(m *esh3ar.Message) bool {
	made := m.ID.Time()
	return !made.IsZero() && !made.After(m.AcceptedAt) && in.dedupe.covers(made)
}

// errDeferring is why the store is not asked: it did not answer for what is deferred.
var errDeferring = errors.New("dispatch: earlier messages wait for the store")

// lookUp returns which of the identifiers the store knows, or an error when it does not answer soon.
func (in *intake) lookUp(ctx context.Context, ask []esh3ar.ID) (map[esh3ar.ID]struct{}, error) {
	known := make(map[esh3ar.ID]struct{})
	if len(ask) == 0 {
		return known, nil
	}
	if !in.s.deferred.empty() {
		return nil, errDeferring
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpTime)
	defer cancel()
	for len(ask) > 0 {
		n := min(lookUpPage, len(ask))
		rows, err := in.s.d.opts.Store.Rows(ctx, in.s.id, ask[:n])
		if err != nil {
			return nil, err
		}
		for i := range rows {
			known[rows[i].Message.ID] = struct{}{}
		}
		ask = ask[n:]
	}
	return known, nil
}

// dedupe remembers the identifiers of messages with an idempotency key for as long as a repetition may
// come that was admitted before the first was stored.
//
// The accept path takes AcceptedAt and then asks the store for the key. So a repetition that was
// admitted after the first was stored never gets into the journal, and one whose AcceptedAt lies
// before some time t can only repeat what was not stored at t or what is remembered here. A
// generation may therefore be forgotten when all of it is stored and the journal has been read up to
// where nothing admitted before that can appear any more.
type dedupe struct {
	window time.Duration // longest time from AcceptedAt to the journal

	mu        sync.Mutex
	now, past map[esh3ar.ID]struct{}
	started   time.Time // of the generation now
	stored    time.Time // when all of past was stored, zero while it is not
	pending   [esh3ar.Tiers]uint64
	last      [esh3ar.Tiers]uint64
	// since is the time from which on add is enough: what was stored before it may be forgotten.
	since time.Time
}

// dedupeLimit is the size from which on a generation is forgotten as soon as it is stored, however
// far behind the reading is. The price is a look-up in the store for what follows.
const dedupeLimit = 500_000

func newDedupe(now time.Time, window time.Duration) *dedupe {
	return &dedupe{window: window, now: make(map[esh3ar.ID]struct{}), started: now, since: now}
}

// add remembers id and reports whether it was unknown.
func (d *dedupe) add(id esh3ar.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.past[id]; ok {
		return false
	}
	if _, ok := d.now[id]; ok {
		return false
	}
	d.now[id] = struct{}{}
	return true
}

// covers reports whether add alone can tell a repetition that was admitted at that time.
func (d *dedupe) covers(acceptedAt time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !acceptedAt.Before(d.since)
}

// turn forgets what may be forgotten. Entry is the journal's time of what is read now, positions is
// what is stored.
func (d *dedupe) turn(now, entry time.Time, positions [esh3ar.Tiers]uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.past != nil {
		if d.stored.IsZero() && reached(positions, d.pending) {
			d.stored = now
		}
		if d.stored.IsZero() || (entry.Sub(d.stored) <= d.window && len(d.now) < dedupeLimit) {
			return
		}
		d.since, d.past = d.stored, nil
	}
	if now.Sub(d.started) > d.window || len(d.now) >= dedupeLimit {
		d.past, d.now = d.now, make(map[esh3ar.ID]struct{}, len(d.now))
		d.pending, d.stored, d.started = d.last, time.Time{}, now
	}
}

// read notes that an entry was read, so that turn knows when all that it brought is stored.
func (d *dedupe) read(tier esh3ar.Tier, seq uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last[tier] = max(d.last[tier], seq)
}

func reached(have, want [esh3ar.Tiers]uint64) bool {
	for i := range want {
		if have[i] < want[i] {
			return false
		}
	}
	return true
}
