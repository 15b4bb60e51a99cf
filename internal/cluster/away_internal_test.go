package cluster

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestOwners(t *testing.T) {
	const (
		stays = iota // takes no shards
		takes
		drains
		away
		drainsAway
	)
	for name, test := range map[string]struct {
		nodes map[string]int
		want  string
	}{
		"nobody":                     {nil, ""},
		"all reach the store":        {map[string]int{"c": takes, "a": takes, "b": takes}, "a b c"},
		"one does not":               {map[string]int{"a": takes, "b": away, "c": takes}, "a c"},
		"one does":                   {map[string]int{"a": away, "b": away, "c": takes}, "c"},
		"none does":                  {map[string]int{"a": away, "b": away, "c": away}, "a b c"},
		"who does drains":            {map[string]int{"a": away, "b": drains}, "a"},
		"who does takes none":        {map[string]int{"a": away, "b": stays}, "a"},
		"one that drains, and is so": {map[string]int{"a": drainsAway, "b": takes}, "b"},
		"none is left":               {map[string]int{"a": drainsAway, "b": drains}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			live := make(map[string]Member)
			for n, is := range test.nodes {
				live[n] = Member{Name: n, Owner: is != stays, Draining: is == drains || is == drainsAway, Away: is == away || is == drainsAway}
			}
			if got := strings.Join(owners(live), " "); got != test.want {
				t.Errorf("shards are assigned to %q, want %q", got, test.want)
			}
		})
	}
}

func TestReachability(t *testing.T) {
	now := time.Now()
	const s = time.Second
	is := func(silent, steady time.Duration, failures int) contact {
		return contact{answered: now.Add(-silent), since: now.Add(-silent - steady), failures: failures}
	}
	for name, test := range map[string]struct {
		was    bool
		own    contact
		others []contact
		want   bool
	}{
		"all is well":                        {own: is(0, time.Hour, 0), others: []contact{is(s, time.Hour, 0)}},
		"alone without":                      {own: is(time.Hour, 0, 999)},
		"alone never with":                   {own: contact{failures: 999}},
		"not for long":                       {own: is(4*s, time.Hour, 4), others: []contact{is(0, time.Hour, 0)}},
		"for long, and another reaches it":   {own: is(6*s, time.Hour, 4), others: []contact{is(99*s, time.Hour, 0), is(s, time.Hour, 0)}, want: true},
		"asked twice only":                   {own: is(60*s, time.Hour, 2), others: []contact{is(s, time.Hour, 0)}},
		"another was silent a little later":  {own: is(30*s, time.Hour, 30), others: []contact{is(27*s, time.Hour, 0)}},
		"another was silent far later":       {own: is(30*s, time.Hour, 30), others: []contact{is(20*s, time.Hour, 0)}},
		"another has just got it back":       {own: is(60*s, time.Hour, 30), others: []contact{is(0, 14*s, 0)}},
		"another has got it back":            {own: is(60*s, time.Hour, 30), others: []contact{is(0, 15*s, 0)}, want: true},
		"never had it, as nobody":            {own: contact{failures: 3}, others: []contact{{}, {}}},
		"never had it, and another has":      {own: contact{failures: 3}, others: []contact{is(0, time.Hour, 0)}, want: true},
		"never had it, and another had":      {own: contact{failures: 3}, others: []contact{is(6*s, time.Hour, 0)}},
		"away, and still silent":             {was: true, own: is(60*s, time.Hour, 30), want: true},
		"away, and so is everybody":          {was: true, own: is(60*s, time.Hour, 30), others: []contact{is(60*s, time.Hour, 0)}, want: true},
		"away, and never had it":             {was: true, own: contact{failures: 9}, want: true},
		"away, and back for a moment":        {was: true, own: is(0, 14*s, 0), want: true},
		"away, and back":                     {was: true, own: is(0, 15*s, 0)},
		"away, was back, and is silent":      {was: true, own: is(4*s, 20*s, 4), want: true},
		"away, and back with a question out": {was: true, own: is(2*s, 15*s, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			before := reachability{away: test.was, steady: steadyFor}
			if got := before.next(test.own, test.others, now); got.away != test.want {
				t.Errorf("away: %v", got.away)
			}
		})
	}
}

