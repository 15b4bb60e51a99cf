package admission

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/esh3artech/esh3ar"
)

// machine is what messages queue for in a simulation. Step lets a millisecond pass and returns how many of
// the waiting messages, oldest first, are done by it.
type machine interface{ step(waiting int) (done int) }

// serial does so many messages a millisecond, one after the other.
type serial struct{ perMilli, credit float64 }

func (s *serial) step(waiting int) int {
	s.credit += s.perMilli
	n := min(int(s.credit), waiting)
	s.credit -= float64(n)
	if n == waiting {
		s.credit = 0 // an idle machine saves nothing up
	}
	return n
}

// commits is a group commit: all that wait share one sync, and others wait for the next.
type commits struct {
	sync, left int // milliseconds
	batch      int
}

func (c *commits) step(waiting int) int {
	if c.left > 0 {
		if c.left--; c.left > 0 {
			return 0
		}
		done := c.batch
		c.batch = 0
		waiting -= done
		if waiting > 0 {
			c.batch, c.left = waiting, c.sync
		}
		return done
	}
	if waiting > 0 {
		c.batch, c.left = waiting, c.sync
	}
	return 0
}

// simulation is a server with a Limit under a load that comes at fixed rates.
type simulation struct {
	limit    Limit
	now      time.Duration
	waiting  []entry
	due      [esh3ar.Tiers]float64
	taken    [esh3ar.Tiers]int
	refused  [esh3ar.Tiers]int
	finished int
	took     []time.Duration // of what was finished
	window   Window
}

type entry struct{ since time.Duration }

// run lets the load, in messages a second, come for a time. It forgets what was counted before.
func (s *simulation) run(m machine, d time.Duration, load [esh3ar.Tiers]float64) {
	s.taken, s.refused, s.finished, s.took = [esh3ar.Tiers]int{}, [esh3ar.Tiers]int{}, 0, nil
	for end := s.now + d; s.now < end; s.now += time.Millisecond {
		for i := range load {
			// The lowest tier comes first, so that nothing is a matter of luck.
			t := esh3ar.Tiers - 1 - i
			for s.due[t] += load[t] / 1000; s.due[t] >= 1; s.due[t]-- {
				if int64(len(s.waiting)) >= s.limit.For(esh3ar.Tier(t)) {
					s.refused[t]++
					continue
				}
				s.taken[t]++
				s.waiting = append(s.waiting, entry{s.now})
			}
		}
		done := m.step(len(s.waiting))
		for _, e := range s.waiting[:done] {
			took := s.now + time.Millisecond - e.since
			s.took = append(s.took, took)
			s.window.Latency += took
		}
		s.waiting = s.waiting[done:]
		s.finished += done
		s.window.Done += int64(done)
		if s.window.Took += time.Millisecond; s.window.Took == window {
			s.window.InFlight = int64(len(s.waiting))
			s.limit.Observe(s.window)
			s.window = Window{}
		}
	}
}

func (s *simulation) quantile(q float64) time.Duration {
	if len(s.took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.took))
	return sorted[int(q*float64(len(sorted)-1))]
}

func (s *simulation) String() string {
	return fmt.Sprintf("taken %v refused %v finished %d p50 %s p99 %s limit %.0f latency %.3fs rate %.0f/s target %s", s.taken, s.refused, s.finished,
		s.quantile(.5), s.quantile(.99), s.limit.limit, s.limit.latency, s.limit.rate, s.limit.Target())
}

const target = 100 * time.Millisecond

func gold(rate float64) [esh3ar.Tiers]float64 { return [esh3ar.Tiers]float64{rate} }

// A load that the machine carries is never refused, and one that it does not is cut to what it
// carries: at full throughput, with the latency near the target.
func TestLimitConverges(t *testing.T) {
	for _, capacity := range []float64{2_000, 10_000, 50_000} {
		s := simulation{limit: NewLimit(target)}
		m := &serial{perMilli: capacity / 1000}
		s.run(m, 5*time.Second, gold(capacity*0.9))
		if s.refused[0] != 0 {
			t.Errorf("capacity %.0f/s, under load: %v", capacity, &s)
		}
		s.run(m, 5*time.Second, gold(capacity*3))
		s.run(m, 20*time.Second, gold(capacity*3))
		if got := float64(s.finished) / 20; got < capacity*0.98 {
			t.Errorf("capacity %.0f/s: %.0f/s get done: %v", capacity, got, &s)
		}
		if mean, p99 := s.quantile(.5), s.quantile(.99); mean > target*3/2 || p99 > target*2 {
			t.Errorf("capacity %.0f/s: %v", capacity, &s)
		}
		s.run(m, 2*time.Second, gold(capacity*0.9))
		s.run(m, 5*time.Second, gold(capacity*0.9))
		if s.refused[0] != 0 {
			t.Errorf("capacity %.0f/s, after the overload: %v", capacity, &s)
		}
	}
}

