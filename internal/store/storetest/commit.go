package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// testSetBack numbers commits, and leaves some out as if the store had lost them.
func testSetBack(w *world) {
	epoch := w.claim(1).Epoch
	m := w.message(1, "c", "r")
	m.Key = "key"
	c := w.change(m, life(w.now, esh3ar.StatusQueued))
	commit := func(number int64, want error) {
		w.Helper()
		w.is(fmt.Sprintf("commit %d", number), w.s.Commit(w.Context(), &store.Batch{
			Shard: 1, Epoch: epoch, Number: number, At: w.now, Positions: [esh3ar.Tiers]uint64{uint64(10 * number)}, Changes: []store.Change{c},
		}), want)
	}
	commit(2, store.ErrSetBack)
	commit(3, store.ErrSetBack)
	w.same("rows", len(w.rows(1, m.ID)), 0)
	w.same("events", len(w.events(1)), 0)
	_, err := w.s.Idempotent(w.Context(), "c", "key")
	w.is("key", err, store.ErrNotFound)

	commit(1, nil)
	commit(1, nil) // its outcome was not known
	commit(2, nil)
	commit(0, nil) // does not count
	commit(4, store.ErrSetBack)
	commit(3, nil)
	w.same("rows", len(w.rows(1, m.ID)), 1)
	claim := w.claim(1)
	w.same("position", claim.Positions[0], uint64(30))
	commit(4, store.ErrNotOwner)
	epoch = claim.Epoch
	commit(4, store.ErrSetBack) // the count begins anew
	commit(1, nil)
	commit(2, nil)
}

func testPositions(w *world) {
	epoch := w.claim(1).Epoch
	for _, p := range []struct{ commit, want [esh3ar.Tiers]uint64 }{
		{[esh3ar.Tiers]uint64{10, 20, 30}, [esh3ar.Tiers]uint64{10, 20, 30}},
		{[esh3ar.Tiers]uint64{5, 21, 30}, [esh3ar.Tiers]uint64{10, 21, 30}},
		{[esh3ar.Tiers]uint64{0, 0, 0}, [esh3ar.Tiers]uint64{10, 21, 30}},
		{[esh3ar.Tiers]uint64{math.MaxInt64, 0, 31}, [esh3ar.Tiers]uint64{math.MaxInt64, 21, 31}},
	} {
		w.commitBatch(&store.Batch{Shard: 1, Epoch: epoch, At: w.now, Positions: p.commit})
		c := w.claim(1)
		w.same(fmt.Sprintf("positions after %v", p.commit), c.Positions, p.want)
		epoch = c.Epoch
	}
}

// testPlaces walks one message through all its places.
func testPlaces(w *world) {
	epoch := w.claim(1).Epoch
	m := w.message(1, "c", "r")
	c := w.change(m, life(w.now, esh3ar.StatusQueued))
	var events []esh3ar.Event
	place := store.Nowhere
	store1 := func(what string, want store.Place) {
		w.Helper()
		c.From = place
		w.commit(1, epoch, c)
		events = append(events, eventsFrom(&c)...)
		got, err := w.s.Message(w.Context(), "c", m.ID)
		w.is(what, err, nil)
		w.same(what, got, row(&c))
		w.same(what+": place", got.Place, want)
		w.same(what+": events", w.events(1), events)
		place = want
		c.NewFrom = len(c.State.Timeline)
	}
	store1("queued", store.InQueue)
	c.State = further(c.State, esh3ar.StatusSent)
	store1("sent", store.InQueue)
	c.State = further(c.State, esh3ar.StatusQueued)
	c.State.NotBefore = w.now.Add(time.Minute)
	store1("in backoff", store.InQueue)
	c.State = further(c.State, esh3ar.StatusUndelivered)
	c.State.NotBefore = time.Time{}
	store1("undelivered", store.InHistory)
	c.State = further(c.State, esh3ar.StatusQueued)
	c.State.Generation, c.State.Attempts = 2, 0
	c.Ord += 5 << 16
	store1("replayed", store.InQueue)
	c.State = further(c.State, esh3ar.StatusSent, esh3ar.StatusDelivered)
	store1("delivered", store.InHistory)
	c.State = further(c.State, esh3ar.StatusRead)
	store1("read", store.InHistory)
}

