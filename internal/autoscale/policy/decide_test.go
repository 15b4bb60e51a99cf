package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// start is when the tests begin.
func start() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func testRules() Rules {
	r := DefaultRules()
	r.Max = 5
	return r
}

// world is nodes as they are seen, with the time.
type world struct {
	t     *testing.T
	rules Rules
	now   time.Time
	state State
	nodes []Node
	known bool
	limit []string // Removable
	pick  bool     // Chooses
}

// newWorld has cores and elastic nodes, each with two processors.
func newWorld(t *testing.T, cores, elastic int) *world {
	w := &world{t: t, rules: testRules(), now: start(), known: true}
	for i := range cores {
		w.nodes = append(w.nodes, newNode(fmt.Sprint("core-", i), true))
	}
	for i := range elastic {
		w.nodes = append(w.nodes, newNode(fmt.Sprint("elastic-", i), false))
	}
	return w
}

func newNode(name string, core bool) Node {
	return Node{Name: name, Core: core, Ready: true, Figures: Figures{Processors: 2, MaxConnections: 1000, AcceptLatency: 100 * time.Millisecond}}
}

// all sets something of every node.
func (w *world) all(set func(f *Figures)) {
	for i := range w.nodes {
		set(&w.nodes[i].Figures)
	}
}

func (w *world) node(name string) *Node {
	for i := range w.nodes {
		if w.nodes[i].Name == name {
			return &w.nodes[i]
		}
	}
	w.t.Fatalf("no node %s", name)
	return nil
}

// step decides once, after that time, with figures of now.
func (w *world) step(after time.Duration) Decision {
	w.t.Helper()
	w.now = w.now.Add(after)
	o := Observation{Known: w.known, Nodes: append([]Node(nil), w.nodes...), Removable: w.limit, Chooses: w.pick}
	for i := range o.Nodes {
		if o.Nodes[i].Reported.IsZero() {
			o.Nodes[i].Reported = w.now
		}
	}
	d, s := w.rules.Decide(w.state, o, w.now)
	w.state = s.Carried()
	return d
}

// during decides every two seconds and returns the decisions that are not to hold, and the last.
func (w *world) during(d time.Duration) (acts []Decision, last Decision) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); {
		last = w.step(2 * time.Second)
		if last.Kind != Hold {
			acts = append(acts, last)
		}
	}
	return acts, last
}

// Each load alone has nodes added at 80 % of its capacity, and as many as bring it to the target.
func TestEachLoadHasNodesAdded(t *testing.T) {
	for signal, load := range map[Signal]func(share float64) func(*Figures){
		CPU:         func(u float64) func(*Figures) { return func(f *Figures) { f.CPU = 2 * u } },
		Connections: func(u float64) func(*Figures) { return func(f *Figures) { f.Connections = 1000 * u } },
		Lag: func(u float64) func(*Figures) {
			return func(f *Figures) { f.Lag = time.Duration(u * float64(10*time.Second)) }
		},
		Queue: func(u float64) func(*Figures) { return func(f *Figures) { f.Queue = 20000 * u } },
		Latency: func(u float64) func(*Figures) {
			return func(f *Figures) {
				f.Accepted, f.Accept = 50, time.Duration(u*float64(100*time.Millisecond))
			}
		},
		Accepting: func(u float64) func(*Figures) { return func(f *Figures) { f.Accepting = u } },
	} {
		t.Run(string(signal), func(t *testing.T) {
			w := newWorld(t, 3, 1)
			w.all(load(0.79))
			if acts, last := w.during(time.Minute); len(acts) > 0 || last.Signal != signal || last.Reason == "" {
				t.Errorf("below the threshold: %+v, %+v", acts, last)
			}
			w.all(load(0.95))
			acts, _ := w.during(20 * time.Second)
			// 4 nodes at up to 95 % are 7 at up to 54 %: 6 would be above 60 % at 92.
			if len(acts) != 1 || acts[0].Kind != Add || acts[0].Signal != signal || acts[0].Count < 2 || acts[0].Count > 3 {
				t.Fatalf("above it: %+v", acts)
			}
			if after := acts[0].Utilisation * 4 / float64(4+acts[0].Count); after > w.rules.Target {
				t.Errorf("%d nodes more leave it at %f", acts[0].Count, after)
			}
		})
	}
}

