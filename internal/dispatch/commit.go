package dispatch

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/store"
)

const (
	// commitLimit is the most changes of one transaction.
	commitLimit = 2000
	// lateLimit is the most late acknowledgements that wait. Beyond it they are dropped and counted:
	// the message is sent again and acknowledged again; a read receipt is lost.
	lateLimit = 1 << 16
)

// committer is the only writer of a shard. It joins what recipients hand out into transactions, each
// with the journal position that it makes true.
//
// What waits here is bounded by what is in memory at all: there is one change for each message, however
// often it changes before the commit.
type committer struct {
	s *shard

	mu    sync.Mutex
	queue []pending
	// first is the number of the oldest change in queue; changes are numbered from 0.
	first uint64
	index map[esh3ar.ID]uint64 // number of the message's change in queue
	late  []lateAck
	// refused are the rows of messages that the store refused as they were, until the recipients know.
	refused map[esh3ar.ID]*store.Change
	// watched are messages that people are about to change; see dead.
	watched map[esh3ar.ID]*watched
	// reports are owed for changes in queue or in the transaction under way, in order.
	reports []report
	// entries are the journal entries not yet wholly stored, in order, and rejects what of them goes
	// raw to the dead letters.
	entries [esh3ar.Tiers][]*entry
	rejects []store.Reject
	moved   bool      // an entry may be complete without a change
	free    []*charge // likewise: to be given back to the memory

	failing   atomic.Bool // the store did not take the last transaction that was tried
	epoch     store.Epoch
	number    int64                // of the last transaction that is stored; run's alone
	asked     [esh3ar.Tiers]uint64 // positions of the transaction under way
	done      [esh3ar.Tiers]uint64 // positions that are stored
	committed uint64               // changes below this number are stored
	changed   chan struct{}        // closed and renewed when done or committed moved, or refused shrank
	finishing bool
	wake      chan struct{} // cap 1
	ready     chan struct{} // closed when the shard is claimed
	last      chan struct{} // closed when finishing
}

// pending is one change on its way to the store.
type pending struct {
	change store.Change
	origin *charge // set when the change gives the message its first row
}

// report is owed to a recipient when all changes below a number are stored.
type report struct {
	recipient string
	after     uint64
}

type lateAck struct {
	recipient string
	id        esh3ar.ID
	read      bool
}

func newCommitter(s *shard) *committer {
	return &committer{
		s:       s,
		index:   make(map[esh3ar.ID]uint64),
		refused: make(map[esh3ar.ID]*store.Change),
		watched: make(map[esh3ar.ID]*watched),
		changed: make(chan struct{}),
		wake:    make(chan struct{}, 1),
		ready:   make(chan struct{}),
		last:    make(chan struct{}),
	}
}

// claimed says with what right and from where on to commit. It is called once.
func (c *committer) claimed(claim store.Claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch = claim.Epoch
	c.asked, c.done = claim.Positions, claim.Positions
	close(c.ready)
}

func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// begin notes a journal entry before its messages are handed to their recipients.
func (c *committer) begin(tier esh3ar.Tier, x *charge, rejects []store.Reject) {
	c.mu.Lock()
	c.entries[tier] = append(c.entries[tier], x.entry)
	c.rejects = append(c.rejects, rejects...)
	c.mu.Unlock()
	c.leaveOut(x, 0)
}

// resume notes that more of an entry is about to be handed to its recipients, and that so many of its
// messages need no storing.
func (c *committer) resume(x *charge, known int) {
	c.mu.Lock()
	x.entry.open -= known
	c.mu.Unlock()
	c.leaveOut(x, 0)
}

// leaveOut says that so many messages of those in memory need no storing: they are stored already.
func (c *committer) leaveOut(x *charge, n int) {
	c.mu.Lock()
	x.open -= n
	x.entry.open -= n
	if x.open == 0 && x.bytes > 0 {
		c.free = append(c.free, x)
	}
	if x.entry.open == 0 {
		c.moved = true
	}
	wake := c.moved || len(c.free) > 0
	c.mu.Unlock()
	if wake {
		c.signal()
	}
}