// testEveryLateCase stores a change over every place, with every hint, with a lower, an equal and a
// higher status_seq, towards both places.
func testEveryLateCase(w *world) {
	epoch := w.claim(1).Epoch
	queued := []esh3ar.Status{esh3ar.StatusQueued, esh3ar.StatusSent, esh3ar.StatusQueued, esh3ar.StatusSent}
	for _, actual := range []store.Place{store.Nowhere, store.InQueue, store.InHistory} {
		for _, hint := range []store.Place{store.Nowhere, store.InQueue, store.InHistory} {
			for _, to := range []store.Place{store.InQueue, store.InHistory} {
				for _, relation := range []int{-1, 0, 1} {
					name := fmt.Sprintf("row in %v, hint %v, to %v, seq %+d", actual, hint, to, relation)
					w.tick(time.Second)
					m := w.message(1, "c", "r")
					before := len(w.events(1))
					var stored store.Change
					switch actual {
					case store.InQueue:
						stored = w.change(m, life(w.now, queued[:2]...)) // status_seq 3
					case store.InHistory:
						stored = w.change(m, life(w.now, esh3ar.StatusQueued, esh3ar.StatusDelivered))
					}
					if actual != store.Nowhere {
						w.commit(1, epoch, stored)
						before += 3
					}
					// The change has status_seq 2, 3 or 4.
					c := w.change(m, life(w.now, queued[:2+relation]...))
					if to == store.InHistory {
						last := len(c.State.Timeline) - 1
						c.State.Timeline[last].Status, c.State.Status = esh3ar.StatusExpired, esh3ar.StatusExpired
					}
					c.From = hint
					c.NewFrom = len(c.State.Timeline) - 1
					w.commit(1, epoch, c)

					want := row(&c)
					applied := actual == store.Nowhere || relation > 0
					if !applied {
						want = row(&stored)
					}
					got := w.rows(1, m.ID)
					w.same(name, got[m.ID], want)
					events := w.events(1)[before:]
					if applied {
						w.same(name+": events", events, eventsFrom(&c))
					} else {
						w.same(name+": events", len(events), 0)
					}
					one, err := w.s.Message(w.Context(), "c", m.ID)
					w.is(name, err, nil)
					w.same(name, one, want)
				}
			}
		}
	}
}

func testRepeatedCommit(w *world) {
	epoch := w.claim(1).Epoch
	waiting := w.change(w.message(1, "c", "waiting"), life(w.now, esh3ar.StatusQueued))
	w.commit(1, epoch, waiting)

	b := &store.Batch{Shard: 1, Epoch: epoch, At: w.now, Positions: [esh3ar.Tiers]uint64{1, 2, 3}}
	for i := range 20 {
		m := w.message(1, "c", fmt.Sprintf("r%d", i))
		m.Key = fmt.Sprintf("key %d", i)
		s := life(w.now, esh3ar.StatusQueued)
		if i%2 == 0 {
			s = further(s, esh3ar.StatusDelivered)
		}
		b.Changes = append(b.Changes, w.change(m, s))
	}
	done := waiting
	done.From, done.NewFrom, done.State = store.InQueue, 2, further(waiting.State, esh3ar.StatusDelivered)
	b.Changes = append(b.Changes, done)
	b.Rejects = []store.Reject{{Tier: esh3ar.TierGold, Ord: 99, Record: []byte{0xff, 0}, Reason: esh3ar.ReasonUndecodable, Detail: "why"}}

	w.commitBatch(b)
	events := w.events(1)
	for range 2 {
		w.commitBatch(b)
	}
	w.same("events after repeated commits", w.events(1), events)
	for i := range b.Changes {
		id := b.Changes[i].Message.ID
		w.same("row", w.rows(1, id)[id], row(&b.Changes[i]))
	}
	rejected, err := w.s.Rejected(w.Context(), 0, 10)
	w.is("rejects", err, nil)
	w.same("rejects", len(rejected), 1)

	// A later batch with some repeated, some fresh and some moved on.
	fresh := w.change(w.message(1, "c", "fresh"), life(w.now, esh3ar.StatusQueued))
	moved := b.Changes[1]
	moved.From, moved.NewFrom, moved.State = store.InQueue, 2, further(moved.State, esh3ar.StatusDelivered)
	w.commit(1, epoch, b.Changes[0], fresh, b.Changes[2], moved, b.Changes[3])
	w.same("events", w.events(1)[len(events):], slices.Concat(eventsFrom(&fresh), eventsFrom(&moved)))
}