func TestDecisions(t *testing.T) {
	busy := func(f *Figures) { f.CPU = 1.9 }
	idle := func(f *Figures) { f.CPU = 0.1 }
	for _, test := range []struct {
		name           string
		cores, elastic int
		prepare        func(w *world)
		during         time.Duration
		acts           []string // kind, count and node of each decision
		reason         string   // in the last reason
	}{
		{"a peak", 3, 0, func(w *world) {
			w.all(idle)
			w.during(time.Minute)
			w.all(busy)
			w.step(2 * time.Second)
			w.all(idle)
		}, time.Minute, nil, "processors"},
		{"the first look is no average", 3, 0, func(w *world) { w.all(busy) }, 6 * time.Second, nil, "too short a time"},
		{"most there may be", 3, 5, func(w *world) { w.all(busy) }, 5 * time.Minute, nil, "no more than 5"},
		{"up to the most", 3, 4, func(w *world) { w.all(busy) }, time.Minute, []string{"add 1 "}, "no more than 5"},
		{"least there must be", 3, 0, func(w *world) { w.rules.Min = 2 }, time.Minute, []string{"add 2 "}, "to come"},
		{"figures are not needed for the least", 3, 0, func(w *world) {
			w.rules.Min = 1
			for i := range w.nodes {
				w.nodes[i].Ready = false
			}
		}, time.Minute, []string{"add 1 "}, "no node tells"},
		{"nodes that do not come are asked for again", 3, 0, func(w *world) { w.rules.Min = 1 }, 250 * time.Second, []string{"add 1 ", "add 1 ", "add 1 "}, "to come"},
		{"sustained low load", 3, 2, func(w *world) { w.all(idle) }, 6 * time.Minute, []string{"remove 1 elastic-1"}, "is going already"},
		{"one that is going first", 3, 2, func(w *world) {
			w.all(idle)
			w.node("elastic-0").Draining = true
		}, 20 * time.Minute, nil, "is going already"},
		{"low, but not long enough", 3, 2, func(w *world) { w.all(idle) }, 4 * time.Minute, nil, "low for"},
		{"low with breaks", 3, 2, func(w *world) {
			for range 4 {
				w.all(idle)
				w.during(4 * time.Minute)
				w.all(func(f *Figures) { f.CPU = 1.3 })
				w.step(2 * time.Second)
			}
			w.all(idle)
		}, 4 * time.Minute, nil, "low for"},
		{"the rest would not be low", 3, 1, func(w *world) { w.all(func(f *Figures) { f.CPU = 0.8 }) }, 20 * time.Minute, nil, "processors"},
		{"the core stays", 3, 0, func(w *world) { w.all(idle) }, 20 * time.Minute, nil, "processors"},
		{"the last node stays", 0, 1, func(w *world) { w.all(idle) }, 20 * time.Minute, nil, "the last node"},
		{"the least stay", 3, 2, func(w *world) { w.rules.Min = 2; w.all(idle) }, 20 * time.Minute, nil, "processors"},
		{"a node tells nothing", 3, 2, func(w *world) { w.all(idle); w.node("core-1").Ready = false }, 20 * time.Minute, nil, "figures of core-1"},
		{"old figures", 3, 2, func(w *world) { w.all(idle); w.node("core-2").Reported = w.now }, 20 * time.Minute, nil, "figures of core-2"},
		{"nothing is known", 3, 2, func(w *world) { w.all(idle); w.known = false }, 20 * time.Minute, nil, "not known"},
		{"the store is away and all waits", 3, 2, func(w *world) {
			w.all(func(f *Figures) { f.StoreAway, f.Lag, f.Queue = true, time.Minute, 1e6 })
		}, 20 * time.Minute, nil, "message store is away"},
		{"the store is away and processors are short", 3, 2, func(w *world) {
			w.all(func(f *Figures) { f.StoreAway, f.CPU = true, 1.7 })
		}, 20 * time.Second, []string{"add 3 "}, "to come"},
		{"more than there may be", 3, 2, func(w *world) { w.rules.Max = 1 }, time.Minute, []string{"remove 1 elastic-1"}, "is going already"},
		{"the one with the fewest connections goes", 3, 3, func(w *world) {
			w.all(func(f *Figures) { f.Connections = 20 })
			w.node("elastic-1").Figures.Connections = 3
		}, 6 * time.Minute, []string{"remove 1 elastic-1"}, ""},
		{"one that can be removed from here", 3, 3, func(w *world) { w.limit = []string{"elastic-0"} }, 6 * time.Minute, []string{"remove 1 elastic-0"}, ""},
		{"none can", 3, 3, func(w *world) { w.limit = []string{} }, 20 * time.Minute, nil, "from here"},
		{"somebody else chooses", 3, 3, func(w *world) { w.pick = true }, 6 * time.Minute, []string{"remove 1 "}, ""},
		{"one that does not go is not waited for for ever", 3, 3, func(w *world) {}, 11 * time.Minute, []string{"remove 1 elastic-2", "remove 1 elastic-2"}, ""},
		{"a capacity that is set", 3, 0, func(w *world) {
			w.rules.Capacity.Connections = 10
			w.all(func(f *Figures) { f.Connections = 9 })
		}, 20 * time.Second, []string{"add 2 "}, "to come"},
		{"a slow disk alone", 3, 0, func(w *world) {
			w.all(func(f *Figures) { f.Accepted, f.Accept = 50, 10*time.Millisecond })
			w.node("core-0").Figures.Accept = 200 * time.Millisecond
			w.node("core-0").Figures.Accepted = 5
		}, time.Minute, nil, "19 %"},
		{"one journal is behind", 3, 0, func(w *world) { w.node("core-0").Figures.Lag = 9 * time.Second }, 20 * time.Second, []string{"add 2 "}, "9.0 s behind"},
		{"a backlog of an hour", 3, 0, func(w *world) { w.node("core-0").Figures.Lag = time.Hour }, 20 * time.Second, []string{"add 3 "}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, test.cores, test.elastic)
			test.prepare(w)
			acts, last := w.during(test.during)
			var got []string
			for _, d := range acts {
				got = append(got, fmt.Sprintf("%s %d %s", d.Kind, d.Count, d.Node))
				if d.Reason == "" {
					t.Errorf("no reason: %+v", d)
				}
			}
			if !reflect.DeepEqual(got, test.acts) {
				t.Errorf("decided %q, want %q; then %q", got, test.acts, last.Reason)
			}
			if !strings.Contains(last.Reason, test.reason) {
				t.Errorf("the last reason is %q, want %q in it", last.Reason, test.reason)
			}
		})
	}
}

