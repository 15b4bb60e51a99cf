package storetest

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Crash is a store whose world can end in mid-transaction.
type Crash struct {
	Store store.Store
	// Cut ends the world as of now. It is called once, within a step of a commit, whose error it gives.
	Cut func() error
	// Reopen returns the store as the cut left it. It lives until the test ends.
	Reopen func(t *testing.T) store.Store
}

// RunCuts cuts a commit at every step of its transaction and checks that all of it or nothing of it
// is left: rows, queue state, keys, events, rejects and positions. Open returns a fresh store that
// calls atStep at the steps of its commits.
func RunCuts(t *testing.T, open func(t *testing.T, atStep func(store.Step) error) Crash) {
	for _, step := range store.Steps() {
		t.Run(string(step), func(t *testing.T) {
			var crash Crash
			var armed atomic.Bool
			crash = open(t, func(s store.Step) error {
				if s != step || !armed.CompareAndSwap(true, false) {
					return nil
				}
				return crash.Cut()
			})
			w := &world{T: t, s: crash.Store, now: start}
			epoch := w.claim(1).Epoch
			waiting := w.change(w.message(1, "c", "waiting"), life(w.now, esh3ar.StatusQueued))
			replayed := w.change(w.message(1, "c", "replayed"), life(w.now, esh3ar.StatusUndelivered))
			before := []store.Change{waiting, replayed}
			w.commitBatch(&store.Batch{
				Shard: 1, Epoch: epoch, At: w.now, Positions: [esh3ar.Tiers]uint64{1, 1, 1}, Changes: before,
			})

			// What a backend makes for the first key of a day is there.
			other := w.message(2, "c", "other")
			other.Key = "other"
			w.commit(2, w.claim(2).Epoch, w.change(other, life(w.now, esh3ar.StatusQueued)))

			// Every kind of change in one commit.
			b := &store.Batch{Shard: 1, Epoch: epoch, At: w.tick(time.Minute), Positions: [esh3ar.Tiers]uint64{2, 3, 4}}
			fresh := w.message(1, "c", "fresh")
			fresh.Key = "key"
			b.Changes = append(b.Changes,
				w.change(fresh, life(w.now, esh3ar.StatusQueued)),
				w.change(w.message(1, "c", "at once"), life(w.now, esh3ar.StatusQueued, esh3ar.StatusDelivered)))
			for _, c := range before {
				next := esh3ar.StatusDelivered
				if c.State.Status == esh3ar.StatusUndelivered {
					next = esh3ar.StatusQueued
				}
				c.From, c.NewFrom, c.State = row(&c).Place, len(c.State.Timeline), further(c.State, next)
				b.Changes = append(b.Changes, c)
			}
			b.Rejects = []store.Reject{{Ord: 7, Record: []byte{0xff}, Reason: esh3ar.ReasonUndecodable}}

			armed.Store(true)
			err := crash.Store.Commit(w.Context(), b)
			if armed.Load() {
				t.Fatalf("the commit never came to step %s", step)
			}
			if err == nil && step != store.StepCommitted {
				t.Fatal("a commit that was cut off reports success")
			}

			s := crash.Reopen(t)
			w.s = s
			stored := checkAllOrNothing(w, b, before)
			if want := step == store.StepCommitted; stored != want {
				t.Fatalf("after a cut at %s the commit is stored: %v", step, stored)
			}
			// The same commit again brings all of it, once.
			w.commitBatch(b)
			if !checkAllOrNothing(w, b, before) {
				t.Fatal("nothing of the repeated commit is stored")
			}
			w.commitBatch(b)
			checkAllOrNothing(w, b, before)
		})
	}
}

// checkAllOrNothing reports whether b is stored over the changes before it, and fails the test if a
// part of it is.
func checkAllOrNothing(w *world, b *store.Batch, before []store.Change) bool {
	w.Helper()
	var parts []string
	all := 0
	part := func(what string, is bool) {
		all++
		if is {
			parts = append(parts, what)
		}
	}
	for i := range b.Changes {
		c := &b.Changes[i]
		id := c.Message.ID
		r, ok := w.rows(1, id)[id]
		if !ok || r.State.Seq() < c.State.Seq() {
			part("", false)
			continue
		}
		w.same("row", r, row(c))
		part(fmt.Sprintf("row %d", i), true)
	}
	for _, c := range b.Changes {
		if c.Message.Key != "" {
			_, err := w.s.Idempotent(w.Context(), c.Message.Client, c.Message.Key)
			part("key", err == nil)
		}
	}
	old, fresh := 0, 0
	for i := range before {
		old += len(eventsFrom(&before[i]))
	}
	for i := range b.Changes {
		fresh += len(eventsFrom(&b.Changes[i]))
	}
	switch n := len(w.events(1)); n {
	case old:
		part("", false)
	case old + fresh:
		part("events", true)
	default:
		w.Fatalf("%d events, want %d or %d", n, old, old+fresh)
	}
	rejected, err := w.s.Rejected(w.Context(), 0, 10)
	w.is("rejects", err, nil)
	part("rejects", len(rejected) == len(b.Rejects))
	// Claim shows the positions; the epoch is needed again.
	claim := w.claim(1)
	b.Epoch = claim.Epoch
	for t := range claim.Positions {
		part(fmt.Sprintf("position %d", t), claim.Positions[t] == b.Positions[t])
	}
	if len(parts) != 0 && len(parts) != all {
		w.Fatalf("only a part of the commit is stored: %q", parts)
	}
	return len(parts) != 0
}
