package storetest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

func testEvents(w *world) {
	epochs := []store.Epoch{w.claim(0).Epoch, w.claim(1).Epoch}
	for shard := range uint16(3) {
		w.same("what is kept at the beginning", w.eventRange(shard), store.EventRange{})
	}
	want := make([][]esh3ar.Event, 2)
	var changes []store.Change
	for i := range 50 {
		shard := uint16(i % 2)
		w.tick(time.Second)
		s := life(w.now, esh3ar.StatusQueued)
		s.Timeline[1].Reason = esh3ar.ReasonRecipientOffline
		m := w.message(shard, fmt.Sprintf("c%d", i%3), fmt.Sprintf("r%d", i%5))
		if i%4 > 1 {
			m.TraceParent = fmt.Sprintf("00-%032x-%016x-01", i, i)
		}
		c := w.change(m, s)
		changes = append(changes, c)
		batch := []store.Change{c}
		want[shard] = append(want[shard], eventsFrom(&c)...)
		if i >= 2 {
			// An earlier one moves on in the same write, with only its last transition new.
			e := &changes[i-2]
			e.State = further(e.State, esh3ar.StatusSent, esh3ar.StatusDelivered)
			e.From, e.NewFrom = store.InQueue, 2
			batch = append(batch, *e)
			want[shard] = append(want[shard], eventsFrom(e)...)
		}
		w.commit(shard, epochs[shard], batch...)
		// A write without news has no events.
		e := changes[i]
		e.NewFrom = len(e.State.Timeline)
		w.commit(shard, epochs[shard], e)
	}
	for shard := range uint16(2) {
		w.same("events", w.events(shard), want[shard])
		// From every number on, at every limit.
		var after int64
		seen := 0
		for seen < len(want[shard]) {
			for limit := 1; limit < 10; limit++ {
				events, next := w.eventsAfter(shard, after, limit)
				w.same(fmt.Sprintf("events after %d", after), events, want[shard][seen:seen+len(events)])
				if short := len(events) < limit && seen+len(events) < len(want[shard]); short || next <= after {
					w.Fatalf("%d events after %d at a limit of %d, go on from %d", len(events), after, limit, next)
				}
			}
			events, next := w.eventsAfter(shard, after, 1)
			seen, after = seen+len(events), next
		}
		events, next := w.eventsAfter(shard, after, 10)
		w.same("events after the last", len(events), 0)
		w.same("number after the last", next, after)
	}
	// Numbers go on under the next owner.
	before := w.events(1)
	c := w.change(w.message(1, "c", "r"), life(w.now, esh3ar.StatusQueued))
	w.commit(1, w.claim(1).Epoch, c)
	w.same("events", w.events(1), append(before, eventsFrom(&c)...))
}

// testEventsWhileWritten follows the events of a shard while they are written: none is skipped.
func testEventsWhileWritten(w *world) {
	const commits = 100
	epoch := w.claim(1).Epoch
	other := w.claim(2).Epoch
	var wg sync.WaitGroup
	for shard, epoch := range map[uint16]store.Epoch{1: epoch, 2: other} {
		own := &world{T: w.T, s: w.s, now: w.now}
		wg.Go(func() {
			for i := range commits {
				m := own.message(shard, "c", fmt.Sprint(i))
				b := &store.Batch{Shard: shard, Epoch: epoch, At: own.now, Changes: []store.Change{own.change(m, life(own.now))}}
				if err := w.s.Commit(w.Context(), b); err != nil {
					w.Errorf("commit: %v", err)
					return
				}
			}
		})
	}
	for shard := uint16(1); shard <= 2; shard++ {
		var after int64
		for seen := 0; seen < commits && !w.Failed(); {
			events, next := w.eventsAfter(shard, after, 7)
			for _, e := range events {
				w.same("recipient of the event", e.To, fmt.Sprint(seen))
				seen++
			}
			after = next
		}
	}
	wg.Wait()
}

func testRejects(w *world) {
	epoch := w.claim(3).Epoch
	var rejects []store.Reject
	for i, s := range anyBytes {
		rejects = append(rejects, store.Reject{
			Tier: esh3ar.Tier(i % esh3ar.Tiers), Ord: uint64(i + 1), Record: []byte(s),
			Reason: esh3ar.ReasonUndecodable, Detail: s,
		})
	}
	// The same place with another record, as after a journal that began anew.
	other := rejects[0]
	other.Record, other.Reason = []byte("other"), esh3ar.ReasonRefusedByStore
	rejects = append(rejects, other)
	b := &store.Batch{Shard: 3, Epoch: epoch, At: w.now, Rejects: slices.Clone(rejects)}
	w.commitBatch(b)
	w.commitBatch(b)
	// The same record at another place, as when it is read again by the next owner.
	for i := range b.Rejects {
		b.Rejects[i].Ord += 1000
	}
	w.commitBatch(b)
	var got []store.Reject
	var after int64
	for {
		list, err := w.s.Rejected(w.Context(), after, 4)
		w.is("rejects", err, nil)
		if len(list) == 0 {
			break
		}
		for _, r := range list {
			if r.Number <= after || r.Shard != 3 || !r.At.Equal(w.now) {
				w.Fatalf("reject after %d: %+v", after, r)
			}
			r.Record = append([]byte{}, r.Record...) // empty ones may come as nil
			got, after = append(got, r.Reject), r.Number
		}
	}
	w.same("rejects", got, rejects)
}
