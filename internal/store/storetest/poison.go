package storetest

import (
	"bytes"
	"errors"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Poison is a recipient whose messages the database of RunPoison refuses.
const Poison = "poison"

// RunPoison checks what becomes of a batch with a message that the database itself refuses, such as by
// a trigger on the recipient Poison: the batch fails for good and as a whole, beside it and after it
// others are stored, and halving it finds the one. What its owner makes of that one, a final row without what is
// refused and its record raw, is stored in one transaction.
func RunPoison(t *testing.T, s store.Store) {
	w := &world{T: t, s: s, now: start}
	const shards, rounds, size = 4, 10, 8
	var wg sync.WaitGroup
	for shard := range uint16(shards) {
		epoch := w.claim(shard).Epoch
		own := &world{T: t, s: s, now: start}
		wg.Go(func() {
			for round := range rounds {
				own.tick(time.Second)
				b := &store.Batch{Shard: shard, Epoch: epoch, At: own.now, Positions: [esh3ar.Tiers]uint64{uint64(round + 1)}}
				for i := range size {
					to := "r"
					if shard == 0 && i == round%size {
						to = Poison
					}
					s := life(own.now, esh3ar.StatusQueued)
					if i%2 == 0 {
						s = further(s, esh3ar.StatusDelivered)
					}
					b.Changes = append(b.Changes, own.change(own.message(shard, "c", to), s))
				}
				err := s.Commit(w.Context(), b)
				if shard != 0 {
					if err != nil {
						t.Errorf("shard %d, round %d: %v", shard, round, err)
					}
					continue
				}
				if !errors.Is(err, store.ErrPermanent) {
					t.Errorf("a poisoned batch: got error %v, want ErrPermanent", err)
					return
				}
				if n := own.halve(b); n != 1 {
					t.Errorf("halving found %d messages that cannot be stored", n)
				}
			}
		})
	}
	wg.Wait()
	for shard := range uint16(shards) {
		// Of each pair one message has two events and one three. Half of the refused ones have an end that
		// the others in their places have not.
		events := rounds * size / 2 * 5
		if shard == 0 {
			events += rounds / 2
		}
		w.same("events", len(w.events(shard)), events)
		w.same("position", w.claim(shard).Positions[0], uint64(rounds))
	}
}

// halve stores what can be stored of a batch that was refused and returns how many changes cannot.
func (w *world) halve(b *store.Batch) int {
	err := w.s.Commit(w.Context(), b)
	switch {
	case err == nil:
		return 0
	case !errors.Is(err, store.ErrPermanent):
		w.Errorf("half of a poisoned batch: %v", err)
		return 0
	case len(b.Changes) == 1:
		w.storeStripped(b)
		return 1
	}
	first, second := *b, *b
	half := len(b.Changes) / 2
	first.Changes, second.Changes = b.Changes[:half], b.Changes[half:]
	return w.halve(&first) + w.halve(&second)
}

// storeStripped stores what is left of the one change that is refused, and looks at it.
func (w *world) storeStripped(b *store.Batch) {
	c := b.Changes[0]
	raw := record.AppendMessage(nil, c.Message)
	m := esh3ar.Message{ID: c.Message.ID, Client: c.Message.Client, Tier: c.Message.Tier, To: "+unstorable", AcceptedAt: c.Message.AcceptedAt, Stripped: true}
	c.Message = &m
	if !c.State.Status.Final() {
		c.State = further(c.State, esh3ar.StatusUndelivered)
	}
	left := *b
	left.Changes = []store.Change{c}
	left.Rejects = []store.Reject{{Tier: m.Tier, Ord: c.Ord, Record: raw, Reason: esh3ar.ReasonRefusedByStore}}
	if err := w.s.Commit(w.Context(), &left); err != nil {
		w.Errorf("what is left of a refused message: %v", err)
		return
	}
	got, err := w.s.Message(w.Context(), m.Client, m.ID)
	if err != nil || !reflect.DeepEqual(got, row(&c)) {
		w.Errorf("what is left of a refused message: got %+v, error %v\nwant %+v", got, err, row(&c))
	}
	rejected, err := w.s.Rejected(w.Context(), 0, 1000)
	if err != nil || len(rejected) == 0 || !bytes.Equal(rejected[len(rejected)-1].Record, raw) {
		w.Errorf("its record is not the last raw dead letter: %d of them, error %v", len(rejected), err)
	}
}