// When the machine becomes slow the limit follows, and when that is over it does, too.
func TestLimitRecovers(t *testing.T) {
	s := simulation{limit: NewLimit(target)}
	s.run(&serial{perMilli: 20}, 5*time.Second, gold(15_000))
	slow := &serial{perMilli: 2}
	s.run(slow, 8*time.Second, gold(15_000)) // the queue of the first moments is worked off
	s.run(slow, 10*time.Second, gold(15_000))
	if p99 := s.quantile(.99); p99 > 2*target || s.finished < 19_500 {
		t.Errorf("while it is slow: %v", &s)
	}
	fast := &serial{perMilli: 20}
	s.run(fast, 3*time.Second, gold(15_000))
	s.run(fast, 10*time.Second, gold(15_000))
	if s.refused[0] != 0 {
		t.Errorf("when it is fast again: %v", &s)
	}
	// Also when little comes for a while, so that nothing shows what it could carry, and then all at once.
	s.run(slow, 8*time.Second, gold(15_000))
	s.run(fast, 5*time.Second, gold(100))
	s.run(fast, 5*time.Second, gold(15_000))
	if s.refused[0] != 0 {
		t.Errorf("after a lull: %v", &s)
	}
}

// A single slow sync refuses nobody, and a journal that hangs lets only so much pile up.
func TestLimitAndStandstill(t *testing.T) {
	s := simulation{limit: NewLimit(target)}
	m := &serial{perMilli: 20}
	s.run(m, 5*time.Second, gold(10_000))
	s.run(&serial{}, 300*time.Millisecond, gold(10_000))
	s.run(m, 5*time.Second, gold(10_000))
	if s.refused[0] != 0 {
		t.Errorf("after a sync of 300 ms: %v", &s)
	}
	s.run(&serial{}, 10*time.Second, gold(10_000))
	if n := len(s.waiting); n > 15_000 {
		t.Errorf("%d messages wait for a journal that hangs: %v", n, &s)
	}
	s.run(m, 3*time.Second, gold(10_000))
	s.run(m, 3*time.Second, gold(10_000))
	if s.refused[0] != 0 {
		t.Errorf("after it hung: %v", &s)
	}
}

// A group commit takes as long for many as for one, so a slow disk alone is no reason to refuse.
func TestLimitAndSlowDisk(t *testing.T) {
	for _, sync := range []int{2, 30, 150, 300} {
		s := simulation{limit: NewLimit(target)}
		m := &commits{sync: sync}
		s.run(m, 5*time.Second, gold(10_000))
		s.run(m, 10*time.Second, gold(10_000))
		if s.refused[0] != 0 {
			t.Errorf("sync of %d ms: %v", sync, &s)
		}
	}
}

// When everything takes long whatever the load, as with other work on the processors, the limit soon lets go.
func TestLimitThatDoesNotHelp(t *testing.T) {
	s := simulation{limit: NewLimit(target)}
	s.run(&commits{sync: 2}, 10*time.Second, gold(10_000))
	busy := &commits{sync: 200}
	s.run(busy, 6*time.Second, gold(10_000))
	if s.refused[0] > 15_000 {
		t.Errorf("in the first moments: %v", &s)
	}
	s.run(busy, 10*time.Second, gold(10_000))
	if s.refused[0] != 0 {
		t.Errorf("later: %v", &s)
	}
}

// Under overload the lower tier is refused and the higher one is not.
func TestLimitTiers(t *testing.T) {
	m := &serial{perMilli: 10}
	s := simulation{limit: NewLimit(target)}
	s.run(m, 5*time.Second, [esh3ar.Tiers]float64{1000, 2000, 20_000})
	s.run(m, 20*time.Second, [esh3ar.Tiers]float64{1000, 2000, 20_000})
	if s.refused[esh3ar.TierGold] != 0 || s.refused[esh3ar.TierSilver] != 0 || s.refused[esh3ar.TierBronze] == 0 {
		t.Errorf("a flood of bronze: %v", &s)
	}
	if s.taken[esh3ar.TierBronze] < 20*6500 {
		t.Errorf("bronze does not get what is left: %v", &s)
	}
	s.run(m, 5*time.Second, [esh3ar.Tiers]float64{3000, 20_000, 5000})
	s.run(m, 20*time.Second, [esh3ar.Tiers]float64{3000, 20_000, 5000})
	if s.refused[esh3ar.TierGold] != 0 || s.refused[esh3ar.TierSilver] == 0 || s.refused[esh3ar.TierBronze] == 0 {
		t.Errorf("a flood of silver: %v", &s)
	}
	if p99 := s.quantile(.99); p99 > 2*target {
		t.Errorf("a flood of silver: %v", &s)
	}
}