// TestABadLine: who is away again soon after its return has to be steady for longer each time, to an extent.
func TestABadLine(t *testing.T) {
	now := time.Now()
	other := func() []contact { return []contact{{answered: now, since: now.Add(-time.Hour)}} }
	var a reachability
	var needed []time.Duration
	for _, well := range []time.Duration{time.Hour, time.Second, time.Minute, time.Minute, 9 * time.Minute, time.Minute, time.Minute, 11 * time.Minute} {
		now = now.Add(well)
		own := contact{answered: now.Add(-time.Minute), since: now.Add(-2 * time.Minute), failures: 30}
		if a = a.next(own, other(), now); !a.away {
			t.Fatalf("not away after %v", needed)
		}
		since := now
		for a.away {
			now = now.Add(time.Second)
			a = a.next(contact{answered: now, since: since}, other(), now)
		}
		needed = append(needed, now.Sub(since))
	}
	s := time.Second
	if want := []time.Duration{15 * s, 30 * s, 60 * s, 120 * s, 240 * s, 240 * s, 240 * s, 15 * s}; !slices.Equal(needed, want) {
		t.Errorf("it had to be steady for %v, want %v", needed, want)
	}
}

// fellows are nodes that tell each other of their stores without boards, as the watches would.
type fellows struct {
	nodes map[string]*fellow
}

type fellow struct {
	told
	taken, vain time.Time
}

func (n *fellow) commits() (taken, vain time.Time) { return n.taken, n.vain }

func newFellows(t *testing.T, names ...string) *fellows {
	t.Helper()
	f := &fellows{nodes: make(map[string]*fellow)}
	for _, name := range names {
		n := new(fellow)
		m, err := NewMembers(MembersOptions{NATS: noNATS{}, Name: name, Commits: n.commits, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)).With("on", name)})
		if err != nil {
			t.Fatal(err)
		}
		m.setOwner(true)
		n.m, f.nodes[name] = m, n
		m.apply(0, boardEntry{}) // there was nothing before
	}
	return f
}

// second lets a second pass, in which each node asks its store and reports, at a time of its own. Answers says for each node
// whether its store does, "." or not, "x", that it also takes the node's commits, "c", that these are in vain, "v", or all but one
// that it has just taken, "w", or that the node is stopped, "-".
func (f *fellows) second(answers map[string]byte) {
	rest := time.Second
	for i, name := range slices.Sorted(maps.Keys(f.nodes)) {
		n := f.nodes[name]
		switch answers[name] {
		case 'c':
			n.taken = time.Now()
		case 'w':
			n.taken, n.vain = time.Now(), time.Now()
		case 'v':
			if n.vain.IsZero() {
				n.vain = time.Now()
			}
		}
		if answers[name] != 'v' && answers[name] != 'w' && answers[name] != '-' {
			n.vain = time.Time{}
		}
		switch answers[name] {
		case '.', 'c', 'v', 'w':
			n.m.noteStore(time.Now(), nil)
		case 'x':
			n.m.noteStore(time.Now(), errors.New("connection refused"))
		}
		if answers[name] != '-' {
			value := n.m.record(false)
			for _, to := range f.nodes {
				to.revision++
				to.m.apply(0, boardEntry{key: memberKey + name, value: value, revision: to.revision})
			}
		}
		pause := time.Duration(i+1) * 100 * time.Millisecond
		time.Sleep(pause) // of the bubble
		rest -= pause
	}
	time.Sleep(rest)
}

