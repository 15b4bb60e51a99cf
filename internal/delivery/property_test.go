package delivery

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/esh3artech/esh3ar"
)

// op is one thing that happens in the world. N picks among what it can happen to.
type op struct {
	Kind string
	N    int
}

func (o op) String() string { return fmt.Sprintf("%s %d", o.Kind, o.N) }

// kinds are weighted by repetition. The first is what a failing run shrinks to.
var kinds = []string{
	"nothing",
	"accept", "accept", "accept", "intake", "intake", "intake", "intake", "intake",
	"attach", "attach", "cut", "detach", "detach",
	"receive", "receive", "receive", "receive", "say", "say", "say", "repeat", "hear", "hear", "hear",
	"commit", "commit", "commit", "commit all", "report", "report", "look", "answer", "answer", "answer", "fail read",
	"look up", "settle", "settle", "due", "due", "due",
	"moment", "moment", "second", "long", "crash", "cancel", "replay", "discard",
	"squeeze", "squeeze",
}

func (w *world) happen(o op) {
	d := &w.devices[o.N%2]
	switch o.Kind {
	case "accept":
		client := [...]string{"a", "b"}[o.N%2]
		size := [...]int{10, 10, 700, 3000}[o.N/2%4]
		var ttl, delay time.Duration
		switch o.N / 8 {
		case 1:
			ttl = 5 * time.Second
		case 2:
			delay = 3 * time.Second
		case 3:
			ttl, delay = 20*time.Second, 10*time.Second
		}
		w.accept(client, size, ttl, delay)
	case "intake":
		w.intake(o.N%4 == 3)
	case "attach":
		w.attach(d)
	case "cut":
		w.cut(d)
	case "detach":
		w.detach(o.N%4 == 0)
	case "receive":
		w.receive(d)
	case "say":
		w.say(d, 1+o.N/4%3, o.N%8 >= 6, false)
	case "repeat":
		w.say(d, 1+o.N/4%3, o.N%8 >= 6, true)
	case "hear":
		w.hear(o.N)
	case "commit":
		w.commit(1 + o.N%3)
	case "commit all":
		w.commit(len(w.commits))
	case "report":
		w.report()
	case "look":
		w.look()
	case "answer":
		w.answer(false)
	case "fail read":
		w.answer(true)
	case "look up":
		w.lookUp()
	case "settle":
		w.settle()
	case "due":
		w.due()
	case "moment":
		w.advance(300 * time.Millisecond)
	case "second":
		w.advance(time.Duration(1+o.N%4) * time.Second)
	case "long":
		w.advance(11 * time.Second)
	case "crash":
		w.crash()
	case "squeeze":
		w.squeeze(o.N % 2 * (o.N % (Tight + 1)))
	case "cancel":
		w.ask(o.N, (*Recipient).Cancel)
	case "replay":
		w.ask(o.N, (*Recipient).Replay)
	case "discard":
		w.ask(o.N, func(r *Recipient, row *Item, now time.Time, out []Effect) []Effect {
			return r.Discard(row, esh3ar.ReasonDiscarded, now, out)
		})
	}
}

// Whatever happens around a recipient, nothing is lost, nothing overtakes, and everything has an end
// once a device behaves.
func TestAnyWorld(t *testing.T) {
	any := rapid.Custom(func(t *rapid.T) op {
		return op{rapid.SampledFrom(kinds).Draw(t, "kind"), rapid.IntRange(0, 31).Draw(t, "n")}
	})
	world := func(t *rapid.T) {
		least := rapid.SampledFrom([]int{1, 20, 50, 100, 200}).Draw(t, "least")
		ops := rapid.SliceOfN(any, least, 400)
		w := newWorld(t.Fatalf)
		w.merge = rapid.Bool().Draw(t, "merge")
		w.params.Strikes = rapid.IntRange(0, 3).Draw(t, "strikes")
		w.params.Pause = rapid.SampledFrom([]time.Duration{100 * time.Millisecond, 5 * time.Second}).Draw(t, "pause")
		for _, o := range ops.Draw(t, "ops") {
			w.happen(o)
		}
		w.settleDown()
	}
	// The rarest faults that it has found took some thousands of worlds; -rapid.checks asks for more.
	for range 10 {
		rapid.Check(t, world)
	}
}
