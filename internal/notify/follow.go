package notify

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/esh3artech/esh3ar/internal/store"
)

// Start is where to begin.
type Start struct {
	// Cursor is the place to go on from, as it was given out; "" for none.
	Cursor string
	// Oldest says, without a cursor, to begin with the oldest events that are kept rather than now.
	Oldest bool
}

// resolve returns the cursor to begin at. Its errors are *esh3ar.Error or wrap one.
func (s *Service) resolve(ctx context.Context, start Start) (Cursor, error) {
	var c Cursor
	if start.Cursor != "" {
		var err error
		if c, err = ParseCursor(start.Cursor, len(s.tails)); err != nil {
			return nil, at(err, "cursor")
		}
	}
	ranges, err := s.ranges(ctx)
	switch {
	case err != nil:
		return nil, unavailable(err)
	case c != nil:
		return c, c.check(ranges)
	case start.Oldest:
		return startOf(ranges, len(s.tails)), nil
	}
	return endOf(ranges, len(s.tails)), nil
}

// scan reads a client's events of one shard that follow a place. It returns them, the place behind all
// that was read, and whether that is the end for now. Its error is store.ErrForgotten or transient.
func (s *Service) scan(ctx context.Context, shard int, client string, from Place) (items []item, to Place, end bool, err error) {
	writes, err := s.read(ctx, shard, from.Number)
	if err != nil {
		return nil, from, false, err
	}
	read := 0
	for i := range writes {
		w := &writes[i]
		read += len(w.Events)
		first := 0
		if i == 0 {
			first = from.Offset
		}
		for j := first; j < len(w.Events); j++ {
			if w.Events[j].Client == client {
				items = appendItem(items, w, j)
			}
		}
	}
	if len(writes) == 0 {
		return nil, from, true, nil
	}
	return items, Place{Number: writes[len(writes)-1].Number}, read < readEvents, nil
}

// Follower reads the events of one client as they come. It is used by one goroutine and must be closed.
type Follower struct {
	s      *Service
	client string
	filter Filter
	cursor Cursor
	shards []following
	first  int // shard to look at first, so that a busy one does not keep the others waiting
	wake   chan struct{}
	closed bool
	own    bool // not one of the client's streams

	failures int       // of the store, in a row
	retry    time.Time // when to ask it again
}

// following is a follower's state in one shard.
type following struct {
	seat    seat
	pending []item // taken or read, not yet told
	spare   []item // memory of told ones
	upTo    Place  // what is reached when pending is empty
	seated  bool   // as far as the follower knows
	late    bool   // pending is not fresh: it was read from the store
}

// Follow returns a follower of the client's events from there on. Its errors are *esh3ar.Error or wrap
// one: the cursor is not ours, what follows it is not kept any more, there are too many streams, or the
// store does not answer.
func (s *Service) Follow(ctx context.Context, client string, start Start, filter Filter) (*Follower, error) {
	return s.follow(ctx, client, start, filter, false)
}

// Watch is Follow for what the server itself does with a client's events: it does not count among the
// client's streams.
func (s *Service) Watch(ctx context.Context, client string, start Start, filter Filter) (*Follower, error) {
	return s.follow(ctx, client, start, filter, true)
}

func (s *Service) follow(ctx context.Context, client string, start Start, filter Filter, own bool) (*Follower, error) {
	cursor, err := s.resolve(ctx, start)
	if err != nil {
		return nil, err
	}
	if err := s.enter(client, own); err != nil {
		return nil, err
	}
	f := &Follower{
		s: s, client: client, filter: filter, cursor: cursor, own: own,
		shards: make([]following, len(s.tails)), wake: make(chan struct{}, 1),
	}
	for i := range f.shards {
		f.shards[i].upTo = cursor[i]
		f.shards[i].seat = seat{client: client, wake: f.signal}
	}
	return f, nil
}

// Close gives up the follower's seats. Closing again does nothing.
func (f *Follower) Close() {
	if f.closed {
		return
	}
	f.closed = true
	for i, t := range f.s.tails {
		t.leave(&f.shards[i].seat)
	}
	f.s.leave(f.client, f.own)
}

func (f *Follower) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Cursor returns the place behind everything that Next returned, and behind what it passed over.
func (f *Follower) Cursor() string { return f.cursor.String() }

// ErrStopping is how Next ends when the service drains, and what Watch's error wraps then.
var ErrStopping = errors.New("notify: the server is stopping")

// Next waits for events, until patience is over, and returns at most limit; none means that none came. A
// store that does not answer is waited for. Its errors are ctx's, ErrStopping, and one that wraps an
// *esh3ar.Error when what follows is not kept any more; with none of them anything is lost.
func (f *Follower) Next(ctx context.Context, limit int, patience time.Duration) ([]Event, error) {
	over := time.NewTimer(patience)
	defer over.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-f.s.drain:
			return nil, ErrStopping
		default:
		}
		events, busy, err := f.collect(ctx, limit)
		if len(events) > 0 || err != nil {
			return events, err
		}
		if busy {
			select {
			case <-over.C:
				return nil, nil // there may be much that is not for this client
			default:
				continue
			}
		}
		if !f.wait(ctx, over.C) {
			return nil, nil
		}
	}
}