// TestWhoIsAway plays what may happen to three nodes' ways to their store, a character a second, and compares which nodes are
// away at the end of each: "a" for that one, "-" for none.
func TestWhoIsAway(t *testing.T) {
	rep := strings.Repeat
	well := rep(".", 20)
	for name, test := range map[string]struct {
		answers [3]string
		want    string
	}{
		"one is cut off, and back": {
			[3]string{well + rep("x", 10) + rep(".", 20), well + rep(".", 30), well + rep(".", 30)},
			rep("-", 20+5) + rep("a", 20) + rep("-", 5),
		},
		"blips move nothing": {
			[3]string{well + rep("xxxx.", 8), well + rep(".", 40), well + rep(".x", 20)},
			rep("-", 60),
		},
		"a bad line: away, and not back before it is good": {
			[3]string{well + rep("xxxxxx......", 3) + rep(".", 12), well + rep(".", 48), well + rep(".", 48)},
			rep("-", 20+5) + rep("a", 40) + rep("-", 3),
		},
		"the store is down for all, and each notices it at its own time": {
			[3]string{well + rep("x", 30) + rep(".", 30), well + ".." + rep("x", 26) + rep(".", 32), well + "..." + rep("x", 36) + rep(".", 21)},
			rep("-", 80),
		},
		"one is cut off, then the store is down for all, then all is well": {
			[3]string{well + rep("x", 40) + rep(".", 20), well + rep(".", 10) + rep("x", 20) + rep(".", 30), well + rep(".", 11) + rep("x", 18) + rep(".", 31)},
			rep("-", 20+5) + rep("a", 50) + rep("-", 5),
		},
		"one after the other is cut off, and the last keeps them": {
			[3]string{well + rep("x", 30), well + rep(".", 10) + rep("x", 20), well + rep(".", 20) + rep("x", 10)},
			rep("-", 20+5) + rep("a", 10) + rep("A", 15),
		},
		"a start without a store that nobody has": {
			[3]string{rep("x", 20) + rep(".", 30), rep("x", 25) + rep(".", 25), rep("x", 33) + rep(".", 17)},
			rep("-", 50),
		},
		"one's commits are in vain, until it tries none, and others' are not": {
			[3]string{well + rep("v", 28) + rep(".", 20), well + rep("c", 48), well + rep(".", 48)},
			rep("-", 20+26) + rep("a", 16) + rep("-", 6),
		},
		"all commits are in vain, and each notices at its own time that they are not": {
			[3]string{well + rep("v", 58) + rep("c", 22), well + rep("v", 40) + rep("c", 40), well + rep(".v", 25) + rep("c", 30)},
			rep("-", 100),
		},
		"nobody else tries to commit": {
			[3]string{well + rep("v", 60), well + rep(".", 60), well + "cccc" + rep(".", 56)},
			rep("-", 80),
		},
		"another's commit was taken once": {
			[3]string{well + rep("v", 60), well + rep(".", 10) + "c" + rep(".", 49), well + rep(".", 60)},
			rep("-", 80),
		},
		"slow commits are not in vain": {
			[3]string{rep(rep("v", 15)+"c", 5), rep("c", 80), rep("c", 80)},
			rep("-", 80),
		},
		"slow commits of several shards are not in vain": {
			[3]string{rep(rep("v", 15)+"w", 5), rep("c", 80), rep("c", 80)},
			rep("-", 80),
		},
		"one is stopped in the middle of a commit": {
			[3]string{well + "v" + rep("-", 60) + "vvcc", well + rep("c", 65), well + rep("c", 65)},
			rep("-", 85),
		},
		"one is stopped and wakes up": {
			[3]string{well + rep("-", 9) + "x" + rep(".", 9), well + rep(".", 19), well + rep(".", 19)},
			rep("-", 39),
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFellows(t, "a", "b", "c")
				var got strings.Builder
				for i := range test.answers[0] {
					f.second(map[string]byte{"a": test.answers[0][i], "b": test.answers[1][i], "c": test.answers[2][i]})
					away := ""
					for _, name := range []string{"a", "b", "c"} {
						if f.nodes[name].m.Self().Away {
							away += name
						}
					}
					switch away {
					case "":
						away = "-"
					case "ab":
						away = "A"
					}
					got.WriteString(away)
				}
				if got.String() != test.want {
					t.Errorf("away were\n%s, want\n%s", got.String(), test.want)
				}
			})
		})
	}
}

// TestReportsOfBefore: what lay on the boards before this node watched says nothing about now.
func TestReportsOfBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTold(t)
		r := memberRecord{Member: Member{Name: "b", Incarnation: 1, Owner: true, Store: &StoreContact{Silent: 100, Steady: 3_600_000}}, Beat: 1}
		fail := func() {
			for range awayFailures {
				w.m.noteStore(time.Now(), errors.New("down"))
			}
		}
		w.report(0, r)
		w.m.apply(0, boardEntry{})
		if fail(); w.m.Self().Away || !isClosed(w.m.storeKnown) {
			t.Error("away by a report of any time, or nothing is known of the store")
		}
		r.Beat++
		w.report(0, r)
		if fail(); !w.m.Self().Away {
			t.Error("not away, and another node reaches the store")
		}
	})
}
