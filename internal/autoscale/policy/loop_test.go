package policy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// simulation is a deployment under a load that its nodes share, and the loop that scales it.
type simulation struct {
	*world
	random  *rand.Rand
	boot    time.Duration // from an order until the node serves
	drain   time.Duration
	noise   float64
	started int
	ready   map[string]time.Time
	gone    map[string]time.Time

	ups, downs []time.Duration // since the beginning
	peak       float64         // highest utilisation while the load holds
}

// run lets the load, in processors, go on for that long.
func (s *simulation) run(d time.Duration, load func(at time.Duration) float64) {
	s.t.Helper()
	began := s.now
	for end := s.now.Add(d); s.now.Before(end); {
		for i := 0; i < len(s.nodes); i++ {
			n := &s.nodes[i]
			if at, ok := s.ready[n.Name]; ok && s.now.After(at) {
				n.Ready = true
			}
			if at, ok := s.gone[n.Name]; ok && s.now.After(at) {
				s.nodes = slices.Delete(s.nodes, i, i+1)
				i--
			}
		}
		serving := 0
		for _, n := range s.nodes {
			if n.Ready && !n.Draining {
				serving++
			}
		}
		share := load(s.now.Sub(began)) / float64(serving)
		for i := range s.nodes {
			n := &s.nodes[i]
			n.Figures.CPU = 0
			if n.Ready && !n.Draining {
				n.Figures.CPU = math.Min(share*(1+s.noise*(2*s.random.Float64()-1)), n.Figures.Processors)
			}
		}
		s.peak = max(s.peak, share/2)
		switch d := s.step(2 * time.Second); d.Kind {
		case Add:
			s.ups = append(s.ups, s.now.Sub(start()))
			for range d.Count {
				n := newNode(fmt.Sprint("elastic-", s.started), false)
				n.Ready = false
				s.started++
				s.ready[n.Name] = s.now.Add(s.boot)
				s.nodes = append(s.nodes, n)
			}
		case Remove:
			s.downs = append(s.downs, s.now.Sub(start()))
			s.node(d.Node).Draining = true
			s.gone[d.Node] = s.now.Add(s.drain)
		}
	}
}

func newSimulation(t *testing.T, seed uint64, noise float64) *simulation {
	w := newWorld(t, 3, 0)
	w.rules.Max = 10
	return &simulation{
		world: w, random: rand.New(rand.NewPCG(seed, 1)), boot: 20 * time.Second, drain: 10 * time.Second, noise: noise,
		ready: make(map[string]time.Time), gone: make(map[string]time.Time),
	}
}

func (s *simulation) elastic() int { return len(s.nodes) - 3 }

// A load that rises, holds and falls: nodes come while it rises, go while it falls, and in between nothing changes.
func TestClosedLoop(t *testing.T) {
	for seed := range uint64(5) {
		s := newSimulation(t, seed, 0.1)
		ramp := func(from, to float64, over time.Duration) func(time.Duration) float64 {
			return func(at time.Duration) float64 {
				return from + (to-from)*math.Min(1, at.Seconds()/over.Seconds())
			}
		}
		s.run(10*time.Minute, ramp(2, 2, time.Second))
		if len(s.ups)+len(s.downs) > 0 {
			t.Fatalf("seed %d: a low load has nodes added after %v, removed after %v", seed, s.ups, s.downs)
		}
		s.run(15*time.Minute, ramp(2, 12, 10*time.Minute))
		risen, most := len(s.ups), s.elastic()
		if s.peak > 1 || risen == 0 || len(s.downs) > 0 {
			t.Errorf("seed %d: rising, nodes were loaded up to %.2f; added after %v, removed after %v", seed, s.peak, s.ups, s.downs)
		}
		if u := 12 / float64(2*len(s.nodes)); u >= s.rules.High || u < s.rules.Low {
			t.Errorf("seed %d: %d nodes are loaded to %.2f", seed, len(s.nodes), u)
		}
		s.run(time.Hour, ramp(12, 12, time.Second))
		if len(s.ups) != risen || len(s.downs) > 0 || s.elastic() != most {
			t.Errorf("seed %d: at a load that holds nodes were added after %v, removed after %v", seed, s.ups[risen:], s.downs)
		}
		s.peak = 0
		s.run(90*time.Minute, ramp(12, 1, 20*time.Minute))
		if len(s.ups) != risen || s.elastic() != 0 || s.peak >= s.rules.High {
			t.Errorf("seed %d: falling, nodes were added after %v and %d are left; loaded up to %.2f", seed, s.ups[risen:], s.elastic(), s.peak)
		}
		for i := 1; i < len(s.downs); i++ {
			if s.downs[i]-s.downs[i-1] < s.rules.DownCooldown {
				t.Errorf("seed %d: removed after %v", seed, s.downs)
			}
		}
	}
}

