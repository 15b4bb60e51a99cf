package cluster

import (
	"maps"
	"slices"
	"testing"
	"time"
)

// electionRun is three servers, a, b and c, as one of them sees them.
type electionRun struct {
	t         *testing.T
	e         *elector
	now       time.Time
	connected map[string]bool
	groups    []raftGroup
}

func newElectionRun(t *testing.T, self, leader string) *electionRun {
	r := &electionRun{t: t, e: newElector(self), now: time.Unix(1000, 0), connected: map[string]bool{}}
	for _, p := range []string{"a", "b", "c"} {
		r.connected[p] = p != self
	}
	delete(r.connected, self)
	r.groups = []raftGroup{{name: "g", leader: leader, peers: []string{"a", "b", "c"}, eligible: true}}
	r.stands(0, false)
	return r
}

// stands moves the time on and says whether the server has to stand for election then.
func (r *electionRun) stands(after time.Duration, want bool) {
	r.t.Helper()
	r.now = r.now.Add(after)
	got := r.e.step(r.now, maps.Clone(r.connected), func() []raftGroup { return slices.Clone(r.groups) })
	if slices.Contains(got, "g") != want {
		r.t.Fatalf("%s stands for %q after %s, want %t", r.e.self, got, r.now.Sub(time.Unix(1000, 0)), want)
	}
}

// first and second are the order of those who are left when a is gone.
func firstAndSecond() (string, string) {
	if order("g", "b") < order("g", "c") {
		return "b", "c"
	}
	return "c", "b"
}

func TestOneStandsAfterTheOther(t *testing.T) {
	first, second := firstAndSecond()
	f, s := newElectionRun(t, first, "a"), newElectionRun(t, second, "a")
	for _, r := range []*electionRun{f, s} {
		delete(r.connected, "a")
		r.stands(0, false)
		r.stands(electionGrace-1, false)
	}
	f.stands(1, true)
	s.stands(1, false)
	// It did not come to an election: the second one's turn.
	f.stands(electionTurn, false)
	s.stands(electionTurn, true)
	f.groups[0].leader, s.groups[0].leader = "", ""
	f.stands(electionTurn, true)
	s.stands(electionTurn, false)
	// And then it did.
	f.groups[0].leader, s.groups[0].leader = first, first
	for _, r := range []*electionRun{f, s} {
		r.stands(electionTurn, false)
		if len(r.e.vacancies) != 0 {
			t.Errorf("%s still looks for a leader", r.e.self)
		}
	}
}

func TestNobodyStandsWithoutNeed(t *testing.T) {
	first, second := firstAndSecond()
	for name, c := range map[string]struct {
		leader string
		change func(*electionRun)
	}{
		"another leads":               {second, func(*electionRun) {}},
		"it leads itself":             {first, func(*electionRun) {}},
		"no majority":                 {"a", func(r *electionRun) { clear(r.connected) }},
		"it may not":                  {"a", func(r *electionRun) { r.groups[0].eligible = false }},
		"the leadership was moved":    {"a", func(r *electionRun) { r.groups[0].leader = second }},
		"the group is gone":           {"a", func(r *electionRun) { r.groups = nil }},
		"it never had a leader known": {"", func(*electionRun) {}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newElectionRun(t, first, c.leader)
			delete(r.connected, "a")
			r.stands(0, false)
			c.change(r)
			r.stands(electionGrace, false)
			r.stands(2*electionTurn, false)
			r.stands(electionLimit, false)
		})
	}
}

func TestLeaderThatIsBackStays(t *testing.T) {
	first, _ := firstAndSecond()
	r := newElectionRun(t, first, "a")
	delete(r.connected, "a")
	r.stands(0, false)
	r.connected["a"] = true
	r.stands(electionGrace/2, false)
	r.stands(electionGrace, false)
	// Gone again, its time begins anew.
	delete(r.connected, "a")
	r.stands(electionTurn, false)
	r.stands(electionGrace, true)
}

func TestElectionsAreLeftToJetStream(t *testing.T) {
	first, _ := firstAndSecond()
	r := newElectionRun(t, first, "a")
	delete(r.connected, "a")
	r.stands(0, false)
	r.stands(electionLimit+1, false)
	if len(r.e.vacancies) != 0 {
		t.Error("there is no end to it")
	}
}
