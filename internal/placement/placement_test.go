package placement

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var testPolicy = Policy{Rate: 0.05, Quiet: 10 * time.Second, Patience: 5 * time.Second}

func nodes(devices ...int64) []Node {
	all := make([]Node, len(devices))
	for i, n := range devices {
		all[i] = Node{Name: string(rune('b' + i)), Devices: n}
	}
	return all
}

func TestPlace(t *testing.T) {
	c := New(testPolicy)
	now := time.Unix(0, 0)
	told := nodes(100, 40)
	look := func() { c.Look(now, Node{Name: "a"}, told) }
	place := func(own int64, want string) {
		t.Helper()
		if got := c.Place(own); got != want {
			t.Errorf("with %d devices one is sent to %q, want %q", own, got, want)
		}
	}
	look()
	// 1.25 × (186 + 140) / 3 + 50 is 185.8.
	place(100, "")
	place(185, "")
	place(187, "c")
	// Who is sent counts, though nobody has told it yet: a storm is spread, in proportion to what each lacks of their own share: 1.05 × 170 + 1 in the end.
	got := make(map[string]int)
	for range 200 {
		got[c.Place(1000)]++
	}
	if got["c"] != 127 || got["b"] != 73 {
		t.Errorf("200 were sent to %v", got)
	}
	// Half of them counts two seconds later, and next to none soon after, whether they have arrived or not.
	now = now.Add(sentHalf)
	look()
	if b, c := c.nodes[1].sent, c.nodes[2].sent; b != 73/2. || c != 128/2. {
		t.Errorf("%.1f and %.1f of those sent two seconds ago count", b, c)
	}
	if e := c.nodes[1].expected(); e != 100+73/2. {
		t.Errorf("%.1f devices are expected there", e)
	}
	told[0].Devices = 120 // twenty have arrived
	look()
	if b := &c.nodes[1]; b.sent != 73/2. || b.expected() != 100+73/2. {
		t.Errorf("%.1f devices are expected, %.1f of those sent count", b.expected(), b.sent)
	}
	now = now.Add(10 * sentHalf)
	told[0].Devices, told[1].Devices = 166, 165
	look()
	place(1000, "c")
	place(1000, "b")
	// Another start of a node begins anew.
	told[1].Run = 2
	look()
	if n := c.nodes[2].sent; n != 0 {
		t.Errorf("%.1f devices of the start before count", n)
	}
	// Without others all stay.
	told = nil
	look()
	place(1000, "")
	if to := c.Elsewhere(); to != "" {
		t.Errorf("there is no other node, and not %q", to)
	}
}

func TestPlaceByCapacity(t *testing.T) {
	for name, test := range map[string]struct {
		self   Node
		others []Node
		own    int64
		want   string
	}{
		"a node that is short of memory gets none":          {Node{}, []Node{{Name: "b", MemoryTight: true}, {Name: "c", Devices: 300}}, 1000, "c"},
		"nor one without a processor left":                  {Node{}, []Node{{Name: "b", CPU: 1.9, Processors: 2}, {Name: "c", Devices: 300}}, 1000, "c"},
		"nor one without connections left":                  {Node{}, []Node{{Name: "b", Connections: 95, MaxConnections: 100}, {Name: "c", Devices: 300}}, 1000, "c"},
		"if all others are, they stay":                      {Node{}, []Node{{Name: "b", MemoryTight: true}, {Name: "c", MemoryTight: true}}, 1000, ""},
		"unless none can":                                   {Node{}, []Node{{Name: "b", MemoryTight: true, Devices: 5}, {Name: "c", MemoryTight: true}}, -1, "c"},
		"a node of half the size is full with its part":     {Node{}, []Node{{Name: "b", Devices: 90, Connections: 90, MaxConnections: 101}, {Name: "c", Devices: 300}}, 1000, "c"},
		"an overloaded node has no margin":                  {Node{MemoryTight: true}, []Node{{Name: "b", Devices: 100}, {Name: "c", Devices: 90}}, 120, "c"},
		"but keeps its share":                               {Node{MemoryTight: true}, []Node{{Name: "b", Devices: 100}, {Name: "c", Devices: 90}}, 100, ""},
		"the devices of overloaded nodes are nobody's goal": {Node{}, []Node{{Name: "b", CPU: 2, Processors: 2, Devices: 9000}, {Name: "c", Devices: 100}}, 310, "c"},
		"a node with less room has a smaller share":         {Node{Connections: 10, MaxConnections: 100}, []Node{{Name: "b"}, {Name: "c"}}, 170, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(testPolicy)
			test.self.Name, test.self.Devices = "a", max(test.own, 0)
			test.self.Connections = max(test.self.Connections, test.self.Devices)
			c.Look(time.Unix(0, 0), test.self, test.others)
			got := ""
			if test.own < 0 {
				got = c.Elsewhere()
			} else {
				got = c.Place(test.own)
			}
			if got != test.want {
				t.Errorf("to %q, want %q", got, test.want)
			}
		})
	}
}

// shedder calls Shed four times a second.
type shedder struct {
	*Cluster
	now time.Time
}

func (s *shedder) shed(own, movable int64, passed time.Duration) (shed int) {
	for end := s.now.Add(passed); s.now.Before(end); s.now = s.now.Add(250 * time.Millisecond) {
		shed += s.Shed(s.now, own, movable)
	}
	return shed
}

