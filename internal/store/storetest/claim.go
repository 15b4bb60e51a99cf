package storetest

import (
	"database/sql"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// claimOfBefore is how nodes claim shard 1 that know of no tokens.
const claimOfBefore = `INSERT INTO shard AS s (shard, epoch) VALUES (1, 1) ON CONFLICT (shard) DO UPDATE SET epoch = s.epoch + 1, commits = 0`

// RunLostClaim sets a store back past a claim, so that its number is given out again: who made the claim has to be told apart from who got its number.
// Open returns a fresh store, and its database, in which the suite changes rows beside it.
func RunLostClaim(t *testing.T, open func(t *testing.T) (store.Store, *sql.DB)) {
	for _, test := range []struct {
		name   string
		before int // claims that are kept
		next   string
	}{
		{"FirstClaim", 0, ""},
		{"LaterClaim", 2, ""},
		{"FirstClaimOfAnOlderVersion", 0, claimOfBefore},
		{"LaterClaimOfAnOlderVersion", 2, claimOfBefore},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, db := open(t)
			w := &world{T: t, s: s, now: start}
			for range test.before {
				w.claim(1)
			}
			w.exec(db, `CREATE TABLE backup AS SELECT * FROM shard`)
			lost := w.claim(1)
			late := &store.Batch{Shard: 1, Epoch: lost.Epoch, Number: 1, At: w.now, Positions: [esh3ar.Tiers]uint64{10}}
			w.commitBatch(late)

			w.exec(db, `DELETE FROM shard`)
			w.exec(db, `INSERT INTO shard SELECT * FROM backup`)
			m := w.message(1, "c", "late")
			m.Key = "key"
			late.Positions[0], late.Changes = 20, []store.Change{w.change(m, life(w.now, esh3ar.StatusQueued))}
			refused := func(when string) {
				w.Helper()
				for _, late.Number = range []int64{0, 1, 2} {
					err := s.Commit(w.Context(), late)
					w.is(when, err, store.ErrNotOwner)
					w.is(when, err, store.ErrSetBack)
				}
			}
			refused("nobody has the number")

			current := store.Batch{Shard: 1, Epoch: lost.Epoch, Number: 1, At: w.now}
			if test.next == "" {
				current.Epoch = w.claim(1).Epoch
			} else {
				w.exec(db, test.next)
			}
			if current.Epoch.Number != lost.Epoch.Number {
				w.Fatalf("after a claim of epoch %d was lost, the next one has %d", lost.Epoch.Number, current.Epoch.Number)
			}
			refused("another has the number")
			if test.next != "" {
				// Whoever knows of tokens ends the older version's epoch, as they end each other's.
				current.Epoch = w.claim(1).Epoch
				w.same("the next number", current.Epoch.Number, lost.Epoch.Number+1)
				w.is("two claims ago", s.Commit(w.Context(), late), store.ErrNotOwner)
				w.commitBatch(&current)
				w.exec(db, test.next)
				w.is("a claim of an older version", s.Commit(w.Context(), &current), store.ErrNotOwner)
				return
			}
			// As far as the owner whose claim was lost, so that the numbers of commits tell nothing.
			stored := w.change(w.message(1, "c", "r"), life(w.now, esh3ar.StatusQueued))
			current.Positions[0], current.Changes = 5, []store.Change{stored}
			w.commitBatch(&current)
			refused("another has the number and has stored something")

			w.same("rows", w.rows(1, m.ID, stored.Message.ID), map[esh3ar.ID]store.Row{stored.Message.ID: row(&stored)})
			w.same("events", w.events(1), eventsFrom(&stored))
			_, err := s.Idempotent(w.Context(), "c", "key")
			w.is("key", err, store.ErrNotFound)
			current.Number, current.Changes = 2, nil
			w.commitBatch(&current)
			w.same("positions", w.claim(1).Positions, [esh3ar.Tiers]uint64{5})
		})
	}
}

func (w *world) exec(db *sql.DB, query string) {
	w.Helper()
	if _, err := db.ExecContext(w.Context(), query); err != nil {
		w.Fatalf("%s: %v", query, err)
	}
}

func testClaim(w *world) {
	first := w.claim(7)
	if first.Epoch.Number < 1 || first.Positions != ([esh3ar.Tiers]uint64{}) {
		w.Fatalf("first claim: %+v", first)
	}
	second := w.claim(7)
	if second.Epoch.Number <= first.Epoch.Number || second.Epoch.Token == first.Epoch.Token {
		w.Fatalf("second claim has epoch %v after %v", second.Epoch, first.Epoch)
	}
	// Shards have nothing to do with each other, up to the highest.
	other := w.claim(math.MaxUint16)
	w.commitBatch(&store.Batch{Shard: math.MaxUint16, Epoch: other.Epoch, At: w.now, Positions: [esh3ar.Tiers]uint64{3, 2, 1}})
	w.same("positions of the other shard", w.claim(math.MaxUint16).Positions, [esh3ar.Tiers]uint64{3, 2, 1})
	w.same("positions of the first shard", w.claim(7).Positions, [esh3ar.Tiers]uint64{})
}

func testClaimsRace(w *world) {
	const n = 16
	epochs := make([]int64, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			c, err := w.s.Claim(w.Context(), 1)
			if err != nil {
				w.Errorf("claim: %v", err)
			}
			epochs[i] = c.Epoch.Number
		})
	}
	wg.Wait()
	slices.Sort(epochs)
	if u := slices.Compact(slices.Clone(epochs)); len(u) != n {
		w.Fatalf("claims that raced share an epoch: %v", epochs)
	}
}

func testNotOwner(w *world) {
	m := w.message(1, "c", "r")
	b := &store.Batch{
		Shard: 1, Epoch: store.Epoch{Number: 1, Token: store.NewToken()}, At: w.now, Positions: [esh3ar.Tiers]uint64{9, 9, 9},
		Changes: []store.Change{w.change(m, life(w.now, esh3ar.StatusQueued))},
		Rejects: []store.Reject{{Ord: 1, Record: []byte("x"), Reason: esh3ar.ReasonUndecodable}},
	}
	m.Key = "key"
	w.is("commit to a shard that nobody claimed", w.s.Commit(w.Context(), b), store.ErrNotOwner)

	old := w.claim(1)
	current := w.claim(1)
	b.Epoch = old.Epoch
	w.is("commit of a former owner", w.s.Commit(w.Context(), b), store.ErrNotOwner)
	b.Epoch = current.Epoch
	b.Epoch.Token = old.Epoch.Token
	w.is("commit under another claim's token", w.s.Commit(w.Context(), b), store.ErrNotOwner)
	b.Epoch.Token = store.Token{}
	w.is("commit without a token", w.s.Commit(w.Context(), b), store.ErrNotOwner)
	b.Epoch = current.Epoch
	b.Epoch.Number++
	w.is("commit of a future owner", w.s.Commit(w.Context(), b), store.ErrNotOwner)
	b.Changes, b.Rejects = nil, nil
	w.is("empty commit of a future owner", w.s.Commit(w.Context(), b), store.ErrNotOwner)

	w.same("rows", len(w.rows(1, m.ID)), 0)
	w.same("events", len(w.events(1)), 0)
	_, err := w.s.Idempotent(w.Context(), "c", "key")
	w.is("key", err, store.ErrNotFound)
	rejected, err := w.s.Rejected(w.Context(), 0, 10)
	w.same("rejects", len(rejected), 0)
	w.is("rejects", err, nil)
	w.same("positions", w.claim(1).Positions, [esh3ar.Tiers]uint64{})
}
