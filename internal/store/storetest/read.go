package storetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

func testWaiting(w *world) {
	epoch := w.claim(1).Epoch
	otherEpoch := w.claim(2).Epoch
	var changes []store.Change
	var want []store.Row
	for i := range 40 {
		w.tick(time.Second)
		s := life(w.now, esh3ar.StatusQueued)
		waits := true
		switch i % 8 {
		case 1:
			s.NotBefore = w.now.Add(time.Hour) // in backoff
		case 2:
			s = further(s, esh3ar.StatusSent)
		case 3:
			s, waits = life(w.now, esh3ar.StatusScheduled), false
			s.NotBefore = w.now.Add(time.Hour)
		case 4:
			s, waits = further(s, esh3ar.StatusDelivered), false
		case 5:
			s = life(w.now) // accepted
		case 6:
			s, waits = life(w.now, esh3ar.StatusExpired), false
		}
		c := w.change(w.message(1, fmt.Sprintf("c%d", i%3), "r"), s)
		changes = append(changes, c)
		if waits {
			want = append(want, row(&c))
		}
		changes = append(changes, w.change(w.message(1, "c0", "s"), life(w.now, esh3ar.StatusQueued)))
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
	w.commit(1, epoch, changes...)
	w.commit(2, otherEpoch, w.change(w.message(2, "c0", "r"), life(w.now, esh3ar.StatusQueued)))

	ask := func(q store.Waiting) []store.Row {
		w.Helper()
		q.Shard, q.Recipient = 1, "r"
		rows, err := w.s.Waiting(w.Context(), q)
		w.is("waiting", err, nil)
		return rows
	}
	w.same("all", ask(store.Waiting{Limit: 100}), want)
	w.same("first", ask(store.Waiting{Limit: 3}), want[:3])
	w.same("after", ask(store.Waiting{After: want[4].Ord, Limit: 3}), want[5:8])
	w.same("between", ask(store.Waiting{After: want[4].Ord, Before: want[7].Ord, Limit: 100}), want[5:7])
	w.same("before", ask(store.Waiting{Before: want[2].Ord, Limit: 100}), want[:2])
	w.same("up to the highest", ask(store.Waiting{Before: 1<<64 - 1, Limit: 100}), want)
	w.same("beyond", len(ask(store.Waiting{After: 1<<64 - 1, Limit: 100})), 0)
	none, err := w.s.Waiting(w.Context(), store.Waiting{Shard: 1, Recipient: "nobody", Limit: 10})
	w.is("nobody", err, nil)
	w.same("nobody's", len(none), 0)
}

func testDue(w *world) {
	epoch := w.claim(1).Epoch
	otherEpoch := w.claim(2).Epoch
	now := w.now.Add(time.Hour)
	type due struct {
		at time.Time
		c  store.Change
	}
	var all []due
	add := func(at time.Time, expires, notBefore time.Duration, statuses ...esh3ar.Status) {
		m := w.message(1, "c", "r")
		s := life(w.now, statuses...)
		if expires != 0 {
			m.ExpiresAt = now.Add(expires)
		}
		if notBefore != 0 {
			s.NotBefore = now.Add(notBefore)
			m.SendAt = s.NotBefore
		}
		all = append(all, due{at, w.change(m, s)})
	}
	never := time.Time{}
	const s, m = time.Second, time.Minute
	add(now.Add(-5*s), -5*s, 0, esh3ar.StatusQueued)
	add(now.Add(-9*s), -9*s, 0, esh3ar.StatusQueued, esh3ar.StatusSent)
	add(now.Add(-1*s), m, -1*s, esh3ar.StatusScheduled)
	add(now.Add(-8*s), -8*s, -3*s, esh3ar.StatusScheduled) // both
	add(now.Add(-7*s), -2*s, -7*s, esh3ar.StatusScheduled) // both
	add(now.Add(-4*s), -4*s, m, esh3ar.StatusScheduled)
	add(never, 0, 0, esh3ar.StatusQueued)
	add(never, m, 0, esh3ar.StatusQueued)
	add(never, 0, m, esh3ar.StatusScheduled)
	add(never, 0, -m, esh3ar.StatusQueued) // a backoff that has passed is the owner's affair
	add(never, -m, 0, esh3ar.StatusQueued, esh3ar.StatusDelivered)
	add(never, -m, 0, esh3ar.StatusExpired)
	// Exactly now.
	exact := w.message(1, "c", "r")
	exact.ExpiresAt = now
	all = append(all, due{now, w.change(exact, life(w.now, esh3ar.StatusQueued))})

	var want []due
	for _, d := range all {
		w.commit(1, epoch, d.c)
		if !d.at.IsZero() {
			want = append(want, d)
		}
	}
	slices.SortFunc(want, func(a, b due) int { return a.at.Compare(b.at) })
	other := w.message(2, "c", "r")
	other.ExpiresAt = now.Add(-m)
	w.commit(2, otherEpoch, w.change(other, life(w.now, esh3ar.StatusQueued)))

	for limit := 1; limit <= len(want)+1; limit++ {
		rows, err := w.s.Due(w.Context(), 1, now, limit)
		w.is("due", err, nil)
		var expect []store.Row
		for _, d := range want[:min(limit, len(want))] {
			expect = append(expect, row(&d.c))
		}
		w.same(fmt.Sprintf("due, at most %d", limit), rows, expect)
	}
	rows, err := w.s.Due(w.Context(), 3, now, 10)
	w.is("due of an empty shard", err, nil)
	w.same("due of an empty shard", len(rows), 0)
}

func testRows(w *world) {
	epoch := w.claim(1).Epoch
	otherEpoch := w.claim(2).Epoch
	var changes []store.Change
	var ids []esh3ar.ID
	for i := range 100 {
		s := life(w.now, esh3ar.StatusQueued)
		if i%2 == 0 {
			s = further(s, esh3ar.StatusDelivered)
		}
		c := w.change(w.message(1, "c", "r"), s)
		changes = append(changes, c)
		ids = append(ids, c.Message.ID)
	}
	w.commit(1, epoch, changes...)
	elsewhere := w.change(w.message(2, "c", "r"), life(w.now, esh3ar.StatusQueued))
	w.commit(2, otherEpoch, elsewhere)
	ids = append(ids, elsewhere.Message.ID)
	for range 3000 {
		ids = append(ids, w.ids.New(w.now, 1)) // unknown
	}
	got := w.rows(1, ids...)
	w.same("number of rows", len(got), len(changes))
	for i := range changes {
		w.same("row", got[changes[i].Message.ID], row(&changes[i]))
	}
	w.same("no ids", len(w.rows(1)), 0)
}

func testMessage(w *world) {
	epoch := w.claim(1).Epoch
	c := w.change(w.message(1, "mine", "r"), life(w.now, esh3ar.StatusQueued))
	w.commit(1, epoch, c)
	_, err := w.s.Message(w.Context(), "yours", c.Message.ID)
	w.is("message of another client", err, store.ErrNotFound)
	_, err = w.s.Message(w.Context(), "mine", w.ids.New(w.now, 1))
	w.is("unknown message", err, store.ErrNotFound)
	got, err := w.s.Message(w.Context(), "mine", c.Message.ID)
	w.is("message", err, nil)
	w.same("message", got, row(&c))
}

// listed returns the rows that q asks for, of all pages, out of rows: the model of a listing.
func listed(rows []store.Row, q store.Query) []store.Row {
	var match []store.Row
	for _, r := range rows {
		m := &r.Message
		if m.Client == q.Client && (q.To == "" || m.To == q.To) && (q.Status == 0 || r.State.Status == q.Status) &&
			(q.From.IsZero() || !m.AcceptedAt.Before(q.From)) && (q.Until.IsZero() || m.AcceptedAt.Before(q.Until)) {
			match = append(match, r)
		}
	}
	slices.SortFunc(match, func(a, b store.Row) int {
		return cmp.Or(b.Message.AcceptedAt.Compare(a.Message.AcceptedAt), slices.Compare(b.Message.ID[:], a.Message.ID[:]))
	})
	return match
}

// list returns the rows of all pages.
func (w *world) list(q store.Query) []store.Row {
	w.Helper()
	var rows []store.Row
	for {
		p, err := w.s.Messages(w.Context(), q)
		w.is("list", err, nil)
		if len(p.Rows) > q.Limit || len(p.Rows) == 0 && q.Cursor != "" {
			w.Fatalf("a page of %d rows at a limit of %d", len(p.Rows), q.Limit)
		}
		rows = append(rows, p.Rows...)
		if p.Next == "" {
			return rows
		}
		q.Cursor = p.Next
	}
}

// testListing compares listings with the model for filters and limits drawn at random.
func testListing(w *world) {
	r := rand.New(rand.NewPCG(3, 4))
	clients, recipients := []string{"a", "b"}, []string{"r", "s", "t"}
	statuses := []esh3ar.Status{
		esh3ar.StatusAccepted, esh3ar.StatusQueued, esh3ar.StatusSent, esh3ar.StatusDelivered, esh3ar.StatusRead,
		esh3ar.StatusExpired, esh3ar.StatusCanceled, esh3ar.StatusUndelivered, esh3ar.StatusScheduled,
	}
	lives := map[esh3ar.Status][]esh3ar.Status{
		esh3ar.StatusAccepted:  nil,
		esh3ar.StatusSent:      {esh3ar.StatusQueued, esh3ar.StatusSent},
		esh3ar.StatusDelivered: {esh3ar.StatusQueued, esh3ar.StatusDelivered},
		esh3ar.StatusRead:      {esh3ar.StatusQueued, esh3ar.StatusDelivered, esh3ar.StatusRead},
	}
	var rows []store.Row
	for shard := range uint16(3) {
		epoch := w.claim(shard).Epoch
		var changes []store.Change
		for range 100 {
			w.now = start.Add(time.Duration(r.IntN(50)) * time.Microsecond) // with many ties
			m := w.message(shard, clients[r.IntN(2)], recipients[r.IntN(3)])
			status := statuses[r.IntN(len(statuses))]
			steps, ok := lives[status]
			if !ok {
				steps = []esh3ar.Status{status}
			}
			c := w.change(m, life(w.now, steps...))
			changes = append(changes, c)
			rows = append(rows, row(&c))
		}
		w.commit(shard, epoch, changes...)
	}
	at := func() time.Time {
		if r.IntN(2) == 0 {
			return time.Time{}
		}
		return start.Add(time.Duration(r.IntN(60000)) * time.Nanosecond)
	}
	for range 200 {
		q := store.Query{Client: clients[r.IntN(2)], From: at(), Until: at(), Limit: 1 + r.IntN(40)}
		if r.IntN(2) == 0 {
			q.To = recipients[r.IntN(3)]
		}
		if r.IntN(2) == 0 {
			q.Status = statuses[r.IntN(len(statuses))]
		}
		w.same(fmt.Sprintf("%+v", q), w.list(q), listed(rows, q))
	}
	w.same("nobody's", len(w.list(store.Query{Client: "nobody", Limit: 10})), 0)

	// A page that ends with the last row has no next.
	q := store.Query{Client: "a", Limit: len(listed(rows, store.Query{Client: "a"}))}
	p, err := w.s.Messages(w.Context(), q)
	w.is("list", err, nil)
	w.same("next", p.Next, "")
}

// testListingMoves pages through a listing while its messages move between the places and newer ones
// arrive: each that was there at the beginning shows exactly once.
func testListingMoves(w *world) {
	epoch := w.claim(1).Epoch
	var changes []store.Change
	old := map[esh3ar.ID]int{}
	for range 200 {
		c := w.change(w.message(1, "c", "r"), life(w.now, esh3ar.StatusQueued))
		changes = append(changes, c)
		old[c.Message.ID] = 0
		w.tick(time.Microsecond)
	}
	w.commit(1, epoch, changes...)
	for _, q := range []store.Query{{Client: "c", Limit: 7}, {Client: "c", To: "r", Limit: 9}} {
		for id := range old {
			old[id] = 0
		}
		for {
			p, err := w.s.Messages(w.Context(), q)
			w.is("list", err, nil)
			for _, r := range p.Rows {
				if _, ok := old[r.Message.ID]; ok {
					old[r.Message.ID]++
				}
			}
			for range 10 {
				c := &changes[w.ord/(1<<16)*13%uint64(len(changes))]
				c.From, c.NewFrom = store.InQueue, len(c.State.Timeline)
				if c.State.Status == esh3ar.StatusQueued {
					c.State = further(c.State, esh3ar.StatusUndelivered)
				} else {
					c.From = store.InHistory
					c.State = further(c.State, esh3ar.StatusQueued)
				}
				w.tick(time.Microsecond)
				w.commit(1, epoch, *c, w.change(w.message(1, "c", "r"), life(w.now, esh3ar.StatusQueued)))
			}
			if q.Cursor = p.Next; q.Cursor == "" {
				break
			}
		}
		for id, n := range old {
			if n != 1 {
				w.Fatalf("message %s was listed %d times", id, n)
			}
		}
	}
}

func testBadQueries(w *world) {
	for _, limit := range []int{-1, 0, 1001} {
		_, err := w.s.Messages(w.Context(), store.Query{Client: "c", Limit: limit})
		w.invalid(fmt.Sprintf("limit %d", limit), err)
	}
	_, err := w.s.Messages(w.Context(), store.Query{Client: "c", Limit: 1, Status: 100})
	w.invalid("status", err)
	good := store.Cursor{AcceptedAt: w.now, ID: w.ids.New(w.now, 1)}.String()
	for _, cursor := range []string{"x", "%%%", good + "A", good[:len(good)-2], "C" + good[1:], good + "=", "\x00"} {
		_, err := w.s.Messages(w.Context(), store.Query{Client: "c", Limit: 1, Cursor: cursor})
		w.invalid(fmt.Sprintf("cursor %q", cursor), err)
	}
}

func testIdempotency(w *world) {
	epoch := w.claim(1).Epoch
	_, err := w.s.Idempotent(w.Context(), "c", "key")
	w.is("unknown key", err, store.ErrNotFound)

	first := w.message(1, "c", "r")
	first.Key, first.Digest = "key", [32]byte{1}
	c := w.change(first, life(w.now, esh3ar.StatusQueued))
	w.commit(1, epoch, c)
	remembered := store.Remembered{ID: first.ID, Digest: first.Digest, To: "r", AcceptedAt: first.AcceptedAt}
	check := func(what string) {
		w.Helper()
		got, err := w.s.Idempotent(w.Context(), "c", "key")
		w.is(what, err, nil)
		w.same(what, got, remembered)
	}
	check("key")
	_, err = w.s.Idempotent(w.Context(), "d", "key")
	w.is("key of another client", err, store.ErrNotFound)

	// Another body under the same key is a message of its own, and the key keeps its first meaning.
	w.tick(time.Second)
	second := w.message(1, "c", "s")
	second.Key, second.Digest = "key", [32]byte{2}
	w.commit(1, epoch, w.change(second, life(w.now, esh3ar.StatusQueued, esh3ar.StatusDelivered)))
	w.same("second message", len(w.rows(1, second.ID)), 1)
	check("key after another body")

	// Moving on does not touch it.
	c.From, c.NewFrom, c.State = store.InQueue, 2, further(c.State, esh3ar.StatusDelivered)
	w.commit(1, epoch, c)
	check("key after delivery")

	// Both at once, over two shards.
	var wg sync.WaitGroup
	for shard := uint16(2); shard < 6; shard++ {
		epoch := w.claim(shard).Epoch
		m := w.message(shard, "c", "r")
		m.Key, m.Digest = "raced", [32]byte{byte(shard)}
		change := w.change(m, life(w.now, esh3ar.StatusQueued))
		wg.Go(func() {
			if err := w.s.Commit(w.Context(), &store.Batch{Shard: shard, Epoch: epoch, At: w.now, Changes: []store.Change{change}}); err != nil {
				w.Errorf("commit: %v", err)
			}
		})
	}
	wg.Wait()
	r, err := w.s.Idempotent(w.Context(), "c", "raced")
	w.is("raced key", err, nil)
	w.same("raced key's digest", r.Digest, [32]byte{byte(r.ID.Shard())})

	// Twice in one batch.
	a, b := w.message(1, "c", "r"), w.message(1, "c", "r")
	a.Key, b.Key = "twice", "twice"
	w.commit(1, epoch, w.change(a, life(w.now, esh3ar.StatusQueued)), w.change(b, life(w.now, esh3ar.StatusQueued)))
	r, err = w.s.Idempotent(w.Context(), "c", "twice")
	w.is("key twice", err, nil)
	w.same("key twice", r.ID, a.ID)
}
