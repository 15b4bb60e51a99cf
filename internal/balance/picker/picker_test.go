package picker

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is nodes, closed-loop clients and a clock, all simulated: each client sends its next request when it has the
// answer to the one before.
type world struct {
	p      *Picker
	now    time.Time
	rnd    *rand.Rand
	events events
	serve  map[string]func(w *world) (time.Duration, Result)
	counts map[string]int
}

type event struct {
	at time.Time
	do func()
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func newWorld(seed uint64, ids ...string) *world {
	w := &world{
		p: New(DefaultOptions()), now: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC), rnd: rand.New(rand.NewPCG(seed, 1)),
		serve: make(map[string]func(*world) (time.Duration, Result)), counts: make(map[string]int),
	}
	w.p.Set(w.now, ids)
	for _, id := range ids {
		w.ready(id)
		w.serve[id] = around(2 * time.Millisecond)
	}
	return w
}

func (w *world) ready(id string) { w.p.Report(w.now, id, Health{State: Ready, Free: 1}) }

// around answers after a time that is spread as in life: a long tail, and now and then a pause.
func around(d time.Duration) func(*world) (time.Duration, Result) {
	return func(w *world) (time.Duration, Result) {
		x := float64(d) * math.Exp(w.rnd.NormFloat64()*0.5)
		if w.rnd.IntN(1000) == 0 {
			x *= 20
		}
		return time.Duration(x), Served
	}
}

func failing(w *world) (time.Duration, Result) { return time.Millisecond, Failed }

func (w *world) after(d time.Duration, do func()) { heap.Push(&w.events, event{w.now.Add(d), do}) }

// client sends for ever, pausing between an answer and the next request.
func (w *world) client(pause time.Duration) {
	id, ok := w.p.Pick(w.now, Request{Chance: w.rnd.Uint64()})
	if !ok {
		w.after(10*time.Millisecond, func() { w.client(pause) })
		return
	}
	w.counts[id]++
	d, result := w.serve[id](w)
	w.after(d, func() {
		w.p.Done(w.now, id, Outcome{Result: result, Latency: d})
		w.after(pause, func() { w.client(pause) })
	})
}

func (w *world) clients(n int, pause time.Duration) {
	for range n {
		w.after(time.Duration(w.rnd.Int64N(int64(10*time.Millisecond))), func() { w.client(pause) })
	}
}

// run lets time pass and returns how many requests each node got meanwhile.
func (w *world) run(d time.Duration) map[string]int {
	clear(w.counts)
	end := w.now.Add(d)
	for len(w.events) > 0 && w.events[0].at.Before(end) {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = end
	return w.counts
}

// jain is Jain's index of fairness over all nodes of the world.
func (w *world) jain() float64 {
	var sum, squares float64
	for id := range w.serve {
		n := float64(w.counts[id])
		sum += n
		squares += n * n
	}
	return sum * sum / (float64(len(w.serve)) * squares)
}

func (w *world) share(id string) float64 {
	sum := 0
	for _, n := range w.counts {
		sum += n
	}
	return float64(w.counts[id]) / float64(sum)
}

func names(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("n%d", i)
	}
	return ids
}

func TestEqualNodesGetEqualShares(t *testing.T) {
	for _, nodes := range []int{2, 3, 16} {
		for _, load := range []struct {
			clients int
			pause   time.Duration
			run     time.Duration // so long that shares are more than chance
		}{{1, 0, 8 * time.Second}, {4, 5 * time.Millisecond, 8 * time.Second}, {50, 0, time.Second}, {300, 50 * time.Millisecond, 3 * time.Second}} {
			w := newWorld(uint64(nodes), names(nodes)...)
			w.clients(load.clients, load.pause)
			w.run(time.Second)
			w.run(load.run)
			if j := w.jain(); j < 0.99 {
				t.Errorf("%d nodes, %d clients: Jain's index is %.4f: %v", nodes, load.clients, j, w.counts)
			}
		}
	}
}

func TestSlowNodeLosesItsShare(t *testing.T) {
	for _, clients := range []int{4, 60, 200} {
		w := newWorld(7, names(3)...)
		w.clients(clients, 20*time.Millisecond)
		w.run(5 * time.Second)
		w.serve["n0"] = around(20 * time.Millisecond)
		w.run(2 * time.Second) // "within seconds"
		w.run(5 * time.Second)
		if s := w.share("n0"); s > 0.1 || s == 0 {
			t.Errorf("%d clients: a node ten times as slow gets %.3f of the requests; between 0 and 0.1 wanted", clients, s)
		}
		w.serve["n0"] = around(2 * time.Millisecond)
		w.run(15 * time.Second)
		w.run(10 * time.Second)
		if j := w.jain(); j < 0.99 {
			t.Errorf("%d clients: the node is fast again, but Jain's index is %.4f: %v", clients, j, w.counts)
		}
	}
}

