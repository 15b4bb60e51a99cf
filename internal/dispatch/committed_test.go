package dispatch_test

import (
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
)

// TestCommitsAreAnnounced shows that whoever follows a shard's events is told when there are new ones, and
// can read them then.
func TestCommitsAreAnnounced(t *testing.T) {
	w := newWorld(t)
	w.stop()
	committed := make(chan uint16, 1000)
	w.start(func(o *dispatch.Options) { o.Committed = func(shard uint16) { committed <- shard } })
	w.connect("alice", true)
	m := w.message("shop", "alice", "hello")
	w.accept(m)
	limit := time.After(20 * time.Second)
	for {
		select {
		case shard := <-committed:
			if shard != m.ID.Shard() {
				continue
			}
		case <-limit:
			t.Fatal("nothing was announced behind the delivery's commit")
		}
		writes, err := w.store.Events(t.Context(), m.ID.Shard(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, write := range writes {
			for _, e := range write.Events {
				if e.Message == m.ID && e.Status == esh3ar.StatusDelivered {
					return
				}
			}
		}
	}
}
