package dispatch_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/store"
)

// burst returns messages for recipients who are not connected.
func (w *world) burst(client string, n, recipients int) []*esh3ar.Message {
	ms := make([]*esh3ar.Message, n)
	for i := range ms {
		ms[i] = w.message(client, fmt.Sprint("absent", i%recipients), fmt.Sprint(client, "-", i))
	}
	return ms
}

// stored waits until all of them have that status.
func (w *world) stored(ms []*esh3ar.Message, want esh3ar.Status) {
	w.t.Helper()
	for _, m := range ms {
		w.await(m, want)
	}
}

// While accepting needs the machine, what is for absent recipients is left, and what is for a connected one
// goes past it. Nothing overtakes for one recipient, and nothing is lost, also over a restart.
func TestAbsentRecipientsGiveWay(t *testing.T) {
	w := newWorld(t)
	w.stop()
	var busy atomic.Bool
	busy.Store(true)
	options := func(o *dispatch.Options) {
		o.Busy = busy.Load
		o.YieldPace = 1 // a message a second: none in this test
		o.YieldLag = time.Hour
	}
	w.start(options)
	present := w.connect("present", true)
	left := w.burst("a", 2000, 50)
	w.accept(left...)
	prompt := w.message("a", "present", "prompt")
	w.accept(prompt)
	if d := w.next(present); d.Message.ID != prompt.ID {
		t.Fatalf("delivered %q", d.Message.Content)
	}
	w.await(prompt, esh3ar.StatusDelivered)
	if page, err := w.store.Waiting(t.Context(), waitingFor("absent0")); err != nil || len(page) > 0 {
		t.Fatalf("%d messages for an absent recipient are stored, %v", len(page), err)
	}

	// One of the absent connects: what comes now must wait behind what was left.
	w.connect("absent0", true)
	after := w.message("a", "absent0", "after")
	w.accept(after)

	// A restart reads again what was left, and only that.
	w.stop()
	w.start(options)
	present = w.connect("present", true)
	late := w.connect("absent0", true)
	second := w.message("a", "present", "second")
	w.accept(second)
	if d := w.next(present); d.Message.ID != second.ID {
		t.Fatalf("after the restart delivered %q", d.Message.Content)
	}

	busy.Store(false)
	w.await(after, esh3ar.StatusDelivered)
	var want []string
	for _, m := range left {
		if m.To == "absent0" {
			want = append(want, m.Content)
		} else {
			w.await(m, esh3ar.StatusQueued)
		}
	}
	want = append(want, "after")
	if got := late.texts(); !slices.Equal(got, want) {
		t.Errorf("the recipient got %d messages:\n%s\nwant %d:\n%s", len(got), strings.Join(got, " "), len(want), strings.Join(want, " "))
	}
}

// What is left does not wait for ever: not longer than the lag that is allowed, however busy it stays.
func TestGivingWayEnds(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.start(func(o *dispatch.Options) {
		o.Busy = func() bool { return true }
		o.YieldPace = 1
		o.YieldLag = 300 * time.Millisecond
	})
	for range 3 {
		ms := w.burst("a", 100, 10)
		w.accept(ms...)
		w.stored(ms, esh3ar.StatusQueued)
	}
}

// A client that has more than its share in memory waits in the store, and gets everything from there, in
// order. Another's message goes past it.
func TestSetAside(t *testing.T) {
	w := newWorld(t)
	w.stop()
	metrics := prometheus.NewRegistry()
	w.start(func(o *dispatch.Options) {
		o.Metrics = metrics
		o.Memory = 1 << 20 // some 500 messages
		o.CommitEvery = 50 * time.Millisecond
	})
	const recipients = 8
	phones := make([]*phone, recipients)
	for i := range phones {
		phones[i] = w.connect(fmt.Sprint("absent", i), true)
	}
	other := w.connect("other", true)
	flood := w.burst("flood", 4000, recipients)
	for chunk := range slices.Chunk(flood, 100) {
		w.accept(chunk...)
		w.accept(w.message("quiet", "other", "quiet"))
	}
	for range len(flood) / 100 {
		w.next(other)
	}
	w.stored(flood, esh3ar.StatusDelivered)
	if n := metric(t, metrics, "esh3ar_messages_set_aside_total"); n == 0 {
		t.Error("nothing was set aside")
	}
	for i, p := range phones {
		var want []string
		for j := i; j < len(flood); j += recipients {
			want = append(want, flood[j].Content)
		}
		if got := p.texts(); !slices.Equal(got, want) {
			t.Errorf("recipient %d got %d messages, not its %d in order", i, len(got), len(want))
		}
	}
}

// However much of one client's flood waits for the worker, another's message has its turn next but for the
// one under way.
func TestFloodHoldsUpNobody(t *testing.T) {
	w := newWorld(t)
	w.stop()
	metrics := prometheus.NewRegistry()
	w.start(func(o *dispatch.Options) { o.LeastProcessors, o.MostProcessors, o.Metrics = 1, 1, metrics })
	const recipients = 500
	var sent atomic.Int64
	for i := range recipients {
		w.Attach(fmt.Sprint("absent", i), counted{&sent})
	}
	quiet := stamp{make(chan int64, 1), &sent}
	w.Attach("quiet", quiet)
	gate := make(gate)
	defer close(gate) // so that a failure ends
	w.Attach("gate", gate)
	// Everybody's inbox has been read when they have got something.
	w.accept(w.burst("flood", recipients, recipients)...)
	w.accept(w.message("quiet", "quiet", "first"))
	<-quiet.at
	w.until("all have got something", func() bool { return sent.Load() == recipients })

	w.accept(w.message("flood", "gate", "holds the worker"))
	gate <- struct{}{} // it is in Deliver
	w.accept(w.burst("flood", 9*recipients, recipients)...)
	w.accept(w.message("quiet", "quiet", "quiet"))
	w.until("all wait for the worker", func() bool {
		return metric(t, metrics, "esh3ar_dispatch_queue_depth") == 1+recipients+1
	})
	before := sent.Load()
	gate <- struct{}{}
	if n := <-quiet.at - before; n > 20 {
		t.Errorf("%d messages of the flood went before the other client's one", n)
	}
	w.until("the flood is sent", func() bool { return sent.Load() == 10*recipients })
}

// counted is a device that counts what it gets.
type counted struct{ n *atomic.Int64 }

func (c counted) Deliver(*dispatch.Delivery) { c.n.Add(1) }

// stamp is a device that tells how much was counted when it got something.
type stamp struct {
	at chan int64
	n  *atomic.Int64
}

func (s stamp) Deliver(*dispatch.Delivery) { s.at <- s.n.Load() }

// gate is a device that holds up who delivers to it, between two receptions.
type gate chan struct{}

func (g gate) Deliver(*dispatch.Delivery) {
	<-g
	<-g
}

// metric returns the value of a gauge or counter without labels.
func metric(t testing.TB, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func waitingFor(to string) store.Waiting {
	return store.Waiting{Shard: esh3ar.ShardOf(to, shards), Recipient: to, Limit: 100}
}