// A node that hangs holds up few requests, although none of them has failed yet.
func TestHangingNodeLosesItsShareAtOnce(t *testing.T) {
	for _, clients := range []int{8, 60} {
		w := newWorld(2, names(3)...)
		w.clients(clients, 5*time.Millisecond)
		w.run(5 * time.Second)
		w.serve["n0"] = func(*world) (time.Duration, Result) { return 30 * time.Second, Failed }
		if n := w.run(time.Second)["n0"]; n == 0 || n > clients/3 {
			t.Errorf("%d clients: %d are held up within a second", clients, n)
		}
		if n := w.run(5 * time.Second)["n0"]; n > clients/8+1 {
			t.Errorf("%d clients: %d more are held up in the next five seconds", clients, n)
		}
	}
}

func TestFreeCapacityShiftsShares(t *testing.T) {
	w := newWorld(3, names(2)...)
	w.p.Report(w.now, "n0", Health{State: Ready, Free: 0.25})
	w.clients(50, 0)
	w.run(5 * time.Second)
	if s := w.share("n0"); s > 0.35 {
		t.Errorf("a node with a quarter of its capacity free gets %.2f of the requests", s)
	}
}

func TestOverloadedNodeGetsLessAndIsNotEjected(t *testing.T) {
	w := newWorld(4, names(3)...)
	w.serve["n0"] = func(*world) (time.Duration, Result) { return 100 * time.Microsecond, Overloaded }
	w.clients(50, time.Millisecond)
	w.run(time.Second)
	w.run(5 * time.Second)
	if s := w.share("n0"); s > 0.1 || s == 0 {
		t.Errorf("a node that refuses for overload gets %.3f of the requests", s)
	}
	for _, v := range w.p.Views(w.now) {
		if !v.Ejected.IsZero() {
			t.Errorf("%s is ejected", v.ID)
		}
	}
}

func TestFailingNodeIsEjectedAndComesBack(t *testing.T) {
	w := newWorld(5, names(3)...)
	w.clients(20, 10*time.Millisecond)
	w.run(time.Second)
	w.serve["n0"] = failing
	w.run(time.Second)
	if n := w.run(500 * time.Millisecond)["n0"]; n != 0 {
		t.Fatalf("a failing node got %d more requests after a second", n)
	}
	var bans []time.Time
	for range 30 {
		w.run(time.Second)
		if v := w.view("n0"); !v.Ejected.IsZero() && (len(bans) == 0 || !v.Ejected.Equal(bans[len(bans)-1])) {
			bans = append(bans, v.Ejected)
		}
	}
	if len(bans) < 3 || bans[2].Sub(bans[1]) <= bans[1].Sub(bans[0]) {
		t.Errorf("the ejections of a node that keeps failing end at %v; growing gaps wanted", bans)
	}
	w.serve["n0"] = around(2 * time.Millisecond)
	for range 70 {
		if w.run(time.Second)["n0"] > 0 {
			break
		}
	}
	first := w.share("n0")
	if first == 0 || first > 0.2 {
		t.Errorf("in the first second back the node gets %.3f of the requests; a slow start wanted", first)
	}
	w.run(12 * time.Second)
	w.run(10 * time.Second)
	if j := w.jain(); j < 0.99 {
		t.Errorf("after the slow start Jain's index is %.4f: %v", j, w.counts)
	}
}

func (w *world) view(id string) View {
	views := w.p.Views(w.now)
	return views[slices.IndexFunc(views, func(v View) bool { return v.ID == id })]
}

func TestNeverMoreThanHalfEjected(t *testing.T) {
	for _, nodes := range []int{1, 2, 3, 4, 7} {
		w := newWorld(6, names(nodes)...)
		for id := range w.serve {
			w.serve[id] = failing
		}
		w.clients(20, time.Millisecond)
		for range 20 {
			w.run(300 * time.Millisecond)
			out := 0
			for _, v := range w.p.Views(w.now) {
				if !v.Ejected.IsZero() {
					out++
				}
			}
			if 2*out > nodes {
				t.Fatalf("%d of %d nodes are ejected", out, nodes)
			}
		}
	}
}