// A reason names the figures that decided: the average, and the last reading where that is higher and counts, too.
func TestReasons(t *testing.T) {
	cpu := func(used float64) func(*Figures) { return func(f *Figures) { f.CPU = used } }
	for _, test := range []struct {
		name    string
		elastic int
		before  func(*Figures) // for a long time
		now     func(*Figures)
		steps   int
		want    string
	}{
		{"as ever", 0, cpu(1), cpu(1), 1, "3.00 of 6 processors are used on average, 50 %"},
		{"a peak that does not count", 0, cpu(1), cpu(2), 1, "3.54 of 6 processors are used on average, 59 %"},
		{"high, and more than the average now", 0, cpu(1.5), cpu(2), 2, "4.99 of 6 processors are used on average, 83 %, which is 80 % or more" +
			", and 6.00 of 6 processors are used now, 100 %: 2 nodes more bring it to 60 %"},
		{"less now than on average", 0, cpu(1.5), cpu(1), 1, "4.23 of 6 processors are used on average, 70 %"},
		{"one less would be too few", 1, cpu(0.8), cpu(0.8), 1, "3.20 of 8 processors are used on average, 40 %; one node less would bring it to 53 %"},
		{"one less would be too few now", 1, cpu(0.4), cpu(1), 1, "2.04 of 8 processors are used on average, 25 %" +
			", and 4.00 of 8 processors are used now, 50 %; one node less would bring it to 67 %"},
		{"another load is high now", 1, cpu(0.4), func(f *Figures) { f.Connections = 500 }, 1, "1.60 of 8 processors are used on average, 20 %" +
			", and 2000 of 4000 connections are open now, 50 %; one node less would bring it to 67 %"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 3, test.elastic)
			w.all(test.before)
			w.during(2 * time.Minute)
			w.all(test.now)
			var d Decision
			for range test.steps {
				d = w.step(2 * time.Second)
			}
			if d.Reason != test.want {
				t.Errorf("%s: the reason is %q, want %q", d.Kind, d.Reason, test.want)
			}
		})
	}
}

// A node that is to come counts until it has come, or has not for too long.
func TestStartingNodesCount(t *testing.T) {
	w := newWorld(t, 3, 0)
	w.all(func(f *Figures) { f.CPU = 1.8 })
	acts, last := w.during(time.Minute)
	if len(acts) != 1 || acts[0].Count != 2 || last.Starting != 2 || last.Wanted != 2 {
		t.Fatalf("%+v, then %+v", acts, last)
	}
	// One joins, and is not ready yet.
	w.nodes = append(w.nodes, newNode("elastic-0", false))
	w.node("elastic-0").Ready = false
	if acts, last = w.during(30 * time.Second); len(acts) > 0 || last.Starting != 2 || last.Wanted != 2 || last.Elastic != 1 {
		t.Fatalf("%+v, then %+v", acts, last)
	}
	// It is ready, and as loaded as the others. The other does not come in time: it is asked for again.
	w.node("elastic-0").Ready = true
	w.node("elastic-0").Figures.CPU = 1.8
	acts, last = w.during(time.Minute)
	if len(acts) != 1 || acts[0].Kind != Add || acts[0].Count != 2 || acts[0].Starting != 0 || last.Starting != 2 {
		t.Fatalf("%+v, then %+v", acts, last)
	}
}

