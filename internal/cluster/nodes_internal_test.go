package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

// noNATS is never connected to.
type noNATS struct{}

func (noNATS) Connect(...nats.Option) (*nats.Conn, error) { return nil, errors.New("not in this test") }

// told has entries applied without a board, as the watch would.
type told struct {
	m        *Members
	revision uint64
}

func newTold(t *testing.T) *told {
	t.Helper()
	m, err := NewMembers(MembersOptions{NATS: noNATS{}, Name: "self", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &told{m: m}
}

func (w *told) report(board int, r memberRecord) {
	w.revision++
	value, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	w.m.apply(board, boardEntry{key: memberKey + r.Name, value: value, revision: w.revision})
}

// second lets a second pass in which the given nodes report to the given boards.
func (w *told) second(beat uint64, boards []int, names ...string) {
	for _, b := range boards {
		for _, name := range names {
			w.report(b, memberRecord{Member: Member{Name: name, Incarnation: 1}, Beat: beat})
		}
	}
	for range 10 {
		time.Sleep(time.Second / 10)
		w.m.sweep(time.Now())
	}
}

func (w *told) alive(name string) bool {
	for _, m := range w.m.Live() {
		if m.Name == name {
			return true
		}
	}
	return false
}

func TestSilenceKills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTold(t)
		both := []int{0, 1}
		for beat := range uint64(10) {
			w.second(beat+1, both, "self", "a", "b")
		}
		for beat := range uint64(4) {
			w.second(beat+20, both, "self", "a")
		}
		heard := w.m.Heard()
		if silent := heard["a"].Sub(heard["b"]); len(heard) != 3 || silent != 4*time.Second {
			t.Errorf("of %d nodes b is silent for %v longer than a", len(heard), silent)
		}
		if !w.alive("b") {
			t.Error("dead after four seconds")
		}
		w.second(30, both, "self", "a")
		w.second(31, both, "self", "a")
		if w.alive("b") || !w.alive("a") {
			t.Error("not dead after six seconds, or the wrong one is")
		}
		w.second(32, both, "self", "a", "b")
		if !w.alive("b") {
			t.Error("still dead after a report")
		}
	})
}

// TestStandstillKillsNobody: boards that stand still, and a process that was
// stopped, say nothing about the others.
func TestStandstillKillsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTold(t)
		for beat := range uint64(5) {
			w.second(beat+1, []int{0, 1}, "self", "a", "b")
		}
		for range 20 {
			w.second(0, nil)
		}
		if !w.alive("a") || !w.alive("b") {
			t.Fatal("dead of silent boards")
		}
		w.second(40, []int{0}, "self")
		if !w.alive("a") {
			t.Fatal("dead before it could report again")
		}
		w.second(41, []int{0}, "self", "a")
		w.second(42, []int{0}, "self", "a")
		w.second(43, []int{0}, "self", "a")
		if !w.alive("a") || w.alive("b") {
			t.Errorf("after the standstill: a alive %v, b alive %v", w.alive("a"), w.alive("b"))
		}
	})
}

// TestOneBoardIsEnough: a board without a leader costs nobody's life, as long as
// the other goes on, and the dead are found out by the other.
func TestOneBoardIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTold(t)
		for beat := range uint64(5) {
			w.second(beat+1, []int{0, 1}, "self", "a", "b")
		}
		for beat := range uint64(20) {
			w.second(beat+10, []int{1}, "self", "a")
		}
		if !w.alive("a") || w.alive("b") {
			t.Errorf("a alive %v, b alive %v", w.alive("a"), w.alive("b"))
		}
	})
}

func TestRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTold(t)
		at := func(incarnation, beat uint64, address string) memberRecord {
			return memberRecord{Member: Member{Name: "a", Incarnation: incarnation, Address: address}, Beat: beat}
		}
		address := func() string { return w.m.Live()[0].Address }
		changed := w.m.Changed()
		w.report(0, at(5, 1, "first"))
		if !isClosed(changed) || address() != "first" {
			t.Error("a new node is no news")
		}
		w.report(0, at(5, 3, "second"))
		w.report(1, at(5, 2, "older")) // the other board is behind
		if address() != "second" {
			t.Errorf("address %q", address())
		}
		w.report(0, at(6, 1, "third")) // started again
		w.report(1, at(5, 9, "of the start before"))
		if address() != "third" {
			t.Errorf("address %q", address())
		}
		gone := at(6, 2, "third")
		gone.Gone = true
		w.report(1, gone)
		w.report(0, at(6, 1, "third")) // the other board is behind
		if w.alive("a") {
			t.Error("alive after its goodbye")
		}
		w.m.apply(0, boardEntry{key: memberKey + "a", revision: 100})
		if len(w.m.nodes) != 0 {
			t.Error("remembered for good")
		}
		w.m.apply(0, boardEntry{key: memberKey + "b", value: []byte("{"), revision: 101})
		if len(w.m.Live()) != 0 {
			t.Error("an unreadable record makes a member")
		}
	})
}

// TestLeaseEndsByTheClock: a lease is over as soon as anybody asks, though its
// process was stopped and no timer has run.
func TestLeaseEndsByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTold(t)
		held := newLease(t.Context(), w.m, 0)
		w.m.stored(0, time.Now())
		child, end := context.WithTimeout(held, time.Hour)
		defer end()
		time.Sleep(DefaultFreshFor - time.Millisecond)
		if held.Err() != nil {
			t.Fatalf("over early: %v", held.Err())
		}
		time.Sleep(2 * time.Millisecond)
		if held.Err() == nil || !errors.Is(context.Cause(held), ErrLeaseLost) {
			t.Fatalf("not over: %v", context.Cause(held))
		}
		<-child.Done()
		w.m.stored(0, time.Now())
		if held.Err() == nil {
			t.Fatal("came to life again")
		}
	})
}

func TestMembersOptions(t *testing.T) {
	good := MembersOptions{NATS: noNATS{}, Name: "node-1.example", Logger: slog.New(slog.DiscardHandler)}
	if _, err := NewMembers(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*MembersOptions){
		"no NATS":              func(o *MembersOptions) { o.NATS = nil },
		"no logger":            func(o *MembersOptions) { o.Logger = nil },
		"no name":              func(o *MembersOptions) { o.Name = "" },
		"a wildcard":           func(o *MembersOptions) { o.Name = "a.*" },
		"dots":                 func(o *MembersOptions) { o.Name = "a..b" },
		"dead before it knows": func(o *MembersOptions) { o.DeadAfter = o.FreshFor + 4*time.Second },
		"fresh too short":      func(o *MembersOptions) { o.FreshFor = time.Second },
	} {
		o := good
		change(&o)
		if _, err := NewMembers(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, o := range []LeasesOptions{{}, {Members: &Members{}, Logger: good.Logger}, {Members: &Members{}, Logger: good.Logger, Shards: 1 << 17}} {
		if _, err := NewLeases(o); err == nil {
			t.Errorf("taken: %+v", o)
		}
	}
}