// Whatever the level at which a load holds, the number of nodes comes to rest.
func TestNoFlapping(t *testing.T) {
	for level := 1.0; level < 20; level += 0.9 {
		s := newSimulation(t, uint64(level*100), 0.1)
		s.run(time.Hour, func(time.Duration) float64 { return level })
		ups, downs := len(s.ups), len(s.downs)
		s.run(2*time.Hour, func(time.Duration) float64 { return level })
		if len(s.ups) != ups || len(s.downs) != downs {
			t.Errorf("at %.2f processors nodes were added after %v and removed after %v", level, s.ups[ups:], s.downs[downs:])
		}
	}
}

// Whatever is seen, decisions stay within their bounds.
func TestDecisionsStayWithinBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := DefaultRules()
		r.Min = rapid.IntRange(0, 2).Draw(t, "min")
		r.Max = r.Min + rapid.IntRange(0, 4).Draw(t, "more")
		names := []string{"core-0", "core-1", "elastic-0", "elastic-1", "elastic-2", "elastic-3", "elastic-4"}
		var s State
		now := start()
		var added, removed time.Time
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 200).Draw(t, "seconds")) * time.Second)
			o := Observation{Known: rapid.IntRange(0, 9).Draw(t, "known") > 0, Chooses: rapid.Bool().Draw(t, "chooses")}
			if rapid.Bool().Draw(t, "limited") {
				o.Removable = []string{"elastic-1"}
			}
			elastic, missing, draining := 0, false, false
			for _, name := range names {
				if rapid.IntRange(0, 3).Draw(t, "there") == 0 {
					continue
				}
				n := newNode(name, name[0] == 'c')
				n.Ready = rapid.IntRange(0, 19).Draw(t, "ready") > 0
				n.Draining = rapid.IntRange(0, 19).Draw(t, "draining") == 0
				if age := rapid.IntRange(0, 100).Draw(t, "age"); age < 99 {
					n.Reported = now.Add(-time.Duration(age/8) * time.Second)
				}
				n.Figures.CPU = rapid.SampledFrom([]float64{0, 0.2, 1, 1.7, 2, math.Inf(1), math.NaN()}).Draw(t, "cpu")
				n.Figures.Connections = float64(rapid.SampledFrom([]int{0, 10, 700, 1000}).Draw(t, "connections"))
				n.Figures.StoreAway = rapid.IntRange(0, 29).Draw(t, "store") == 0
				if n.Draining {
					draining = true
				} else {
					missing = missing || !n.Ready || n.Reported.IsZero() || now.Sub(n.Reported) > r.StaleAfter
					if !n.Core {
						elastic++
					}
				}
				o.Nodes = append(o.Nodes, n)
			}
			before := s
			d, after := r.Decide(s, o, now)
			if again, same := r.Decide(before, o, now); again != d || !reflect.DeepEqual(same, after) {
				t.Fatalf("%+v, and for the same %+v", d, again)
			}
			if d.Reason == "" {
				t.Fatalf("no reason: %+v", d)
			}
			switch d.Kind {
			case Hold:
				if d.Count != 0 || !after.Added.Equal(before.Added) || !after.Removed.Equal(before.Removed) {
					t.Fatalf("held, but %+v", d)
				}
			case Add:
				if !o.Known || d.Count < 1 || d.Wanted > r.Max || d.Wanted != elastic+len(after.Awaited) {
					t.Fatalf("%+v with %d elastic nodes", d, elastic)
				}
				if now.Sub(added) < r.UpCooldown && d.Wanted != r.Min {
					t.Fatalf("added %s after the last: %+v", now.Sub(added), d)
				}
			case Remove:
				if !o.Known || missing || draining || d.Count != 1 || d.Wanted < r.Min || d.Wanted != elastic-1 {
					t.Fatalf("%+v with %d elastic nodes, figures missing: %t, draining: %t", d, elastic, missing, draining)
				}
				if now.Sub(added) < r.DownCooldown || now.Sub(removed) < r.DownCooldown {
					t.Fatalf("removed %s and %s after the last changes: %+v", now.Sub(added), now.Sub(removed), d)
				}
				chosen := slices.IndexFunc(o.Nodes, func(n Node) bool { return n.Name == d.Node })
				if o.Chooses != (d.Node == "") || !o.Chooses && (chosen < 0 || o.Nodes[chosen].Core || o.Removable != nil && d.Node != "elastic-1") {
					t.Fatalf("removes %+v", d)
				}
			}
			if d.Kind != Hold && rapid.IntRange(0, 4).Draw(t, "fails") == 0 {
				s = r.Failed(before, after, now)
				if !s.Added.Equal(before.Added) || !s.Removed.Equal(before.Removed) || !s.RetryAt.After(now) {
					t.Fatalf("failed, and %+v", s)
				}
				continue
			}
			if d.Kind == Add {
				added = now
			}
			if d.Kind == Remove {
				removed = now
			}
			s = after
			if d.Kind != Hold {
				s = s.Carried()
			}
		}
	})
}