func TestNewNodeStartsSlowly(t *testing.T) {
	w := newWorld(8, names(2)...)
	w.clients(50, 5*time.Millisecond)
	w.run(5 * time.Second)
	w.serve["n2"] = around(2 * time.Millisecond)
	w.p.Set(w.now, names(3))
	if n := w.run(time.Second)["n2"]; n != 0 {
		t.Errorf("a node that has not said that it is ready got %d requests", n)
	}
	w.p.Set(w.now, names(3)) // discovery repeats itself
	w.ready("n2")
	var shares []float64
	for range 12 {
		w.run(time.Second)
		shares = append(shares, w.share("n2"))
	}
	// It begins when the node is heard of; a second of the ramp has passed.
	if shares[0] > 0.12 || shares[11] < 0.28 {
		t.Errorf("shares of a new node, second by second: %.2f", shares)
	}
}

func TestDrainingNodeGetsNothing(t *testing.T) {
	w := newWorld(9, names(2)...)
	w.clients(50, time.Millisecond)
	w.run(time.Second)
	w.p.Report(w.now, "n0", Health{State: Draining})
	if n := w.run(time.Second)["n0"]; n != 0 {
		t.Errorf("a draining node got %d requests", n)
	}
	w.p.Report(w.now, "n1", Health{State: Draining})
	if _, ok := w.p.Pick(w.now, Request{}); ok {
		t.Error("a node was picked although all drain")
	}
}

func TestUnreadyNodesAreTheLastResort(t *testing.T) {
	w := newWorld(10, names(2)...)
	for _, id := range names(2) {
		w.p.Report(w.now, id, Health{State: Unready, Cause: "no answer"})
	}
	if _, ok := w.p.Pick(w.now, Request{Chance: 1}); !ok {
		t.Error("no node was picked although none drains")
	}
	w.ready("n1")
	for i := range uint64(100) {
		if id, _ := w.p.Pick(w.now, Request{Chance: i}); id != "n1" {
			t.Fatalf("%s was picked; n1 alone is ready", id)
		}
	}
}

func TestTriedNodesAreNotPicked(t *testing.T) {
	w := newWorld(11, names(3)...)
	for i := range uint64(100) {
		tried := []string{"n0"}
		second, ok := w.p.Pick(w.now, Request{Chance: i, Tried: tried})
		if !ok || second == "n0" {
			t.Fatalf("picked %q, %v", second, ok)
		}
		third, ok := w.p.Pick(w.now, Request{Chance: i, Tried: append(tried, second)})
		if !ok || third == "n0" || third == second {
			t.Fatalf("picked %q, %v after %v and %q", third, ok, tried, second)
		}
		if !w.p.Has(w.now, tried) || w.p.Has(w.now, names(3)) {
			t.Fatal("Has and Pick do not agree")
		}
		if id, ok := w.p.Pick(w.now, Request{Chance: i, Tried: names(3)}); ok {
			t.Fatalf("picked %q although all were tried", id)
		}
	}
}

func TestAffinity(t *testing.T) {
	w, other := newWorld(12, names(5)...), newWorld(13, names(5)...)
	counts := make(map[string]int)
	before := make(map[string]string)
	for i := range 1000 {
		key := fmt.Sprintf("key-%d", i)
		r := Request{Stream: true, Affinity: Affinity(key)}
		a, _ := w.p.Pick(w.now, r)
		b, _ := other.p.Pick(other.now, r)
		if a != b {
			t.Fatalf("two pickers send %s to %s and %s", key, a, b)
		}
		counts[a]++
		before[key] = a
	}
	for id, n := range counts {
		if n < 120 || n > 280 {
			t.Errorf("%s holds %d of 1,000", id, n)
		}
	}
	w.p.Report(w.now, "n3", Health{State: Draining})
	for key, was := range before {
		if id, _ := w.p.Pick(w.now, Request{Affinity: Affinity(key)}); id != was && was != "n3" {
			t.Errorf("%s moved from %s to %s although neither left", key, was, id)
		}
	}
}

func TestStreamsAreSpreadByTheirNumber(t *testing.T) {
	w := newWorld(14, names(4)...)
	for range 1000 {
		w.counts[must(w.p.Pick(w.now, Request{Chance: w.rnd.Uint64(), Stream: true}))]++
	}
	if j := w.jain(); j < 0.99 {
		t.Errorf("Jain's index of open streams is %.4f: %v", j, w.counts)
	}
}

func must(id string, ok bool) string {
	if !ok {
		panic("no node")
	}
	return id
}

