package notify

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

const (
	// readEvents is how many events one reading of the store asks for.
	readEvents = 1024
	// seatLimit is the most events that wait at a seat. A follower whose seat would hold more loses it,
	// reads on from the store by itself, and takes a seat again when it has caught up.
	seatLimit = 4096
)

// item is one event of a client at its place.
type item struct {
	event *esh3ar.Event
	// behind is the place right behind it, as far as its client is concerned: events of others that
	// follow in the same write are passed over.
	behind Place
	index  int // in its write
}

// tail follows one shard: woken by the committer, it reads what is new once, and gives every follower
// that is up to date what is its client's.
type tail struct {
	shard uint16
	store Store
	wake  chan struct{} // cap 1

	mu sync.Mutex
	// head is the number of the last write that was given to the seats. It counts only while there are
	// any: who takes the first seat sets it.
	head  int64
	seats map[string][]*seat // by client
	taken int                // number of seats
}

// seat is one follower's place at a tail. What is in it is guarded by the tail's mu.
type seat struct {
	client string
	wake   func() // called when there is something to take; must not block
	// taken says that what is new comes here. While it is not, the follower reads the store.
	taken bool
	// from is the last write that the follower had read by itself when it took the seat.
	from  int64
	queue []item
	// upTo is the last write of which everything is or was in queue, when taken is false.
	upTo int64
}

func newTail(shard uint16, s Store) *tail {
	return &tail{shard: shard, store: s, wake: make(chan struct{}, 1), seats: make(map[string][]*seat)}
}

// signal has the tail look for new events. It never blocks.
func (t *tail) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// run reads what is new whenever it is woken, until ctx ends. A store that does not answer is asked again
// at the next waking. Its errors go to failed.
func (t *tail) run(ctx context.Context, failed func(error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		}
		for more := true; more; {
			var err error
			if more, err = t.read(ctx); err != nil && ctx.Err() == nil {
				failed(err)
			}
		}
	}
}

// read gives the next events to the seats. It reports whether there may be more.
func (t *tail) read(ctx context.Context) (more bool, err error) {
	head, taken := t.state()
	if taken == 0 {
		return false, nil
	}
	writes, err := t.store.Events(ctx, t.shard, head, readEvents)
	if errors.Is(err, store.ErrForgotten) {
		// Each follower finds out by itself, and tells its client.
		t.dismiss()
		return false, nil
	}
	if err != nil || len(writes) == 0 {
		return false, err
	}
	t.publish(head, writes)
	return true, nil
}

// state returns head and the number of seats that are taken.
func (t *tail) state() (head int64, taken int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head, t.taken
}

// publish gives writes, which follow after, to the seats.
func (t *tail) publish(after int64, writes []store.EventWrite) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.head != after || t.taken == 0 {
		return // all seats were left meanwhile, and perhaps new ones were taken
	}
	news := make(map[string][]item)
	for i := range writes {
		w := &writes[i]
		for j := range w.Events {
			client := w.Events[j].Client
			if len(t.seats[client]) > 0 {
				news[client] = appendItem(news[client], w, j)
			}
		}
	}
	for client, items := range news {
		for _, s := range slices.Clone(t.seats[client]) {
			t.offer(s, items)
		}
	}
	t.head = writes[len(writes)-1].Number
}

// appendItem appends the event of that index unless it is not told. The place behind it is that behind
// the whole write until another event of the same client follows in it.
func appendItem(items []item, w *store.EventWrite, index int) []item {
	e := &w.Events[index]
	if e.Status == esh3ar.StatusAccepted {
		return items
	}
	if n := len(items); n > 0 && items[n-1].behind == (Place{Number: w.Number}) {
		last := &items[n-1]
		last.behind = Place{Number: w.Number - 1, Offset: last.index + 1}
	}
	return append(items, item{event: e, behind: Place{Number: w.Number}, index: index})
}

// offer puts items into a seat, or takes it away if it cannot hold them.
func (t *tail) offer(s *seat, items []item) {
	for len(items) > 0 && items[0].behind.last() <= s.from {
		items = items[1:] // the follower has read them by itself
	}
	if len(items) == 0 {
		return
	}
	if len(s.queue)+len(items) > seatLimit {
		t.remove(s)
	} else {
		s.queue = append(s.queue, items...)
	}
	s.wake()
}

// last is the number of the write that the event before this place belongs to.
func (p Place) last() int64 {
	if p.Offset > 0 {
		return p.Number + 1
	}
	return p.Number
}

// sit gives the seat what is new from now on, if everything up to the write of number upTo, which must be
// the newest that its follower found, is all that was given to the others. It reports false if there is
// more: read on.
func (t *tail) sit(s *seat, upTo int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.taken == 0:
		t.head = upTo
	case upTo < t.head:
		return false
	}
	s.taken, s.from = true, upTo
	t.seats[s.client] = append(t.seats[s.client], s)
	t.taken++
	// Between the follower's reading and now something may have been stored.
	t.signal()
	return true
}

// take returns what waits at the seat, and the number of the write up to which that is everything. The
// memory of spare is used for what comes next.
func (t *tail) take(s *seat, spare []item) (items []item, upTo int64, taken bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	items, s.queue = s.queue, spare[:0]
	if !s.taken {
		return items, s.upTo, false
	}
	return items, max(t.head, s.from), true
}

// leave gives up the seat.
func (t *tail) leave(s *seat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.taken {
		t.remove(s)
	}
	s.queue = nil
}

// dismiss takes all seats away.
func (t *tail) dismiss() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, seats := range t.seats {
		for _, s := range slices.Clone(seats) {
			t.remove(s)
			s.wake()
		}
	}
}

// remove takes a seat away. The caller holds mu.
func (t *tail) remove(s *seat) {
	s.taken, s.upTo = false, max(t.head, s.from)
	left := slices.DeleteFunc(t.seats[s.client], func(o *seat) bool { return o == s })
	if len(left) == 0 {
		delete(t.seats, s.client)
	} else {
		t.seats[s.client] = left
	}
	t.taken--
}