func testTwiceInOneBatch(w *world) {
	epoch := w.claim(1).Epoch
	m := w.message(1, "c", "r")
	first := w.change(m, life(w.now, esh3ar.StatusQueued))
	second := first
	second.State, second.NewFrom, second.From = further(first.State, esh3ar.StatusSent), 2, store.InQueue
	third := second
	third.State, third.NewFrom = further(second.State, esh3ar.StatusDelivered), 3
	w.commit(1, epoch, first, second, first, third, second)
	w.same("row", w.rows(1, m.ID)[m.ID], row(&third))
	w.same("events", w.events(1), slices.Concat(eventsFrom(&first), eventsFrom(&second), eventsFrom(&third)))
}

// anyBytes are strings that some database might refuse or change.
var anyBytes = []string{
	"plain", "", "\x00", "a\x00b", "\xff\xfe", "\xc3\x28", "\xed\xa0\x80", "\ufffe\uffff", "\U0010ffff", "'; DROP TABLE message; --",
	`back\slash`, `\x41`, "per%cent_", "tab\tline\nreturn\r", " leading and trailing ", "رسالة", "é", "e\u0301",
	strings.Repeat("long", 300),
}

func testAnyBytes(w *world) {
	epoch := w.claim(1).Epoch
	var changes []store.Change
	for i, s := range anyBytes {
		w.tick(time.Second)
		m := w.message(1, "client "+s, "recipient "+s)
		m.From, m.Type, m.Content, m.TraceParent, m.Key = s, s, s, s, "key "+s
		m.Digest[0] = byte(i + 1)
		m.Metadata = map[string]string{s: s, "key": s}
		state := life(w.now, esh3ar.StatusQueued)
		state.Timeline[1].Reason = esh3ar.Reason(s)
		changes = append(changes, w.change(m, state))

		data := *m
		data.ID = w.ids.New(w.now, 1)
		data.Content, data.Data, data.Key, data.Digest = "", []byte(s), "", [32]byte{}
		changes = append(changes, w.change(&data, further(state, esh3ar.StatusDelivered)))
	}
	w.commit(1, epoch, changes...)
	var events []esh3ar.Event
	for i := range changes {
		c := &changes[i]
		m := c.Message
		got, err := w.s.Message(w.Context(), m.Client, m.ID)
		w.is(fmt.Sprintf("message %q", m.Client), err, nil)
		w.same("message", got, row(c))
		if m.Key != "" {
			k, err := w.s.Idempotent(w.Context(), m.Client, m.Key)
			w.is(fmt.Sprintf("key %q", m.Key), err, nil)
			w.same("key", k, store.Remembered{ID: m.ID, Digest: m.Digest, To: m.To, AcceptedAt: m.AcceptedAt})
			waiting, err := w.s.Waiting(w.Context(), store.Waiting{Shard: 1, Recipient: m.To, Limit: 10})
			w.is("waiting", err, nil)
			w.same("waiting", waiting, []store.Row{row(c)})
			page, err := w.s.Messages(w.Context(), store.Query{Client: m.Client, To: m.To, Limit: 10})
			w.is("list", err, nil)
			w.same("listed", len(page.Rows), 2)
		}
		events = append(events, eventsFrom(c)...)
	}
	w.same("events", w.events(1), events)
}

func testLargeMessages(w *world) {
	epoch := w.claim(1).Epoch
	var changes []store.Change
	for i := range 20 {
		m := w.message(1, "c", "r")
		m.Content, m.Data = "", []byte(strings.Repeat("x", esh3ar.MaxMessageBytes-i))
		m.Metadata = map[string]string{}
		for k := range esh3ar.MaxMetadata {
			m.Metadata[fmt.Sprintf("%0*d", esh3ar.MaxMetadataKey, k)] = strings.Repeat("v", esh3ar.MaxMetadataValue)
		}
		changes = append(changes, w.change(m, life(w.now, esh3ar.StatusQueued)))
	}
	w.commit(1, epoch, changes...)
	for i := range changes {
		changes[i].From, changes[i].NewFrom = store.InQueue, 2
		changes[i].State = further(changes[i].State, esh3ar.StatusDelivered)
	}
	w.commit(1, epoch, changes...)
	for i := range changes {
		id := changes[i].Message.ID
		w.same("large row", w.rows(1, id)[id], row(&changes[i]))
	}
}

