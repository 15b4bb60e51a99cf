package webhook

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

// TestNodesTakeTurns: of two nodes over one store one posts, and the other goes on when it stops.
func TestNodesTakeTurns(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Holder, o.WatchEvery = "first", 20*time.Millisecond })
	r := newReceiver(t, nil)
	h := w.create(r.url, `,"types":["delivered"]`)
	r.knows(h.Secret)
	id := w.message("c", life()...).String()
	r.await(1)
	// The other one is the same world with another service, whose store is the first one's.
	other := &world{TB: t, store: w.store, opts: w.opts, epochs: w.epochs}
	other.opts.Holder = "second"
	other.start()
	defer func() { other.stop() }()
	ids := []string{id}
	both := func() string {
		id := w.message("c", life()...).String()
		other.notify.Committed(0)
		other.notify.Committed(1)
		return id
	}
	for range 20 {
		ids = append(ids, both())
	}
	r.await(21)
	w.eventually("progress is stored", func() bool { return len(w.log(h.ID)) == 21 })
	w.stop()
	for range 20 {
		ids = append(ids, both())
	}
	all := r.await(41)
	var came []string
	for _, g := range all {
		came = append(came, g.events[0].Data.ID)
	}
	slices.Sort(came)
	slices.Sort(ids)
	if !slices.Equal(came, ids) {
		t.Errorf("%d requests for %d messages", len(came), len(ids))
	}
	// A node that lost its right does not get it back while the other one lives.
	w.start()
	var v view
	w.ask(http.MethodPatch, "/v1/webhooks/"+h.ID, `{"description":"x"}`, &v)
	both()
	if all = r.await(42); len(all) != 42 {
		t.Errorf("%d requests", len(all))
	}
}
