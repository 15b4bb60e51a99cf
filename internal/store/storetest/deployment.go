package storetest

import (
	"slices"
	"sync"
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
