package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// model is what a store must be like, kept in maps.
type model struct {
	epochs    map[uint16]store.Epoch
	positions map[uint16][esh3ar.Tiers]uint64
	rows      map[esh3ar.ID]store.Row
	events    map[uint16][]esh3ar.Event
	keys      map[[2]string]store.Remembered
}

func (m *model) commit(b *store.Batch) error {
	if m.epochs[b.Shard].Number == 0 || m.epochs[b.Shard] != b.Epoch {
		return store.ErrNotOwner
	}
	for i := range b.Changes {
		c := &b.Changes[i]
		if old, ok := m.rows[c.Message.ID]; ok && old.State.Seq() >= c.State.Seq() {
			continue
		}
		m.rows[c.Message.ID] = row(c)
		m.events[b.Shard] = append(m.events[b.Shard], eventsFrom(c)...)
		key := [2]string{c.Message.Client, c.Message.Key}
		if _, known := m.keys[key]; !known && c.Message.Key != "" {
			m.keys[key] = store.Remembered{ID: c.Message.ID, Digest: c.Message.Digest, To: c.Message.To, AcceptedAt: c.Message.AcceptedAt}
		}
	}
	p := m.positions[b.Shard]
	for t := range p {
		p[t] = max(p[t], b.Positions[t])
	}
	m.positions[b.Shard] = p
	return nil
}

// testModel runs random work of several owners against the store and the model and compares all that
// can be asked. A failure names its seed.
func testModel(w *world) {
	for seed := range uint64(20) {
		runModel(w, seed)
	}
}

func runModel(w *world, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	// Seeds share the store and nothing in it.
	shards := []uint16{uint16(3 * seed), uint16(3*seed + 1), uint16(3*seed + 2)}
	clients := []string{fmt.Sprintf("a%d", seed), fmt.Sprintf("b%d", seed)}
	recipients := []string{"r", "s"}
	m := &model{
		epochs: map[uint16]store.Epoch{}, positions: map[uint16][esh3ar.Tiers]uint64{}, rows: map[esh3ar.ID]store.Row{},
		events: map[uint16][]esh3ar.Event{}, keys: map[[2]string]store.Remembered{},
	}
	known := map[uint16][]store.Change{} // the latest change of every message
	var past []*store.Batch
	name := func(what string) string { return fmt.Sprintf("seed %d: %s", seed, what) }

	for range 60 {
		shard := shards[r.IntN(3)]
		if m.epochs[shard].Number == 0 || r.IntN(10) == 0 {
			c := w.claim(shard)
			w.same(name("positions"), c.Positions, m.positions[shard])
			m.epochs[shard] = c.Epoch
		}
		w.tick(time.Duration(r.IntN(3)) * time.Microsecond)
		b := &store.Batch{Shard: shard, Epoch: m.epochs[shard], At: w.now}
		if r.IntN(12) == 0 {
			b.Epoch.Number--
		}
		for t := range b.Positions {
			b.Positions[t] = uint64(r.IntN(1000))
		}
		for range r.IntN(20) {
			if list := known[shard]; len(list) > 0 && r.IntN(2) == 0 {
				c := &list[r.IntN(len(list))]
				if r.IntN(4) == 0 { // repeated as it was
					c := *c
					c.From = store.Place(r.IntN(3))
					b.Changes = append(b.Changes, c)
					continue
				}
				var next []esh3ar.Status
				for s := esh3ar.StatusAccepted; s.Valid(); s++ {
					if c.State.Status.CanBecome(s) {
						next = append(next, s)
					}
				}
				if len(next) == 0 {
					continue
				}
				c.NewFrom = len(c.State.Timeline)
				c.From = row(c).Place
				c.State = further(c.State, next[r.IntN(len(next))])
				if r.IntN(8) == 0 {
					c.From = store.Place(r.IntN(3))
				}
				b.Changes = append(b.Changes, *c)
				continue
			}
			msg := w.message(shard, clients[r.IntN(2)], recipients[r.IntN(2)])
			if r.IntN(3) == 0 {
				msg.Key = fmt.Sprintf("key %d", r.IntN(30))
				msg.Digest[0] = byte(r.IntN(200))
			}
			if r.IntN(3) == 0 {
				msg.ExpiresAt = w.now.Add(time.Duration(r.IntN(50)) * time.Microsecond)
			}
			s := life(w.now)
			switch r.IntN(4) {
			case 0:
				s = further(s, esh3ar.StatusScheduled)
				s.NotBefore = w.now.Add(time.Duration(r.IntN(50)) * time.Microsecond)
			case 1:
				s = further(s, esh3ar.StatusQueued, esh3ar.StatusSent, esh3ar.StatusDelivered)
			default:
				s = further(s, esh3ar.StatusQueued)
			}
			c := w.change(msg, s)
			known[shard] = append(known[shard], c)
			b.Changes = append(b.Changes, c)
		}
		if len(past) > 0 && r.IntN(5) == 0 {
			b = past[r.IntN(len(past))] // a whole commit again
		}
		err := w.s.Commit(w.Context(), b)
		if want := m.commit(b); !errors.Is(err, want) || want == nil && err != nil {
			w.Fatal(name(fmt.Sprintf("commit: got error %v, want %v", err, want)))
		}
		past = append(past, b)
	}

	for _, shard := range shards {
		w.same(name("events"), w.events(shard), m.events[shard])
		ids := make([]esh3ar.ID, 0, len(known[shard]))
		want := map[esh3ar.ID]store.Row{}
		for _, c := range known[shard] {
			id := c.Message.ID
			ids = append(ids, id)
			if r, ok := m.rows[id]; ok {
				want[id] = r
			}
		}
		w.same(name("rows"), w.rows(shard, ids...), want)

		for _, to := range recipients {
			got, err := w.s.Waiting(w.Context(), store.Waiting{Shard: shard, Recipient: to, Limit: 1000})
			w.is(name("waiting"), err, nil)
			waiting := slices.SortedFunc(maps.Values(want), func(a, b store.Row) int { return int(a.Ord>>16) - int(b.Ord>>16) })
			waiting = slices.DeleteFunc(waiting, func(r store.Row) bool {
				return r.Message.To != to || r.Place != store.InQueue || r.State.Status == esh3ar.StatusScheduled
			})
			w.same(name("waiting"), append([]store.Row{}, got...), append([]store.Row{}, waiting...))
		}

		due, err := w.s.Due(w.Context(), shard, w.now, 1000)
		w.is(name("due"), err, nil)
		got := map[esh3ar.ID]store.Row{}
		for _, r := range due {
			got[r.Message.ID] = r
		}
		maps.DeleteFunc(want, func(_ esh3ar.ID, r store.Row) bool {
			starts := r.State.Status == esh3ar.StatusScheduled && !r.State.NotBefore.After(w.now)
			ends := r.Place == store.InQueue && r.Message.Expired(w.now)
			return !starts && !ends
		})
		w.same(name("due"), got, want)
	}
	rows := slices.Collect(maps.Values(m.rows))
	for _, client := range clients {
		for s := range esh3ar.StatusUndelivered + 1 {
			for _, to := range append(recipients, "") {
				q := store.Query{Client: client, To: to, Status: s, Limit: 1 + r.IntN(50)}
				w.same(name(fmt.Sprintf("list %+v", q)), w.list(q), listed(rows, q))
			}
		}
	}
	for key, want := range m.keys {
		got, err := w.s.Idempotent(w.Context(), key[0], key[1])
		w.is(name("key"), err, nil)
		w.same(name("key"), got, want)
	}
}