// add takes the storing effects among out.
func (c *committer) add(r *recipient, out []delivery.Effect) {
	c.mu.Lock()
	for i := range out {
		e := &out[i]
		switch e.Action {
		case delivery.Late:
			if len(c.late) >= lateLimit {
				c.s.d.metrics.lateDropped.Inc()
				continue
			}
			c.late = append(c.late, lateAck{recipient: r.name, id: e.ID, read: e.Read})
			continue
		case delivery.Save, delivery.Park, delivery.Done:
		default:
			continue
		}
		id := e.Item.Message.ID
		if w := c.watched[id]; w != nil {
			w.changes++
		}
		refused := c.refused[id]
		n, ok := c.index[id]
		if refused != nil {
			c.afterRefusal(refused, &e.State)
		} else if ok {
			// Not stored yet: the later state replaces the earlier, the new transitions add up. A state
			// with a lower status_seq comes of a row that was read before this change.
			if p := &c.queue[n-c.first]; p.change.State.Seq() < e.State.Seq() {
				p.change.State = e.State
			}
		} else {
			n = c.first + uint64(len(c.queue))
			c.index[id] = n
			p := pending{change: store.Change{
				Message: e.Item.Message, State: e.State, Ord: e.Item.Ord, From: store.InQueue, NewFrom: e.NewFrom,
			}}
			if e.NewFrom > 0 && e.State.Timeline[e.NewFrom-1].Status.Final() {
				p.change.From = store.InHistory
			}
			if e.Fresh {
				p.change.From = store.Nowhere
				p.origin, _ = e.Item.Origin.(*charge)
			}
			c.queue = append(c.queue, p)
		}
		if e.Report {
			c.reports = append(c.reports, report{r.name, c.first + uint64(len(c.queue))})
		}
	}
	c.mu.Unlock()
	c.signal()
}

// run commits until finish was called and everything is stored, or ctx ends, or the shard is lost.
func (c *committer) run(ctx context.Context) error {
	select {
	case <-c.ready:
	case <-c.last:
		return nil // never claimed: there is nothing that it may store
	case <-ctx.Done():
		return ctx.Err()
	}
	pace := time.NewTimer(0)
	defer pace.Stop()
	<-pace.C
	for {
		c.mu.Lock()
		empty := len(c.queue) == 0 && len(c.late) == 0 && len(c.rejects) == 0 && !c.moved && len(c.free) == 0
		finished := c.finishing && empty
		c.mu.Unlock()
		if finished {
			return nil
		}
		if empty {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-c.wake:
			}
			continue
		}
		began := c.s.d.opts.Now()
		c.settleLate(ctx)
		b, parts, freed := c.take(began)
		if err := c.commit(ctx, b); err != nil {
			return err
		}
		c.stored(b, parts)
		c.s.memory.free(freed)
		c.s.d.metrics.commit.Observe(c.s.d.opts.Now().Sub(began).Seconds())

		c.mu.Lock()
		hurry := c.finishing || len(c.queue) >= commitLimit
		c.mu.Unlock()
		if hurry {
			continue
		}
		pace.Reset(c.s.d.opts.CommitEvery - c.s.d.opts.Now().Sub(began))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pace.C:
		}
	}
}

// finish lets run end when everything is stored. It is called once.
func (c *committer) finish() {
	c.mu.Lock()
	c.finishing = true
	close(c.last)
	c.mu.Unlock()
	c.signal()
}

// settleLate brings the rows that late acknowledgements are about to their recipients. What of it the
// store does not answer for waits for the next round, as do those whose message has a change under way.
func (c *committer) settleLate(ctx context.Context) {
	c.mu.Lock()
	late := c.late
	c.late = nil
	var (
		ids  []esh3ar.ID
		wait []lateAck
		by   = make(map[esh3ar.ID]lateAck, len(late))
	)
	for _, l := range late {
		prev, twice := by[l.id]
		if _, busy := c.index[l.id]; busy || twice && prev.recipient != l.recipient {
			wait = append(wait, l)
			continue
		}
		l.read = l.read || prev.read
		if !twice {
			ids = append(ids, l.id)
		}
		by[l.id] = l
	}
	c.mu.Unlock()
	if len(ids) > commitLimit {
		for _, id := range ids[commitLimit:] {
			wait = append(wait, by[id])
		}
		ids = ids[:commitLimit]
	}
	var rows []store.Row
	if len(ids) > 0 {
		var err error
		if rows, err = c.s.d.opts.Store.Rows(ctx, c.s.id, ids); err != nil {
			for _, id := range ids {
				wait = append(wait, by[id])
			}
		}
	}
	c.mu.Lock()
	c.late = append(wait, c.late...)
	c.mu.Unlock()
	for i := range rows {
		row := &rows[i]
		l := by[row.Message.ID]
		if row.Message.To != l.recipient {
			continue // not this recipient's to acknowledge
		}
		c.s.post(l.recipient, event{kind: evSettle, item: itemOf(row), read: l.read})
	}
}

