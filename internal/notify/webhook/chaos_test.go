package webhook

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestNothingIsLost has a receiver fail in every way and the service restart and change meanwhile: in the
// end every event was accepted, and never one before an earlier one of its message.
func TestNothingIsLost(t *testing.T) {
	const runs, messages = 6, 40
	for seed := range uint64(runs) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			batch := []int{1, 1, 5}[seed%3]
			w := newWorld(t, func(o *Options) {
				o.Timeout = 250 * time.Millisecond
				o.Grace = 20 * time.Millisecond
				o.MaxParked = 20 // so that it is reached
			})
			var mu sync.Mutex
			dice := rand.New(rand.NewPCG(seed, 1))
			roll := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return dice.IntN(n)
			}
			var well atomic.Bool
			r := newReceiver(t, func(_ int, rw http.ResponseWriter, req *http.Request, _ got) {
				if well.Load() {
					return
				}
				switch roll(8) {
				case 0:
					rw.WriteHeader(http.StatusInternalServerError)
				case 1:
					panic(http.ErrAbortHandler)
				case 2:
					rw.WriteHeader(http.StatusTooManyRequests)
				case 3:
					<-req.Context().Done() // hangs
				}
			})
			h := w.create(r.url, fmt.Sprintf(`,"batch_max":%d`, batch))
			r.knows(h.Secret)
			for range messages {
				w.message("c", life()...)
				switch roll(12) {
				case 0:
					w.restart()
				case 1:
					w.ask(http.MethodPatch, "/v1/webhooks/"+h.ID, `{}`, nil)
				case 2:
					r.await(len(r.requests()) + 1)
				}
			}
			well.Store(true)
			accepted := func() int {
				seen := map[string]bool{}
				for _, g := range r.requests() {
					for _, e := range g.events {
						if g.code == http.StatusOK {
							seen[e.ID] = true
						}
					}
				}
				return len(seen)
			}
			w.eventually("every event was accepted", func() bool { return accepted() == 3*messages })
			w.eventually("nothing is parked", func() bool { return w.show(h.ID).Parked == 0 })
			inOrder(t, r)
		})
	}
}

// TestParkedEventsAreBounded: an endpoint that refuses one event after the other while others succeed is
// not read for without end.
func TestParkedEventsAreBounded(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxParked = 5; o.Backoff.Base = time.Hour; o.Backoff.Cap = time.Hour })
	var well atomic.Bool
	r := newReceiver(t, func(n int, rw http.ResponseWriter, _ *http.Request, _ got) {
		if n%2 == 0 && !well.Load() {
			rw.WriteHeader(http.StatusBadRequest)
		}
	})
	h := w.create(r.url, `,"types":["delivered"]`)
	for range 100 {
		w.message("c", life()...)
	}
	w.eventually("it stops", func() bool { return w.show(h.ID).Parked >= 5 })
	// What was read before counts on top.
	if v := w.show(h.ID); v.Parked > 5+2*readEvents {
		t.Errorf("%d parked", v.Parked)
	}
	well.Store(true)
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/enable", "", nil)
	w.eventually("everything came", func() bool {
		seen := map[string]bool{}
		for _, g := range r.requests() {
			if g.code == http.StatusOK {
				seen[g.events[0].ID] = true
			}
		}
		return len(seen) == 100
	})
}
