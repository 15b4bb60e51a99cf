package placement

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// jain is Jain's index of fairness: 1 if all have as many.
func jain(devices []int64) float64 {
	var sum, squares float64
	for _, n := range devices {
		sum, squares = sum+float64(n), squares+float64(n)*float64(n)
	}
	return sum * sum / (float64(len(devices)) * squares)
}

func TestSpread(t *testing.T) {
	for name, test := range map[string]struct {
		self   Node
		others []Node
		want   string
	}{
		"to the node with the fewest":                  {Node{Devices: 30}, []Node{{Devices: 20}, {Devices: 10}}, "c"},
		"by one":                                       {Node{Devices: 2}, []Node{{Devices: 1}, {Devices: 2}}, "b"},
		"which may be this one":                        {Node{Devices: 10}, []Node{{Devices: 20}, {Devices: 11}}, "a"},
		"as it is if there is no other":                {Node{Devices: 10}, nil, "a"},
		"not if it is short of memory":                 {Node{MemoryTight: true}, []Node{{Devices: 20}, {Devices: 11}}, "c"},
		"nor to another that is":                       {Node{Devices: 30}, []Node{{MemoryTight: true}, {Devices: 11}}, "c"},
		"nor to one without a processor left":          {Node{Devices: 30}, []Node{{CPU: 3.7, Processors: 4}, {Devices: 11}}, "c"},
		"nor to one that may be dead":                  {Node{Devices: 30}, []Node{{Overdue: true}, {Devices: 11}}, "c"},
		"if all others may be dead, here":              {Node{Devices: 30}, []Node{{Overdue: true}, {Overdue: true}}, "a"},
		"here, too, if all are as busy":                {Node{Devices: 30, MemoryTight: true}, []Node{{MemoryTight: true}, {MemoryTight: true}}, "a"},
		"where there is room for more":                 {Node{Devices: 90}, []Node{{Devices: 85, Connections: 88, MaxConnections: 100}, {Devices: 89}}, "c"},
		"a node of half the size gets half as many":    {Node{Devices: 90}, []Node{{Devices: 40, Connections: 40, MaxConnections: 45}, {Devices: 88}}, "c"},
		"and its part, if it has less than that":       {Node{Devices: 90}, []Node{{Devices: 20, Connections: 20, MaxConnections: 45}, {Devices: 88}}, "b"},
		"other connections take their part of a node":  {Node{Devices: 30}, []Node{{Devices: 5, Connections: 89, MaxConnections: 100}, {Devices: 28}}, "c"},
		"a node without devices that has no room left": {Node{Devices: 30}, []Node{{Connections: 90, MaxConnections: 100}, {Devices: 29}}, "c"},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(testPolicy)
			test.self.Name = "a"
			for i := range test.others {
				test.others[i].Name = string(rune('b' + i))
			}
			c.Look(time.Unix(0, 0), test.self, test.others)
			if got := c.Spread(); got != test.want {
				t.Errorf("to %q, want %q", got, test.want)
			}
		})
	}
	if to := New(testPolicy).Spread(); to != "" {
		t.Errorf("a node that knows nothing yet sends to %q", to)
	}
}

// A node that sheds takes none, though it has not told yet that it has too many.
func TestSpreadWhileShedding(t *testing.T) {
	s := &shedder{New(testPolicy), time.Unix(0, 0)}
	s.Look(s.now, Node{Name: "a"}, nodes(1000, 1000))
	if to := s.Spread(); to != "a" {
		t.Fatalf("to %q, and nobody has told that it has any", to)
	}
	if s.shed(6000, 6000, 20*time.Second) == 0 {
		t.Fatal("none are shed")
	}
	for range 100 {
		if to := s.Spread(); to == "a" {
			t.Fatal("who is sent away would be let in again")
		}
	}
}

// 10,000 negotiations come to one node before any other has told a new figure.
func TestSpreadOfACrowd(t *testing.T) {
	for _, test := range []struct {
		devices []int64
		even    float64 // Jain's index afterwards, at least
	}{
		{[]int64{0, 0, 0}, 0.9999},
		{[]int64{0, 500, 1000, 2000, 4000}, 0.99},
		{[]int64{4000, 2000, 1000, 500, 0}, 0.99},
		{[]int64{3000, 3000, 2990, 3010, 3000, 3005, 2995, 3000}, 0.9999},
		{[]int64{20_000, 20_000, 0}, 0.92}, // 10,000 are too few
	} {
		t.Run(fmt.Sprint(test.devices), func(t *testing.T) {
			c := New(testPolicy)
			c.Look(time.Unix(0, 0), Node{Name: "a", Devices: test.devices[0]}, nodes(test.devices[1:]...))
			after := slices.Clone(test.devices)
			for range 10_000 {
				after[c.Spread()[0]-'a']++
			}
			index := jain(after)
			t.Logf("%v afterwards, Jain's index %.4f", after, index)
			if index < test.even {
				t.Errorf("Jain's index is %.4f: %v", index, after)
			}
		})
	}
}

// crowd is nodes to which devices come from a balancer, in steps of 50 ms: any of the nodes is asked, and sends them to one of
// all. Each knows of the others what they told up to two seconds ago, and devices take up to two seconds to arrive.
type crowd struct {
	rnd      *rand.Rand
	now      time.Time
	step     int
	nodes    []*Cluster
	told     []Node
	devices  []int64
	under    [40][]int // nodes to which devices are under way that arrive in so many steps
	vanished int       // node whose devices never arrive, -1 for none
	start    []int64   // devices at each in the beginning
	highest  float64   // most devices that a node has had that was sent any, of the average, or of 1,000 if that is less
}