// TestBooksBalance does anything in any order: whatever happens, what is picked is in the set and does not
// drain, what was tried is not picked again, and a node that left is forgotten when its last request ends.
func TestBooksBalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := New(DefaultOptions())
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		type pick struct {
			id     string
			stream bool
			work   int

			arriving bool
		}
		var under []pick
		set, state := map[string]bool{}, map[string]State{}
		id := rapid.SampledFrom(names(5))
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "d")))
			},
			"set": func(t *rapid.T) {
				ids := rapid.SliceOfDistinct(id, rapid.ID[string]).Draw(t, "ids")
				clear(set)
				for _, s := range ids {
					set[s] = true
				}
				p.Set(now, ids)
				for s := range state {
					if !set[s] && !slices.ContainsFunc(under, func(x pick) bool { return x.id == s }) {
						delete(state, s)
					}
				}
			},
			"report": func(t *rapid.T) {
				s := id.Draw(t, "id")
				h := Health{State: State(rapid.IntRange(0, int(Draining)).Draw(t, "state")), Free: rapid.Float64Range(-1, 2).Draw(t, "free")}
				if set[s] {
					state[s] = h.State
					p.Report(now, s, h)
				}
			},
			"pick": func(t *rapid.T) {
				r := Request{
					Chance: rapid.Uint64().Draw(t, "chance"), Stream: rapid.Bool().Draw(t, "stream"), Work: rapid.IntRange(-1, 5000).Draw(t, "work"),
					Tried: rapid.SliceOfN(id, 0, 3).Draw(t, "tried"), Arriving: rapid.Bool().Draw(t, "arriving"),
				}
				if rapid.Bool().Draw(t, "affine") {
					r.Affinity = rapid.Uint64Min(1).Draw(t, "affinity")
				}
				got, ok := p.Pick(now, r)
				if ok {
					if !set[got] || state[got] == Draining || slices.Contains(r.Tried, got) {
						t.Fatalf("picked %s, which is in the set: %v, is %v, tried %v", got, set[got], state[got], r.Tried)
					}
					under = append(under, pick{got, r.Stream, r.Work, r.Arriving})
				}
			},
			"arrived": func(t *rapid.T) {
				i := slices.IndexFunc(under, func(x pick) bool { return x.arriving && !x.stream })
				if i >= 0 {
					under[i].arriving = false
					p.Arrived(now, under[i].id, under[i].work)
				}
			},
			"done": func(t *rapid.T) {
				if len(under) == 0 {
					return
				}
				i := rapid.IntRange(0, len(under)-1).Draw(t, "i")
				x := under[i]
				under = slices.Delete(under, i, i+1)
				if !set[x.id] && !slices.ContainsFunc(under, func(y pick) bool { return y.id == x.id }) {
					delete(state, x.id) // it is forgotten
				}
				p.Done(now, x.id, Outcome{
					Result: Result(rapid.IntRange(0, int(Void)).Draw(t, "result")), Stream: x.stream, Work: x.work, Arriving: x.arriving, Untimed: rapid.Bool().Draw(t, "untimed"),
					Latency: time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "latency")),
				})
			},
			"": func(t *rapid.T) {
				count, ejected, all, work := 0, 0, 0, 0
				for _, v := range p.Views(now) {
					if v.InFlight < 0 || v.Streams < 0 || math.IsNaN(v.Share) || v.Weight <= 0 || v.Weight > 1 || v.Free < 0 {
						t.Fatalf("impossible: %+v", v)
					}
					if !set[v.ID] && v.InFlight+v.Streams == 0 {
						t.Fatalf("%s left and has no requests, but is remembered", v.ID)
					}
					count += v.InFlight + v.Streams
					work += v.Work
					if set[v.ID] {
						all++
						if now.Before(v.Ejected) {
							ejected++
						}
					}
				}
				for _, x := range under {
					if x.arriving && !x.stream {
						work--
					} else if !x.stream {
						work -= max(x.work, 1)
					}
				}
				if work != 0 {
					t.Fatalf("%d more work is noted than is under way", work)
				}
				if count != len(under) {
					t.Fatalf("%d requests under way, %d noted", len(under), count)
				}
			},
		})
	})
}

func TestBudget(t *testing.T) {
	b := NewBudget(0.25, 2)
	spend := func(want int) {
		t.Helper()
		got := 0
		for b.Spend() {
			got++
		}
		if got != want {
			t.Errorf("%d retries are allowed, want %d", got, want)
		}
	}
	earn := func(n int) {
		for range n {
			b.Earn()
		}
	}
	spend(2) // what it begins with
	earn(3)
	spend(0)
	earn(1)
	spend(1)
	earn(1000)
	spend(2) // no more is saved up
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{3, 16} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			w := newWorld(1, names(n)...)
			for i := range uint64(b.N) {
				w.now = w.now.Add(20 * time.Microsecond)
				id, _ := w.p.Pick(w.now, Request{Chance: i})
				w.p.Done(w.now, id, Outcome{Latency: time.Millisecond})
			}
		})
	}
}
