package dispatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/store"
)

// shard is the ownership of one shard.
type shard struct {
	d         *Dispatcher
	id        uint16
	committer *committer
	timers    *timers
	deferred  *deferred
	memory    *memory // of journal entries that are not stored yet
	// looks keeps a scan for due rows and what people ask for apart: each looks at rows, brings them to
	// recipients and waits for the commit, and must not bring a row that the other has just changed. A
	// scan takes all of scanLooks.
	looks *semaphore.Weighted
	lags  [esh3ar.Tiers]lag // of its intakes

	suspected chan struct{} // cap 1: the store may have been set back

	mu         sync.Mutex
	recipients map[string]*recipient
	active     int       // recipients that have something to do
	idle       sync.Cond // active is 0
	retired    bool      // no more events are taken
	// ord is the Ord of the last arrival. It is given out under mu together with the place in the
	// mailbox, so that a recipient's arrivals have growing ones.
	ord uint64
}

func newShard(d *Dispatcher, id uint16) *shard {
	s := &shard{d: d, id: id, recipients: make(map[string]*recipient), memory: newMemory(d.opts.Memory),
		looks: semaphore.NewWeighted(scanLooks), suspected: make(chan struct{}, 1)}
	s.idle.L = &s.mu
	s.timers = newTimers(d.opts.Now)
	s.committer = newCommitter(s)
	s.deferred = newDeferred(s)
	return s
}

// run claims the shard and works on it until ctx ends or the shard is lost.
func (s *shard) run(ctx context.Context) error {
	claim, err := s.claim(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.ord = uint64(claim.Epoch.Number) << 40
	s.mu.Unlock()
	s.committer.claimed(claim)

	g, ctx := errgroup.WithContext(ctx)
	dedupe := newDedupe(s.d.opts.Now(), s.d.opts.AppendTimeout)
	for tier := range esh3ar.Tier(esh3ar.Tiers) {
		in := newIntake(s, tier, dedupe)
		g.Go(func() error { return in.run(ctx, claim.Positions[tier]) })
		g.Go(func() error { return in.gap.run(ctx) })
	}
	g.Go(func() error {
		s.timers.run(ctx, s.tick)
		return nil
	})
	g.Go(func() error { return s.deferred.run(ctx) })
	g.Go(func() error { return s.scan(ctx) })
	g.Go(func() error { return s.purge(ctx) })
	g.Go(func() error { return s.check(ctx) })
	return g.Wait()
}

// claim waits for the store as long as it takes: without it nobody can own the shard.
func (s *shard) claim(ctx context.Context) (store.Claim, error) {
	retry := newRetry()
	for {
		claim, err := s.d.opts.Store.Claim(ctx, s.id)
		if err == nil {
			return claim, nil
		}
		if ctx.Err() != nil {
			return claim, ctx.Err()
		}
		if retry.first() {
			s.d.opts.Logger.Warn("shard waits for the store", "shard", s.id, "err", err)
		}
		if err := retry.wait(ctx); err != nil {
			return claim, err
		}
	}
}

// post brings an event to a recipient. It reports false when the shard takes no more.
func (s *shard) post(name string, e event) bool {
	s.mu.Lock()
	if s.retired {
		s.mu.Unlock()
		return false
	}
	r := s.recipient(name)
	switch e.kind {
	case evAttach:
		r.attached++
	case evDetach:
		r.attached--
	}
	s.add(r, e)
	running := r.running
	s.mu.Unlock()
	if !running {
		s.d.runq.push(e.wish(r))
	}
	return true
}

// add puts an event into a recipient's mailbox. The caller holds mu, and sees to it that the recipient has a
// turn unless it is running.
func (s *shard) add(r *recipient, e event) {
	if r.mailbox.empty() && !r.running {
		s.active++
	}
	r.mailbox.add(e)
}

// recipient returns the recipient of that name, new if need be. The caller holds mu.
func (s *shard) recipient(name string) *recipient {
	r := s.recipients[name]
	if r == nil {
		r = &recipient{shard: s, name: name, core: delivery.NewRecipient(&s.d.opts.Params)}
		s.recipients[name] = r
	}
	return r
}

// online says which messages are for recipients that are connected.
func (s *shard) online(msgs []*esh3ar.Message) []bool {
	is := make([]bool, len(msgs))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, m := range msgs {
		r := s.recipients[m.To]
		is[i] = r != nil && r.attached > 0
	}
	return is
}

// arrive brings new messages to their recipients, in order.
func (s *shard) arrive(items []*delivery.Item) {
	run := make([]wish, 0, len(items))
	s.mu.Lock()
	for _, it := range items {
		s.ord++
		it.Ord = s.ord
		r := s.recipient(it.Message.To)
		s.add(r, event{kind: evArrive, item: it})
		if r.running {
			continue
		}
		run = append(run, wish{r: r, flow: flowOf(it.Message)})
	}
	s.mu.Unlock()
	if len(run) > 0 {
		s.d.runq.push(run...)
	}
}

// tick wakes recipients. One that is forgotten already, or forgotten and new again, takes no harm.
func (s *shard) tick(rs []*recipient) {
	for _, r := range rs {
		s.post(r.name, event{kind: evTick})
	}
}

// wakeAll makes every recipient look at what is to be done.
func (s *shard) wakeAll() { s.postAll(event{kind: evTick}) }

// postAll brings an event to every recipient in memory.
func (s *shard) postAll(e event) {
	var run []wish
	s.mu.Lock()
	for _, r := range s.recipients {
		s.add(r, e)
		if !r.running {
			run = append(run, wish{r: r, same: true})
		}
	}
	s.mu.Unlock()
	if len(run) > 0 {
		s.d.runq.push(run...)
	}
}

// scanLooks is how many requests of people may look at a shard's rows at one time.
const scanLooks = 1000

// scan brings what became due in the store to its recipients, until ctx ends.
func (s *shard) scan(ctx context.Context) error {
	tick := time.NewTicker(s.d.opts.ScanEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := s.looks.Acquire(ctx, scanLooks); err != nil {
			return err
		}
		s.scanOnce(ctx)
		s.looks.Release(scanLooks)
	}
}

// scanOnce looks for due rows when all that came of earlier looks is stored, so that no row is found that
// a recipient has moved on meanwhile.
func (s *shard) scanOnce(ctx context.Context) {
	const limit = 1000
	if !s.committer.settled(ctx) {
		return
	}
	rows, err := s.d.opts.Store.Due(ctx, s.id, s.d.opts.Now(), limit)
	if err != nil {
		return // the committer reports a store that is down
	}
	var handled sync.WaitGroup
	for i := range rows {
		handled.Add(1)
		if !s.post(rows[i].Message.To, event{kind: evDue, item: itemOf(&rows[i]), handled: &handled}) {
			handled.Done()
		}
	}
	handled.Wait() // workers outlive the scan
}

// purge removes from the journal what has been stored for long enough, until ctx ends.
func (s *shard) purge(ctx context.Context) error {
	keep := s.d.opts.JournalKeep
	every := max(keep/10, time.Second)
	tick := time.NewTicker(every)
	defer tick.Stop()
	type mark struct {
		at        time.Time
		positions [esh3ar.Tiers]uint64
	}
	var marks []mark // oldest first; at most about ten
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := s.d.opts.Now()
		marks = append(marks, mark{now, s.committer.positions()})
		for len(marks) > 0 && now.Sub(marks[0].at) >= keep {
			for tier, seq := range marks[0].positions {
				p := journal.Partition{Shard: s.id, Tier: uint8(tier)}
				if err := s.d.opts.Log.Purge(ctx, p, seq+1); err != nil && ctx.Err() == nil {
					s.d.opts.Logger.Warn("journal purge failed; it is tried again", "shard", s.id, "tier", tier, "err", err)
				}
			}
			marks = marks[1:]
		}
	}
}

