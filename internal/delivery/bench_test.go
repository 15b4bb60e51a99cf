package delivery

import (
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
)

func benchParams() *Params {
	return &Params{
		Window: 100, WindowBytes: 1 << 20, Hold: 1000, Settle: 250 * time.Millisecond,
		AckTimeout: 30 * time.Second, MaxAttempts: 8,
		Backoff: Backoff{Base: time.Second, Cap: time.Minute},
	}
}

// online returns a recipient with a connection and an empty inbox.
func online(p *Params, now time.Time) *Recipient {
	r := NewRecipient(p)
	out := r.Attach(1, now, nil)
	r.Page(out[0].Ticket, nil, now, out[:0])
	return r
}

// Arrive, send and acknowledge one message, with the item that the driver makes.
func BenchmarkDeliverOne(b *testing.B) {
	now := time.Now()
	r := online(benchParams(), now)
	m := &esh3ar.Message{ID: esh3ar.ID{15: 1}, Client: "a", To: "r", Content: "hello", AcceptedAt: now}
	ids := []esh3ar.ID{m.ID}
	var out []Effect
	ord := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		ord++
		it := &Item{Message: m, State: esh3ar.NewState(now), Ord: ord}
		out = r.Arrive(it, now, out[:0])
		out = r.Acknowledge(ids, false, now, out[:0])
		if out[0].Action != Done {
			b.Fatal("not done")
		}
	}
}

// The same with a full window in flight.
func BenchmarkDeliverWindow(b *testing.B) {
	now := time.Now()
	r := online(benchParams(), now)
	var out []Effect
	ord := uint64(0)
	messages := make([]*esh3ar.Message, 100)
	for i := range messages {
		messages[i] = &esh3ar.Message{ID: esh3ar.ID{15: byte(i)}, Client: "a", To: "r", Content: "hello", AcceptedAt: now}
	}
	ids := make([]esh3ar.ID, 1)
	b.ReportAllocs()
	for b.Loop() {
		m := messages[ord%100]
		if ord >= 100 {
			ids[0] = m.ID
			out = r.Acknowledge(ids, false, now, out[:0])
		}
		ord++
		it := &Item{Message: m, State: esh3ar.NewState(now), Ord: ord}
		out = r.Arrive(it, now, out[:0])
	}
}

// Load a page of 100 waiting messages, send them, and acknowledge them in one batch.
func BenchmarkPage(b *testing.B) {
	now := time.Now()
	state := esh3ar.NewState(now)
	state.Move(esh3ar.StatusQueued, now, esh3ar.ReasonRecipientOffline)
	messages := make([]*esh3ar.Message, 100)
	ids := make([]esh3ar.ID, 100)
	for i := range messages {
		ids[i] = esh3ar.ID{15: byte(i)}
		messages[i] = &esh3ar.Message{ID: ids[i], Client: "a", To: "r", Content: "hello", AcceptedAt: now}
	}
	params := benchParams()
	r := NewRecipient(params)
	out := r.Attach(1, now, nil)
	items := make([]*Item, 100)
	ticket, ord := out[0].Ticket, uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		block := make([]Item, 100)
		for i := range items {
			ord++
			block[i] = Item{Message: messages[i], State: state, Ord: ord, Saved: true, Unsaved: 2}
			items[i] = &block[i]
		}
		r.Page(ticket, items, now, out[:0])
		out = r.Acknowledge(ids, false, now, out[:0])
		last := out[len(out)-1]
		if last.Action != Read {
			b.Fatal("no further read")
		}
		ticket = last.Ticket
	}
}