// testLargeBatch stores more than one run of events and more rows than any statement takes.
func testLargeBatch(w *world) {
	epoch := w.claim(1).Epoch
	var changes []store.Change
	var want []esh3ar.Event
	ids := make([]esh3ar.ID, 0, 5000)
	for i := range cap(ids) {
		m := w.message(1, fmt.Sprintf("c%d", i%3), fmt.Sprintf("r%d", i))
		changes = append(changes, w.change(m, life(w.now, esh3ar.StatusQueued)))
		want = append(want, eventsFrom(&changes[i])...)
		ids = append(ids, m.ID)
	}
	w.commit(1, epoch, changes...)
	w.same("rows", len(w.rows(1, ids...)), len(ids))
	w.same("events", w.events(1), want)

	events, _ := w.eventsAfter(1, 0, 1)
	if len(events) < 1 || len(events) > store.MaxEventsPerWrite {
		w.Fatalf("%d events came as one write", len(events))
	}

	// Long lives too are divided.
	c := changes[0]
	c.NewFrom, c.From = 2, store.InQueue
	for range 2 * store.MaxEventsPerWrite {
		c.State = esh3ar.State{Status: c.State.Status, Attempts: c.State.Attempts, Generation: 1, Timeline: c.State.Timeline}
		next := esh3ar.StatusSent
		if c.State.Status == next {
			next = esh3ar.StatusQueued
		}
		c.State.Move(next, w.now, esh3ar.ReasonNone)
	}
	w.commit(1, epoch, c)
	w.same("row of a long life", w.rows(1, c.Message.ID)[c.Message.ID], row(&c))
	w.same("events of a long life", w.events(1)[len(want):], eventsFrom(&c))
}

// testPermanent hands over what can never be stored. The rest of the batch is not stored either.
func testPermanent(w *world) {
	epoch := w.claim(1).Epoch
	for name, spoil := range map[string]func(*store.Change){
		"no message":       func(c *store.Change) { c.Message = nil },
		"no id":            func(c *store.Change) { c.Message.ID = esh3ar.ID{} },
		"no client":        func(c *store.Change) { c.Message.Client = "" },
		"no recipient":     func(c *store.Change) { c.Message.To = "" },
		"no time":          func(c *store.Change) { c.Message.AcceptedAt = time.Time{} },
		"no status":        func(c *store.Change) { c.State.Status = 0 },
		"unknown status":   func(c *store.Change) { c.State.Status, c.State.Timeline[1].Status = 200, 200 },
		"no timeline":      func(c *store.Change) { c.State.Timeline = nil },
		"other status":     func(c *store.Change) { c.State.Status = esh3ar.StatusExpired },
		"huge ord":         func(c *store.Change) { c.Ord = math.MaxInt64 + 1 },
		"events too far":   func(c *store.Change) { c.NewFrom = 3 },
		"events too early": func(c *store.Change) { c.NewFrom = -1 },
	} {
		good := w.change(w.message(1, "c", "good"), life(w.now, esh3ar.StatusQueued))
		bad := w.change(w.message(1, "c", "bad"), life(w.now, esh3ar.StatusQueued))
		spoil(&bad)
		b := &store.Batch{Shard: 1, Epoch: epoch, At: w.now, Positions: [esh3ar.Tiers]uint64{5}, Changes: []store.Change{good, bad}}
		w.is(name, w.s.Commit(w.Context(), b), store.ErrPermanent)
		w.same(name+": rows", len(w.rows(1, good.Message.ID)), 0)
		b.Changes = b.Changes[:1]
		w.commitBatch(b)
	}
	b := &store.Batch{Shard: 1, Epoch: epoch, Changes: []store.Change{w.change(w.message(1, "c", "r"), life(w.now))}}
	if err := w.s.Commit(w.Context(), b); err == nil || errors.Is(err, store.ErrPermanent) || errors.Is(err, store.ErrNotOwner) {
		w.Fatalf("a batch without a time: got error %v, want one that no smaller batch would mend", err)
	}
}