// suspect has check look at once.
func (s *shard) suspect() {
	select {
	case s.suspected <- struct{}{}:
	default: // it will
	}
}

// check asks the store now and then, and when it is told to, whether it still has what it has stored, until ctx ends or it has not. A store that has lost
// commits refuses the next one, but there may be none for long, while what it lost waits for a recipient.
func (s *shard) check(ctx context.Context) error {
	tick := time.NewTicker(s.d.opts.CheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-s.suspected:
		}
		stored := s.committer.positions()
		found, err := s.d.opts.Store.Positions(ctx)
		if err != nil {
			continue // the committer reports a store that is down
		}
		if !reached(found[s.id], stored) {
			return s.errLost(store.ErrSetBack)
		}
	}
}

// itemOf returns a stored row as an item in memory.
func itemOf(row *store.Row) *delivery.Item {
	return &delivery.Item{
		Message: &row.Message,
		State:   row.State,
		Ord:     row.Ord,
		Saved:   true,
		Unsaved: len(row.State.Timeline),
	}
}

// Message returns a client's message and what became of it. It knows every message from its 202 on:
// one that is not stored yet is waited for, a little.
//
// Errors: KindNotFound; KindUnavailable with RetryAfter when it cannot be told yet.
func (d *Dispatcher) Message(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	notFound := esh3ar.Errorf(esh3ar.KindNotFound, "message_not_found", "there is no message %s of yours", id)
	if int(id.Shard()) >= len(d.shards) {
		return store.Row{}, notFound
	}
	row, err := d.opts.Store.Message(ctx, client, id)
	if errors.Is(err, store.ErrNotFound) {
		known := d.allStored(ctx, id.Shard(), time.Second)
		row, err = d.opts.Store.Message(ctx, client, id)
		if known && d.opts.End != nil && errors.Is(err, store.ErrNotFound) {
			known = d.surelyAllStored(ctx, id.Shard(), time.Second)
			row, err = d.opts.Store.Message(ctx, client, id)
		}
		if errors.Is(err, store.ErrNotFound) {
			if known {
				return row, notFound
			}
			return row, esh3ar.Errorf(esh3ar.KindUnavailable, "message_not_stored_yet",
				"message %s may have been accepted and not be stored yet; ask again", id).After(time.Second)
		}
	}
	if err != nil {
		return row, esh3ar.Errorf(esh3ar.KindUnavailable, "store_unavailable",
			"the message store does not answer; ask again").After(time.Second).Because(err)
	}
	return row, nil
}

// errLost wraps store.ErrNotOwner and store.ErrSetBack for the log.
func (s *shard) errLost(err error) error {
	return fmt.Errorf("shard %d: %w", s.id, err)
}