// take forms the next transaction, which is then repeated until it is stored. It also returns how many
// bytes of journal entries are then wholly stored.
func (c *committer) take(now time.Time) (b *store.Batch, parts []pending, freed []*charge) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.queue), commitLimit)
	parts = c.queue[:n:n]
	c.queue = c.queue[n:]
	c.first += uint64(n)
	b = &store.Batch{
		Shard: c.s.id, Epoch: c.epoch, At: now,
		Changes: make([]store.Change, n),
		Rejects: c.rejects,
	}
	freed = c.free
	c.rejects, c.moved, c.free = nil, false, nil
	for i := range parts {
		b.Changes[i] = parts[i].change
		delete(c.index, parts[i].change.Message.ID)
		if o := parts[i].origin; o != nil {
			o.entry.open--
			if o.open--; o.open == 0 {
				freed = append(freed, o)
			}
		}
	}
	for tier := range c.entries {
		q := c.entries[tier]
		for len(q) > 0 && q[0].stored() {
			c.asked[tier] = q[0].seq
			q[0] = nil
			q = q[1:]
		}
		c.entries[tier] = q
	}
	b.Positions = c.asked
	return b, parts, freed
}

// commit stores the transaction, however long it takes, but for what of it the store refuses for good. Its
// errors end the shard: it is lost, or ctx has ended.
func (c *committer) commit(ctx context.Context, b *store.Batch) error {
	err := c.persist(ctx, b)
	switch {
	case !errors.Is(err, store.ErrPermanent):
		return err
	case len(b.Changes) == 0:
		return c.s.errLost(err)
	case len(b.Changes) == 1:
		return c.refuse(ctx, b, err)
	}
	return c.bisect(ctx, b)
}

// persist stores the transaction as it is, however long it takes. Its errors are store.ErrPermanent, and those
// that end the shard.
func (c *committer) persist(ctx context.Context, b *store.Batch) error {
	retry := newRetry()
	b.Number = c.number + 1
	for {
		err := c.s.d.opts.Store.Commit(ctx, b)
		switch {
		case err == nil:
			c.number = b.Number
			c.failing.Store(false)
			if !retry.first() {
				c.s.d.opts.Logger.Info("store answers again", "shard", c.s.id)
			}
			return nil
		case errors.Is(err, store.ErrNotOwner), errors.Is(err, store.ErrSetBack):
			return c.s.errLost(err)
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrPermanent):
			return err
		}
		if retry.first() {
			c.s.d.opts.Logger.Warn("store does not take a commit; it is repeated", "shard", c.s.id, "changes", len(b.Changes), "err", err)
		}
		c.failing.Store(true)
		c.s.d.metrics.commitRetries.Inc()
		if err := retry.wait(ctx); err != nil {
			return err
		}
	}
}

// bisect stores the halves of a transaction that the store refuses for good, so that one poison message does
// not stop the shard. The positions move with the last part.
func (c *committer) bisect(ctx context.Context, b *store.Batch) error {
	first, second := *b, *b
	half := len(b.Changes) / 2
	first.Changes, first.Rejects, first.Positions = b.Changes[:half], nil, c.positions()
	second.Changes = b.Changes[half:]
	if err := c.commit(ctx, &first); err != nil {
		return err
	}
	return c.commit(ctx, &second)
}

// stored tells who waits for it that the transaction is stored.
func (c *committer) stored(b *store.Batch, parts []pending) {
	c.mu.Lock()
	c.done = b.Positions
	c.committed += uint64(len(parts))
	close(c.changed)
	c.changed = make(chan struct{})
	owed := make(map[string]int)
	n := 0
	for ; n < len(c.reports) && c.reports[n].after <= c.committed; n++ {
		owed[c.reports[n].recipient]++
	}
	c.reports = c.reports[n:]
	c.mu.Unlock()
	if c.s.d.opts.Committed != nil {
		c.s.d.opts.Committed(c.s.id)
	}
	for i := range b.Changes {
		c.s.d.metrics.count(&b.Changes[i])
	}
	for name, n := range owed {
		c.s.post(name, event{kind: evParked, n: n})
	}
}

// positions returns the stored positions.
func (c *committer) positions() [esh3ar.Tiers]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// depth returns the number of changes that wait.
func (c *committer) depth() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue)
}

// reached waits until the stored positions are at least these. It reports false when ctx ended first.
func (c *committer) reached(ctx context.Context, want [esh3ar.Tiers]uint64) bool {
	return c.until(ctx, func() bool { return reached(c.done, want) })
}

// settled waits until every change that waits now is stored. It reports false when ctx ended first.
func (c *committer) settled(ctx context.Context) bool {
	c.mu.Lock()
	want := c.first + uint64(len(c.queue))
	c.mu.Unlock()
	return c.until(ctx, func() bool { return c.committed >= want })
}

// until waits for a condition on what is stored, which is called with mu held.
func (c *committer) until(ctx context.Context, ok func() bool) bool {
	for {
		c.mu.Lock()
		if ok() {
			c.mu.Unlock()
			return true
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// unstored returns the number of journal entries that were read and are not wholly stored.
func (c *committer) unstored() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, q := range c.entries {
		n += len(q)
	}
	return n
}