func newCrowd(devices ...int64) *crowd {
	w := &crowd{rnd: rand.New(rand.NewPCG(5, 6)), now: time.Unix(0, 0), devices: devices, start: slices.Clone(devices), told: make([]Node, len(devices)), vanished: -1}
	for i := range devices {
		w.nodes = append(w.nodes, New(testPolicy))
		w.tell(i)
	}
	for i := range w.nodes {
		w.look(i)
	}
	return w
}

func (w *crowd) tell(i int) { w.told[i] = Node{Name: string(rune('a' + i)), Devices: w.devices[i]} }

func (w *crowd) look(i int) {
	w.nodes[i].Look(w.now, w.told[i], slices.Delete(slices.Clone(w.told), i, i+1))
}

// come has so many devices a second negotiate for some time.
func (w *crowd) come(perSecond int, passed time.Duration) {
	const step = 50 * time.Millisecond
	for end := w.now.Add(passed); w.now.Before(end); w.now = w.now.Add(step) {
		for _, i := range w.under[0] {
			w.devices[i]++
		}
		copy(w.under[:], w.under[1:])
		w.under[len(w.under)-1] = nil
		for i := range w.nodes {
			if (w.step+7*i)%40 == 0 {
				w.tell(i)
			}
			if (w.step+i)%10 == 0 {
				w.look(i)
			}
		}
		for range perSecond / 20 {
			if to := int(w.nodes[w.rnd.IntN(len(w.nodes))].Spread()[0] - 'a'); to != w.vanished {
				in := w.rnd.IntN(len(w.under))
				w.under[in] = append(w.under[in], to)
			}
		}
		w.step++
		total := int64(0)
		for _, n := range w.devices {
			total += n
		}
		for i, n := range w.devices {
			if n > w.start[i] {
				w.highest = max(w.highest, float64(n)/max(float64(total)/float64(len(w.devices)), 1000))
			}
		}
	}
}

// Nodes that know of each other what was a while ago do not all send to the same, as if nobody else did.
func TestSpreadByOldFigures(t *testing.T) {
	for _, test := range []struct {
		name    string
		devices []int64
		second  int
		highest float64 // at most, of the average or of 1,000
		even    float64 // Jain's index after a minute, at least
	}{
		{"an empty cluster fills", []int64{0, 0, 0}, 1000, 1.15, 0.999},
		{"one of three is new", []int64{10_000, 10_000, 0}, 500, 1.1, 0.999},
		{"one of ten is a little behind", []int64{3000, 3000, 3000, 3000, 3000, 3000, 3000, 3000, 3000, 2700}, 2000, 1.15, 0.999},
		{"one of ten is new", []int64{3000, 3000, 3000, 3000, 3000, 3000, 3000, 3000, 3000, 0}, 1000, 1.3, 0.999},
		{"all are even", []int64{3000, 3000, 3000, 3000, 3000}, 2000, 1.1, 0.999},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newCrowd(test.devices...)
			w.come(test.second, time.Minute)
			index := jain(w.devices)
			t.Logf("%v after a minute, Jain's index %.4f; the highest was %.2f of the average", w.devices, index, w.highest)
			if index < test.even {
				t.Errorf("Jain's index is %.4f", index)
			}
			if w.highest > test.highest {
				t.Errorf("a node had %.2f of the average", w.highest)
			}
		})
	}
}

// Devices that are sent to a node and never arrive do not count there for long.
func TestSpreadForgetsWhoDoesNotArrive(t *testing.T) {
	w := newCrowd(3000, 3000, 3000)
	w.vanished = 1
	w.come(1000, 10*time.Second)
	if w.devices[1] != 3000 {
		t.Fatalf("%d devices arrived where none can", w.devices[1])
	}
	w.vanished = -1
	w.come(0, 20*time.Second) // twenty seconds later 99.9 % are forgotten
	if to := w.nodes[0].Spread(); to != "b" {
		t.Errorf("to %q, and %v are there", to, w.devices)
	}
	for _, n := range w.nodes {
		for i := range n.nodes {
			if to := &n.nodes[i]; to.sent > 2 {
				t.Errorf("%.1f devices count at %s that have not arrived", to.sent, to.Name)
			}
		}
	}
	w.come(1000, time.Minute)
	if index := jain(w.devices); index < 0.999 {
		t.Errorf("Jain's index is %.4f: %v", index, w.devices)
	}
}

// Whatever the figures are, no node is given more than it has room for, nor any that wants none, as long as another does.
func TestSpreadKeepsToTheRoom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		all := make([]Node, 1+rnd.IntN(6))
		room := make(map[string]float64)
		takes := make(map[string]bool)
		for i := range all {
			n := &all[i]
			*n = Node{Name: string(rune('a' + i)), Devices: rnd.Int64N(300), MemoryTight: rnd.IntN(6) == 0, Overdue: i > 0 && rnd.IntN(6) == 0}
			n.Connections = n.Devices + rnd.Int64N(20)
			n.MaxConnections = n.Connections + rnd.Int64N(400)
			if most, _ := n.room(); n.takes() {
				takes[n.Name], room[n.Name] = true, max(most-float64(n.Devices), 0)
			}
		}
		left := 0.0
		for _, n := range room {
			left += max(n-1, 0)
		}
		c := New(testPolicy)
		c.Look(time.Unix(0, 0), all[0], all[1:])
		for range int(left) {
			to := c.Spread()
			if room[to]--; room[to] < -1 || len(takes) > 0 && !takes[to] {
				t.Fatalf("a device is sent to %q, for which there is no room: %+v", to, all)
			}
		}
	}
}
