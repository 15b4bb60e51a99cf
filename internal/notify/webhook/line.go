package webhook

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// group is a run of events that were read together. The endpoint's cursor moves behind it when it and all
// groups before are settled: each event posted, parked or given up.
type group struct {
	cursor string // behind the run
	open   int    // events that are not settled
}

// item is an event on its way to an endpoint.
type item struct {
	event    esh3ar.Event
	group    *group // nil when the event is parked
	attempts int    // made so far
	// firstAt is when the first attempt was made, nextAt the time of the next one of a parked event.
	firstAt, nextAt time.Time
	// stored says that there is a row for the parked event, or that one is being written.
	stored bool
}

func (it *item) parked() bool { return it.group == nil }

// line holds the events of one message that an endpoint has still to get, in the order of their Seq. Only
// the first may be on its way, with those that follow right behind in the same batch: no event overtakes
// an earlier one of its message. Either all of them are parked or none.
type line struct {
	items []*item
	busy  int // of the first items, those on their way
	place int // in lines.waiting, -1 outside
	ready bool
}

// lines are the events that an endpoint has still to get, by message. A line that has something to send
// and is not busy is in one of two places: fresh, when its first event is not parked, else waiting, by the
// time of the next attempt.
type lines struct {
	byMessage map[esh3ar.ID]*line
	fresh     []*line // first in, first out
	waiting   waiting
	parked    int // events
	unparked  int
}

func newLines() *lines { return &lines{byMessage: make(map[esh3ar.ID]*line)} }

// holds reports whether events of a message are parked, so that later ones have to be, too.
func (l *lines) holds(message esh3ar.ID) bool {
	ln := l.byMessage[message]
	return ln != nil && ln.items[0].parked()
}

// add puts an event in its place; it must be parked if, and if there are others only if, the line holds
// its message. It reports false, and does nothing, when the event is there already: parked before a
// restart, and read again because not everything around it was settled.
func (l *lines) add(it *item) bool {
	id := it.event.Message
	ln := l.byMessage[id]
	if ln == nil {
		ln = &line{place: -1}
		l.byMessage[id] = ln
	}
	at, found := slices.BinarySearchFunc(ln.items, it.event.Seq, func(a *item, seq uint32) int { return cmp.Compare(a.event.Seq, seq) })
	if found {
		return false
	}
	// An event before those on their way is a repeat: it was posted before. It goes behind them.
	ln.items = slices.Insert(ln.items, max(at, ln.busy), it)
	l.count(it, 1)
	l.place(ln)
	return true
}

func (l *lines) count(it *item, n int) {
	if it.parked() {
		l.parked += n
	} else {
		l.unparked += n
	}
}

// place puts a line where its first event belongs.
func (l *lines) place(ln *line) {
	if ln.place >= 0 {
		heap.Remove(&l.waiting, ln.place)
	}
	switch {
	case len(ln.items) == 0:
		return // forgotten by remove
	case ln.busy > 0:
	case ln.items[0].parked():
		heap.Push(&l.waiting, ln)
	case !ln.ready:
		ln.ready = true
		l.fresh = append(l.fresh, ln)
	}
}

// due returns when the next attempt for a parked event is, the zero time if there is none.
func (l *lines) due() time.Time {
	if len(l.waiting) == 0 {
		return time.Time{}
	}
	return l.waiting[0].items[0].nextAt
}

// retry takes the parked event that is due, nil for none.
func (l *lines) retry(now time.Time) []*item {
	if at := l.due(); at.IsZero() || at.After(now) {
		return nil
	}
	ln := l.waiting[0]
	ln.busy = 1
	l.place(ln)
	return []*item{ln.items[0]}
}

// next takes at most limit events that are not parked: those of a message together, as many as fit.
func (l *lines) next(limit int) []*item {
	var batch []*item
	for len(batch) < limit {
		ln := l.popFresh()
		if ln == nil {
			break
		}
		ln.busy = min(len(ln.items), limit-len(batch))
		batch = append(batch, ln.items[:ln.busy]...)
	}
	return batch
}

// popFresh takes the first of the fresh lines, nil for none.
func (l *lines) popFresh() *line {
	if len(l.fresh) == 0 {
		return nil
	}
	ln := l.fresh[0]
	l.fresh[0] = nil
	l.fresh = l.fresh[1:]
	ln.ready = false
	return ln
}

// back gives events back that were taken and not posted, each to be taken again: those that are not parked
// behind all others.
func (l *lines) back(batch []*item) {
	for _, it := range batch {
		ln := l.byMessage[it.event.Message]
		ln.busy = 0
		l.place(ln)
	}
}

// remove forgets events that were taken. Parked ones behind them are due now.
func (l *lines) remove(batch []*item, now time.Time) {
	for _, it := range batch {
		ln := l.byMessage[it.event.Message]
		at := slices.Index(ln.items, it)
		ln.items = slices.Delete(ln.items, at, at+1)
		ln.busy = max(ln.busy-1, 0)
		l.count(it, -1)
		if len(ln.items) == 0 {
			delete(l.byMessage, it.event.Message)
		} else if next := ln.items[0]; next.nextAt.After(now) {
			next.nextAt = now
		}
		l.place(ln)
	}
}

// park makes parked events of all in the line of an event that failed, which settles them, and returns
// those that were not.
func (l *lines) park(message esh3ar.ID, now time.Time) (fresh []*item) {
	ln := l.byMessage[message]
	if ln.items[0].parked() {
		return nil
	}
	for _, it := range ln.items {
		l.count(it, -1)
		it.group.open--
		it.group, it.nextAt = nil, now
		l.count(it, 1)
	}
	return ln.items
}

// haste makes every parked event that waits due at that time at the latest.
func (l *lines) haste(at time.Time) {
	for _, ln := range l.waiting {
		if it := ln.items[0]; it.nextAt.After(at) {
			it.nextAt = at
		}
	}
	heap.Init(&l.waiting)
}

// waiting is a heap of lines by the time of the next attempt.
type waiting []*line

func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, j int) bool { return w[i].items[0].nextAt.Before(w[j].items[0].nextAt) }

func (w waiting) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].place, w[j].place = i, j
}

// Push implements heap.Interface.
func (w *waiting) Push(x any) {
	ln := x.(*line)
	ln.place = len(*w)
	*w = append(*w, ln)
}

// Pop implements heap.Interface.
func (w *waiting) Pop() any {
	old := *w
	ln := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	ln.place = -1
	return ln
}

// parkedEvent is an item as it is stored.
func (it *item) parkedEvent() store.ParkedEvent {
	return store.ParkedEvent{Event: it.event, Attempts: it.attempts, FirstAt: it.firstAt, NextAt: it.nextAt}
}
