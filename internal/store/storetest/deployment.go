package storetest

import (
	"slices"
	"sync"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

func testFixShards(w *world) {
	const first, callers = 16, 4
	got := make([]int, callers)
	var group sync.WaitGroup
	for i := range got {
		group.Go(func() {
			var err error
			if got[i], err = w.s.FixShards(w.Context(), first+i); err != nil {
				w.Error(err)
			}
		})
	}
	group.Wait()
	fixed := got[0]
	if fixed < first || fixed >= first+callers {
		w.Errorf("%d shards, which nobody asked for", fixed)
	}
	for i, n := range slices.Concat(got, []int{w.fixShards(1), w.fixShards(4096)}) {
		if n != fixed {
			w.Errorf("call %d: %d shards, the first was told %d", i, n, fixed)
		}
	}
}

func (w *world) fixShards(shards int) int {
	w.Helper()
	fixed, err := w.s.FixShards(w.Context(), shards)
	w.is("fix the shards", err, nil)
	return fixed
}

func testIdentify(w *world) {
	const callers = 4
	asked, got := make([]string, callers), make([]string, callers)
	var group sync.WaitGroup
	for i := range got {
		asked[i] = store.NewIdentifier()
		w.is("a new identifier", store.CheckIdentifier(asked[i]), nil)
		group.Go(func() {
			var err error
			if got[i], err = w.s.Identify(w.Context(), asked[i], false); err != nil {
				w.Error(err)
			}
		})
	}
	group.Wait()
	if !slices.Contains(asked, got[0]) {
		w.Errorf("identifier %q, which nobody asked for", got[0])
	}
	for i, id := range slices.Concat(got, []string{w.identify("another", false)}) {
		if id != got[0] {
			w.Errorf("call %d: %s, the first was told %s", i, id, got[0])
		}
	}

	// A journal's is taken while the store was not used with another.
	journals := store.NewIdentifier()
	if id := w.identify(journals, true); id != journals {
		w.Errorf("an unused store says %s to a journal of %s", id, journals)
	}
	w.claim(3)
	if id := w.identify(got[0], true); id != journals {
		w.Errorf("a store of %s that is in use says %s to a journal of %s", journals, id, got[0])
	}
}

// testAdopt makes a store that is in use that of another deployment. It has its messages, and knows nothing of the journal.
func testAdopt(w *world) {
	own, other := w.identify(store.NewIdentifier(), false), store.NewIdentifier()
	epoch := w.claim(1).Epoch
	c := w.change(w.message(1, "c", "r"), life(w.now, esh3ar.StatusQueued))
	b := &store.Batch{Shard: 1, Epoch: epoch, Number: 1, At: w.now, Positions: [esh3ar.Tiers]uint64{10, 20, 30}, Changes: []store.Change{c}}
	w.commitBatch(b)
	for range 2 { // to repeat it is harmless
		w.is("adopt", w.s.Adopt(w.Context(), other), nil)
	}
	if got := w.identify(own, false); got != other {
		w.Errorf("identifier %s, want %s", got, other)
	}
	b.Number = 2
	w.is("commit of who owned the shard", w.s.Commit(w.Context(), b), store.ErrNotOwner)
	claim := w.claim(1)
	w.same("positions", claim.Positions, [esh3ar.Tiers]uint64{})
	if claim.Epoch.Number <= epoch.Number {
		w.Errorf("epoch %v after %v", claim.Epoch, epoch)
	}
	w.same("the message", w.rows(1, c.Message.ID)[c.Message.ID], row(&c))
}

func (w *world) identify(id string, known bool) string {
	w.Helper()
	got, err := w.s.Identify(w.Context(), id, known)
	w.is("identify", err, nil)
	return got
}