// testShardsTogether commits to many shards at once, some by former owners and some with work that
// cannot be stored: each gets its own outcome.
func testShardsTogether(w *world) {
	const shards, rounds = 8, 20
	var wg sync.WaitGroup
	for shard := range uint16(shards) {
		old := w.claim(shard)
		current := w.claim(shard)
		// Each goroutine has a world of its own: messages are drawn from it.
		own := &world{T: w.T, s: w.s, now: w.now}
		commit := func(round int, epoch store.Epoch, spoil bool) (*store.Batch, error) {
			b := &store.Batch{Shard: shard, Epoch: epoch, At: own.now, Positions: [esh3ar.Tiers]uint64{uint64(round + 1)}}
			for range 10 {
				m := own.message(shard, "c", "r")
				m.Key = m.ID.String()
				b.Changes = append(b.Changes, own.change(m, life(own.now, esh3ar.StatusQueued)))
			}
			if spoil {
				b.Changes[9].State.Timeline = nil
			}
			return b, w.s.Commit(w.Context(), b)
		}
		wg.Go(func() {
			for round := range rounds {
				var want error
				epoch, spoil := current.Epoch, false
				switch round % 5 {
				case 1:
					epoch, want = old.Epoch, store.ErrNotOwner
				case 3:
					spoil, want = true, store.ErrPermanent
				}
				b, err := commit(round, epoch, spoil)
				if !errors.Is(err, want) || want == nil && err != nil {
					w.Errorf("shard %d, round %d: got error %v, want %v", shard, round, err, want)
					return
				}
				stored := 0
				if want == nil {
					stored = 9
				}
				ids := make([]esh3ar.ID, 0, 9)
				for _, c := range b.Changes[:9] {
					ids = append(ids, c.Message.ID)
				}
				if rows, err := w.s.Rows(w.Context(), shard, ids); err != nil || len(rows) != stored {
					w.Errorf("shard %d, round %d: %d rows (error %v), want %d", shard, round, len(rows), err, stored)
				}
			}
		})
	}
	wg.Wait()
	for shard := range uint16(shards) {
		w.same("position", w.claim(shard).Positions[0], uint64(rounds))
		w.same("events", len(w.events(shard)), rounds*3/5*10*2)
	}
}

func testCanceled(w *world) {
	epoch := w.claim(1).Epoch
	ctx, cancel := context.WithCancel(w.Context())
	cancel()
	c := w.change(w.message(1, "c", "r"), life(w.now, esh3ar.StatusQueued))
	b := &store.Batch{Shard: 1, Epoch: epoch, At: w.now, Changes: []store.Change{c}}
	w.is("commit", w.s.Commit(ctx, b), context.Canceled)
	_, err := w.s.Claim(ctx, 1)
	w.is("claim", err, context.Canceled)
	_, err = w.s.Rows(ctx, 1, []esh3ar.ID{c.Message.ID})
	w.is("rows", err, context.Canceled)
	_, err = w.s.Waiting(ctx, store.Waiting{Shard: 1, Recipient: "r", Limit: 1})
	w.is("waiting", err, context.Canceled)
	_, err = w.s.Due(ctx, 1, w.now, 1)
	w.is("due", err, context.Canceled)
	_, err = w.s.Message(ctx, "c", c.Message.ID)
	w.is("message", err, context.Canceled)
	_, err = w.s.Messages(ctx, store.Query{Client: "c", Limit: 1})
	w.is("messages", err, context.Canceled)
	_, err = w.s.Events(ctx, 1, 0, 1)
	w.is("events", err, context.Canceled)
	_, err = w.s.EventRanges(ctx)
	w.is("event ranges", err, context.Canceled)
	w.is("ping", w.s.Ping(ctx), context.Canceled)
	w.same("rows", len(w.rows(1, c.Message.ID)), 0)
	// The store is as good as before.
	w.is("ping", w.s.Ping(w.Context()), nil)
	w.commitBatch(b)
	w.same("rows", slices.Collect(maps.Values(w.rows(1, c.Message.ID))), []store.Row{row(&c)})
}
