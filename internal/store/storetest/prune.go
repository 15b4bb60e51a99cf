package storetest

import (
	"fmt"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// prune prunes until nothing more is found.
func (w *world) prune(older store.Cutoffs) (total store.Pruned) {
	w.Helper()
	for range 1000 {
		n, err := w.s.Prune(w.Context(), older)
		w.is("prune", err, nil)
		total.Messages += n.Messages
		total.Events += n.Events
		total.Keys += n.Keys
		total.Rejects += n.Rejects
		total.Audit += n.Audit
		total.Usage += n.Usage
		if !n.More {
			return total
		}
	}
	w.Fatal("prune never ends")
	return total
}

func testPrune(w *world) {
	epoch := w.claim(1).Epoch
	const day = 24 * time.Hour
	// Ten days, each with a message that becomes final at once, one that never does, one that waited
	// since the first day and becomes final now, and one that is read now.
	var waiting, final, late []store.Change
	for range 10 {
		late = append(late, w.change(w.message(1, "c", "late"), life(w.now, esh3ar.StatusQueued)))
	}
	w.commit(1, epoch, late...)
	for i := range 10 {
		m := w.message(1, "c", "r")
		m.Key = m.ID.String()
		f := w.change(m, life(w.now, esh3ar.StatusQueued, esh3ar.StatusDelivered))
		q := w.change(w.message(1, "c", "r"), life(w.now, esh3ar.StatusQueued))
		l := &late[i]
		l.From, l.NewFrom, l.State = store.InQueue, 2, further(l.State, esh3ar.StatusExpired)
		b := &store.Batch{Shard: 1, Epoch: epoch, At: w.now, Changes: []store.Change{f, q, *l}}
		b.Rejects = []store.Reject{{Ord: uint64(i + 1), Record: []byte{byte(i)}, Reason: esh3ar.ReasonUndecodable}}
		w.commitBatch(b)
		final, waiting = append(final, f), append(waiting, q)
		w.tick(day)
	}
	// Being read later does not prolong a message's time.
	read := final[0]
	read.From, read.NewFrom, read.State = store.InHistory, 3, further(read.State, esh3ar.StatusRead)
	w.commit(1, epoch, read)

	_, last := w.eventsAfter(1, 0, 1000)

	w.same("nothing", w.prune(store.Cutoffs{}), store.Pruned{})
	w.same("before the beginning", w.prune(store.Cutoffs{Final: start, Events: start, Keys: start, Rejects: start}), store.Pruned{})
	cut := start.Add(5*day + day/2)
	w.prune(store.Cutoffs{Final: cut, Events: cut, Keys: cut, Rejects: cut})
	all := func(changes []store.Change) []esh3ar.ID {
		var ids []esh3ar.ID
		for _, c := range changes {
			ids = append(ids, c.Message.ID)
		}
		return ids
	}
	w.same("waiting messages", len(w.rows(1, all(waiting)...)), 10)
	for _, kept := range [][]store.Change{final, late} {
		// A backend may keep up to a day longer.
		got := w.rows(1, all(kept)...)
		for i, c := range kept {
			if _, ok := got[c.Message.ID]; !ok && i > 5 || ok && i < 5 {
				w.Errorf("a message that became final on day %d is kept: %v", i, ok)
			}
		}
	}
	for i, c := range final {
		if _, err := w.s.Idempotent(w.Context(), "c", c.Message.Key); (err == nil) != (i > 5) {
			w.Errorf("key of day %d: error %v", i, err)
		}
	}
	kept := w.eventRange(1)
	if kept.Forgotten < 1 || kept.Last != last {
		w.Errorf("kept of %d writes: %+v", last, kept)
	}
	for after := range kept.Forgotten {
		_, err := w.s.Events(w.Context(), 1, after, 1000)
		w.is(fmt.Sprintf("events after %d, of which some are forgotten", after), err, store.ErrForgotten)
	}
	events := w.events(1)
	if first := events[0].At; first.Before(start.Add(5*day-day/2)) || first.After(start.Add(6*day+time.Minute)) {
		w.Errorf("the first event left is of %v", first)
	}
	rejected, err := w.s.Rejected(w.Context(), 0, 100)
	w.is("rejects", err, nil)
	w.same("rejects", len(rejected), 4)

	// A message that was forgotten and comes again, with the journal for instance, is a fresh one.
	w.commit(1, epoch, final[0])
	w.same("rows", len(w.rows(1, final[0].Message.ID)), 1)
	// Replayed messages wait again and are safe.
	replayed := late[9]
	replayed.From, replayed.NewFrom = store.InHistory, 3
	replayed.State.Timeline[2].Status, replayed.State.Status = esh3ar.StatusUndelivered, esh3ar.StatusUndelivered
	replayed.State = further(replayed.State, esh3ar.StatusQueued)
	w.commit(1, epoch, replayed)
	end := w.tick(100 * day)
	w.prune(store.Cutoffs{Final: end, Events: end, Keys: end, Rejects: end})
	w.same("rows that wait", len(w.rows(1, append(all(waiting), replayed.Message.ID)...)), 11)
	w.same("listed", len(w.list(store.Query{Client: "c", Limit: 100})), 11)
	w.same("events", len(w.events(1)), 0)
	last = w.eventRange(1).Last
	w.same("what is kept", w.eventRange(1), store.EventRange{Forgotten: last, Last: last})
	for after := range last {
		_, err := w.s.Events(w.Context(), 1, after, 10)
		w.is(fmt.Sprintf("events after %d, all forgotten", after), err, store.ErrForgotten)
	}
	// The event sequence goes on where it was.
	c := w.change(w.message(1, "c", "r"), life(w.now, esh3ar.StatusQueued))
	w.commit(1, epoch, c)
	events, _ = w.eventsAfter(1, last, 10)
	w.same("events", events, eventsFrom(&c))
}

// testPruneClock forgets events that an owner's clock has put into the future and then into the past:
// what is left has no gap.
func testPruneClock(w *world) {
	epoch := w.claim(1).Epoch
	for _, at := range []time.Duration{0, 1, 50, 2, 3, 4} {
		w.now = start.Add(at * time.Hour)
		w.commit(1, epoch, w.change(w.message(1, "c", "r"), life(w.now, esh3ar.StatusQueued)))
	}
	for _, cut := range []time.Duration{1, 5, 51} {
		older := store.Cutoffs{Events: start.Add(cut * time.Hour)}
		for more := true; more; {
			p, err := w.s.Prune(w.Context(), older)
			w.is("prune", err, nil)
			more = p.More
		}
		kept := w.eventRange(1)
		w.same("events", len(w.events(1)), 2*int(kept.Last-kept.Forgotten))
	}
	w.same("what is kept", w.eventRange(1), store.EventRange{Forgotten: 6, Last: 6})
}
