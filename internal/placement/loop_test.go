package placement

import (
	"math/rand/v2"
	"testing"
	"time"
)

// world is three nodes with devices that reconnect where they are told to, in steps of 250 ms. Each node knows of the others
// what they told up to three seconds ago, and devices take up to two seconds to come back.
type world struct {
	t     *testing.T
	rnd   *rand.Rand
	now   time.Time
	step  int
	nodes []*worldNode
	away  [8][]int // homes of devices that come back in so many steps from now

	closed int   // devices shed in all
	taken  []int // by each node in the last step
}

type worldNode struct {
	*Cluster
	run     uint64
	down    bool
	devices int64
	told    Node
}

func newWorld(t *testing.T, p Policy, devices ...int64) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(3, 4)), now: time.Unix(0, 0), taken: make([]int, len(devices))}
	for _, n := range devices {
		w.nodes = append(w.nodes, &worldNode{Cluster: New(p), devices: n})
	}
	for i := range w.nodes {
		w.tell(i)
	}
	return w
}

func (w *world) tell(i int) {
	n := w.nodes[i]
	n.told = Node{Name: string(rune('a' + i)), Run: n.run, Devices: n.devices}
}

func (w *world) run(passed time.Duration, each func()) {
	for end := w.now.Add(passed); w.now.Before(end); w.now = w.now.Add(250 * time.Millisecond) {
		clear(w.taken)
		coming := w.away[0]
		copy(w.away[:], w.away[1:])
		w.away[len(w.away)-1] = nil
		for _, home := range coming {
			w.arrive(home)
		}
		for i, n := range w.nodes {
			if n.down {
				continue
			}
			if (w.step+3*i)%10 == 0 {
				w.tell(i)
			}
			if w.step%2 == 0 {
				var others []Node
				for k, o := range w.nodes {
					if k != i && !o.down {
						others = append(others, o.told)
					}
				}
				n.Look(w.now, n.told, others)
			}
			shed := n.Shed(w.now, n.devices, n.devices)
			n.devices -= int64(shed)
			w.closed += shed
			for range shed {
				w.leave(i)
			}
		}
		w.step++
		if each != nil {
			each()
		}
	}
}

// leave has a device of a node come back in a while.
func (w *world) leave(home int) {
	in := w.rnd.IntN(len(w.away))
	w.away[in] = append(w.away[in], home)
}

func (w *world) arrive(home int) {
	at := home
	for w.nodes[at].down {
		at = (at + 1) % len(w.nodes)
	}
	if to := w.nodes[at].Place(w.nodes[at].devices); to != "" {
		at = int(to[0] - 'a')
	}
	w.nodes[at].devices++
	w.taken[at]++
}

func (w *world) total() (n int64) {
	for _, node := range w.nodes {
		n += node.devices
	}
	for _, list := range w.away {
		n += int64(len(list))
	}
	return n
}

// level checks that no node is far from the average.
func (w *world) level(within float64) {
	w.t.Helper()
	average := float64(w.total()) / float64(len(w.nodes))
	for i, n := range w.nodes {
		if d := float64(n.devices); d > average*(1+within) || d < average*(1-within) {
			w.t.Errorf("node %d has %d devices, and the average is %.0f", i, n.devices, average)
		}
	}
}

// One node has nearly all devices: they are spread, none more often than need be, and then nothing moves.
func TestLoopConverges(t *testing.T) {
	for _, rate := range []float64{0.05, 0.5, 10} {
		w := newWorld(t, Policy{Rate: rate, Quiet: 10 * time.Second, Patience: 5 * time.Second}, 9000, 100, 20)
		w.run(15*time.Minute/time.Duration(max(rate/0.05, 1))+30*time.Second, nil)
		for range 40 { // the slowest sheds a twentieth of what is left a minute
			w.run(time.Minute, nil)
		}
		w.level(0.2)
		excess := 9000 - w.total()/3
		if w.closed > int(float64(excess)*1.05) || w.total() != 9120 {
			t.Errorf("at %.2f a minute %d devices were told to go elsewhere, and %d were too many", rate, w.closed, excess)
		}
		before := w.closed
		w.run(10*time.Minute, nil)
		if w.closed != before {
			t.Errorf("at %.2f a minute %d devices moved after all was level", rate, w.closed-before)
		}
	}
}

// A node restarts: its devices go to the others, and come back little by little.
func TestLoopRestart(t *testing.T) {
	w := newWorld(t, testPolicy, 3000, 3000, 3000)
	w.run(30*time.Second, nil)
	if w.closed != 0 {
		t.Fatalf("%d devices moved of nodes that are level", w.closed)
	}
	b := w.nodes[1]
	b.down = true
	for range b.devices {
		w.leave(1)
	}
	b.devices = 0
	w.run(30*time.Second, nil)
	b.down, b.run, b.Cluster = false, 1, New(testPolicy)
	w.tell(1)
	w.run(9*time.Second, nil)
	if w.closed != 0 || b.devices != 0 {
		t.Fatalf("%d devices moved while the node was new", w.closed)
	}
	// The others shed a twentieth of 4,500 a minute each: 1.9 in a step, 7.5 a second.
	second, steps := 0, 0
	w.run(10*time.Minute, func() {
		if second += w.taken[1]; steps%4 == 3 {
			if second > 30 {
				t.Errorf("%d devices came within a second", second)
			}
			second = 0
		}
		steps++
	})
	w.level(0.3)
}