func TestShed(t *testing.T) {
	s := &shedder{New(testPolicy), time.Unix(0, 0)}
	want := func(n, margin int, own, movable int64, passed time.Duration, why string) {
		t.Helper()
		if got := s.shed(own, movable, passed); got < n-margin || got > n+margin {
			t.Errorf("%s: %d are shed, want %d", why, got, n)
		}
	}
	look := func(devices ...int64) { s.Look(s.now, Node{Name: "a"}, nodes(devices...)) }
	look(600, 600)
	want(0, 0, 6000, 6000, 10*time.Second, "the cluster has just formed")
	want(300, 10, 6000, 6000, time.Minute+time.Second, "a twentieth a minute")
	want(0, 0, 6000, 0, time.Minute, "those that would come back at once stay")
	if e, ok := s.Shedding(6000); !ok || e.Share != 2400 || e.Overloaded {
		t.Errorf("it says of itself %+v, %t", e, ok)
	}
	// A node comes: nothing moves for a while.
	look(600, 600, 0)
	want(0, 0, 6000, 6000, 10*time.Second, "a node has come")
	want(300, 10, 6000, 6000, time.Minute+time.Second, "then it goes on")
	// It goes on below the bound at which it began, down to where it is level.
	look(1000, 1000)
	s.shed(1600, 1600, 16*time.Second)
	want(80, 5, 1600, 1600, time.Minute, "1.25 × 1200 + 50 is less than 1600")
	if s.Place(1350) == "" {
		t.Error("who is sent away would be let in again")
	}
	look(1050, 1050)
	want(60, 5, 1250, 1250, time.Minute, "1.05 × 1117 + 10 is less than 1250")
	want(0, 0, 1140, 1140, time.Minute, "1.05 × 1080 + 10 is more than 1140")
	want(0, 0, 1400, 1400, time.Minute, "having ended it begins again only above 1.25 × 1167 + 50")
	want(0, 0, 1600, 1600, 5*time.Second, "and only when that has lasted")
	want(5, 1, 1600, 1600, 4*time.Second, "as it has now")
	want(0, 0, 1140, 1140, time.Minute, "level again")
	if s.Place(1400) != "" {
		t.Error("a node that is not full sends a device away")
	}
	// Others that are overloaded take none.
	s.Look(s.now, Node{Name: "a"}, []Node{{Name: "b", MemoryTight: true}, {Name: "c", CPU: 4, Processors: 4}})
	want(0, 0, 9000, 9000, time.Minute, "nobody takes any")
	// Not more than they have room for.
	s.Look(s.now, Node{Name: "a"}, []Node{{Name: "b", MaxConnections: 100, Connections: 80, Devices: 80}, {Name: "c", Devices: 100, Connections: 1000, MaxConnections: 1000}})
	if n := s.shed(9000, 9000, 15*time.Second+250*time.Millisecond); n > 10 {
		t.Errorf("%d are shed, and there is room for 10", n)
	}
	// Few devices go one by one.
	look(0, 0)
	s.shed(300, 300, 15*time.Second+500*time.Millisecond)
	want(60, 1, 300, 300, time.Minute, "one a second")
	// Never is never.
	s.Cluster = New(Policy{})
	look(0, 0)
	want(0, 0, 9000, 9000, time.Hour, "no rate")
}

// An overloaded node sheds what it has above its share, and no more.
func TestShedOverloaded(t *testing.T) {
	s := &shedder{New(testPolicy), time.Unix(0, 0)}
	s.Look(s.now, Node{Name: "a", CPU: 2, Processors: 2}, nodes(1000, 1000))
	if n := s.shed(1200, 1200, 10*time.Second); n != 0 {
		t.Errorf("%d are shed at once", n)
	}
	if n := s.shed(1200, 1200, time.Minute); n == 0 {
		t.Error("none are shed")
	}
	if e, ok := s.Shedding(1200); !ok || !e.Overloaded {
		t.Errorf("it says of itself %+v, %t", e, ok)
	}
	if n := s.shed(1000, 1000, time.Minute); n != 0 {
		t.Errorf("%d are shed of a share", n)
	}
}

// Whatever the figures are, what is decided keeps to the bounds.
func TestBoundsHold(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	random := func(name string) Node {
		n := Node{Name: name, Devices: rnd.Int64N(5000), MemoryTight: rnd.IntN(8) == 0, Processors: 4, CPU: 4 * rnd.Float64()}
		n.Connections = n.Devices + rnd.Int64N(100)
		if rnd.IntN(2) == 0 {
			n.MaxConnections = n.Connections + rnd.Int64N(5000)
		}
		return n
	}
	for range 3000 {
		now := time.Unix(0, 0)
		c := New(Policy{Rate: rnd.Float64(), Quiet: 10 * time.Second, Patience: 5 * time.Second})
		self, others := random("a"), []Node(nil)
		for i := range rnd.IntN(5) {
			others = append(others, random(fmt.Sprint(i)))
		}
		own, total := self.Devices, 0
		c.Look(now, self, others)
		for step := range 200 {
			n := c.Shed(now, own, own)
			now = now.Add(250 * time.Millisecond)
			if n < 0 || n > 0 && step < 4*10 {
				t.Fatalf("step %d: %d are shed", step, n)
			}
			if n > 0 && float64(n) > max(c.policy.Rate/60*float64(own), 1)+1 {
				t.Fatalf("%d of %d are shed at a time, at %.2f a minute", n, own, c.policy.Rate)
			}
			share := c.shares(float64(own))[0]
			own -= int64(n)
			total += n
			if n > 0 && float64(own) < share {
				t.Fatalf("%d are left, and the share is %.0f", own, share)
			}
			for range n { // they come back
				to := c.Place(own + 1)
				i := slices.IndexFunc(others, func(o Node) bool { return o.Name == to })
				if i < 0 || others[i].Overloaded() {
					t.Fatalf("who was shed is sent to %q", to)
				}
			}
		}
	}
}