// run gives what the follower finds to tell, and now and then nothing, when none comes. Check is asked all
// the while whether the client may still be told: an error of KindUnauthorized or KindForbidden
// says no. It ends with their errors and with those of Next.
func (f *Follower) run(ctx context.Context, limit int, check func(context.Context) error, tell func([]Event) error) error {
	every := f.s.opts.CheckEvery
	checked := time.Now()
	for {
		events, err := f.Next(ctx, limit, min(every, f.s.opts.Heartbeat))
		if err != nil {
			return err
		}
		if time.Since(checked) >= every {
			// When it cannot be told, what was true before holds.
			if err := check(ctx); notAllowed(err) {
				return err
			}
			checked = time.Now()
		}
		if err := tell(events); err != nil {
			return err
		}
	}
}

// wait returns when there may be something. It reports false when patience was over first.
func (f *Follower) wait(ctx context.Context, over <-chan time.Time) bool {
	var again <-chan time.Time
	if !f.retry.IsZero() {
		timer := time.NewTimer(time.Until(f.retry))
		defer timer.Stop()
		again = timer.C
	}
	select {
	case <-over:
		return false
	case <-ctx.Done():
	case <-f.s.drain:
	case <-f.wake:
	case <-again:
	}
	return true
}

// collect returns what there is, at most limit events. Busy says that there may be more at once.
func (f *Follower) collect(ctx context.Context, limit int) (events []Event, busy bool, err error) {
	for n := range f.shards {
		i := (f.first + n) % len(f.shards)
		more, err := f.refill(ctx, i)
		if err != nil && len(events) == 0 {
			return nil, false, err
		}
		busy = busy || more || err != nil
		events = f.tell(events, i, limit)
		if len(events) == limit {
			f.first = (i + 1) % len(f.shards)
			return events, true, nil
		}
	}
	return events, busy, nil
}

// refill sees to it that something is pending in the shard, if there is anything. It reports whether
// there may be more.
func (f *Follower) refill(ctx context.Context, i int) (more bool, err error) {
	g := &f.shards[i]
	if len(g.pending) > 0 {
		return true, nil
	}
	if g.seated {
		items, upTo, seated := f.s.tails[i].take(&g.seat, g.spare)
		g.spare = nil
		g.pending, g.upTo, g.late = items, Place{Number: upTo}, false
		if g.seated = seated; !seated {
			f.s.metrics.behind.Inc()
		}
		f.settle(i)
		return !seated, nil
	}
	if !f.retry.IsZero() {
		if time.Now().Before(f.retry) {
			return false, nil
		}
		f.retry = time.Time{}
	}
	items, to, end, err := f.s.scan(ctx, i, f.client, g.upTo)
	if err == nil && end && len(items) == 0 && to == g.upTo {
		// Nothing at all follows, which is also so for a place that lies ahead of a restored store.
		err = f.check(ctx, i)
	}
	if err != nil {
		return false, f.failed(ctx, err)
	}
	f.failures = 0
	g.pending, g.upTo, g.late = items, to, true
	f.settle(i)
	if end {
		g.seated = f.s.tails[i].sit(&g.seat, to.Number)
	}
	return !g.seated, nil
}

// check makes sure that one can go on from where the follower is in a shard.
func (f *Follower) check(ctx context.Context, i int) error {
	ranges, err := f.s.ranges(ctx)
	if err != nil {
		return err
	}
	at := slices.Clone(f.cursor)
	at[i] = f.shards[i].upTo
	return at.check(ranges)
}

// failed decides what a failed reading means: nil if it is worth another try later.
func (f *Follower) failed(ctx context.Context, err error) error {
	var gone *goneError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &gone):
		return gone
	case errors.Is(err, store.ErrForgotten):
		// If the ranges do not say so, the gap is in the middle of what is kept.
		ranges, err := f.s.ranges(ctx)
		if err == nil {
			if err = f.cursor.check(ranges); err != nil {
				return err
			}
		}
	}
	f.s.storeFailed(err)
	const first, most = 50 * time.Millisecond, 2 * time.Second
	f.retry = time.Now().Add(min(first<<min(f.failures, 10), most))
	f.failures++
	return nil
}

// settle moves the cursor on when nothing is pending in the shard.
func (f *Follower) settle(i int) {
	if len(f.shards[i].pending) == 0 {
		f.cursor[i] = f.shards[i].upTo
	}
}

// tell appends what is pending in the shard until there are limit events.
func (f *Follower) tell(events []Event, i, limit int) []Event {
	g := &f.shards[i]
	told := 0
	for ; told < len(g.pending) && len(events) < limit; told++ {
		it := &g.pending[told]
		f.cursor[i] = it.behind
		if f.filter.selects(it.event.Status) {
			events = append(events, Event{Event: *it.event, Cursor: f.cursor.String()})
			if !g.late {
				f.s.metrics.lag.Observe(f.s.opts.Now().Sub(it.event.At).Seconds())
			}
		}
		g.pending[told] = item{} // do not keep the write's memory
	}
	rest := g.pending[told:]
	if len(rest) == 0 && cap(g.pending) > 0 {
		g.spare, rest = g.pending[:0], nil
	}
	g.pending = rest
	f.settle(i)
	return events
}
