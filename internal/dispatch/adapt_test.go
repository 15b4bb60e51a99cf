package dispatch_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
)

// crowd is how many messages a client has waiting at one time, each for a recipient of its own.
type crowd struct {
	client string
	tier   esh3ar.Tier
	n      int
}

// served remembers whose messages were delivered, in the order in which they were. It is a device of every
// recipient.
type served struct {
	mu    sync.Mutex
	order []*esh3ar.Message
}

func (s *served) Deliver(d *dispatch.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = append(s.order, d.Message)
}

func (s *served) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = nil
}

// among returns how many of the first n deliveries were of each client, and of each tier.
func (s *served) among(n int) (clients map[string]int, tiers map[esh3ar.Tier]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clients, tiers = make(map[string]int), make(map[esh3ar.Tier]int)
	for _, m := range s.order[:n] {
		clients[m.Client]++
		tiers[m.Tier]++
	}
	return clients, tiers
}

// When the pattern of calls changes, so does at once who gets how much of dispatch, with nothing to be set: many small
// clients, one huge among them, the huge one alone, a burst of a higher tier, one of a lower, tiers that fall idle and come back. There is one processor,
// which all wait for, so that who has how many of the first turns is exact.
func TestSharesFollowThePattern(t *testing.T) {
	w := newWorld(t)
	w.stop()
	metrics := prometheus.NewRegistry()
	w.start(func(o *dispatch.Options) {
		o.LeastProcessors, o.MostProcessors, o.Metrics = 1, 1, metrics
		o.Params.Settle = time.Hour // no turns but those of messages
	})
	const most = 400 // recipients of one client
	device := new(served)
	attached := make(map[string]bool)
	gate := make(gate)
	defer close(gate)
	w.Attach("gate", gate)

	// contend has all of them wait for the processor, in this order of arrival, and lets it go through them.
	contend := func(crowds ...crowd) int {
		t.Helper()
		var fresh, all []*esh3ar.Message
		for _, c := range crowds {
			for i := range c.n {
				to := fmt.Sprint(c.client, i)
				m := w.message(c.client, to, "one of a crowd")
				m.Tier = c.tier
				all = append(all, m)
				if !attached[to] {
					attached[to] = true
					w.Attach(to, device)
					first := w.message(c.client, to, "the inbox is read")
					first.Tier = c.tier
					fresh = append(fresh, first)
				}
			}
		}
		sent := func(n int) {
			w.until("all is delivered", func() bool {
				device.mu.Lock()
				defer device.mu.Unlock()
				return len(device.order) == n
			})
			w.until("nobody waits", func() bool { return metric(t, metrics, "esh3ar_dispatch_queue_depth") == 0 })
		}
		device.forget()
		w.accept(fresh...)
		sent(len(fresh))
		device.forget()
		hold := w.message("gate", "gate", "holds the processor")
		hold.Tier = esh3ar.TierGold
		w.accept(hold)
		gate <- struct{}{} // it is in Deliver
		w.accept(all...)
		w.until("all wait for the processor", func() bool {
			return metric(t, metrics, "esh3ar_dispatch_queue_depth") == float64(1+len(all))
		})
		gate <- struct{}{}
		sent(len(all))
		return len(all)
	}
	// show tells the shares before and after a change, as a newcomer would ask for them.
	show := func(pattern string, turns int) (map[string]int, map[esh3ar.Tier]int) {
		clients, tiers := device.among(turns)
		smalls := turns - clients["huge"] - clients["burst"]
		t.Logf("%-42s first %3d turns: small clients %3d, huge %3d, burst %3d", pattern, turns, smalls, clients["huge"], clients["burst"])
		return clients, tiers
	}
	var smalls []crowd
	for i := range 20 {
		smalls = append(smalls, crowd{fmt.Sprint("small", i), esh3ar.TierSilver, 5})
	}
	huge := crowd{"huge", esh3ar.TierSilver, most}
	with := func(first ...crowd) []crowd { return append(first, smalls...) }

	contend(smalls...)
	clients, _ := show("many small clients", 40)
	for _, c := range smalls {
		if n := clients[c.client]; n < 1 || n > 3 {
			t.Errorf("%s has %d of the first 40 turns, one of 20 equals", c.client, n)
		}
	}

	contend(with(huge)...)
	clients, _ = show("one huge comes before them", 110)
	if n := clients["huge"]; n > 15 {
		t.Errorf("the huge client has %d of the first 110 turns: it is one of 21", n)
	}

	if n := contend(huge); n != most {
		t.Fatal(n)
	}
	clients, _ = show("the huge one alone", most)
	if clients["huge"] != most {
		t.Errorf("%d turns", clients["huge"])
	}

	contend(with(huge, crowd{"burst", esh3ar.TierGold, 100})...)
	_, tiers := show("a burst of a gold client behind all that", 100)
	if n := tiers[esh3ar.TierGold]; n < 75 || n > 85 {
		t.Errorf("gold has %d of the first 100 turns, it has 16 shares beside silver's 4", n)
	}
	_, tiers = show("... and when that is done", 150)
	if n := tiers[esh3ar.TierSilver]; n != 50 {
		t.Errorf("silver has %d of the first 150 turns, though gold has nothing to do after 125", n)
	}

	contend(with(crowd{"burst", esh3ar.TierBronze, most})...)
	_, tiers = show("a burst of a bronze client before them", 100)
	if n := tiers[esh3ar.TierBronze]; n < 15 || n > 25 {
		t.Errorf("bronze has %d of the first 100 turns, it has 1 share beside silver's 4", n)
	}

	// Tiers: what one does not use the others have, and it has its share back as soon as it comes.
	const waiting = 200
	gold, silver, bronze := crowd{"gold", esh3ar.TierGold, waiting}, crowd{"silver", esh3ar.TierSilver, waiting}, crowd{"bronze", esh3ar.TierBronze, waiting}
	back := crowd{"gold", esh3ar.TierGold, 80}
	for _, c := range []struct {
		pattern string
		crowds  []crowd // none: those of before
		turns   int
		want    [esh3ar.Tiers]int // of these
	}{
		{"all tiers busy", []crowd{bronze, silver, gold}, 210, [esh3ar.Tiers]int{160, 40, 10}},
		{"... and when gold has no more", nil, 362, [esh3ar.Tiers]int{waiting, 130, 32}},
		{"no gold from the beginning", []crowd{bronze, silver}, 200, [esh3ar.Tiers]int{0, 160, 40}},
		{"bronze alone", []crowd{bronze}, waiting, [esh3ar.Tiers]int{0, 0, waiting}},
		{"gold comes back behind them", []crowd{bronze, silver, back}, 105, [esh3ar.Tiers]int{80, 20, 5}},
	} {
		if c.crowds != nil {
			contend(c.crowds...)
		}
		_, tiers := device.among(c.turns)
		t.Logf("%-42s first %3d turns: gold %3d, silver %3d, bronze %3d", c.pattern, c.turns, tiers[esh3ar.TierGold], tiers[esh3ar.TierSilver], tiers[esh3ar.TierBronze])
		for tier, want := range c.want {
			if got := tiers[esh3ar.Tier(tier)]; got < want-5 || got > want+5 {
				t.Errorf("%s: tier %d has %d of the first %d turns, want %d", c.pattern, tier, got, c.turns, want)
			}
		}
	}
}
