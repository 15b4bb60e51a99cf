package dispatch_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/journal"
)

// A server that was cut off and is back answers with an end of the journal that is none any more. What was accepted since and
// is not stored yet is not said not to exist.
func TestStaleEnd(t *testing.T) {
	w := newWorld(t)
	w.stop()
	var asked atomic.Int64
	w.start(func(o *dispatch.Options) {
		o.Log = staleLog{w.log}
		o.End = func(ctx context.Context, p journal.Partition) (uint64, error) {
			asked.Add(1)
			return w.log.Last(ctx, p)
		}
	})
	m := w.message("bank", "rana", "stored")
	w.accept(m)
	w.connect("rana", true)
	w.await(m, esh3ar.StatusDelivered)
	if n := asked.Load(); n != 0 {
		t.Errorf("asked for the end %d times, and nobody asked for what is not there", n)
	}
	ghost := w.message("bank", "rana", "never accepted")
	if _, err := w.Message(t.Context(), "bank", ghost.ID); esh3ar.KindOf(err) != esh3ar.KindNotFound {
		t.Errorf("never accepted: %v", err)
	}
	w.stop()
	later := w.message("bank", "rana", "not stored yet")
	w.accept(later)
	if _, err := w.Message(t.Context(), "bank", later.ID); esh3ar.KindOf(err) != esh3ar.KindUnavailable {
		t.Errorf("not stored yet: %v", err)
	}
}

// Those who ask at one time for what is not there have the journal's end asked for once, after the last of them came.
func TestEndIsAskedForTogether(t *testing.T) {
	w := newWorld(t)
	w.stop()
	const callers = 20
	var asked atomic.Int64
	open := make(chan struct{})
	w.start(func(o *dispatch.Options) {
		o.End = func(ctx context.Context, p journal.Partition) (uint64, error) {
			asked.Add(1)
			select {
			case <-open:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			return w.log.Last(ctx, p)
		}
	})
	ghost := w.message("bank", "rana", "never accepted")
	ask := func() {
		if _, err := w.Message(t.Context(), "bank", ghost.ID); esh3ar.KindOf(err) != esh3ar.KindNotFound {
			t.Error(err)
		}
	}
	var callersDone sync.WaitGroup
	callersDone.Go(ask)
	w.until("the first asks", func() bool { return asked.Load() == 1 })
	for range callers {
		callersDone.Go(ask)
	}
	time.AfterFunc(200*time.Millisecond, func() { close(open) })
	callersDone.Wait()
	// The first, and one for all that came while it asked; a few more if some came after.
	if n := asked.Load() / esh3ar.Tiers; n > callers/2 {
		t.Errorf("the end was asked for %d times", n)
	}
}
