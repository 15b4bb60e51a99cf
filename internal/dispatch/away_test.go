package dispatch_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
)

// A node that alone does not reach the store hands a shard over without waiting for it. What its devices got and it could not
// store, the next owner sends again, in order, and stores; and the first one can have the shard again.
func TestHandOverWithoutTheStore(t *testing.T) {
	n := newNodes(t, "reaches")
	s := &absent{Store: n.store}
	n.start(func(o *dispatch.Options) {
		o.Store, o.Leases, o.StoreAway = s, leases{"cut off", n.registry}, s.away.Load
		o.Owned = func(shard uint16, owned bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if owned {
				n.owner[shard] = append(n.owner[shard], "cut off")
			} else {
				n.owner[shard] = append(n.owner[shard], "-cut off")
			}
		}
	})
	n.by["cut off"] = n.Dispatcher
	stop := n.stop
	t.Cleanup(stop)
	shard := esh3ar.ShardOf("user", shards)
	n.registry.give(shard, "cut off")
	p := n.follow("user")
	var want []string
	var all []*esh3ar.Message
	accept := func(count int) {
		for range count {
			m := n.message("client", "user", fmt.Sprint(len(all)))
			want, all = append(want, m.Content), append(all, m)
			n.accept(m)
		}
	}
	accept(10)
	n.await(all[9], esh3ar.StatusDelivered)
	s.away.Store(true)
	accept(10)
	n.until("what cannot be stored is delivered", func() bool { return slices.Contains(p.texts(), "19") })

	began := time.Now()
	n.registry.give(shard, "reaches")
	n.until("the shard moved", func() bool { return slices.Equal(n.told(shard), []string{"cut off", "-cut off", "reaches"}) })
	if took := time.Since(began); took > 5*time.Second { // half of what Run gives a shard that ends to store what it knows
		t.Errorf("the handover took %s, as if it had waited for the store", took)
	}
	accept(10)
	for _, m := range all {
		n.await(m, esh3ar.StatusDelivered)
	}
	s.away.Store(false)
	n.registry.give(shard, "cut off")
	accept(10)
	for _, m := range all {
		n.await(m, esh3ar.StatusDelivered)
	}
	if got := p.firsts(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A stop whose time is over does not wait for the store any longer, however long a shard might: what it has not taken is read
// again from the journal.
func TestCut(t *testing.T) {
	w := newWorld(t)
	w.stop()
	s := &absent{Store: w.store}
	w.start(func(o *dispatch.Options) { o.Store = s })
	p := w.connect("user", true)
	first := w.message("shop", "user", "delivered and stored")
	w.accept(first)
	w.next(p)
	w.await(first, esh3ar.StatusDelivered)
	m := w.message("shop", "user", "delivered, and not stored")
	s.away.Store(true)
	w.accept(m)
	w.next(p)

	began := time.Now()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		w.stop()
	}()
	w.Cut()
	<-stopped
	if took := time.Since(began); took > 5*time.Second { // half of what Run gives a shard that ends to store what it knows
		t.Errorf("the stop took %s, as if it had waited for the store", took)
	}

	s.away.Store(false)
	w.start()
	w.connect("user", true)
	w.await(m, esh3ar.StatusDelivered)
}