// After a failure the same is tried again, later each time, and nothing counts as done.
func TestFailuresAreRetried(t *testing.T) {
	w := newWorld(t, 3, 0)
	w.all(func(f *Figures) { f.CPU = 1.8 })
	var tries []time.Duration
	began := w.now
	for w.now.Sub(began) < 10*time.Minute {
		w.now = w.now.Add(time.Second)
		o := Observation{Known: true}
		for _, n := range w.nodes {
			n.Reported = w.now
			o.Nodes = append(o.Nodes, n)
		}
		d, s := w.rules.Decide(w.state, o, w.now)
		if d.Kind == Add {
			if d.Starting != 0 || d.Wanted != d.Count {
				t.Errorf("something that failed counts: %+v", d)
			}
			tries = append(tries, w.now.Sub(began))
			s = w.rules.Failed(w.state, s, w.now)
		}
		w.state = s
	}
	if len(tries) < 5 {
		t.Fatalf("tried after %v", tries)
	}
	for i := 2; i < len(tries); i++ {
		before, after := tries[i-1]-tries[i-2], tries[i]-tries[i-1]
		if after < before || after > w.rules.RetryCap+time.Second {
			t.Errorf("tried after %v", tries)
		}
	}
	if s := w.state.Carried(); s.Failures != 0 || !s.RetryAt.IsZero() {
		t.Errorf("%+v", s)
	}
}

// The state goes through JSON to another process, whose clock may be behind.
func TestStateIsTakenOver(t *testing.T) {
	w := newWorld(t, 3, 0)
	w.all(func(f *Figures) { f.CPU = 1.8 })
	w.during(30 * time.Second)
	raw, err := json.Marshal(w.state)
	if err != nil {
		t.Fatal(err)
	}
	var s State
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s, w.state) {
		t.Fatalf("%+v became %+v", w.state, s)
	}
	w.state, w.now = s, w.now.Add(-time.Hour)
	acts, last := w.during(28 * time.Second)
	if len(acts) > 0 || last.Starting != 2 {
		t.Errorf("the cool-down is not known: %+v, %+v", acts, last)
	}
}

// What was begun under a clock that is ahead is not waited for until the time that it told has come.
func TestNothingIsAwaitedForTheClock(t *testing.T) {
	ahead := start().Add(time.Hour)
	w := newWorld(t, 3, 2)
	w.state = State{
		Awaited: []time.Time{ahead}, Drain: &Drain{Node: "elastic-1", Since: ahead, Live: 5},
		Seen: map[string]Sighting{"elastic-0": {Since: ahead}, "elastic-1": {Since: ahead}},
	}
	w.node("elastic-0").Ready = false
	old := w.state
	if d := w.step(0); d.Starting != 2 {
		t.Errorf("%+v, want two to come", d)
	}
	if !old.Awaited[0].Equal(ahead) || !old.Drain.Since.Equal(ahead) || !old.Seen["elastic-0"].Since.Equal(ahead) {
		t.Errorf("the state that was given became %+v", old)
	}
	for passed := time.Duration(0); passed <= max(w.rules.StartWithin, w.rules.DrainWithin); passed += 2 * time.Second {
		w.step(2 * time.Second)
	}
	if d := w.step(2 * time.Second); d.Starting != 0 || w.state.Drain != nil {
		t.Errorf("%+v and %+v, want nothing to come or go", d, w.state.Drain)
	}
}

func TestRulesAreChecked(t *testing.T) {
	if err := testRules().Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Rules){
		"min":    func(r *Rules) { r.Min = -1 },
		"max":    func(r *Rules) { r.Min, r.Max = 3, 2 },
		"low":    func(r *Rules) { r.Low = r.Target },
		"target": func(r *Rules) { r.Target = r.High },
		"high":   func(r *Rules) { r.High = 1.1 },
		"time":   func(r *Rules) { r.LowFor = 0 },
		"retry":  func(r *Rules) { r.RetryCap = time.Second },
		"queue":  func(r *Rules) { r.Capacity.Queue = 0 },
		"negative": func(r *Rules) {
			r.Capacity.Connections = -1
		},
	} {
		r := testRules()
		change(&r)
		if r.Check() == nil {
			t.Errorf("%s: passed", name)
		}
	}
}