// When the pattern of calls changes, so does within two seconds what each tier may have of accepting, with nothing to be set: one
// that is alone has all of it, a higher one that comes gets what it asks for, and what it leaves goes back.
func TestLimitFollowsThePattern(t *testing.T) {
	const carries = 10_000 // messages a second
	m := &serial{perMilli: carries / 1000}
	s := simulation{limit: NewLimit(target)}
	for _, phase := range []struct {
		pattern   string
		load      [esh3ar.Tiers]float64
		low, high [esh3ar.Tiers]float64 // that are to be taken, messages a second
	}{
		{"little of each tier", [esh3ar.Tiers]float64{1000, 1000, 1000}, [esh3ar.Tiers]float64{1000, 1000, 1000}, [esh3ar.Tiers]float64{1000, 1000, 1000}},
		{"a huge bronze client alone", [esh3ar.Tiers]float64{0, 0, 20_000}, [esh3ar.Tiers]float64{0, 0, 9900}, [esh3ar.Tiers]float64{0, 0, 10_100}},
		{"a burst of silver beside it", [esh3ar.Tiers]float64{0, 6000, 20_000}, [esh3ar.Tiers]float64{0, 6000, 3900}, [esh3ar.Tiers]float64{0, 6000, 4100}},
		{"many gold clients as well", [esh3ar.Tiers]float64{3000, 6000, 20_000}, [esh3ar.Tiers]float64{3000, 6000, 900}, [esh3ar.Tiers]float64{3000, 6000, 1100}},
		{"gold has more than half", [esh3ar.Tiers]float64{8000, 6000, 20_000}, [esh3ar.Tiers]float64{8000, 1900, 0}, [esh3ar.Tiers]float64{8000, 2100, 100}},
		{"the huge one alone again", [esh3ar.Tiers]float64{0, 0, 20_000}, [esh3ar.Tiers]float64{0, 0, 9900}, [esh3ar.Tiers]float64{0, 0, 10_100}},
		{"little of each tier again", [esh3ar.Tiers]float64{1000, 1000, 1000}, [esh3ar.Tiers]float64{1000, 1000, 1000}, [esh3ar.Tiers]float64{1000, 1000, 1000}},
	} {
		s.run(m, 2*time.Second, phase.load)
		const seconds = 5
		s.run(m, seconds*time.Second, phase.load)
		var got [esh3ar.Tiers]float64
		for tier := range got {
			got[tier] = float64(s.taken[tier]) / seconds
			if got[tier] < phase.low[tier]-1 || got[tier] > phase.high[tier]+1 {
				t.Errorf("%s: of tier %d %.0f/s are taken, want %.0f to %.0f", phase.pattern, tier, got[tier], phase.low[tier], phase.high[tier])
			}
		}
		t.Logf("%-28s asked for %6.0f/s, taken %6.0f/s, p99 %v", phase.pattern, phase.load, got, s.quantile(.99))
		if p99 := s.quantile(.99); p99 > 2*target {
			t.Errorf("%s: p99 is %v", phase.pattern, p99)
		}
	}
}

// Whatever is measured, the limit stays within its bounds, and lower tiers never get more of it.
func TestLimitBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		goal := time.Duration(rapid.Int64Range(1, int64(10*time.Second)).Draw(t, "target"))
		l := NewLimit(goal)
		for range rapid.IntRange(1, 200).Draw(t, "windows") {
			w := Window{
				Took:     time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "took")),
				Done:     rapid.Int64Range(0, 1_000_000).Draw(t, "done"),
				InFlight: rapid.Int64Range(0, 100_000).Draw(t, "in flight"),
			}
			w.Latency = time.Duration(w.Done * rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "each"))
			l.Observe(w)
			g, si, b := l.For(esh3ar.TierGold), l.For(esh3ar.TierSilver), l.For(esh3ar.TierBronze)
			if !(LeastLimit <= g && g <= MostLimit && si < g && b < si && b >= LeastLimit/2) {
				t.Fatalf("limits %d, %d, %d", g, si, b)
			}
			if d := l.Target(); d < goal || d > max(patience, goal) {
				t.Fatalf("aims at %s for %s", d, goal)
			}
		}
	})
}
